"""The public data sets, each read from a small copy of its files: unpacked, packed, or fetched."""

import dataclasses
import hashlib
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tyro
from PIL import Image

from examples.fewshot.data import cifar, load_splits, omniglot, tiered_imagenet
from examples.fewshot.domains import load_domains
from examples.fewshot.settings import Settings
from tests.examples.fewshot.small_copies import (
    FINE,
    FORMS,
    GROUP_OF,
    SHORT,
    WNIDS,
    Expected,
    Form,
    change_pickle,
    image_file,
    noise,
    save,
)
from tests.examples.fewshot.test_archives import names_in

SETS = {form.of.operation: form.of for form in FORMS.values()}
OF_IMAGE_FILES = ["omniglot", "cifarfs-folders", "miniimagenet-folders", "miniimagenet-tables"]


class Copy(NamedTuple):
    """A small copy in a folder that has nothing else."""

    form: Form
    folder: Path
    expected: Expected

    def load(self, **options):
        return self.form.of.load(self.folder, **options)


@pytest.fixture
def copy(request, tmp_path, monkeypatch) -> Copy:
    """Of the form that is the parameter; tieredImageNet without one."""
    form = FORMS[getattr(request, "param", "tieredimagenet")]
    return Copy(form, tmp_path, form.make(tmp_path, monkeypatch))


def of(*names):
    return pytest.mark.parametrize("copy", names, indirect=True)


def refuses(copy, message):
    return pytest.raises(ValueError, match=rf"{copy.form.of.operation}: {message}")


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
        for image, original in zip(images, np.concatenate([*classes.values()]), strict=True):
            np.testing.assert_array_equal(image, scaled(original, size))


@of(*FORMS)
def test_every_form_is_read(copy):
    own = {"omni": 28, "fc10": 32, "cifa": 32, "mini": 84, "tier": 84}[copy.form.of.operation[5:9]]
    check(copy.load(), copy.expected, own)
    check(copy.load(image_size=20), copy.expected, 20)


@of(*FORMS)
def test_a_short_copy_is_noticed(copy, monkeypatch):
    (*classes, last), (first, *images) = copy.form.of.classes, copy.form.of.images
    for change in {"classes": (*classes, last + 1)}, {"images": (first + 1, *images)}:
        with monkeypatch.context() as patch:
            copy.form.patch(patch, **change)
            with refuses(copy, r"the \w+ split .* must have .*, got .*the copy is incomplete.*fetch it"):
                copy.load()


@of(*OF_IMAGE_FILES)
def test_a_damaged_image_is_named(copy):
    image = sorted(copy.folder.rglob("*.png"))[3]
    image.write_bytes(image.read_bytes()[:60])
    with refuses(copy, f"cannot read the image .*{image.name}"):
        copy.load()


@of(*OF_IMAGE_FILES[:3])
def test_what_is_hidden_in_a_copy_is_passed_over(copy):
    for folder in [copy.folder, *(path for path in copy.folder.rglob("*") if path.is_dir())]:
        (folder / "._0001.png").write_bytes(b"\0\5\x16\7")
        (folder / ".DS_Store").write_bytes(b"")
        for hidden in (".ipynb_checkpoints", "__MACOSX"):
            save(folder / hidden / "character01" / "1.png", noise((84, 84)))
        if copy.form.of.operation != "load_mini_imagenet":  # whose images may have any ending
            (folder / "strokes.txt").write_text("0,0")
    check(copy.load(image_size=30), copy.expected, 30)


def test_the_published_splits():
    """Omniglot has 964 and 659 characters; of the first 1200, five alphabets are for validation."""
    train, validation, test = omniglot.OMNIGLOT.classes
    assert train + validation == omniglot.TRAINING_CHARACTERS == 1200
    assert train + validation + test == 964 + 659
    sizes = {"Armenian": 41, "Bengali": 46, "Early_Aramaic": 22, "Hebrew": 22, "Mkhedruli_(Georgian)": 41}
    assert set(omniglot.VALIDATION) == set(sizes)
    assert sum(sizes.values()) == validation == 172
    held_out = " ".join(cifar.CIFAR_FS_HELD_OUT).split()
    assert len(set(held_out) & set(FINE)) == len(held_out) == 36
    numbers = {
        operation: (of.classes, {i / c for i, c in zip(of.images, of.classes, strict=True)})
        for operation, of in SETS.items()
        if of is not FORMS["tieredimagenet"].of
    }
    assert numbers == {
        "load_omniglot": ((1028, 172, 423), {20}),
        "load_fc100": ((60, 20, 20), {600}),
        "load_cifar_fs": ((64, 16, 20), {600}),
        "load_mini_imagenet": ((64, 16, 20), {600}),
    }


