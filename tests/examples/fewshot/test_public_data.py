"""The public data sets, each read from a small copy of its published files, unpacked."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from examples.fewshot.data import cifar, load_splits, omniglot, tiered_imagenet
from examples.fewshot.data.archives import Contents
from examples.fewshot.data.episodes import EpisodeSampler
from tests.examples.fewshot.small_copies import (
    FINE,
    FORMS,
    GROUP_OF,
    SHORT,
    WNIDS,
    change_pickle,
    image_file,
    noise,
    save,
)

LOADERS = {form.load: form for form in FORMS.values()}  # one form of each data set
MINI = FORMS["miniimagenet"]
TIERED = FORMS["tieredimagenet"]
OF_IMAGE_FILES = ("omniglot", "cifarfs-folders", "miniimagenet-folders", "miniimagenet-tables")


def scaled(pixels, size):
    """(H, W) or (H, W, 3) by Pillow's bilinear filter, as (C, S, S)."""
    image = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def check(splits, expected, size):
    for part, classes in zip(splits, expected, strict=True):
        assert part.names == tuple(classes)
        assert part.sizes.tolist() == [len(images) for images in classes.values()]
        images = part.images[np.arange(part.images.shape[0])]
        assert images.dtype == np.uint8
        originals = np.concatenate([*classes.values()])
        for image, original in zip(images, originals, strict=True):
            np.testing.assert_array_equal(image, scaled(original, size))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(tmp_path, monkeypatch, name):
    expected = FORMS[name].make(tmp_path, monkeypatch)
    own = {"omni": 28, "fc10": 32, "cifa": 32, "mini": 84, "tier": 84}[name[:4]]
    check(FORMS[name].load(tmp_path), expected, own)
    check(FORMS[name].load(tmp_path, image_size=20), expected, 20)


@pytest.mark.parametrize("name", FORMS)
def test_a_short_copy_is_noticed(tmp_path, monkeypatch, name):
    images = [sum(map(len, split.values())) for split in FORMS[name].make(tmp_path, monkeypatch)]
    classes = (1, 1, 1)
    for contents in (Contents(classes, tuple(images)), Contents(classes, (images[0] + 1, *images[1:]))):
        FORMS[name].patch(monkeypatch, contents=contents)
        with pytest.raises(
            ValueError, match=rf"{FORMS[name].load.__name__}: the \w+ split .* must have .*, got .*fetch it"
        ):
            FORMS[name].load(tmp_path)


@pytest.mark.parametrize("name", OF_IMAGE_FILES)
def test_a_damaged_image_is_named(tmp_path, monkeypatch, name):
    FORMS[name].make(tmp_path, monkeypatch)
    image = sorted(tmp_path.rglob("*.png"))[3]
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(
        ValueError, match=rf"{FORMS[name].load.__name__}: cannot read the image .*{image.name}"
    ):
        FORMS[name].load(tmp_path)


@pytest.mark.parametrize("name", [*OF_IMAGE_FILES[:3]])
def test_what_is_hidden_in_a_copy_is_passed_over(tmp_path, monkeypatch, name):
    expected = FORMS[name].make(tmp_path, monkeypatch)
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        (folder / "._0001.png").write_bytes(b"\0\5\x16\7")
        (folder / ".DS_Store").write_bytes(b"")
        for hidden in (".ipynb_checkpoints", "__MACOSX"):
            save(folder / hidden / "character01" / "1.png", image_file(noise((84, 84))))
        if not name.startswith("mini"):  # whose images may have any ending
            (folder / "strokes.txt").write_text("0,0")
    check(FORMS[name].load(tmp_path), expected, {"o": 28, "c": 32, "m": 84}[name[0]])


# Omniglot


