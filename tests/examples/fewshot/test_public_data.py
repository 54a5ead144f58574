"""The public data sets, each read from a small copy of its published files, unpacked."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from examples.fewshot.data import (
    archives,
    cifar_fs,
    fc100,
    load_splits,
    mini_imagenet,
    omniglot,
    tiered_imagenet,
)
from examples.fewshot.data.archives import Contents
from examples.fewshot.data.episodes import EpisodeSampler
from tests.examples.fewshot.small_copies import (
    COARSE,
    FINE,
    SHORT,
    SUPERCLASSES,
    WNIDS,
    drawing,
    image_file,
    mini,
    noise,
    parts,
    save,
    shrink,
    write_cifar100,
    write_cifar_fs,
    write_mini,
    write_omniglot,
    write_pickled_splits,
    write_tiered,
)


def scaled(pixels, size):
    """(H, W) or (H, W, 3) by Pillow's bilinear filter."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


# Omniglot


def test_the_characters_of_omniglot():
    background, evaluation = omniglot.BACKGROUND, omniglot.EVALUATION
    assert (len(background), sum(background.values())) == (30, 964)
    assert (len(evaluation), sum(evaluation.values())) == (20, 659)
    for alphabets in (background, evaluation):
        assert list(alphabets) == sorted(alphabets)
    assert sum(background[alphabet] for alphabet in omniglot.VALIDATION) == 172
    every = [name for part in (background, evaluation) for name, size in part.items() for _ in range(size)]
    train = [name for name in every[: omniglot.TRAINING_CHARACTERS] if name not in omniglot.VALIDATION]
    assert (len(train), len(every) - omniglot.TRAINING_CHARACTERS) == (1028, 423)
    assert len(set(train)) == 25 + 8
    test = every[omniglot.TRAINING_CHARACTERS :]
    assert len(set(test)) == 13
    assert (train.count("Gurmukhi"), test.count("Gurmukhi")) == (41, 4)
    published = Contents(classes=(1028, 172, 423), images=(1028 * 20, 172 * 20, 423 * 20))
    assert published == omniglot.CONTENTS


def test_omniglot(tmp_path, monkeypatch):
    splits = omniglot.load_omniglot(write_omniglot(tmp_path / "root", monkeypatch))
    assert splits.train.names == (
        "Arcadian/character01",
        "Arcadian/character02",
        "Balinese/character01",
        "Balinese/character02",
        "Angelic/character01",
        "Angelic/character02",
        "Gurmukhi/character01",
    )
    assert splits.validation.names == ("Armenian/character01", "Armenian/character02")
    assert splits.test.names == (
        "Gurmukhi/character02",
        "Kannada/character01",
        "Kannada/character02",
    )
    assert splits.test.alphabets == ("Gurmukhi", "Kannada", "Kannada")
    for part in parts(splits):
        assert part.images.shape == (2 * len(part.names), 1, 28, 28)
        assert part.sizes.tolist() == [2] * len(part.names)
    marks = [*range(0, 4), *range(8, 18)]  # without those of Armenian
    for image, mark in zip(splits.train.images, marks, strict=True):
        inverted = 255 - np.asarray(drawing(mark).convert("L"))
        np.testing.assert_array_equal(image[0], scaled(inverted, 28))


def test_omniglot_in_its_own_size(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch)
    image = omniglot.load_omniglot(root, image_size=105).validation.images[0, 0]
    np.testing.assert_array_equal(image, 255 * (np.asarray(drawing(4)) == 0))


def test_published_omniglot_is_normalised_as_if_ink_were_black(tmp_path, monkeypatch):
    """As published: white ink on black, by the mean and deviation of black ink on white."""
    root = write_omniglot(tmp_path / "root", monkeypatch)
    # In its own size the drawings have no grey.
    splits = load_splits("omniglot", root=root, image_size=105, normalise="published")
    drawn = EpisodeSampler(splits.test, n_way=3, k_shot=1, n_query=1, seed=0, augment=False).batch(0, 4)
    background, stroke = drawn.support.unique().tolist()
    assert (background, stroke) == (pytest.approx(-10.976, abs=1e-3), pytest.approx(0.929, abs=1e-3))
    assert (drawn.support == background).float().mean() > 0.9