@of("fc100", "cifarfs")
def test_classes_from_cifar100_know_their_superclass(copy):
    for part in copy.load():
        assert part.alphabets == tuple(GROUP_OF[name] for name in part.names)


NO_CLASSES = r"cache-val\.pkl' does not hold .*do not hold every image once"
# A pickle with other content, or with other values in it; and what is said of it.
OTHER_CONTENT = [
    *(
        (name, file, content, rf".*{file[:6]}.* does not hold what its name says .*fetch it")
        for name, file, content in (
            ("fc100", "cifar-100-python/train", {b"data": noise((2, 3072))}),
            ("fc100", "cifar-100-python/meta", {b"data": noise((2, 3072))}),
            (
                "fc100-pickles",
                "FC100/FC100_train.pickle",
                {"data": noise((3, 32, 32, 3)), "labels": [0, 1]},
            ),
            ("miniimagenet", "mini-imagenet-cache-train.pkl", {"image_data": noise((3, 84, 84, 3))}),
            ("tieredimagenet", "tiered-imagenet/train_labels.pkl", {b"label_specific": np.arange(3)}),
        )
    ),
    # Counting these labels would take memory for all up to the largest.
    *(
        (name, file, {key: np.array([label] + [0] * more)}, f".* does not hold .*labels .* but {k} classes")
        for label in (-1, 100, 1 << 31, 1 << 62)
        for name, file, key, more, k in (
            ("fc100", "cifar-100-python/test", "fine_labels", 99, 100),
            ("tieredimagenet", "tiered-imagenet/val_labels.pkl", "label_specific", 2, 1),
        )
    ),
    *(
        (
            "miniimagenet",
            "mini-imagenet-cache-val.pkl",
            {"class_dict": {WNIDS[1][0]: rows}},
            f".*{NO_CLASSES}",
        )
        for rows in ([0, 1, 1], [0, 1], [0, 1, -1], [0, 1, 2, 2], [0, 1, 3])
    ),
    *(
        ("miniimagenet-tables", "train.csv", table, "")
        for table in (b"", b"a,b\n1,2\n", b"filename,label\nx.png\n", b"filename,label\n\xff,n\n")
    ),
]


@pytest.mark.parametrize(("copy", "file", "content", "message"), OTHER_CONTENT, indirect=["copy"])
def test_other_content_is_refused(copy, file, content, message):
    values = isinstance(content, dict) and {"fine_labels", "label_specific", "class_dict"} & {*content}
    change_pickle(copy.folder / file, **content) if values else save(copy.folder / file, content)
    with refuses(copy, message):
        copy.load()


# tieredImageNet


def test_tiered_imagenet_is_sorted_out_once(copy):
    copy.load()
    folder = copy.folder / "tiered-imagenet"
    for path in folder.glob("*.pkl"):
        path.unlink()
    assert {path.name for path in folder.iterdir()} == {f"tiered-imagenet-{split}.cache" for split in SHORT}
    check(copy.load(), copy.expected, 84)