def test_the_published_split_of_omniglot():
    """Of 964 and 659 characters; those of five alphabets of the first 1200 are for validation."""
    train, validation, test = omniglot.CONTENTS.classes
    assert (train, validation, test) == (1028, 172, 423)
    assert train + validation == omniglot.TRAINING_CHARACTERS
    assert train + validation + test == 964 + 659
    assert omniglot.CONTENTS.images == (1028 * 20, 172 * 20, 423 * 20)
    sizes = {"Armenian": 41, "Bengali": 46, "Early_Aramaic": 22, "Hebrew": 22, "Mkhedruli_(Georgian)": 41}
    assert set(omniglot.VALIDATION) == set(sizes)
    assert sum(sizes.values()) == validation


def test_published_omniglot_is_normalised_as_if_ink_were_black(tmp_path, monkeypatch):
    """As published: white ink on black, by the mean and deviation of black ink on white."""
    FORMS["omniglot"].make(tmp_path, monkeypatch)
    # In its own size the drawings have no grey.
    splits = load_splits("omniglot", root=tmp_path, image_size=105, normalise="published")
    drawn = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=1, seed=0, augment=False).batch(0, 4)
    background, stroke = drawn.support.unique().tolist()
    assert (background, stroke) == (pytest.approx(-10.976, abs=1e-3), pytest.approx(0.929, abs=1e-3))
    assert (drawn.support == background).float().mean() > 0.9


# What `archives.Contents` cannot see would move the border between training and test.
@pytest.mark.parametrize(
    "missing", ["images_background/Balinese", "images_background/Armenian/character02"]
)
def test_a_missing_character_of_omniglot_is_noticed(tmp_path, monkeypatch, missing):
    FORMS["omniglot"].make(tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(ValueError, match=r"split .* must have .* classes .* the copy is incomplete"):
        omniglot.load_omniglot(tmp_path)


# CIFAR-100, FC100 and CIFAR-FS


@pytest.mark.parametrize("name", ["fc100", "cifarfs"])
def test_classes_from_cifar100_know_their_superclass(tmp_path, monkeypatch, name):
    FORMS[name].make(tmp_path, monkeypatch)
    for part in FORMS[name].load(tmp_path):
        assert part.alphabets == tuple(GROUP_OF[name] for name in part.names)


def test_the_classes_held_out_from_cifar100():
    validation, test = (names.split() for names in (cifar.CIFAR_FS.validation, cifar.CIFAR_FS.test))
    assert [100 - len(validation) - len(test), len(validation), len(test)] == [64, 16, 20]
    assert len({*validation, *test} & {*FINE}) == 36
    assert cifar.CIFAR_FS.contents == Contents((64, 16, 20), (64 * 600, 16 * 600, 20 * 600))
    assert cifar.FC100.contents == Contents((60, 20, 20), (60 * 600, 20 * 600, 20 * 600))


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("fc100", "cifar-100-python/train", {b"data": noise((2, 3072))}),
        ("fc100", "cifar-100-python/meta", {b"data": noise((2, 3072))}),
        ("fc100-pickles", "FC100/FC100_train.pickle", {"data": noise((3, 32, 32, 3)), "labels": [0, 1]}),
        ("miniimagenet", "mini-imagenet-cache-train.pkl", {"image_data": noise((3, 84, 84, 3))}),
        ("tieredimagenet", "tiered-imagenet/train_labels.pkl", {b"label_specific": np.arange(3)}),
    ],
)
def test_other_content_in_a_pickle_is_refused(tmp_path, monkeypatch, name, file, content):
    FORMS[name].make(tmp_path, monkeypatch)
    save(tmp_path / file, content)
    with pytest.raises(
        ValueError,
        match=rf"{FORMS[name].load.__name__}: .*{file[:6]}.* does not hold what its name says .*fetch it",
    ):
        FORMS[name].load(tmp_path)