def test_a_missing_character_of_omniglot_is_noticed(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch)
    (root / "images_background" / "Balinese" / "character02").rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r"Balinese' must have 2 characters, got 1; the copy is incomplete"
    ):
        omniglot.load_omniglot(root)


def test_a_missing_image_of_omniglot_is_noticed(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch)
    next((root / "images_evaluation" / "Kannada" / "character01").iterdir()).unlink()
    with pytest.raises(
        ValueError, match=r"the test split .* must have 3 classes and 6 images, got 3 and 5"
    ):
        omniglot.load_omniglot(root)


def test_a_damaged_image_of_omniglot_is_named(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch)
    image = sorted((root / "images_background" / "Armenian" / "character01").iterdir())[1]
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"load_omniglot: cannot read the image .*{image.name}"):
        omniglot.load_omniglot(root)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "too large", "flipped", "other format"])
def test_what_is_no_image_of_omniglot_is_named(tmp_path, monkeypatch, kind):
    root = write_omniglot(tmp_path / "root", monkeypatch)
    image = sorted((root / "images_background" / "Armenian" / "character01").iterdir())[1]
    whole = image.read_bytes()
    image.unlink()
    if kind == "pipe":
        os.mkfifo(image)
    elif kind == "folder":
        image.mkdir()
    elif kind == "device":
        image.symlink_to("/dev/zero")
    elif kind == "too large":
        Image.new("1", (14_000, 14_000)).save(image)
    elif kind == "flipped":
        position = whole.index(b"IDAT") + 9
        image.write_bytes(whole[:position] + bytes([whole[position] ^ 64]) + whole[position + 1 :])
    else:
        Image.open(io.BytesIO(whole)).save(image, "PPM")
    with pytest.raises(ValueError, match=rf"load_omniglot: .*the image .*{image.name}"):
        omniglot.load_omniglot(root)


def test_what_is_hidden_in_a_copy_is_passed_over(tmp_path, monkeypatch):
    expected = {}
    for name, write, load in (
        ("omniglot", write_omniglot, omniglot.load_omniglot),
        ("cifarfs", write_cifar_fs, cifar_fs.load_cifar_fs),
    ):
        write(tmp_path / name, monkeypatch)
        expected[name] = load(tmp_path / name)
        for folder in [path for path in (tmp_path / name).rglob("*") if path.is_dir()]:
            (folder / "._0001.png").write_bytes(b"\0\5\x16\7")
            (folder / ".DS_Store").write_bytes(b"")
        for part, other in zip(parts(load(tmp_path / name)), parts(expected[name]), strict=True):
            assert part.names == other.names
            np.testing.assert_array_equal(part.images, other.images)


# CIFAR-100, FC100 and CIFAR-FS


def test_fc100_from_cifar100(tmp_path, monkeypatch):
    images = write_cifar100(tmp_path / "root" / "cifar-100-python")
    shrink(monkeypatch, fc100, (60, 20, 20), (180, 60, 60))
    splits = fc100.load_fc100(tmp_path / "root")
    test = {"aquatic_mammals", "insects", "medium_mammals", "people"}
    validation = {
        "large_carnivores",
        "large_omnivores_and_herbivores",
        "non-insect_invertebrates",
        "small_mammals",
    }
    for part, groups in zip(
        parts(splits), (set(COARSE) - test - validation, validation, test), strict=True
    ):
        assert set(part.alphabets) == groups
        assert set(part.names) == {name for group in groups for name in SUPERCLASSES[group].split()}
        for c, name in enumerate(part.names):
            assert name in SUPERCLASSES[part.alphabets[c]].split()
            of_class = part.images[part.offsets[c] : part.offsets[c + 1]]
            np.testing.assert_array_equal(of_class, images[name])
            assert of_class.dtype == np.uint8


def test_cifar_fs_from_cifar100(tmp_path, monkeypatch):
    images = write_cifar100(tmp_path)
    shrink(monkeypatch, cifar_fs, (64, 16, 20), (192, 48, 60))
    splits = cifar_fs.load_cifar_fs(tmp_path)
    assert sorted(name for part in parts(splits) for name in part.names) == FINE
    for part, chosen in zip(parts(splits), cifar_fs.CLASSES.values(), strict=True):
        assert list(part.names) == chosen.split()
        for c, name in enumerate(part.names):
            of_class = part.images[part.offsets[c] : part.offsets[c + 1]]
            np.testing.assert_array_equal(of_class, images[name])


