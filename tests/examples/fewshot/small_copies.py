"""Small copies of the public data sets, in the form of their published files."""

import io
import pickle

import numpy as np
from PIL import Image

from examples.fewshot.data import cifar_fs, mini_imagenet, omniglot, tiered_imagenet
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


def drawing(mark, size=105):
    pixels = np.full((size, size), 255, np.uint8)
    pixels[mark % size, 20:80] = 0
    pixels[20:90, (7 * mark) % size] = 0
    return Image.fromarray(pixels).convert("1")


def write_omniglot(root, monkeypatch, *, images=2, characters=2):
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
    mark = 0
    for part, alphabets in small.items():
        for alphabet, size in alphabets.items():
            for character in range(1, size + 1):
                for image in range(images):
                    file = io.BytesIO()
                    drawing(mark).save(file, "PNG")
                    name = f"{part}/{alphabet}/character{character:02d}/{mark:04d}_{image:02d}.png"
                    save(root / name, file.getvalue())
                    mark += 1
    return root


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


def write_pickled_splits(folder, monkeypatch, module):
    """FC100 or CIFAR-FS: two classes, two and three, of six images together in no order."""
    pixels = [noise((6, 32, 32, 3), seed) for seed in range(3)]
    labels = [[4, 9, 4, 4, 9, 9], [1, 1, 1, 3, 3, 3], [0, 5, 7, 0, 5, 7]]
    for name, data, numbers in zip(module.PICKLES.holds, pixels, labels, strict=True):
        save(folder / name, {"data": data, "labels": numbers})
    shrink(monkeypatch, module, (2, 2, 3), (6, 6, 6))
    return pixels, labels


def write_cifar_fs(root, monkeypatch):
    """Two classes, one and one of two images."""
    names = {"train": ["tulip", "apple"], "val": ["beaver"], "test": ["worm"]}
    pixels = {}
    for split, classes in names.items():
        save(root / "splits" / "bertinetto" / f"{split}.txt", "".join(f"{c}\n" for c in classes).encode())
        for name in classes:
            pixels[name] = noise((2, 32, 32, 3), len(pixels))
            for i, image in enumerate(pixels[name]):
                save(root / "data" / name / f"{name}_s_{i:06d}.png", image_file(image))
    shrink(monkeypatch, cifar_fs, (2, 1, 1), (4, 2, 2))
    return names, pixels


WNIDS = {"train": ["n01532829", "n01558993"], "val": ["n01855672"], "test": ["n01930112", "n01981276"]}


def mini(monkeypatch, images=3):
    shrink(monkeypatch, mini_imagenet, (2, 1, 2), (2 * images, images, 2 * images))
    return {name: noise((images, 84, 84, 3), int(name[1:])) for names in WNIDS.values() for name in names}


def write_mini(folder, monkeypatch, *, mixed=False):
    """The pickles, of two, one and two classes of three images."""
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
        save(folder / f"mini-imagenet-cache-{split}.pkl", content)
    return pixels


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