@pytest.mark.parametrize("label", [-1, 100, 1 << 31, 1 << 62])
@pytest.mark.parametrize(
    ("name", "file", "key", "classes"),
    [
        ("fc100", "cifar-100-python/test", "fine_labels", 100),
        ("tieredimagenet", "tiered-imagenet/val_labels.pkl", "label_specific", 1),
    ],
)
def test_labels_beyond_the_classes_are_refused(tmp_path, monkeypatch, name, file, key, classes, label):
    """Counting them would take memory for all labels up to the largest."""
    FORMS[name].make(tmp_path, monkeypatch)
    content = pickle.loads((tmp_path / file).read_bytes())[key.encode()]
    change_pickle(tmp_path / file, **{key: np.array([label, *content[1:]], np.int64)})
    with pytest.raises(ValueError, match=rf"does not hold .*labels .* but {classes} classes"):
        FORMS[name].load(tmp_path)


# mini-ImageNet


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"filename,label\nx.png\n", b"filename,label\n\xff,n\n"]
)
def test_other_content_in_the_tables_of_mini_imagenet_is_refused(tmp_path, content):
    (tmp_path / "images").mkdir()
    for split in SHORT:
        save(tmp_path / f"{split}.csv", content)
    with pytest.raises(ValueError, match=r"load_mini_imagenet: "):
        MINI.load(tmp_path)


def test_mini_imagenet_cannot_be_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mini-imagenet-cache-train\.pkl, .*Google Drive") as error:
        MINI.load(tmp_path, download=True)
    assert "no stable public address" in str(error.value)


@pytest.mark.parametrize("positions", [[0, 1, 1], [0, 1], [0, 1, -1], [0, 1, 2, 2], [0, 1, 3]])
def test_images_that_are_not_in_one_class_of_mini_imagenet_are_refused(tmp_path, monkeypatch, positions):
    MINI.make(tmp_path, monkeypatch)
    [name] = WNIDS[1]
    change_pickle(tmp_path / "mini-imagenet-cache-val.pkl", class_dict={name: positions})
    with pytest.raises(ValueError, match=r"cache-val\.pkl' does not hold .*do not hold every image once"):
        MINI.load(tmp_path)


# tieredImageNet


@pytest.fixture
def tiered(tmp_path, monkeypatch):
    """The folder of a small copy, and the images of its splits, (I, C, H, W)."""
    expected = TIERED.make(tmp_path, monkeypatch)
    images = [np.moveaxis(np.concatenate([*split.values()]), -1, 1) for split in expected]
    return tmp_path / "tiered-imagenet", images


def folders_in(folder):
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_encoded_images_are_indexed_as_an_array(tiered):
    folder, expected = tiered
    for part, pixels in zip(TIERED.load(folder), expected, strict=True):
        assert part.images.shape == pixels.shape
        assert part.images.dtype == np.uint8
        for rows in (np.array([[2, 0], [1, 2]]), -1, slice(2)):
            np.testing.assert_array_equal(part.images[rows], pixels[rows])
        assert part.images[np.zeros((0, 4), np.int64)].shape == (0, 4, 3, 84, 84)
        with pytest.raises(IndexError):
            part.images[len(pixels)]


def test_tiered_imagenet_is_sorted_out_once(tiered):
    folder, expected = tiered
    TIERED.load(folder)
    for path in folder.glob("*.pkl"):
        path.unlink()
    assert {path.name for path in folder.iterdir()} == {f"tiered-imagenet-{split}.cache" for split in SHORT}
    for part, pixels in zip(TIERED.load(folder), expected, strict=True):
        np.testing.assert_array_equal(part.images[:], pixels)