@pytest.mark.parametrize(
    ("module", "load", "stem"),
    [(fc100, fc100.load_fc100, "FC100"), (cifar_fs, cifar_fs.load_cifar_fs, "CIFAR_FS")],
)
def test_pickled_splits_of_cifar100(tmp_path, monkeypatch, module, load, stem):
    pixels, labels = write_pickled_splits(tmp_path, monkeypatch, module)
    for image_size in (None, 20):
        splits = load(tmp_path, image_size=image_size)
        for part, short, data, numbers in zip(parts(splits), SHORT, pixels, labels, strict=True):
            assert part.names == tuple(f"{stem}_{short} {label}" for label in sorted(set(numbers)))
            order = np.argsort(numbers, kind="stable")
            assert part.sizes.tolist() == [numbers.count(label) for label in sorted(set(numbers))]
            for image, position in zip(part.images, order, strict=True):
                expected = data[position] if image_size is None else scaled(data[position], image_size)
                np.testing.assert_array_equal(np.moveaxis(image, 0, -1), expected)


def test_cifar_fs_from_folders(tmp_path, monkeypatch):
    names, pixels = write_cifar_fs(tmp_path / "cifarfs" / "cifar100", monkeypatch)
    splits = cifar_fs.load_cifar_fs(tmp_path)
    for part, classes in zip(parts(splits), names.values(), strict=True):
        assert list(part.names) == classes
        expected = np.concatenate([pixels[name] for name in classes])
        np.testing.assert_array_equal(np.moveaxis(part.images, 1, -1), expected)


def test_the_classes_of_cifar_fs():
    assert [len(names.split()) for names in cifar_fs.CLASSES.values()] == [64, 16, 20]
    assert sorted(" ".join(cifar_fs.CLASSES.values()).split()) == FINE


def test_a_short_copy_of_cifar100_is_noticed(tmp_path):
    write_cifar100(tmp_path)
    with pytest.raises(
        ValueError, match=r"train split .* must have 60 classes and 36000 .* got 60 and 180"
    ):
        fc100.load_fc100(tmp_path)


@pytest.mark.parametrize("file", ["train", "meta"])
def test_other_content_in_cifar100_is_refused(tmp_path, file):
    write_cifar100(tmp_path)
    save(tmp_path / file, {b"data": noise((2, 3072))})
    with pytest.raises(ValueError, match=r"load_fc100: .* does not hold what its name says \(KeyError"):
        fc100.load_fc100(tmp_path)


def test_other_content_in_a_pickled_split_is_refused(tmp_path):
    for split in SHORT:
        save(tmp_path / f"FC100_{split}.pickle", {"data": noise((3, 32, 32, 3)), "labels": [0, 1]})
    with pytest.raises(ValueError, match=r"FC100_train.pickle' does not hold what its name says"):
        fc100.load_fc100(tmp_path)


@pytest.mark.parametrize("label", [-1, 100, 1 << 31, 1 << 62])
def test_labels_beyond_the_classes_are_refused(tmp_path, monkeypatch, label):
    """Counting them would take memory for all labels up to the largest."""
    write_cifar100(tmp_path / "cifar")
    content = pickle.loads((tmp_path / "cifar" / "test").read_bytes())
    content[b"fine_labels"][0] = label
    save(tmp_path / "cifar" / "test", content)
    with pytest.raises(ValueError, match=r"load_fc100: .*cifar' does not hold .*labels .* but 100 classes"):
        fc100.load_fc100(tmp_path / "cifar")
    write_tiered(tmp_path / "tiered", monkeypatch)
    path = tmp_path / "tiered" / "val_labels.pkl"
    content = pickle.loads(path.read_bytes())
    content[b"label_specific"] = np.array([0, 0, label])
    save(path, content)
    with pytest.raises(ValueError, match=r"val_labels\.pkl' does not hold .*labels .* but 1 classes"):
        tiered_imagenet.load_tiered_imagenet(tmp_path / "tiered")


# mini-ImageNet


