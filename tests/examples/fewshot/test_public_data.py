"""The public data sets, each read from a small copy of its published files, written here."""

import dataclasses
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from examples.fewshot.data import (
    archives,
    cifar100,
    cifar_fs,
    fc100,
    load_splits,
    mini_imagenet,
    omniglot,
    tiered_imagenet,
)
from examples.fewshot.data.archives import Contents

PARTS = ("train", "validation", "test")
SHORT = ("train", "val", "test")
# CIFAR-100's superclasses with their classes, from its own file ``meta``; both in its order, by name.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
COARSE = list(SUPERCLASSES)
FINE = sorted(" ".join(SUPERCLASSES.values()).split())
COARSE_OF = [
    next(c for c, group in enumerate(COARSE) if name in SUPERCLASSES[group].split()) for name in FINE
]


def shrink(monkeypatch, module, classes, images):
    """Let a data set's small copy pass for complete."""
    monkeypatch.setattr(module, "CONTENTS", Contents(classes=classes, images=images))


def parts(splits):
    return [getattr(splits, part) for part in PARTS]


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image_file(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


def scaled(pixels, size):
    """(H, W) or (H, W, 3) by Pillow's bilinear filter."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


# Omniglot


def drawing(mark, size=105):
    pixels = np.full((size, size), 255, np.uint8)
    pixels[mark % size, 20:80] = 0
    pixels[20:90, (7 * mark) % size] = 0
    return Image.fromarray(pixels).convert("1")


def write_omniglot(root, monkeypatch, *, images=2, characters=2, packed=True):
    """The first alphabets, with few characters; the border of the training runs through Gurmukhi."""
    small = {
        "images_background": dict.fromkeys(("Arcadian", "Armenian", "Balinese"), characters),
        "images_evaluation": dict.fromkeys(("Angelic", "Gurmukhi", "Kannada"), characters),
    }
    monkeypatch.setattr(omniglot, "BACKGROUND", small["images_background"])
    monkeypatch.setattr(omniglot, "EVALUATION", small["images_evaluation"])
    monkeypatch.setattr(omniglot, "TRAINING_CHARACTERS", 4 * characters + 1)
    counts = (3 * characters + 1, characters, 2 * characters - 1)
    shrink(monkeypatch, omniglot, counts, tuple(images * count for count in counts))
    monkeypatch.setattr(
        omniglot, "LAYOUTS", tuple(dataclasses.replace(layout, md5=None) for layout in omniglot.LAYOUTS)
    )
    root.mkdir(exist_ok=True)
    mark = 0
    for part, alphabets in small.items():
        files = {}
        for alphabet, size in alphabets.items():
            for character in range(1, size + 1):
                for image in range(images):
                    file = io.BytesIO()
                    drawing(mark).save(file, "PNG")
                    files[f"{part}/{alphabet}/character{character:02d}/{mark:04d}_{image:02d}.png"] = file
                    mark += 1
        if packed:
            with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
                for name, file in files.items():
                    archive.writestr(name, file.getvalue())
        else:
            for name, file in files.items():
                save(root / name, file.getvalue())
    return root


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


@pytest.mark.parametrize("packed", [True, False])
def test_omniglot(tmp_path, monkeypatch, packed):
    splits = omniglot.load_omniglot(write_omniglot(tmp_path / "root", monkeypatch, packed=packed))
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


def test_a_missing_character_of_omniglot_is_noticed(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch, packed=False)
    (root / "images_background" / "Balinese" / "character02").rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r"Balinese' must have 2 characters, got 1; the copy is incomplete"
    ):
        omniglot.load_omniglot(root)


def test_a_missing_image_of_omniglot_is_noticed(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch, packed=False)
    next((root / "images_evaluation" / "Kannada" / "character01").iterdir()).unlink()
    with pytest.raises(
        ValueError, match=r"the test split .* must have 3 classes and 6 images, got 3 and 5"
    ):
        omniglot.load_omniglot(root)


def test_a_damaged_image_of_omniglot_is_named(tmp_path, monkeypatch):
    root = write_omniglot(tmp_path / "root", monkeypatch, packed=False)
    image = sorted((root / "images_background" / "Armenian" / "character01").iterdir())[1]
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"load_omniglot: cannot read the image .*{image.name}"):
        omniglot.load_omniglot(root)


# CIFAR-100, FC100 and CIFAR-FS


def write_cifar100(folder, *, train=2, test=1):
    """All 100 classes; the images are in no order, as in the original."""
    labels = []
    for part, per_class, seed in (("train", train, 1), ("test", test, 2)):
        fine = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), per_class))
        labels.append(fine)
        content = {
            b"data": noise((len(fine), 3072), seed),
            b"fine_labels": fine.tolist(),
            b"coarse_labels": [COARSE_OF[label] for label in fine],
            b"filenames": [f"{label}.png".encode() for label in fine],
            b"batch_label": b"training batch 1 of 1",
        }
        save(folder / part, content)
    meta = {
        b"fine_label_names": [name.encode() for name in FINE],
        b"coarse_label_names": [name.encode() for name in COARSE],
    }
    save(folder / "meta", meta)
    pixels = np.concatenate(
        [noise((len(fine), 3, 32, 32), seed) for fine, seed in zip(labels, (1, 2), strict=True)]
    )
    fine = np.concatenate(labels)
    return {name: pixels[fine == label] for label, name in enumerate(FINE)}


def pack_cifar100(folder, archive):
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "cifar-100-python")


@pytest.fixture
def unchecked(monkeypatch):
    """CIFAR-100's archive without its checksum and address."""
    layout = dataclasses.replace(cifar100.CIFAR100, md5=None, url=None)
    for module in (fc100, cifar_fs):
        monkeypatch.setattr(module, "LAYOUTS", (*module.LAYOUTS[:-1], layout))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("packed", [True, False])
def test_fc100_from_cifar100(tmp_path, monkeypatch, packed):
    folder = tmp_path / "root" / "cifar-100-python"
    images = write_cifar100(folder)
    if packed:
        pack_cifar100(folder, tmp_path / "root" / "cifar-100-python.tar.gz")
        folder.rename(tmp_path / "away")
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


@pytest.mark.usefixtures("unchecked")
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
    pixels = [noise((6, 32, 32, 3), seed) for seed in range(3)]
    labels = [[4, 9, 4, 4, 9, 9], [1, 1, 1, 3, 3, 3], [0, 5, 7, 0, 5, 7]]
    for part, data, numbers in zip(SHORT, pixels, labels, strict=True):
        save(tmp_path / f"{stem}_{part}.pickle", {"data": data, "labels": numbers})
    shrink(monkeypatch, module, (2, 2, 3), (6, 6, 6))
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
    root = tmp_path / "cifarfs" / "cifar100"
    names = {"train": ["tulip", "apple"], "val": ["beaver"], "test": ["worm"]}
    pixels = {}
    for split, classes in names.items():
        save(root / "splits" / "bertinetto" / f"{split}.txt", "".join(f"{c}\n" for c in classes).encode())
        for name in classes:
            pixels[name] = noise((2, 32, 32, 3), len(pixels))
            for i, image in enumerate(pixels[name]):
                save(root / "data" / name / f"{name}_s_{i:06d}.png", image_file(image))
    shrink(monkeypatch, cifar_fs, (2, 1, 1), (4, 2, 2))
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


# mini-ImageNet

WNIDS = {"train": ["n01532829", "n01558993"], "val": ["n01855672"], "test": ["n01930112", "n01981276"]}


def mini(monkeypatch, images=3):
    shrink(monkeypatch, mini_imagenet, (2, 1, 2), (2 * images, images, 2 * images))
    return {name: noise((images, 84, 84, 3), int(name[1:])) for names in WNIDS.values() for name in names}


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
    pixels = mini(monkeypatch)
    for split, names in WNIDS.items():
        stacked = np.concatenate([pixels[name] for name in names])
        order = np.arange(len(stacked))
        if mixed:  # image i of the classes one after the other
            order = order.reshape(len(names), 3).T.ravel()
        where = {
            name: np.flatnonzero(order // 3 == c).tolist() for c, name in reversed([*enumerate(names)])
        }
        content = {"image_data": stacked[order], "class_dict": where}
        save(tmp_path / "mini-imagenet" / f"mini-imagenet-cache-{split}.pkl", content)
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


# tieredImageNet


def write_tiered(folder, monkeypatch):
    """Two, one and two classes of three images; PNG files in no order."""
    shrink(monkeypatch, tiered_imagenet, (2, 1, 2), (6, 3, 6))
    expected = {}
    for seed, (split, names) in enumerate(
        {"train": ["crab", "goose"], "val": ["tench"], "test": ["kite", "vulture"]}.items()
    ):
        pixels = noise((3 * len(names), 84, 84, 3), seed)
        for i, image in enumerate(pixels):
            image[: 10 * i] = 0  # so that the files have different lengths
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(names)), 3))
        files = [np.frombuffer(image_file(image), np.uint8)[:, None] for image in pixels]
        save(folder / f"{split}_images_png.pkl", files)
        content = {
            b"label_specific": labels.astype(np.int32),
            b"label_general": labels.astype(np.int32),
            b"label_specific_str": [name.encode() for name in names],
            b"label_general_str": [b"animal"],
        }
        save(folder / f"{split}_labels.pkl", content)
        expected[split] = names, np.moveaxis(pixels, -1, 1)[np.argsort(labels, kind="stable")]
    return expected


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
    pixels = mini(monkeypatch)
    for split, names in WNIDS.items():
        where = {name: list(range(3 * c, 3 * c + 3)) for c, name in enumerate(names)}
        stacked = np.concatenate([pixels[name] for name in names])
        content = {"image_data": stacked, "class_dict": where}
        save(tmp_path / "mini" / f"mini-imagenet-cache-{split}.pkl", content)
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
