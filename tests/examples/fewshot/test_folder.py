"""Reading images in Omniglot's layout: splits, polarity, formats, and every refusal."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from examples.fewshot.data import load_splits
from examples.fewshot.data.folder import load_folder, read_folder
from tests.examples.fewshot.damage import messages_of
from tests.examples.fewshot.numbered import assert_same_classes


def drawing(mark=0, size=(105, 105), ink=0, paper=255):
    """A thick stroke, whose place depends on ``mark``."""
    image = Image.new("L", size, paper)
    width, height = size
    x = width // 4 + (mark * 7) % (width // 2)
    ImageDraw.Draw(image).line([(x, height // 5), (width // 2, 4 * height // 5)], ink, width // 15)
    return image


def write(root, alphabets, characters=2, images=3):
    mark = 0
    for alphabet in alphabets:
        for character in range(characters):
            folder = root / alphabet / f"character{character:02d}"
            folder.mkdir(parents=True)
            for image in range(images):
                drawing(mark).save(folder / f"{image}.png")
                mark += 1
    return root


def read_one(folder, image, name="0.png", **options):
    """What the reader makes of one image, saved under a name."""
    path = folder / "alphabet" / "character" / name
    path.parent.mkdir(parents=True)
    image.save(path, **options)
    classes = read_folder(folder, min_images=1)
    assert classes.images.shape == (1, 1, 28, 28)
    return classes.images[0, 0]


@pytest.fixture
def root(tmp_path):
    """A folder of three alphabets of two characters of three images."""
    return write(tmp_path, "abc")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What the reader makes of `drawing()` in plain grey."""
    return read_one(tmp_path_factory.mktemp("plain"), drawing())


@pytest.mark.parametrize(
    ("layout", "counts", "given"),
    [
        ({"": "abcdefghijkl"}, [7, 2, 3], {}),
        ({"train": "abc", "validation": "d", "test": "ef"}, [3, 1, 2], {0: "abc", 1: "d", 2: "ef"}),
        ({"images_background": "abcdefghijkl", "images_evaluation": "uvw"}, [10, 2, 3], {2: "uvw"}),
    ],
)
def test_alphabets_are_shared_out_whole(tmp_path, layout, counts, given):
    for part, alphabets in layout.items():
        write(tmp_path / part, alphabets)
    splits = [*load_splits("folder", root=tmp_path, image_size=40)]
    parts = [set(classes.alphabets) for classes in splits]
    assert [len(part) for part in parts] == counts
    assert set().union(*parts) == set("".join(layout.values()))
    for place, alphabets in given.items():
        assert parts[place] == set(alphabets)
    whole = read_folder(tmp_path, image_size=40)
    assert sorted(whole.names) == sorted(name for classes in splits for name in classes.names)
    for classes in (*splits, whole):
        assert classes.picture_shape == (1, 40, 40)
        assert classes.sizes.tolist() == [3] * len(classes.names)
        for name, alphabet in zip(classes.names, classes.alphabets, strict=True):
            [part] = [part for part, alphabets in layout.items() if alphabet in alphabets]
            assert name.startswith(f"{part}/{alphabet}/character".lstrip("/"))


def test_the_split_is_the_same_every_time(tmp_path):
    write(tmp_path, "abcdefgh")
    for splits in (load_folder(tmp_path), load_folder(str(tmp_path))):
        assert [sorted(set(part.alphabets)) for part in splits] == [list("abfgh"), ["c"], list("de")]


def test_images_stay_with_their_class(tmp_path):
    write(tmp_path / "all", "abc", characters=3)
    classes = read_folder(tmp_path / "all")
    for c, name in enumerate(classes.names):
        for i in range(3):
            with Image.open(tmp_path / "all" / name / f"{i}.png") as image:
                expected = read_one(tmp_path / f"{c}-{i}", image)
            np.testing.assert_array_equal(classes.images[classes.offsets[c] + i, 0], expected)


def in_a_picture(ink, paper, dtype=np.uint8):
    return Image.fromarray(np.where(np.asarray(drawing()) == 0, ink, paper).astype(dtype))


def photographed(orientation):
    """The drawing as a camera stores it that was held in another way, which says so."""
    stored = drawing()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[TURNS[orientation - 2]])
    stored.getexif()[0x0112] = orientation
    return stored


