"""Data sets by name: their size, channels, normalisation and rotations, and what is refused."""

import numpy as np
import pytest
import torch

from examples.fewshot import data
from examples.fewshot.data import load_splits
from examples.fewshot.data.classes import ImageClasses, Normalisation, Splits

PUBLISHED = Normalisation((0.922,), (0.084,))


def made(channels, classes, seed):
    """`classes` classes of three random images, darker in the later channels."""
    images = np.random.default_rng(seed).integers(0, 256, (3 * classes, channels, 8, 8))
    images = (images / np.arange(1, channels + 1)[:, None, None]).astype(np.uint8)
    names = [f"class {seed} {c}" for c in range(classes)]
    return ImageClasses.of_sizes(images, [3] * classes, names, names)


@pytest.fixture
def calls(monkeypatch):
    """Two sets in place of the table's; the list has the arguments their loaders were called with."""
    calls = []

    def loader(channels):
        def load(*place, **options):
            calls.append((*place, options))
            return Splits(*(made(channels, count, seed) for seed, count in enumerate((6, 4, 5))))

        return load

    table = {
        "colour": data._DataSet(loader(3), 3),
        "grey": data._DataSet(loader(1), 1, True, {"published": PUBLISHED}),
    }
    monkeypatch.setattr(data, "_SETS", table)
    return calls


def test_loaders_get_what_is_theirs(calls, tmp_path):
    load_splits("colour")
    load_splits("colour", image_size=32)
    load_splits("grey", root=tmp_path)
    load_splits("grey", root=tmp_path, download=True, image_size=84)
    assert calls == [
        ({"image_size": None},),
        ({"image_size": 32},),
        (tmp_path, {"download": False, "image_size": None}),
        (tmp_path, {"download": True, "image_size": 84}),
    ]


def test_correct_is_measured_on_the_training_images_for_all_splits(calls):
    splits = load_splits("colour", normalise="correct", rotated=True)
    pixels = made(3, 6, 0).images / 255
    for part in splits:
        np.testing.assert_allclose(part.normalisation.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(part.normalisation.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_published_is_the_tables(calls):
    splits = load_splits("grey", root="here", normalise="published", channels=3)
    plain = load_splits("grey", root="here")
    assert all(part.normalisation == PUBLISHED for part in splits)
    assert plain.train.normalisation is None
    rows = np.array([[0, 7], [3, 2]])
    expected = ((plain.test.show(rows, None) - 0.922) / 0.084).expand(-1, -1, 3, -1, -1)
    torch.testing.assert_close(splits.test.show(rows, None), expected, rtol=1e-6, atol=1e-6)


def test_the_published_normalisations():
    """As transforms of the published code: datasets omniglot_norm, miniimagenet_norm and fc100_norm."""
    found = {
        name: known.statistics["published"]
        for name, known in data._SETS.items()
        if "published" in known.statistics
    }
    assert found == {
        "omniglot": Normalisation(mean=(0.922,), std=(0.084,)),
        "miniimagenet": Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "fc100": Normalisation(mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276)),
    }


def test_rotations_and_channels(calls):
    for rotated, counts in ((False, [6, 4, 5]), (True, [24, 16, 20])):
        splits = load_splits("colour", rotated=rotated, channels=3)
        assert [len(part.names) for part in splits] == counts
        assert splits.train.picture_shape == (3, 8, 8)
    for channels, expected in ((None, 1), (1, 1), (3, 3)):
        part = load_splits("grey", root="here", channels=channels).validation
        assert part.picture_shape == (expected, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("colour", {"channels": 1}, "channels of 'colour' must be 3, got 1"),
        ("grey", {"channels": 2}, "channels of 'grey' must be 1 or 3, got 2"),
        ("colour", {"normalise": "published"}, "no normalise='published'; use 'correct', the mean"),
        ("colour", {"root": "here"}, "neither root nor download, got root='here', download=False"),
        ("colour", {"download": True}, "neither root nor download, got root=None, download=True"),
    ],
)
def test_load_splits_refuses(calls, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_splits(name, **options)
    assert not calls


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("folder", r"alphabet/character/\*\.png"),
        ("omniglot", r"one of\n  \* images_background/, .*\nor add download=True"),
        ("cifarfs", r"one of\n  \* CIFAR_FS_train\.pickle(.*\n){3}or add download=True"),
    ],
)
def test_where_a_root_is_missing_its_files_are_named(name, files):
    with pytest.raises(FileNotFoundError, match=rf"(?s)root .*--root; of other tasks .*{files}"):
        load_splits(name)