def check_mini(splits, pixels, size=84):
    for part, names in zip(parts(splits), WNIDS.values(), strict=True):
        assert list(part.names) == names
        assert part.images.shape == (3 * len(names), 3, size, size)
        expected = np.concatenate([pixels[name] for name in names])
        for image, original in zip(part.images, expected, strict=True):
            wanted = original if size == 84 else scaled(original, size)
            np.testing.assert_array_equal(np.moveaxis(image, 0, -1), wanted)


@pytest.mark.parametrize("mixed", [False, True])
def test_mini_imagenet_from_pickles(tmp_path, monkeypatch, mixed):
    pixels = write_mini(tmp_path / "mini-imagenet", monkeypatch, mixed=mixed)
    check_mini(mini_imagenet.load_mini_imagenet(tmp_path), pixels)
    check_mini(mini_imagenet.load_mini_imagenet(tmp_path, image_size=21), pixels, 21)


@pytest.mark.parametrize("size", [84, 30])
def test_mini_imagenet_from_folders(tmp_path, monkeypatch, size):
    pixels = mini(monkeypatch)
    for split, names in WNIDS.items():
        for name in names:
            for i, image in enumerate(pixels[name]):
                save(tmp_path / split / name / f"{name}{i:08d}.png", image_file(image))
    check_mini(mini_imagenet.load_mini_imagenet(tmp_path, image_size=size), pixels, size)


def test_what_is_hidden_in_the_folders_of_mini_imagenet_is_passed_over(tmp_path, monkeypatch):
    pixels = mini(monkeypatch)
    for split, names in WNIDS.items():
        for name in [*names, ".ipynb_checkpoints", "__MACOSX"]:
            for i, image in enumerate(pixels.get(name, pixels[names[0]])):
                save(tmp_path / split / name / f"{name}{i:08d}.png", image_file(image))
            (tmp_path / split / name / ".DS_Store").write_bytes(b"")
    check_mini(mini_imagenet.load_mini_imagenet(tmp_path), pixels)


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"filename,label\nx.png\n", b"filename,label\n\xff,n\n"]
)
def test_other_content_in_the_tables_of_mini_imagenet_is_refused(tmp_path, content):
    (tmp_path / "images").mkdir()
    for split in WNIDS:
        save(tmp_path / f"{split}.csv", content)
    with pytest.raises(ValueError, match=r"load_mini_imagenet: "):
        mini_imagenet.load_mini_imagenet(tmp_path)


def test_mini_imagenet_from_tables(tmp_path, monkeypatch):
    pixels = mini(monkeypatch)
    for split, names in WNIDS.items():
        lines = ["filename,label"]
        for i in range(3):
            for name in reversed(names):
                lines.append(f"{name}{i:08d}.png,{name}")
                save(tmp_path / "images" / f"{name}{i:08d}.png", image_file(pixels[name][i]))
        save(tmp_path / f"{split}.csv", "\r\n".join(lines).encode())
    check_mini(mini_imagenet.load_mini_imagenet(tmp_path), pixels)


def test_mini_imagenet_cannot_be_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mini-imagenet-cache-train\.pkl, .*Google Drive") as error:
        mini_imagenet.load_mini_imagenet(tmp_path, download=True)
    assert "no stable public address" in str(error.value)


def test_other_content_in_the_pickles_of_mini_imagenet_is_refused(tmp_path):
    for split in WNIDS:
        save(tmp_path / f"mini-imagenet-cache-{split}.pkl", {"image_data": noise((3, 84, 84, 3))})
    with pytest.raises(ValueError, match=r"cache-train\.pkl' does not hold what its name says \(KeyError"):
        mini_imagenet.load_mini_imagenet(tmp_path)


@pytest.mark.parametrize("positions", [[0, 1, 1], [0, 1], [0, 1, -1], [0, 1, 2, 2], [0, 1, 3]])
def test_images_that_are_not_in_one_class_of_mini_imagenet_are_refused(tmp_path, monkeypatch, positions):
    write_mini(tmp_path, monkeypatch)
    path = tmp_path / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_dict"][WNIDS["val"][0]] = positions
    save(path, content)
    with pytest.raises(ValueError, match=r"cache-val\.pkl' does not hold .*do not hold every image once"):
        mini_imagenet.load_mini_imagenet(tmp_path)