TURNS = (
    *("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
    *("TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"),
)
ENDINGS = ("PNG", "Png", "jpg", "JPG", "jpeg", "bmp", "gif", "tif", "tiff", "TIFF", "webp")
CLEAR, BLACK = (Image.new("RGBA", (105, 105), (0, 0, 0, opacity)) for opacity in (0, 255))
TRANSPARENT = Image.composite(CLEAR, BLACK, drawing())
DEPTHS = [(1 << bits) - 1 for bits in (8, 10, 12, 14, 15, 16)]
FAINT = [(90, 120), (120, 90), (0, 30), (225, 255), (20, 120), (130, 200), (254, 128), (0, 100)]
OF_32_BITS = (
    *((-5, 100_000, np.int32), (0, 2_000_000_000, np.int32)),
    *((0, 1, np.float32), (0, 255, np.float32), (-0.5, 0.5, np.float32)),
)
# Pictures that read as `drawing()` in plain grey does, with their ending and the largest difference.
ALIKE = {
    "inverted": (drawing(ink=255, paper=0), "png", 0),
    **{mode: (drawing().convert(mode), "png", 0) for mode in ("1", "P", "RGB", "RGBA", "LA")},
    **{ending: (drawing(), ending, 12 if ending.lower() in ("jpg", "jpeg") else 0) for ending in ENDINGS},
    "transparent": (TRANSPARENT, "png", 0),
    "transparent LA": (TRANSPARENT.convert("LA"), "png", 0),
    "transparent P": (TRANSPARENT.quantize(2), "png", 0),
    "not quite black": (in_a_picture(100, 65535, np.uint16), "png", 0),
    "CMYK": (drawing().convert("CMYK"), "jpg", 12),
    **{f"{f} in 8 bits": (in_a_picture(*f), "png", 2) for f in FAINT},
    **{f"{f} in 32 bits": (in_a_picture(*f), "tiff", 1) for f in OF_32_BITS},
    **{
        f"{levels} in 16 bits of {ending}": (in_a_picture(*levels, np.uint16), ending, 0)
        for most in DEPTHS
        for levels in ((0, most), (most, 0))
        for ending in ("png", "tiff")
    },
    **{
        f"turned {orientation} in {ending}": (photographed(orientation), ending, 12)
        for orientation in range(1, 9)
        for ending in ("png", "jpg")
    },
}


@pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE)
def test_pictures_of_any_kind_read_alike(tmp_path, plain, case):
    """Ink is bright on 0 whatever the polarity, the depth and the faintness."""
    image, ending, most = case
    options = {"lossless": True} if ending == "webp" else {"quality": 100}
    got = read_one(tmp_path, image, f"0.{ending}", exif=image.getexif(), **options)
    np.testing.assert_allclose(got, plain, rtol=0, atol=most)
    assert plain[0, 0] == 0
    assert plain.max() > 200


@pytest.mark.parametrize("size", [(28, 28), (20, 20), (300, 300), (64, 128)])
def test_any_size_keeps_its_aspect(tmp_path, size):
    image = Image.new("L", size, 255)
    width, height = size
    corners = (width // 4, height // 2 - width // 4, 3 * width // 4, height // 2 + width // 4)
    ImageDraw.Draw(image).rectangle(corners, 0)
    ink = read_one(tmp_path, image) > 127
    columns, rows = ink.any(axis=0).sum(), ink.any(axis=1).sum()
    assert abs(int(columns) - int(rows)) <= 1
    assert columns == pytest.approx(14 * min(1, width / height), abs=1.5)


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", "._a", ".Trash-1000"]
)
def test_what_is_hidden_and_other_files_are_passed_over(root, hidden):
    """At every depth; there are copies of images in it, or files of other content under their names."""
    expected = read_folder(root)
    (root / "papers").mkdir()
    for parent in (root, root / "a", root / "a" / "character00"):
        write(parent / hidden, ["copies"])
        (parent / hidden / "0-checkpoint.png").write_bytes(b"no picture")
        (parent / "._0.png").write_bytes(b"\0\5\x16\7")
        (parent / ".DS_Store").write_bytes(b"")
        (parent / "README.txt").write_text("about the data")
    assert_same_classes(read_folder(root), expected)
    assert {name for part in load_folder(root) for name in part.names} == set(expected.names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (f"drawn.{ending}", "the format of '.*{}' is not read; save it as PNG")
            for ending in ("heic", "svg", "HEIF", "pgm", "avif", "psd")
        ),
        *(
            (name, r"b/character01/1\.\w+' and '1\.\w+' have one name")
            for name in ("1.jpg", "1.PNG", "1.tiff")
        ),
    ],
)
def test_formats_that_are_not_read_and_pictures_in_two_formats_are_named(root, name, message):
    path = root / "b" / "character01" / name
    drawing().save(path, "PNG")
    with pytest.raises(ValueError, match=f"load_folder: .*{message.format(name)}.* remove "):
        read_folder(root)
    path.rename(path.with_name("1.svg"))  # 1.png was made of it
    assert read_folder(root).sizes.tolist() == [3] * 6


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (200, 200, 200), (255, 255, 0), (90, 160, 90)]
)
@pytest.mark.parametrize("hidden", [0, 255])
def test_ink_of_any_colour_on_transparency(tmp_path, plain, colour, hidden):
    """The colour of what is transparent is never seen."""
    ink = Image.new("RGBA", (105, 105), (*colour, 255))
    image = Image.composite(Image.new("RGBA", ink.size, (hidden,) * 3 + (0,)), ink, drawing())
    got = read_one(tmp_path, image)
    assert np.corrcoef(got.ravel(), plain.ravel())[0, 1] > 0.995
    assert got.max() > 120
    assert got[0, 0] == 0


