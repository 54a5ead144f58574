"""Reading images in Omniglot's layout: splits, polarity, formats, and every refusal."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

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


def assert_same(left, right):
    np.testing.assert_array_equal(left.images, right.images)
    np.testing.assert_array_equal(left.offsets, right.offsets)
    assert left.names == right.names
    assert left.alphabets == right.alphabets


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


def test_alphabets_are_shared_out_whole(tmp_path):
    alphabets = [f"alphabet{a:02d}" for a in range(12)]
    splits = load_splits("folder", root=write(tmp_path, alphabets))
    parts = [set(part.alphabets) for part in splits]
    assert [len(part) for part in parts] == [7, 2, 3]
    assert set().union(*parts) == set(alphabets)
    for part in splits:
        assert part.sizes.tolist() == [3] * len(part.names)
        for name, alphabet in zip(part.names, part.alphabets, strict=True):
            assert name.startswith(f"{alphabet}/character")


def test_the_split_is_a_function_of_the_seed(tmp_path):
    write(tmp_path, "abcdefgh")
    splits = load_folder(tmp_path, seed=1)
    again = load_folder(str(tmp_path), seed=1)
    for part, other in zip(splits, again, strict=True):
        assert_same(part, other)
    assert load_folder(tmp_path, seed=2).test.names != splits.test.names


def test_images_stay_with_their_class(tmp_path):
    write(tmp_path / "all", "abc", characters=3)
    classes = read_folder(tmp_path / "all")
    for c, name in enumerate(classes.names):
        for i in range(3):
            with Image.open(tmp_path / "all" / name / f"{i}.png") as image:
                expected = read_one(tmp_path / f"{c}-{i}", image)
            np.testing.assert_array_equal(classes.images[classes.offsets[c] + i, 0], expected)


def test_folders_called_train_validation_test_are_the_splits(tmp_path):
    layout = {"train": "abc", "validation": "d", "test": "ef"}
    for part, alphabets in layout.items():
        write(tmp_path / part, alphabets)
    for classes, (part, alphabets) in zip(load_folder(tmp_path), layout.items(), strict=True):
        assert set(classes.alphabets) == set(alphabets)
        assert classes.names[0] == f"{part}/{alphabets[0]}/character00"


def test_omniglots_own_layout(tmp_path):
    write(tmp_path / "images_background", "abcdefghijkl")
    write(tmp_path / "images_evaluation", "uvw")
    train, validation, test = (set(part.alphabets) for part in load_folder(tmp_path))
    assert test == set("uvw")
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


def test_ink_is_bright_whatever_the_polarity(tmp_path, plain):
    np.testing.assert_array_equal(read_one(tmp_path, drawing(ink=255, paper=0)), plain)
    assert plain[0, 0] == 0
    assert plain.max() > 200


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA"])
def test_every_kind_of_png_reads_the_same(tmp_path, plain, mode):
    np.testing.assert_array_equal(read_one(tmp_path, drawing().convert(mode)), plain)


def test_ink_on_transparency_and_ink_that_is_not_quite_black(tmp_path, plain):
    ink, clear = (Image.new("RGBA", (105, 105), (0, 0, 0, opacity)) for opacity in (255, 0))
    transparent = Image.composite(clear, ink, drawing())
    np.testing.assert_array_equal(read_one(tmp_path / "transparent", transparent), plain)
    deep = in_a_picture(100, 65535, np.uint16)
    np.testing.assert_array_equal(read_one(tmp_path / "deep", deep), plain)


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


def test_other_files_are_passed_over(root):
    (root / "README.txt").write_text("about the data")
    (root / "a" / "notes.txt").write_text("about the alphabet")
    (root / "a" / "character00" / "strokes.txt").write_text("0,0")
    (root / "papers").mkdir()
    assert read_folder(root).sizes.tolist() == [3] * 6


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", "._a", ".Trash-1000"]
)
def test_what_is_hidden_is_passed_over(root, hidden):
    """At every depth; there are copies of images in it, or files of other content under their names."""
    expected = read_folder(root)
    for parent in (root, root / "a", root / "a" / "character00"):
        write(parent / hidden, ["copies"])
        (parent / hidden / "0-checkpoint.png").write_bytes(b"no picture")
        (parent / "._0.png").write_bytes(b"\0\5\x16\7")
        (parent / ".DS_Store").write_bytes(b"")
    assert_same(read_folder(root), expected)
    assert {name for part in load_folder(root) for name in part.names} == set(expected.names)


def test_a_folder_may_lie_in_a_hidden_one(tmp_path):
    assert read_folder(write(tmp_path / ".data", "abc")).sizes.tolist() == [3] * 6


@pytest.mark.parametrize(
    "ending", ["PNG", "Png", "jpg", "JPG", "jpeg", "bmp", "gif", "tif", "tiff", "TIFF", "webp"]
)
def test_other_endings_are_read(tmp_path, ending):
    for image in range(3):
        for other, name in (("png", "png"), (ending, "other")):
            path = tmp_path / name / "a" / "letter" / f"{image}.{other}"
            path.parent.mkdir(parents=True, exist_ok=True)
            lossless = {"lossless": True} if ending == "webp" and name == "other" else {}
            drawing(image).save(path, **lossless)
    expected, got = read_folder(tmp_path / "png").images, read_folder(tmp_path / "other").images
    np.testing.assert_allclose(got, expected, atol=12 if ending.lower() in ("jpg", "jpeg") else 0)
    drawing(7).save(tmp_path / "png" / "a" / "letter" / f"7.{ending}")
    assert read_folder(tmp_path / "png").sizes.tolist() == [4]


@pytest.mark.parametrize("ending", ["heic", "svg", "HEIF", "pgm", "avif", "psd"])
def test_formats_that_are_not_read_are_named(root, ending):
    path = root / "b" / "character01" / f"drawn.{ending}"
    path.write_bytes(b"a picture")
    with pytest.raises(ValueError, match=rf"the format of '{path}' is not read; save it as PNG"):
        read_folder(root)
    path.rename(path.with_stem("1"))  # 1.png was made of it
    assert read_folder(root).sizes.tolist() == [3] * 6


@pytest.mark.parametrize("copy", ["1.jpg", "1.PNG", "1.tiff"])
def test_one_picture_in_two_formats_is_refused(root, copy):
    drawing().save(root / "b" / "character01" / copy)
    with pytest.raises(ValueError, match=r"b/character01/1\.\w+' and '1\.\w+' have one name .*; remove or"):
        read_folder(root)


def in_a_picture(ink, paper, dtype=np.uint8):
    return Image.fromarray(np.where(np.asarray(drawing()) == 0, ink, paper).astype(dtype))


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (200, 200, 200), (255, 255, 0), (90, 160, 90)]
)
@pytest.mark.parametrize("hidden", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_ink_of_any_colour_on_transparency(tmp_path, plain, colour, hidden, mode):
    """The colour of what is transparent is never seen."""
    if mode == "LA":
        colour = (colour[1],) * 3
    ink = Image.new("RGBA", (105, 105), (*colour, 255))
    image = Image.composite(Image.new("RGBA", ink.size, (hidden,) * 3 + (0,)), ink, drawing())
    if mode == "P":
        pixels = (np.asarray(drawing()) == 0).astype(np.uint8)
        image = Image.fromarray(pixels).convert("P")
        image.putpalette([hidden] * 3 + [*colour])
        image.info["transparency"] = 0
    elif mode == "LA":
        image = image.convert("LA")
    got = read_one(tmp_path, image)
    assert np.corrcoef(got.ravel(), plain.ravel())[0, 1] > 0.995
    assert got.max() > 120
    assert got[0, 0] == 0


@pytest.mark.parametrize(
    ("ink", "paper"),
    [(90, 120), (120, 90), (0, 30), (225, 255), (20, 120), (130, 200), (254, 128), (0, 100)],
)
def test_faint_ink_is_bright_whatever_the_polarity(tmp_path, plain, ink, paper):
    np.testing.assert_allclose(read_one(tmp_path, in_a_picture(ink, paper)), plain, atol=2)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("dark", [True, False], ids=["dark ink", "light ink"])
def test_any_depth_in_16_bits(tmp_path, plain, bits, ending, dark):
    most = (1 << bits) - 1
    image = in_a_picture(0 if dark else most, most if dark else 0, np.uint16)
    np.testing.assert_array_equal(read_one(tmp_path, image, f"0.{ending}"), plain)


@pytest.mark.parametrize(
    ("ink", "paper", "dtype"),
    [
        (-5, 100_000, np.int32),
        (0, 2_000_000_000, np.int32),
        (0, 1, np.float32),
        (0, 255, np.float32),
        (-0.5, 0.5, np.float32),
    ],
)
def test_numbers_of_32_bits(tmp_path, plain, ink, paper, dtype):
    got = read_one(tmp_path, in_a_picture(ink, paper, dtype), "0.tiff")
    np.testing.assert_allclose(got, plain, atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(tmp_path, value):
    pixels = np.array(in_a_picture(0, 1, np.float32))
    pixels[3, 4] = value
    with pytest.raises(ValueError, match=r"cannot read the image .*0\.tiff' .*blank"):
        read_one(tmp_path, Image.fromarray(pixels), "0.tiff")


def test_cmyk(tmp_path, plain):
    got = read_one(tmp_path, drawing().convert("CMYK"), "0.jpg", quality=100)
    np.testing.assert_allclose(got, plain, atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_are_turned_as_the_camera_says(tmp_path, plain, orientation, ending):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = drawing() if orientation == 1 else drawing().transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_one(tmp_path, stored, f"0.{ending}", exif=exif, quality=100)
    np.testing.assert_allclose(got, plain, atol=12)


def png(width, height, depth=1, kind=0):
    """A PNG file whose checksums are right."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def dotted():
    """A large page with a single pixel of ink."""
    image = Image.new("L", (1000, 1000), 255)
    image.putpixel((500, 500), 0)
    return image


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
    "black": (Image.new("L", (105, 105), 0), BLANK),
    "white": (Image.new("L", (105, 105), 255), BLANK),
    "grey": (Image.new("L", (105, 105), 128), BLANK),
    "noise": (Image.fromarray(np.random.default_rng(0).integers(200, 208, (105, 105), np.uint8)), BLANK),
    "dot": (dotted(), VANISHES),
    "clear": (Image.new("RGBA", (50, 50), (0, 0, 0, 0)), BLANK),
    "opaque": (Image.new("RGBA", (50, 50), (255, 255, 255, 255)), BLANK),
    "1": (Image.new("1", (50, 50)), BLANK),
    "I;16": (Image.fromarray(np.full((50, 50), 40_000, np.uint16)), BLANK),
    "a mask of 0 and 1": (Image.fromarray(np.eye(50, dtype=np.uint8)), BLANK),
    "1 x 1": (Image.new("L", (1, 1), 255), BLANK),
    "a line": (Image.linear_gradient("L").resize((2000, 1)), UNREADABLE),
    **{f"side {side}": (png(side, side), TOO_LARGE) for side in (10_000, 14_000, 60_000, (1 << 31) - 1)},
    "no columns": (png(0, 5), UNREADABLE),
    "no rows": (png(5, 0), UNREADABLE),
    "no pixels": (png(0, 0), UNREADABLE),
    "depth": (png(5, 5, depth=3), UNREADABLE),
    "colour": (png(5, 5, kind=9), UNREADABLE),
    "empty GIF": (b"GIF89a\0\0\0\0\0\0\0;", UNREADABLE),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE),
    "PSD": (b"8BPS\0\1" + bytes(30), UNREADABLE),
    "PGM": (b"P5 2 2 255\n\0\xff\0\xff", UNREADABLE),
    "nothing": (b"", UNREADABLE),
    "text": (b"not a picture", UNREADABLE),
    "cut short": (png(5, 5)[:50], UNREADABLE),
    **{kind: (several(kind), SEVERAL) for kind in ("gif", "webp", "tiff", "apng")},
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_cannot_be_right_is_named(root, content, message):
    """Whatever its format, its ending may be that of another one."""
    path = root / "b" / "character01" / "2.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
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
    generator = random.Random(0)
    messages = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 1, 4])):
            damaged[generator.randrange(min(len(whole), 1000))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            images = read_folder(tmp_path, min_images=1).images
        except ValueError as error:
            messages.append(str(error))
        else:
            if ending == "png":
                np.testing.assert_array_equal(images, expected)
    assert messages
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "link to nothing", "link to itself", "link to a device"]
)
def test_what_is_no_file_is_named(root, kind):
    path = root / "b" / "character01" / "3.png"
    if kind == "pipe":
        os.mkfifo(path)  # which would be waited for, for ever
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"nothing": root / "gone", "itself": path, "a device": "/dev/zero"}[kind[8:]])
    with pytest.raises(ValueError, match=rf"load_folder: .*'{path}' .*remove it"):
        load_folder(root)


