"""Data sets by name: their size, channels, normalisation and rotations, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from examples.fewshot import data
from examples.fewshot.data import load_splits
from examples.fewshot.data.archives import Layout
from examples.fewshot.data.classes import ImageClasses, Normalisation, Splits
from examples.fewshot.data.episodes import EpisodeSampler

PUBLISHED = Normalisation((0.922,), (0.084,))


def made(channels, classes, seed):
    """`classes` classes of three random images, darker in the later channels."""
    images = np.random.default_rng(seed).integers(0, 256, (3 * classes, channels, 8, 8))
    images = (images / np.arange(1, channels + 1)[:, None, None]).astype(np.uint8)
    names = tuple(f"class {seed} {c}" for c in range(classes))
    return ImageClasses(images, 3 * np.arange(classes + 1), names, ("LATIN",) * classes)


@pytest.fixture
def calls(monkeypatch):
    """Two sets in place of the table's; the list has the arguments their loaders were called with."""
    calls = []

    def loader(channels):
        def load(place, **options):
            calls.append((place, options))
            return Splits(*(made(channels, count, seed) for seed, count in enumerate((6, 4, 5))))

        return load

    table = {
        "colour": data._DataSet(loader(3), 3),
        "grey": data._DataSet(loader(1), 1, (Layout((), ""),), statistics={"published": PUBLISHED}),
    }
    monkeypatch.setattr(data, "_SETS", table)
    return calls


def test_loaders_get_what_is_theirs(calls, tmp_path):
    load_splits("colour")
    load_splits("colour", cache=tmp_path, image_size=32)
    load_splits("grey", root=tmp_path)
    load_splits("grey", root=tmp_path, download=True, image_size=84)
    assert calls == [
        (None, {"image_size": None}),
        (tmp_path, {"image_size": 32}),
        (tmp_path, {"download": False, "image_size": None}),
        (tmp_path, {"download": True, "image_size": 84}),
    ]


@pytest.mark.parametrize("name", ["colour", "grey"])
def test_correct_is_measured_on_the_training_images_for_all_splits(calls, name):
    root = "here" if name == "grey" else None
    splits = load_splits(name, root=root, normalise="correct", rotate="all")
    pixels = made(3 if name == "colour" else 1, 6, 0).images / 255
    for normalisation in [part.normalisation for part in splits]:
        np.testing.assert_allclose(normalisation.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(normalisation.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_what_a_sampler_hands_out_is_normalised(calls):
    splits = load_splits("colour", normalise="correct")
    sampler = EpisodeSampler(splits.train, n_way=6, k_shot=2, n_query=1, seed=0, augment=False)
    shown = sampler.batch(0, 300).support
    assert shown.mean(dim=(0, 1, 3, 4)).abs().max() < 0.02
    assert shown.transpose(1, 2).std(dim=(0, 2, 3, 4)).sub(1).abs().max() < 0.02


def test_published_is_the_tables(calls):
    splits = load_splits("grey", root="here", normalise="published", channels=3)
    assert all(part.normalisation == PUBLISHED for part in splits)
    assert load_splits("grey", root="here").train.normalisation is None
    shown = EpisodeSampler(splits.test, n_way=2, k_shot=1, n_query=1, seed=0, augment=False).batch(0, 3)
    plain = EpisodeSampler(
        load_splits("grey", root="here").test, n_way=2, k_shot=1, n_query=1, seed=0, augment=False
    ).batch(0, 3)
    expected = ((plain.query - 0.922) / 0.084).expand(-1, -1, 3, -1, -1)
    torch.testing.assert_close(shown.query, expected, rtol=1e-6, atol=1e-6)


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


def test_a_correct_one_of_the_table_is_not_measured(calls, monkeypatch):
    known = Normalisation((0.078,), (0.084,))
    grey = dataclasses.replace(data._SETS["grey"], statistics={"published": PUBLISHED, "correct": known})
    monkeypatch.setitem(data._SETS, "grey", grey)
    assert load_splits("grey", root="here", normalise="correct").test.normalisation == known


@pytest.mark.parametrize(
    ("rotate", "counts"), [("none", [6, 4, 5]), ("train", [24, 4, 5]), ("all", [24, 16, 20])]
)
def test_rotations_of_the_chosen_splits(calls, rotate, counts):
    splits = load_splits("colour", rotate=rotate, normalise="correct")
    assert [len(part.names) for part in splits] == counts
    assert splits.train.normalisation is not None


def test_channels(calls):
    assert load_splits("grey", root="here").train.picture_shape == (1, 8, 8)
    assert load_splits("grey", root="here", channels=1).train.picture_shape == (1, 8, 8)
    assert load_splits("grey", root="here", channels=3).train.picture_shape == (3, 8, 8)
    assert load_splits("colour", channels=3).train.picture_shape == (3, 8, 8)


def test_the_folder_of_another_size(tmp_path):
    for alphabet in "abc":
        for image in "01":
            path = tmp_path / alphabet / "letter" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").save(path)
    assert load_splits("folder", root=tmp_path, image_size=40).test.picture_shape == (1, 40, 40)
    with pytest.raises(ValueError, match="nothing to download; put the images below root"):
        load_splits("folder", root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("letters", {}, "name must be one of colour, grey, got 'letters'"),
        ("colour", {"normalise": "yes"}, "normalise must be one of none, published, correct, got 'yes'"),
        ("colour", {"rotate": True}, "rotate must be one of none, train, all, got True"),
        ("colour", {"channels": 1}, "channels of 'colour' must be 3, got 1"),
        ("grey", {"channels": 2}, "channels of 'grey' must be 1 or 3, got 2"),
        ("colour", {"normalise": "published"}, "no normalise='published'; use 'correct', the mean"),
        ("colour", {"root": "here"}, "neither root nor download, got root='here', download=False"),
        ("colour", {"download": True}, "neither root nor download, got root=None, download=True"),
        ("grey", {}, "'grey' needs root, the folder of its files .--root"),
        ("grey", {"root": "here", "cache": "there"}, "takes no cache, got 'there'; leave it out"),
    ],
)
def test_load_splits_refuses(calls, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_splits(name, **options)
    assert not calls


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("folder", r"one of\n  \* alphabet/character/\*\.png"),
        ("omniglot", r"all of\n  \* images_background/, .*\n  \* images_evaluation/"),
        ("cifarfs", r"one of\n  \* CIFAR_FS_train\.pickle(.*\n){3}or add download=True"),
    ],
)
def test_where_a_root_is_missing_its_files_are_named(name, files):
    with pytest.raises(ValueError, match=rf"name={name!r} needs root, .*--root.* put there {files}"):
        load_splits(name)
