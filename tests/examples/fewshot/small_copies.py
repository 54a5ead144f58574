"""Small copies of the public data sets, in every form in which they are published."""

import dataclasses
import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from examples.fewshot.data import cifar, omniglot
from examples.fewshot.data.archives import SHORT, PublicSet
from examples.fewshot.data.mini_imagenet import MINI_IMAGENET
from examples.fewshot.data.tiered_imagenet import TIERED_IMAGENET

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
GROUP_OF = {name: group for group, names in SUPERCLASSES.items() for name in names.split()}
FINE = sorted(GROUP_OF)
FC100_HELD_OUT = (
    ["large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"],
    ["aquatic_mammals", "insects", "medium_mammals", "people"],
)
WNIDS = (["n01532829", "n01558993"], ["n01855672"], ["n01930112", "n01981276"])

Expected = list[dict[str, np.ndarray]]  # of each split the images of each class, (I, H, W) or (I, H, W, 3)


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image_file(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save(path, content):
    """Bytes as they are, images as PNG, and anything else as a pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        content = image_file(content)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


def change_pickle(path, **changes):
    """Give a pickle's dictionary other values; those of bytes keys if it has such keys."""
    content = pickle.loads(path.read_bytes())
    binary = any(isinstance(key, bytes) for key in content)
    save(path, content | {key.encode() if binary else key: value for key, value in changes.items()})


def write_omniglot(folder: Path) -> Expected:
    """Three alphabets of each archive, of two characters of two images.

    The border of the training, which is then the ninth character, runs through Gurmukhi.
    """
    expected: Expected = [{}, {}, {}]
    for mark in range(24):
        pixels = np.full((105, 105), 255, np.uint8)
        pixels[mark, 20:80] = 0
        pixels[20:90, 7 * mark % 105] = 0
        alphabet = ("Arcadian", "Armenian", "Balinese", "Angelic", "Gurmukhi", "Kannada")[mark // 4]
        character = f"{alphabet}/character{mark // 2 % 2 + 1:02d}"
        part = "images_background" if mark < 12 else "images_evaluation"
        save(folder / part / character / f"{mark:04d}_{mark % 2:02d}.png", pixels > 0)  # of one bit
        split = expected[1 if alphabet == "Armenian" else 0 if mark < 18 else 2]
        split[character] = np.stack([*split.get(character, ()), 255 - pixels])
    return expected


def write_cifar100(of_class: Callable[[str], str], *held_out: list[str]):
    """All 100 classes, three images of each in no order; what is not held out is learnt."""

    def write(folder: Path) -> Expected:
        groups = [*SUPERCLASSES]
        images = {name: np.zeros((0, 32, 32, 3), np.uint8) for name in FINE}
        for part, per_class, seed in (("train", 2, 1), ("test", 1, 2)):
            fine = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), per_class))
            data = noise((len(fine), 3072), seed)
            content = {
                b"data": data,
                b"fine_labels": fine.tolist(),
                b"coarse_labels": [groups.index(GROUP_OF[FINE[label]]) for label in fine],
                b"filenames": [f"{label}.png".encode() for label in fine],
                b"batch_label": b"training batch 1 of 1",
            }
            save(folder / "cifar-100-python" / part, content)
            pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for label, name in enumerate(FINE):
                images[name] = np.concatenate([images[name], pixels[fine == label]])
        meta = {
            b"fine_label_names": [name.encode() for name in FINE],
            b"coarse_label_names": [name.encode() for name in groups],
        }
        save(folder / "cifar-100-python" / "meta", meta)
        place = {name: next((p for p in (1, 2) if of_class(name) in held_out[p - 1]), 0) for name in FINE}
        return [{name: images[name] for name in FINE if place[name] == part} for part in range(3)]

    return write


def write_pickled_splits(stem: str):
    """FC100 or CIFAR-FS: two classes, two and three, of six images together in no order."""

    def write(folder: Path) -> Expected:
        expected = []
        of_splits = ([4, 9, 4, 4, 9, 9], [1, 1, 1, 3, 3, 3], [0, 5, 7, 0, 5, 7])
        for seed, (split, labels) in enumerate(zip(SHORT, of_splits, strict=True)):
            data = noise((6, 32, 32, 3), seed)
            path = folder / stem.replace("_", "-") / f"{stem}_{split}.pickle"
            save(path, {"data": data, "labels": labels})
            values = sorted(set(labels))
            expected.append({f"{stem}_{split} {value}": data[np.equal(labels, value)] for value in values})
        return expected

    return write


def some(splits, shape) -> Expected:
    """Random images of these classes."""
    return [{name: noise(shape, zlib.crc32(name.encode())) for name in names} for names in splits]


def write_cifar_fs(folder: Path) -> Expected:
    """Two classes, one and one of two images; the first two not in the order of their names."""
    expected = some((["tulip", "apple"], ["beaver"], ["worm"]), (2, 32, 32, 3))
    for split, classes in zip(SHORT, expected, strict=True):
        lines = "".join(f"{name}\n" for name in classes)
        save(folder / "cifar100" / "splits" / "bertinetto" / f"{split}.txt", lines.encode())
        for name, images in classes.items():
            for i, image in enumerate(images):
                save(folder / "cifar100" / "data" / name / f"{name}_s_{i:06d}.png", image)
    return expected