def test_an_interruption_of_the_sorting_can_be_repeated(copy, monkeypatch):
    folder = copy.folder / "tiered-imagenet"
    load_pickle = tiered_imagenet.load_pickle

    def interrupted(operation, path, keep=None):
        if path.name == "val_images_png.pkl":
            keep(tiered_imagenet._PNG + b"half")
            raise KeyboardInterrupt
        return load_pickle(operation, path, keep)

    with monkeypatch.context() as patched:
        patched.setattr(tiered_imagenet, "load_pickle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy.load()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["tiered-imagenet-train.cache"]
    save(folder / "train_images_png.pkl", b"not read again")
    check(copy.load(), copy.expected, 84)


def test_encoded_images_are_indexed_as_an_array_here_and_in_other_processes(copy):
    for part, classes in zip(copy.load(), copy.expected, strict=True):
        pixels = np.moveaxis(np.concatenate([*classes.values()]), -1, 1)
        travelling = pickle.dumps(part.images)
        assert len(travelling) < part.images.path.stat().st_size / 10, "their bytes are in it"
        for images in (part.images, pickle.loads(travelling)):
            assert images.shape == pixels.shape
            assert images.dtype == np.uint8
            for rows in (np.array([[2, 0], [1, 2]]), -1, slice(2), slice(None)):
                np.testing.assert_array_equal(images[rows], pixels[rows])
            assert images[np.zeros((0, 4), np.int64)].shape == (0, 4, 3, 84, 84)
            with pytest.raises(IndexError):
                images[len(pixels)]


@pytest.mark.parametrize("damage", [None, b"", b"not an index", "cut", "shorter", "flipped", "other"])
@pytest.mark.parametrize("file", ["index.npz", "images.bin"])
def test_a_damaged_file_of_a_cache_is_named(copy, file, damage):
    copy.load()
    cache = copy.folder / "tiered-imagenet" / "tiered-imagenet-val.cache"
    whole = (cache / file).read_bytes()
    (cache / file).unlink()
    np.savez(copy.folder / "other.npz", names=np.array(["tench"]))
    content = {
        "cut": whole[:100],
        "shorter": whole[:-1000],
        "flipped": whole[:150] + b"????" + whole[154:],
        "other": (copy.folder / "other.npz").read_bytes(),
    }.get(damage, damage)
    if content is not None:
        (cache / file).write_bytes(content)
    message = r"cannot read '.*val\.cache' .* delete this folder|cannot read the image at byte .*val\.cache"
    with pytest.raises(ValueError, match=message):
        copy.load().validation.images[:]
    shutil.rmtree(cache)
    check(copy.load(), copy.expected, 84)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((50, 1), np.uint8)] * 6, r".*train_images_png\.pkl.*image 0 is no PNG file"),
        (
            [np.frombuffer(image_file(noise((84, 84, 3))), np.uint8)],
            r"the train split .*images_png\.pkl' must have 2 .* 6 images, got 2 and 1",
        ),
    ],
)
def test_wrong_images_of_tiered_imagenet_are_refused_before_anything_is_kept(copy, images, message):
    save(copy.folder / "tiered-imagenet" / "train_images_png.pkl", images)
    with refuses(copy, message):
        copy.load()
    assert not [path for path in (copy.folder / "tiered-imagenet").iterdir() if path.is_dir()]


# What they share


@pytest.mark.parametrize(
    ("copy", "normalise", "shape", "mean"),
    [
        ("omniglot", "published", (3, 28, 28), (0.922,)),
        ("fc100", "correct", (3, 32, 32), (0.5,) * 3),
        ("cifarfs", "correct", (3, 32, 32), (0.5,) * 3),
        ("miniimagenet", "published", (3, 84, 84), (0.485, 0.456, 0.406)),
        ("tieredimagenet", "correct", (3, 84, 84), (0.485, 0.456, 0.406)),
    ],
    indirect=["copy"],
)
def test_load_splits_knows_them(request, copy, normalise, shape, mean):
    name = request.node.callspec.params["copy"]
    splits = load_splits(name, root=copy.folder, channels=3, normalise=normalise, rotated=True)
    assert [len(part.names) for part in splits] == [4 * len(split) for split in copy.expected]
    assert splits.test.picture_shape == shape
    assert splits.test.normalisation.mean == pytest.approx(mean, abs=0.01 if mean[0] == 0.5 else 0)


@pytest.mark.parametrize("operation", SETS)
def test_what_all_say(tmp_path, operation):
    public = SETS[operation]
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{operation}: root .* must be an existing folder"):
            public.load(root)
    with pytest.raises(FileNotFoundError, match=f"{operation}: found nothing to read"):
        public.load(tmp_path)
    can = [layout for layout in public.layouts if layout.url is not None]
    for layout in can:
        assert layout.url.startswith("https://")
        assert layout.url.endswith("/" + layout.archive)
        assert len(layout.md5) == 32
    if not can:
        with pytest.raises(FileNotFoundError, match=r"Google Drive(.*\n)*.*no stable public address"):
            public.load(tmp_path, download=True)


# Packed