def test_an_interruption_of_the_sorting_can_be_repeated(tiered, monkeypatch):
    folder, expected = tiered
    load_pickle = tiered_imagenet.load_pickle

    def interrupted(operation, path, keep=None):
        if path.name == "val_images_png.pkl":
            keep(tiered_imagenet._PNG + b"half")
            raise KeyboardInterrupt
        return load_pickle(operation, path, keep)

    with monkeypatch.context() as patched:
        patched.setattr(tiered_imagenet, "load_pickle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TIERED.load(folder)
    assert folders_in(folder) == {"tiered-imagenet-train.cache"}
    save(folder / "train_images_png.pkl", b"not read again")
    np.testing.assert_array_equal(TIERED.load(folder).validation.images[:], expected[1])


def test_encoded_images_travel_to_other_processes_without_their_bytes(tiered):
    folder, expected = tiered
    images = TIERED.load(folder).train.images
    travelling = pickle.dumps(images)
    assert len(travelling) < images.path.stat().st_size / 10
    np.testing.assert_array_equal(pickle.loads(travelling)[:], expected[0])


@pytest.mark.parametrize("content", [None, b"", b"not an index", "cut", "shorter", "flipped", "other"])
@pytest.mark.parametrize("file", ["index.npz", "images.bin"])
def test_a_damaged_file_of_a_cache_is_named(tiered, file, content):
    folder, expected = tiered
    TIERED.load(folder)
    cache = folder / "tiered-imagenet-val.cache"
    whole = (cache / file).read_bytes()
    (cache / file).unlink()
    np.savez(folder / "other.npz", names=np.array(["tench"]))
    content = {
        "cut": whole[:100],
        "shorter": whole[:-1000],
        "flipped": whole[:150] + b"????" + whole[154:],
        "other": (folder / "other.npz").read_bytes(),
    }.get(content, content)
    if content is not None:
        (cache / file).write_bytes(content)
    message = r"cannot read '.*val\.cache' .* delete this folder|cannot read the image at byte .*val\.cache"
    with pytest.raises(ValueError, match=message):
        TIERED.load(folder).validation.images[:]
    shutil.rmtree(cache)
    np.testing.assert_array_equal(TIERED.load(folder).validation.images[:], expected[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((50, 1), np.uint8)] * 6, r"train_images_png\.pkl.*image 0 is no PNG file"),
        (
            [np.frombuffer(image_file(noise((84, 84, 3))), np.uint8)],
            r"train split .*images_png\.pkl' must have 2 .* 6 images, got 2 and 1",
        ),
    ],
)
def test_wrong_images_of_tiered_imagenet_are_refused_before_anything_is_kept(tiered, images, message):
    folder, _ = tiered
    save(folder / "train_images_png.pkl", images)
    with pytest.raises(ValueError, match=message):
        TIERED.load(folder)
    assert folders_in(folder) == set()


# What they share


@pytest.mark.parametrize(
    ("name", "normalise", "shape", "mean"),
    [
        ("omniglot", "published", (3, 28, 28), (0.922,)),
        ("fc100", "correct", (3, 32, 32), (0.5,) * 3),
        ("cifarfs", "correct", (3, 32, 32), (0.5,) * 3),
        ("miniimagenet", "published", (3, 84, 84), (0.485, 0.456, 0.406)),
        ("tieredimagenet", "correct", (3, 84, 84), (0.485, 0.456, 0.406)),
    ],
)
def test_load_splits_knows_them(tmp_path, monkeypatch, name, normalise, shape, mean):
    expected = FORMS[name].make(tmp_path, monkeypatch)
    splits = load_splits(name, root=tmp_path, channels=3, normalise=normalise, rotate="all")
    assert [len(part.names) for part in splits] == [4 * len(split) for split in expected]
    assert splits.test.picture_shape == shape
    assert splits.test.normalisation.mean == pytest.approx(mean, abs=0.01 if mean[0] == 0.5 else 0)


@pytest.mark.parametrize("load", LOADERS)
def test_arguments_are_checked_first(tmp_path, load):
    with pytest.raises(ValueError, match=rf"{load.__name__}: image_size must be at least 1, got 0"):
        load(tmp_path, image_size=0)
    with pytest.raises(FileNotFoundError, match=rf"{load.__name__}: root must be an existing folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"{load.__name__}: found nothing to read"):
        load(tmp_path)


@pytest.mark.parametrize("form", LOADERS.values(), ids=lambda form: form.load.__name__)
def test_what_can_be_downloaded_is_checked(form):
    for layout in form.layouts:
        if layout.url is not None:
            assert layout.url.startswith("https://")
            assert layout.url.endswith("/" + layout.archive)
            assert len(layout.md5) == 32