def write_mini(order: Callable[[np.ndarray], np.ndarray]):
    """The pickles, in which `order` is that of the images of the classes one after the other."""

    def write(folder: Path) -> Expected:
        expected = some(WNIDS, (3, 84, 84, 3))
        for split, classes in zip(SHORT, expected, strict=True):
            rows = order(np.arange(3 * len(classes)))
            where = {
                name: np.flatnonzero(rows // 3 == c).tolist() for c, name in reversed([*enumerate(classes)])
            }
            content = {"image_data": np.concatenate([*classes.values()])[rows], "class_dict": where}
            save(folder / f"mini-imagenet-cache-{split}.pkl", content)
        return expected

    return write


def write_mini_files(folder: Path, *, tables: bool = False) -> Expected:
    """As folders of classes, or as one folder and tables."""
    expected = some(WNIDS, (3, 84, 84, 3))
    for split, classes in zip(SHORT, expected, strict=True):
        lines = ["filename,label"]
        for i in range(3):
            for name in reversed(classes):
                lines.append(f"{name}{i:08d}.png,{name}")
                place = folder / "images" if tables else folder / split / name
                save(place / f"{name}{i:08d}.png", classes[name][i])
        if tables:
            save(folder / f"{split}.csv", "\r\n".join(lines).encode())
    return expected


def write_tiered(folder: Path) -> Expected:
    """Two, one and two classes of three images; PNG files in no order, of different lengths."""
    expected = []
    of_splits = (["crab", "goose"], ["tench"], ["kite", "vulture"])
    for seed, (split, names) in enumerate(zip(SHORT, of_splits, strict=True)):
        pixels = noise((3 * len(names), 84, 84, 3), seed)
        for i, image in enumerate(pixels):
            image[: 10 * i] = 0
        labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(names)), 3))
        files = [np.frombuffer(image_file(image), np.uint8)[:, None] for image in pixels]
        save(folder / "tiered-imagenet" / f"{split}_images_png.pkl", files)
        content = {
            b"label_specific": labels.astype(np.int32),
            b"label_general": labels.astype(np.int32),
            b"label_specific_str": [name.encode() for name in names],
            b"label_general_str": [b"animal"],
        }
        save(folder / "tiered-imagenet" / f"{split}_labels.pkl", content)
        expected.append({name: pixels[labels == c] for c, name in enumerate(names)})
    return expected


@dataclasses.dataclass(frozen=True)
class Form:
    """A data set in one form: what writes a small copy of it, and the archives that hold which part."""

    of: PublicSet
    write: Callable[[Path], Expected]
    archives: dict[str, str] = dataclasses.field(default_factory=dict)

    def patch(self, monkeypatch, **values):
        for name, value in values.items():
            monkeypatch.setitem(vars(self.of), name, value)

    def make(self, folder: Path, monkeypatch) -> Expected:
        """Write the small copy, and let it pass for complete."""
        expected = self.write(folder)
        images = tuple(sum(map(len, split.values())) for split in expected)
        self.patch(monkeypatch, classes=tuple(map(len, expected)), images=images)
        monkeypatch.setattr(omniglot, "TRAINING_CHARACTERS", 9)
        return expected


_CIFAR100 = {"cifar-100-python.tar.gz": "cifar-100-python"}
_CIFAR_FS_HELD_OUT = [names.split() for names in cifar.CIFAR_FS_HELD_OUT]
FORMS = {
    "omniglot": Form(
        omniglot.OMNIGLOT,
        write_omniglot,
        {f"{name}.zip": name for name in ("images_background", "images_evaluation")},
    ),
    "fc100": Form(cifar.FC100, write_cifar100(GROUP_OF.__getitem__, *FC100_HELD_OUT), _CIFAR100),
    "cifarfs": Form(cifar.CIFAR_FS, write_cifar100(str, *_CIFAR_FS_HELD_OUT), _CIFAR100),
    "fc100-pickles": Form(cifar.FC100, write_pickled_splits("FC100"), {"FC100.zip": "FC100"}),
    "cifarfs-pickles": Form(cifar.CIFAR_FS, write_pickled_splits("CIFAR_FS"), {"CIFAR-FS.zip": "CIFAR-FS"}),
    "cifarfs-folders": Form(cifar.CIFAR_FS, write_cifar_fs, {"cifarfs.zip": "cifar100"}),
    "miniimagenet": Form(MINI_IMAGENET, write_mini(lambda rows: rows), {"mini-imagenet.tar.gz": "."}),
    "miniimagenet-mixed": Form(MINI_IMAGENET, write_mini(lambda rows: rows.reshape(-1, 3).T.ravel())),
    "miniimagenet-folders": Form(MINI_IMAGENET, write_mini_files),
    "miniimagenet-tables": Form(MINI_IMAGENET, lambda folder: write_mini_files(folder, tables=True)),
    "tieredimagenet": Form(TIERED_IMAGENET, write_tiered, {"tiered-imagenet.tar": "tiered-imagenet"}),
}