def pack(monkeypatch, copy: Copy, folder: Path, address=None) -> set[str]:
    """Pack a copy into a folder; the archives' checksums, and an address, pass for the published ones.

    Returns the names of the archives, and of the folders that they will be unpacked into.
    """
    folder.mkdir(exist_ok=True)
    md5s = {}
    for name, held in copy.form.archives.items():
        stem, ending = name.split(".", 1)
        kind = {"zip": "zip", "tar.gz": "gztar", "tar": "tar"}[ending]
        path = shutil.make_archive(str(folder / stem), kind, copy.folder, held)
        md5s[name] = hashlib.md5(Path(path).read_bytes()).hexdigest()
    layouts = [
        dataclasses.replace(
            layout,
            md5=layout.md5 and md5s[layout.archive],
            url=layout.url and address and f"{address}/{layout.archive}",
        )
        if layout.archive in md5s
        else layout
        for layout in copy.form.of.layouts
    ]
    copy.form.patch(monkeypatch, layouts=tuple(layouts))
    return {*md5s, *(name.split(".")[0] for name in md5s)}


@of(*(name for name, form in FORMS.items() if form.archives))
def test_a_packed_copy_is_read_or_named_where_it_is_cut_short(copy, monkeypatch, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    names = pack(monkeypatch, copy, root)
    *_, last = copy.form.archives
    whole = (root / last).read_bytes()
    (root / last).write_bytes(whole[: len(whole) // 2])
    with refuses(copy, f".*{last}.*delete it and fetch it"):
        copy.form.of.load(root)
    assert names_in(root) == names - {last.split(".")[0]}
    (root / last).write_bytes(whole)
    check(copy.form.of.load(root, image_size=20), copy.expected, 20)
    assert names_in(root) == names


@of("omniglot", "fc100", "cifarfs")
def test_a_copy_is_fetched_once_and_nothing_is_left_where_that_fails(
    copy, monkeypatch, server, tmp_path_factory
):
    root = tmp_path_factory.mktemp("new") / "root"
    names = pack(monkeypatch, copy, server.folder, server.url)
    *_, last = copy.form.archives
    layouts = copy.form.of.layouts
    altered = [dataclasses.replace(layout, md5=layout.md5 and "0" * 32) for layout in layouts]
    elsewhere = [dataclasses.replace(layout, url=layout.url and layout.url + "x") for layout in layouts]
    for layouts_then, error, message in (
        (altered, ValueError, r"what came from .*\.\w+ is not the published .* 0{32}"),
        (elsewhere, OSError, "cannot download .*x "),
    ):
        with monkeypatch.context() as patch:
            copy.form.patch(patch, layouts=tuple(layouts_then))
            with pytest.raises(error, match=rf"{message}.*put it into .*root"):
                copy.form.of.load(root, download=True)
        assert names_in(root) == set()
    moved = (server.folder / last).rename(tmp_path_factory.mktemp("moved") / last)
    with pytest.raises(OSError, match=f"{copy.form.of.operation}: cannot download {server.url}/{last}"):
        copy.form.of.load(root, download=True)
    assert names_in(root) == names - {last, last.split(".")[0]}
    moved.rename(server.folder / last)
    for download in (True, True, False):
        check(copy.form.of.load(root, download=download, image_size=20), copy.expected, 20)
        for archive in server.folder.iterdir():
            archive.unlink()  # it is not fetched again


def test_download_on_the_command_line_fetches_both_domains(tmp_path, monkeypatch, server):
    arguments = ["--protocol", "sequential", "--download", "--image-size", "20", "--channels", "3"]
    expected = []
    for name, data, folder in (("omniglot", "data", "root"), ("fc100", "second-data", "second-root")):
        copy = Copy(FORMS[name], tmp_path / name, FORMS[name].make(tmp_path / name, monkeypatch))
        expected.append(copy.expected)
        pack(monkeypatch, copy, server.folder, server.url)
        arguments += [f"--{data}", name, f"--{folder}", str(tmp_path / "roots" / name)]
    settings = tyro.cli(Settings, args=arguments)
    for splits, classes in zip(load_domains(settings), expected, strict=True):
        check(splits, classes, 20)
    assert names_in(tmp_path / "roots") == {"omniglot", "fc100"}
    with pytest.raises(ValueError, match=r"got \(1, 28, 28\) and \(3, 32, 32\); give --image-size and"):
        load_domains(dataclasses.replace(settings, image_size=None, channels=None))
