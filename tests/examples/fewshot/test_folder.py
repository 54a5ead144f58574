"""Reading images in Omniglot's layout: splits, polarity, formats, and every refusal."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from examples.fewshot.data import load_splits
from examples.fewshot.data.folder import load_folder, read_folder


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


def names(splits):
    return [getattr(splits, part).names for part in ("train", "validation", "test")]


def assert_same(left, right):
    np.testing.assert_array_equal(left.images, right.images)
    np.testing.assert_array_equal(left.offsets, right.offsets)
    assert left.names == right.names
    assert left.alphabets == right.alphabets


def read_one(folder, image):
    """What the reader makes of one image."""
    path = folder / "alphabet" / "character" / "0.png"
    path.parent.mkdir(parents=True)
    image.save(path)
    classes = read_folder(folder, min_images=1)
    assert classes.images.shape == (1, 1, 28, 28)
    return classes.images[0, 0]


def test_alphabets_are_shared_out_whole(tmp_path):
    alphabets = [f"alphabet{a:02d}" for a in range(12)]
    splits = load_splits("folder", root=write(tmp_path, alphabets))
    parts = [set(getattr(splits, part).alphabets) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [7, 2, 3]
    assert set().union(*parts) == set(alphabets)
    for part in (splits.train, splits.validation, splits.test):
        assert part.sizes.tolist() == [3] * len(part.names)
        for name, alphabet in zip(part.names, part.alphabets, strict=True):
            assert name.startswith(f"{alphabet}/character")


def test_the_split_is_a_function_of_the_seed(tmp_path):
    write(tmp_path, "abcdefgh")
    splits = load_folder(tmp_path, seed=1)
    again = load_folder(str(tmp_path), seed=1)
    for part in ("train", "validation", "test"):
        assert_same(getattr(splits, part), getattr(again, part))
    assert names(load_folder(tmp_path, seed=2)) != names(splits)


def test_images_stay_with_their_class(tmp_path):
    write(tmp_path / "all", "abc", characters=3)
    classes = read_folder(tmp_path / "all")
    for c, name in enumerate(classes.names):
        for i in range(3):
            with Image.open(tmp_path / "all" / name / f"{i}.png") as image:
                expected = read_one(tmp_path / f"{c}-{i}", image)
            np.testing.assert_array_equal(classes.images[classes.offsets[c] + i, 0], expected)


def test_folders_called_train_validation_test_are_the_splits(tmp_path):
    for part, alphabets in (("train", "abc"), ("validation", "d"), ("test", "ef")):
        write(tmp_path / part, alphabets)
    splits = load_folder(tmp_path)
    for part, alphabets in (("train", "abc"), ("validation", "d"), ("test", "ef")):
        classes = getattr(splits, part)
        assert set(classes.alphabets) == set(alphabets)
        assert classes.names[0] == f"{part}/{alphabets[0]}/character00"


def test_omniglots_own_layout(tmp_path):
    write(tmp_path / "images_background", "abcdefghijkl")
    write(tmp_path / "images_evaluation", "uvw")
    splits = load_folder(tmp_path)
    train, validation = set(splits.train.alphabets), set(splits.validation.alphabets)
    assert set(splits.test.alphabets) == set("uvw")
    assert len(validation) == 2
    assert not train & validation
    assert train | validation == set("abcdefghijkl")


@pytest.mark.parametrize(
    "parts",
    [("",), ("train", "validation", "test"), ("images_background", "images_evaluation")],
)
def test_the_whole_folder_as_one(tmp_path, parts):
    for part in parts:
        write(tmp_path / part, [f"{part}-a", f"{part}-b"])
    classes = read_folder(tmp_path)
    assert set(classes.alphabets) == {f"{part}-{letter}" for part in parts for letter in "ab"}
    assert len(set(classes.names)) == len(classes.names) == 4 * len(parts)
    assert classes.sizes.tolist() == [3] * len(classes.names)


def test_ink_is_bright_whatever_the_polarity(tmp_path):
    dark_on_light = read_one(tmp_path / "a", drawing(ink=0, paper=255))
    light_on_dark = read_one(tmp_path / "b", drawing(ink=255, paper=0))
    np.testing.assert_array_equal(dark_on_light, light_on_dark)
    assert dark_on_light[0, 0] == 0
    assert dark_on_light.max() > 200


def in_mode(mode):
    image = drawing()
    if mode == "transparent":
        ink = Image.new("RGBA", image.size, (0, 0, 0, 255))
        clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
        return Image.composite(clear, ink, image)
    if mode == "I;16":
        return Image.fromarray(np.where(np.asarray(image) == 0, 100, 65535).astype(np.uint16))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA", "I;16", "transparent"])
def test_every_kind_of_png_reads_the_same(tmp_path, mode):
    expected = read_one(tmp_path / "grey", drawing())
    np.testing.assert_array_equal(read_one(tmp_path / "other", in_mode(mode)), expected)


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


def test_other_files_are_passed_over(tmp_path):
    write(tmp_path, "abc")
    (tmp_path / "README.txt").write_text("about the data")
    (tmp_path / "a" / "notes.txt").write_text("about the alphabet")
    (tmp_path / "a" / "character00" / "strokes.txt").write_text("0,0")
    (tmp_path / "papers").mkdir()
    assert read_folder(tmp_path).sizes.tolist() == [3] * 6


def test_missing_root(tmp_path):
    for read in (load_folder, read_folder):
        with pytest.raises(FileNotFoundError, match=r"existing folder, got .*nowhere.*\*\.png"):
            read(tmp_path / "nowhere")


def test_empty_root(tmp_path):
    (tmp_path / "alphabet" / "character").mkdir(parents=True)
    for read in (load_folder, read_folder):
        with pytest.raises(FileNotFoundError, match=r"no image under .*alphabet/character/\*\.png"):
            read(tmp_path)


def test_a_split_folder_is_missing(tmp_path):
    write(tmp_path / "train", "ab")
    write(tmp_path / "test", "cd")
    with pytest.raises(FileNotFoundError, match="has train, test but not validation; add"):
        load_folder(tmp_path)
    other = write(tmp_path / "other" / "images_background", "ab").parent
    with pytest.raises(FileNotFoundError, match="has images_background but not images_evaluation"):
        read_folder(other)


def test_a_class_with_too_few_images(tmp_path):
    write(tmp_path, "abc")
    for path in sorted((tmp_path / "b" / "character01").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"b/character01' needs at least 2 images .*, got 1; add"):
        load_folder(tmp_path)
    assert read_folder(tmp_path, min_images=1).sizes.tolist() == [3, 3, 3, 1, 3, 3]
    with pytest.raises(ValueError, match=r"character00' needs at least 4 images .* got 3"):
        read_folder(tmp_path, min_images=4)


@pytest.mark.parametrize("content", [b"", b"not a picture", "cut"])
def test_an_unreadable_image_is_named(tmp_path, content):
    write(tmp_path, "abc")
    path = tmp_path / "b" / "character01" / "2.png"
    path.write_bytes(path.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"cannot read the image .*b/character01/2\.png'"):
        load_folder(tmp_path)


def test_too_few_alphabets(tmp_path):
    write(tmp_path / "two", "ab")
    with pytest.raises(ValueError, match=r"train, validation, test needs at least 3 .* got 2"):
        load_folder(tmp_path / "two")
    write(tmp_path / "omniglot" / "images_background", "a")
    write(tmp_path / "omniglot" / "images_evaluation", "b")
    with pytest.raises(ValueError, match=r"train, validation needs at least 2 alphabets, got 1"):
        load_folder(tmp_path / "omniglot")


def test_negative_seed(tmp_path):
    with pytest.raises(ValueError, match="seed must be non-negative, got -1"):
        load_folder(write(tmp_path, "abc"), seed=-1)


def test_root_must_be_given():
    with pytest.raises(ValueError, match="name='folder' needs root"):
        load_splits("folder")