# tieredImageNet


def test_tiered_imagenet(tmp_path, monkeypatch):
    expected = write_tiered(tmp_path / "tiered-imagenet", monkeypatch)
    splits = tiered_imagenet.load_tiered_imagenet(tmp_path)
    for part, (names, pixels) in zip(parts(splits), expected.values(), strict=True):
        assert list(part.names) == names
        assert part.sizes.tolist() == [3] * len(names)
        assert part.images.shape == pixels.shape
        assert part.images.dtype == np.uint8
        rows = np.array([[2, 0], [1, 2]])
        np.testing.assert_array_equal(part.images[rows], pixels[rows])
        np.testing.assert_array_equal(part.images[-1], pixels[-1])
        np.testing.assert_array_equal(part.images[:2], pixels[:2])
        assert part.images[np.zeros((0, 4), np.int64)].shape == (0, 4, 3, 84, 84)
        with pytest.raises(IndexError):
            part.images[len(pixels)]


def test_tiered_imagenet_is_sorted_out_once(tmp_path, monkeypatch):
    expected = write_tiered(tmp_path, monkeypatch)
    tiered_imagenet.load_tiered_imagenet(tmp_path)
    for path in tmp_path.glob("*.pkl"):
        path.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"tiered-imagenet-{split}.cache" for split in SHORT
    }
    images = tiered_imagenet.load_tiered_imagenet(tmp_path, image_size=20).test.images
    assert images.shape == (6, 3, 20, 20)
    wanted = scaled(np.moveaxis(expected["test"][1][4], 0, -1), 20)
    np.testing.assert_array_equal(np.moveaxis(images[4], 0, -1), wanted)


