"""The rendered letters: what they look like, that none has a twin, and what their file depends on."""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from examples.fewshot.data import glyphs, load_splits

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def fonts():
    return {face: FONTS / f"{face}.ttf" for face in glyphs.FACES}


@pytest.fixture(scope="module")
def drawn(fonts):
    """Every letter in every face: some seconds, once."""
    return glyphs.render_pictures(fonts)


@pytest.fixture(scope="module")
def splits(drawn, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "render_pictures", lambda fonts: drawn)
        patch.setenv("SRWM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_splits("glyphs")


def test_there_are_enough_classes_and_no_script_is_in_two_splits(splits):
    counts = [len(part.names) for part in splits]
    # Somewhat below what matplotlib 3.9 to 3.11 give: 672, 138 and 219.
    assert all(count >= least for count, least in zip(counts, (600, 120, 200), strict=True))
    shares = np.array(counts) / sum(counts)
    assert 0.6 < shares[0] < 0.7
    assert 0.1 < shares[1] < 0.15
    for part, scripts in zip(splits, glyphs.SCRIPTS.values(), strict=True):
        assert set(part.alphabets) == set(scripts)
        assert part.alphabets == tuple(name.split()[0] for name in part.names)
        assert {unicodedata.category(unicodedata.lookup(name))[0] for name in part.names} == {"L"}
    every = [name for part in splits for name in part.names]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("part", PARTS)
def test_letters_are_distinct_fill_their_box_and_are_centred(splits, part):
    classes = getattr(splits, part)
    assert classes.images.shape[1:] == (1, 28, 28)
    for start, stop in zip(classes.offsets[:-1], classes.offsets[1:], strict=True):
        assert len({image.tobytes() for image in classes.images[start:stop]}) == stop - start >= 8
    images = classes.images[:, 0]
    assert images.dtype == np.uint8
    assert np.all(images.max(axis=(1, 2)) > 100)
    extents = []
    for axis in (1, 2):
        inked = images.any(axis=axis)
        before, behind = inked.argmax(axis=1), inked[:, ::-1].argmax(axis=1)
        assert min(before.min(), behind.min()) >= 4
        # Half of an odd rest of the page, and an edge so faint that it became zero.
        assert np.all(np.abs(before - behind) <= 2)
        extents.append(28 - before - behind)
    assert np.mean(np.maximum(*extents) == 20) > 0.99


def test_no_class_has_a_twin(drawn, splits):
    """By `twin_distances`, which has a test of its own."""
    codes, pictures = drawn
    position = {unicodedata.name(chr(code)): c for c, code in enumerate(codes)}
    names = [name for part in splits for name in part.names]
    part_of = np.repeat(np.arange(3), [len(part.names) for part in splits])
    distances = glyphs.twin_distances(pictures[:, [position[name] for name in names]])
    np.fill_diagonal(distances, 1)
    same_part = part_of[:, None] == part_of
    assert distances[same_part].min() >= 0.05
    assert distances[~same_part].min() >= 0.10


@pytest.mark.parametrize(
    "alike",
    ["AΑА", "BΒВ", "EΕЕ", "OΟОՕoοоօ", "cCсСϲ", "HΗНнʜ", "xXхХχ"[:4], "Vvᴠ", "nпՈո", "aа", "iі"],
)
def test_letters_that_look_alike_are_one_class(splits, alike):
    """Capitals and copies in other scripts; the one that stays is in the split held out most."""
    found = [
        part
        for part in PARTS
        for letter in alike
        if unicodedata.name(letter) in getattr(splits, part).names
    ]
    assert len(found) == 1
    scripts = {unicodedata.name(letter).split()[0] for letter in alike}
    assert found == [next(p for p in reversed(PARTS) if scripts & set(glyphs.SCRIPTS[p]))]


def test_twin_distances_by_hand():
    pictures = np.zeros((2, 4, 28, 28), np.uint8)
    pictures[0, 1, 4:8, 4:8] = 200  # one block in the first face, two in the second
    pictures[:, 0, 4:8, 4:8] = pictures[:, 0, 12:16, 4:8] = 200  # two in both
    pictures[1, 1] = pictures[0, 0]
    pictures[0, 2, 20:24, 20:24] = 9  # elsewhere, in the first face alone
    pictures[1, 3] = pictures[0, 0]  # in the second face alone
    expected = [[0, 1 / 6, 1, 0], [1 / 6, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]]
    np.testing.assert_allclose(glyphs.twin_distances(pictures), expected, rtol=0, atol=1e-15)


def test_equal_and_blank_pictures_do_not_count():
    pictures = np.zeros((16, 2, 28, 28), np.uint8)
    for face in range(16):
        pictures[face, 0, 4:24, 4 : 5 + face % 8] = 255  # eight pictures, each twice
        pictures[face, 1, 4 : 5 + face % 8, 4:24] = 255
    pictures[::8, 1] = 0  # seven are left
    classes = glyphs.select_classes([ord("D"), ord("F")], pictures)
    assert classes.names == ("LATIN CAPITAL LETTER D",)
    np.testing.assert_array_equal(classes.images[:, 0], pictures[:8, 0])


def test_rendering_is_deterministic(drawn, fonts, monkeypatch):
    codes, pictures = drawn
    monkeypatch.setattr(glyphs, "MIN_RENDERINGS", 1)
    name = "STIXGeneralItalic"
    alone, again = glyphs.render_pictures({name: fonts[name]})
    row = dict(zip(codes, pictures[list(fonts).index(name)], strict=True))
    shared = [c for c, code in enumerate(alone) if code in row]
    assert len(shared) > 500
    np.testing.assert_array_equal(again[0, shared], np.array([row[alone[c]] for c in shared]))


def test_the_file_in_the_cache_and_images_of_another_size(drawn, fonts, tmp_path, monkeypatch):
    """Other parameters or fonts make another file."""
    codes, pictures = drawn
    few = []

    def render(of):
        few.append(len(of))
        return codes[::40], pictures[:, ::40]

    monkeypatch.setattr(glyphs, "render_pictures", render)
    monkeypatch.setenv("SRWM_CACHE", str(tmp_path))
    own, larger = (glyphs.load_glyphs(image_size=size).test for size in (28, 84))
    assert few == [16], "rendered twice"
    assert larger.images.shape == (len(own.images), 1, 84, 84)
    middle = larger.images[:, :, 1::3, 1::3].astype(int)  # where a pixel's centre stays, it keeps its value
    assert np.abs(middle - own.images).max() <= 1

    other = tmp_path / "fonts" / "ttf"
    other.mkdir(parents=True)
    for path in fonts.values():
        (other / path.name).symlink_to(path)
    (other / "DejaVuSans.ttf").unlink()
    (other / "DejaVuSans.ttf").write_bytes(fonts["DejaVuSans"].read_bytes() + b"\0")
    for owner, name, value in (
        *((glyphs, "TWIN_DISTANCE", 0.051), (glyphs, "MIN_RENDERINGS", 9), (glyphs, "_BOX", 19)),
        (matplotlib, "get_data_path", lambda: str(tmp_path)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            glyphs.load_glyphs()
    assert len(few) == len(list(tmp_path.glob("*.npz"))) == 5