@pytest.mark.parametrize("place", ["", "b", "b/character01"])
def test_a_link_to_nothing_is_named(root, place):
    """A folder of images may be on a disk that is not there."""
    path = root / place / "elsewhere"
    path.symlink_to(root / "gone")
    with pytest.raises(ValueError, match=rf"'{path}' is a link to nothing; mend or remove it"):
        load_folder(root)


def test_links_to_images_are_followed(tmp_path):
    write(tmp_path / "disk", "abc")
    root = tmp_path / "root"
    root.mkdir()
    for alphabet in "abc":
        (root / alphabet).symlink_to(tmp_path / "disk" / alphabet)
    assert_same(read_folder(root), read_folder(tmp_path / "disk"))


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
    (root / link).symlink_to(root / target)
    for read in (load_folder, read_folder):
        with pytest.raises(ValueError, match=r"load_folder: '.*png' and '.*png' are one file, by a link"):
            read(root)
    (root / link).unlink()
    if link.endswith("png"):
        (root / link).hardlink_to(root / target)
        with pytest.raises(ValueError, match=r"load_folder: '.*png' and '.*png' are one file, by a link"):
            load_folder(root)


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


def test_a_class_with_too_few_images(root):
    for path in sorted((root / "b" / "character01").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"b/character01' needs at least 2 images .*, got 1; add"):
        load_folder(root)
    assert read_folder(root, min_images=1).sizes.tolist() == [3, 3, 3, 1, 3, 3]
    with pytest.raises(ValueError, match=r"character00' needs at least 4 images .* got 3"):
        read_folder(root, min_images=4)


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