def png(width, height, depth=1, kind=0):
    """A PNG file whose checksums are right."""

    def chunk(name, content):
        length, checksum = (
            struct.pack(">I", number) for number in (len(content), zlib.crc32(name + content))
        )
        return length + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def several(ending):
    file = io.BytesIO()
    first, *rest = (drawing(mark) for mark in range(3))
    first.save(file, {"apng": "PNG"}.get(ending, ending.upper()), save_all=True, append_images=rest)
    return file.getvalue()


BLANK = r"cannot read the image '{}' \(it is blank"
VANISHES = r"cannot read the image '{}' \(.*nothing is left"
TOO_LARGE = r"the image '{}' is too large to be read .*; scale it down"
UNREADABLE = r"cannot read the image '{}' .*; repair or remove it"
SEVERAL = r"cannot read the image '{}' \(it has several pictures"
# Images, or files that claim to be some, each with the message. Of some, Pillow has a decoder that is not
# to be tried; it may run another program.
REFUSED = {
    **{f"all {level}": (Image.new("L", (105, 105), level), BLANK) for level in (0, 128, 255)},
    **{f"RGBA {level}": (Image.new("RGBA", (50, 50), (level,) * 4), BLANK) for level in (0, 255)},
    "noise": (Image.fromarray(np.random.default_rng(0).integers(200, 208, (105, 105), np.uint8)), BLANK),
    "dot": (Image.fromarray(np.pad(np.uint8([[0]]), 500, constant_values=255)), VANISHES),
    "a mask of 0 and 1": (Image.fromarray(np.eye(50, dtype=np.uint8)), BLANK),
    **{str(no): (Image.fromarray(np.float32([[0, 1, no]])), BLANK) for no in (np.nan, np.inf, -np.inf)},
    "a line": (Image.linear_gradient("L").resize((2000, 1)), UNREADABLE),
    **{f"side {side}": (png(side, side), TOO_LARGE) for side in (10_000, 14_000, 60_000, (1 << 31) - 1)},
    # Without columns, rows, or pixels; of a wrong depth, and of a wrong colour.
    **{str(of): (png(*of), UNREADABLE) for of in ((0, 5), (5, 0), (0, 0), (5, 5, 3), (5, 5, 1, 9))},
    "empty GIF": (b"GIF89a\0\0\0\0\0\0\0;", UNREADABLE),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE),
    "PSD": (b"8BPS\0\1" + bytes(30), UNREADABLE),
    "PGM": (b"P5 2 2 255\n\0\xff\0\xff", UNREADABLE),
    **{f"begins {begin!r}": (begin, UNREADABLE) for begin in (b"", b"not a picture", png(5, 5)[:50])},
    **{kind: (several(kind), SEVERAL) for kind in ("gif", "webp", "tiff", "apng")},
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_cannot_be_right_is_named(root, content, message):
    """Whatever its format, its ending may be that of another one."""
    path = root / "b" / "character01" / "2.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, "TIFF" if content.mode == "F" else None)
    with pytest.raises(ValueError, match=message.format(path)):
        load_folder(root)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp"])
def test_every_damage_names_the_image(tmp_path, ending):
    """Or cannot be told from a picture. A PNG file has checksums, so that none is read wrong."""
    path = tmp_path / "alphabet" / "character" / f"0.{ending}"
    path.parent.mkdir(parents=True)
    drawing().save(path)
    expected = read_folder(tmp_path, min_images=1).images
    whole = path.read_bytes()

    def read():
        images = read_folder(tmp_path, min_images=1).images
        if ending == "png":
            np.testing.assert_array_equal(images, expected)

    assert messages_of(path, whole, 60, 4, read, within=1000)