def test_an_interruption_of_the_sorting_can_be_repeated(tmp_path, monkeypatch):
    expected = write_tiered(tmp_path, monkeypatch)
    stream = tiered_imagenet.stream_arrays

    def interrupted(operation, path, keep):
        if path.name.startswith("val"):
            keep(tiered_imagenet._PNG + b"half")
            raise KeyboardInterrupt
        stream(operation, path, keep)

    with monkeypatch.context() as patched:
        patched.setattr(tiered_imagenet, "stream_arrays", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiered_imagenet.load_tiered_imagenet(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"tiered-imagenet-train.cache"}
    save(tmp_path / "train_images_png.pkl", b"not read again")
    images = tiered_imagenet.load_tiered_imagenet(tmp_path).validation.images
    np.testing.assert_array_equal(images[:], expected["val"][1])


def test_encoded_images_travel_to_other_processes_without_their_bytes(tmp_path, monkeypatch):
    expected = write_tiered(tmp_path, monkeypatch)
    images = tiered_imagenet.load_tiered_imagenet(tmp_path).train.images
    travelling = pickle.dumps(images)
    assert len(travelling) < images.path.stat().st_size / 10
    np.testing.assert_array_equal(pickle.loads(travelling)[:], expected["train"][1])


def test_a_damaged_cache_is_named(tmp_path, monkeypatch):
    write_tiered(tmp_path, monkeypatch)
    path = tiered_imagenet.load_tiered_imagenet(tmp_path).train.images.path
    path.write_bytes(path.read_bytes()[:-1000])
    images = tiered_imagenet.load_tiered_imagenet(tmp_path).train.images
    with pytest.raises(ValueError, match=r"cannot read the image at byte \d+ of .*images\.bin"):
        images[:]


@pytest.mark.parametrize("content", [None, b"", b"not an index", "cut", "flipped", "other"])
@pytest.mark.parametrize("file", ["index.npz", "images.bin"])
def test_a_damaged_file_of_a_cache_is_named(tmp_path, monkeypatch, file, content):
    expected = write_tiered(tmp_path, monkeypatch)
    tiered_imagenet.load_tiered_imagenet(tmp_path)
    cache = tmp_path / "tiered-imagenet-val.cache"
    whole = (cache / file).read_bytes()
    (cache / file).unlink()
    if content == "cut":
        content = whole[:100]
    elif content == "flipped":
        content = whole[:150] + b"????" + whole[154:]
    elif content == "other":
        np.savez(cache / "other.npz", names=np.array(["tench"]))
        content = (cache / "other.npz").read_bytes()
    if content is not None:
        (cache / file).write_bytes(content)
    message = r"cannot read '.*val\.cache' .* delete this folder|cannot read the image at byte .*val\.cache"
    with pytest.raises(ValueError, match=message):
        tiered_imagenet.load_tiered_imagenet(tmp_path).validation.images[:]
    shutil.rmtree(cache)
    images = tiered_imagenet.load_tiered_imagenet(tmp_path).validation.images
    np.testing.assert_array_equal(images[:], expected["val"][1])


def test_what_is_no_png_is_refused_before_anything_is_kept(tmp_path, monkeypatch):
    write_tiered(tmp_path, monkeypatch)
    save(tmp_path / "train_images_png.pkl", [np.zeros((50, 1), np.uint8)] * 6)
    with pytest.raises(ValueError, match=r"train_images_png\.pkl.*image 0 is no PNG file"):
        tiered_imagenet.load_tiered_imagenet(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_short_copy_of_tiered_imagenet_is_noticed(tmp_path, monkeypatch):
    write_tiered(tmp_path, monkeypatch)
    save(tmp_path / "train_images_png.pkl", [np.frombuffer(image_file(noise((84, 84, 3))), np.uint8)])
    with pytest.raises(
        ValueError, match=r"train split .*images_png\.pkl' must have 2 .* 6 images, got 2 and 1"
    ):
        tiered_imagenet.load_tiered_imagenet(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


# What they share


def test_load_splits_knows_them(tmp_path, monkeypatch):
    write_omniglot(tmp_path / "omniglot", monkeypatch)
    arguments = {"channels": 3, "normalise": "published", "rotate": "all"}
    splits = load_splits("omniglot", root=tmp_path / "omniglot", **arguments)
    assert [len(part.names) for part in parts(splits)] == [4 * 7, 4 * 2, 4 * 3]
    assert splits.test.picture_shape == (3, 28, 28)
    assert splits.test.normalisation.mean == (0.922,)
    write_cifar100(tmp_path / "cifar")
    shrink(monkeypatch, fc100, (60, 20, 20), (180, 60, 60))
    shrink(monkeypatch, cifar_fs, (64, 16, 20), (192, 48, 60))
    for name, classes in (("fc100", [60, 20, 20]), ("cifarfs", [64, 16, 20])):
        splits = load_splits(name, root=tmp_path / "cifar", normalise="correct")
        assert [len(part.names) for part in parts(splits)] == classes
        assert splits.test.picture_shape == (3, 32, 32)
        assert splits.test.normalisation.mean == pytest.approx((0.5,) * 3, abs=0.01)
    write_mini(tmp_path / "mini", monkeypatch)
    write_tiered(tmp_path / "tiered", monkeypatch)
    for name, root, normalise in (
        ("miniimagenet", "mini", "published"),
        ("tieredimagenet", "tiered", "correct"),
    ):
        splits = load_splits(name, root=tmp_path / root, normalise=normalise)
        assert [len(part.names) for part in parts(splits)] == [2, 1, 2]
        assert splits.test.picture_shape == (3, 84, 84)
        assert splits.test.normalisation.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    "load",
    [
        omniglot.load_omniglot,
        fc100.load_fc100,
        cifar_fs.load_cifar_fs,
        mini_imagenet.load_mini_imagenet,
        tiered_imagenet.load_tiered_imagenet,
    ],
)
def test_arguments_are_checked_first(tmp_path, load):
    with pytest.raises(ValueError, match=rf"{load.__name__}: image_size must be at least 1, got 0"):
        load(tmp_path, image_size=0)
    with pytest.raises(FileNotFoundError, match=rf"{load.__name__}: root must be an existing folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"{load.__name__}: found nothing to read"):
        load(tmp_path)


@pytest.mark.parametrize("module", [omniglot, fc100, cifar_fs, mini_imagenet, tiered_imagenet])
def test_what_can_be_downloaded_is_checked(module):
    for layout in module.LAYOUTS:
        assert isinstance(layout, archives.Layout)
        if layout.url is not None:
            assert layout.url.startswith("https://")
            assert layout.url.endswith("/" + layout.archive)
            assert len(layout.md5) == 32