@pytest.mark.parametrize(
    ("kind", "place", "message"),
    [
        # A pipe would be waited for, for ever. A folder of images may be on a disk that is not there.
        *(
            (kind, "b/character01/3.png", ".*remove it")
            for kind in ("pipe", "folder", "/dev/zero", "3.png")
        ),
        *(
            ("gone", place, "is a link to nothing; mend or remove it")
            for place in ("elsewhere", "b/elsewhere", "b/character01/elsewhere", "b/character01/3.png")
        ),
    ],
)
def test_what_is_no_file_is_named(root, kind, place, message):
    """A pipe, a folder, or a link to a device, to itself, or to nothing."""
    path = root / place
    make = {"pipe": os.mkfifo, "folder": os.mkdir}.get(kind, lambda path: path.symlink_to(kind))
    make(path)
    with pytest.raises(ValueError, match=rf"load_folder: .*'{path}' {message}"):
        load_folder(root)


def test_links_to_images_are_followed_and_a_folder_may_lie_in_a_hidden_one(root, tmp_path_factory):
    links = tmp_path_factory.mktemp("links") / ".data"
    links.mkdir()
    for alphabet in "abc":
        (links / alphabet).symlink_to(root / alphabet)
    assert_same_classes(read_folder(links), read_folder(root))


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("d", "a"),
        ("a/character02", "a/character00"),
        ("a/character02", "b/character00"),
        ("a/character00/7.png", "a/character00/0.png"),
        ("a/character00/7.png", "b/character00/0.png"),
    ],
)
def test_one_picture_in_two_places_is_refused(root, link, target):
    """Whichever parts of the data the two would be in."""
    for make in (Path.symlink_to, Path.hardlink_to) if link.endswith("png") else (Path.symlink_to,):
        make(root / link, root / target)
        for read in (load_folder, read_folder):
            with pytest.raises(
                ValueError, match=r"load_folder: '.*png' and '.*png' are one file, by a link"
            ):
                read(root)
        (root / link).unlink()


@pytest.mark.parametrize(("link", "target"), [("loop", ""), ("a/loop", "a"), ("a/loop", ""), ("a/b", "b")])
def test_links_in_a_circle_end(root, link, target):
    (root / link).symlink_to(root / target)
    if link == "loop":  # without an image two levels down
        assert read_folder(root).sizes.tolist() == [3] * 6
    else:
        with pytest.raises(ValueError, match=rf"class '{root / link}' needs at least 2 images .*remove"):
            read_folder(root)


def test_a_folder_that_may_not_be_read_is_named(root, monkeypatch):
    listed = Path.iterdir

    def forbidden(folder):
        if folder.name == "b":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(
        ValueError, match=rf"load_folder: cannot read the folder '{root / 'b'}' .*Permission"
    ):
        load_folder(root)


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "empty" / "alphabet" / "character").mkdir(parents=True)
    write(tmp_path / "own" / "train", "ab")
    write(tmp_path / "own" / "test", "cd")
    write(tmp_path / "omniglot" / "images_background", "ab")
    for name, message in (
        ("nowhere", r"existing folder, got .*nowhere.*\*\.png"),
        ("empty", r"no image under .*alphabet/character/\*\.png"),
        ("own", "has train, test but not validation; add"),
        ("omniglot", "has images_background but not images_evaluation"),
    ):
        for read in (load_folder, read_folder):
            with pytest.raises(FileNotFoundError, match=message):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"load_folder: root is missing \(--root; of other"):
        load_splits("folder")
    with pytest.raises(ValueError, match="nothing to download; put the images below root"):
        load_splits("folder", root=tmp_path, download=True)


def test_too_few_images_or_alphabets(root):
    for path in sorted((root / "b" / "character01").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"b/character01' needs at least 2 images .*, got 1; add"):
        load_folder(root)
    assert read_folder(root, min_images=1).sizes.tolist() == [3, 3, 3, 1, 3, 3]
    with pytest.raises(ValueError, match=r"character00' needs at least 4 images .* got 3"):
        read_folder(root, min_images=4)
    (root / "c").rename(root.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"train, validation, test needs at least 3 .* got 2"):
        load_folder(root)
    for letter, part in (("a", "images_background"), ("b", "images_evaluation")):
        (root / part).mkdir()
        (root / letter).rename(root / part / letter)
    with pytest.raises(ValueError, match=r"train, validation needs at least 2 alphabets, got 1"):
        load_folder(root)
