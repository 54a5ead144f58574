"""The public data sets in the archives that hold them: packed, downloaded, or cut short."""

import dataclasses
import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tyro

from examples.fewshot.data import cifar_fs, fc100, mini_imagenet, omniglot, tiered_imagenet
from examples.fewshot.data.classes import Splits
from examples.fewshot.domains import load_domains
from examples.fewshot.settings import Settings
from tests.examples.fewshot.small_copies import (
    parts,
    shrink,
    write_cifar100,
    write_cifar_fs,
    write_mini,
    write_omniglot,
    write_pickled_splits,
    write_tiered,
)

FORMATS = {".zip": "zip", ".tar.gz": "gztar", ".tar": "tar"}


@dataclasses.dataclass(frozen=True)
class Published:
    """A form in which a data set is published.

    Attributes
    ----------
    module : of its loader.
    load : the loader.
    write : (folder, monkeypatch) -> a small copy there, unpacked.
    archives : their names, each with the folder of the copy that it holds, "." for all of it.
    """

    module: ModuleType
    load: Callable[..., Splits]
    write: Callable[[Path, pytest.MonkeyPatch], object]
    archives: dict[str, str]


def cifar100_for(module, classes):
    def write(folder, monkeypatch):
        shrink(monkeypatch, module, classes, tuple(3 * count for count in classes))
        write_cifar100(folder / "cifar-100-python")

    return write


CIFAR100 = {"cifar-100-python.tar.gz": "cifar-100-python"}
DOWNLOADED = {
    "omniglot": Published(
        omniglot,
        omniglot.load_omniglot,
        write_omniglot,
        {f"{name}.zip": name for name in ("images_background", "images_evaluation")},
    ),
    "fc100": Published(fc100, fc100.load_fc100, cifar100_for(fc100, (60, 20, 20)), CIFAR100),
    "cifarfs": Published(cifar_fs, cifar_fs.load_cifar_fs, cifar100_for(cifar_fs, (64, 16, 20)), CIFAR100),
}
BY_HAND = {
    "miniimagenet": Published(
        mini_imagenet, mini_imagenet.load_mini_imagenet, write_mini, {"mini-imagenet.tar.gz": "."}
    ),
    "tieredimagenet": Published(
        tiered_imagenet,
        tiered_imagenet.load_tiered_imagenet,
        lambda folder, monkeypatch: write_tiered(folder / "tiered-imagenet", monkeypatch),
        {"tiered-imagenet.tar": "tiered-imagenet"},
    ),
    "fc100-pickles": Published(
        fc100,
        fc100.load_fc100,
        lambda folder, monkeypatch: write_pickled_splits(folder / "FC100", monkeypatch, fc100),
        {"FC100.zip": "FC100"},
    ),
    "cifarfs-pickles": Published(
        cifar_fs,
        cifar_fs.load_cifar_fs,
        lambda folder, monkeypatch: write_pickled_splits(folder / "CIFAR-FS", monkeypatch, cifar_fs),
        {"CIFAR-FS.zip": "CIFAR-FS"},
    ),
    "cifarfs-folders": Published(
        cifar_fs,
        cifar_fs.load_cifar_fs,
        lambda folder, monkeypatch: write_cifar_fs(folder / "cifar100", monkeypatch),
        {"cifarfs.zip": "cifar100"},
    ),
}
ALL = DOWNLOADED | BY_HAND


def pack(monkeypatch, published, copy, folder, address=None):
    """Pack a copy into ``folder``; checksums, where archives have them, become those of the small ones.

    Parameters
    ----------
    copy : None takes the archives that are in ``folder``.
    address : from which they can be had, if they can.
    """
    folder.mkdir(exist_ok=True)
    checksums = {}
    for name, held in published.archives.items():
        stem, ending = name.split(".", 1)
        if copy is not None:
            shutil.make_archive(str(folder / stem), FORMATS[f".{ending}"], copy, held)
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    layouts = [
        dataclasses.replace(
            layout,
            md5=layout.md5 and checksums[layout.archive],
            url=layout.url and address and f"{address}/{layout.archive}",
        )
        if layout.archive in checksums
        else layout
        for layout in published.module.LAYOUTS
    ]
    monkeypatch.setattr(published.module, "LAYOUTS", tuple(layouts))


def assert_same(splits, expected):
    for part, other in zip(parts(splits), parts(expected), strict=True):
        assert (part.names, part.alphabets) == (other.names, other.alphabets)
        np.testing.assert_array_equal(part.offsets, other.offsets)
        np.testing.assert_array_equal(part.images[:], other.images[:])


def unpacked(archives):
    """The names of the folders into which archives go."""
    return {name.split(".")[0] for name in archives}


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("published", ALL.values(), ids=ALL)
def test_a_packed_copy_is_read_as_the_unpacked_one(tmp_path, monkeypatch, published):
    copy, root = tmp_path / "copy", tmp_path / "root"
    published.write(copy, monkeypatch)
    pack(monkeypatch, published, copy, root)
    splits = published.load(root)
    assert names_in(root) == {*published.archives, *unpacked(published.archives)}
    assert_same(splits, published.load(copy))


@pytest.mark.parametrize("published", DOWNLOADED.values(), ids=DOWNLOADED)
def test_a_downloaded_copy_is_read_as_the_unpacked_one(tmp_path, monkeypatch, server, published):
    copy, root = tmp_path / "copy", tmp_path / "root"
    published.write(copy, monkeypatch)
    pack(monkeypatch, published, copy, server.folder, server.url)
    splits = published.load(root, download=True)
    assert names_in(root) == {*published.archives, *unpacked(published.archives)}
    assert_same(splits, published.load(copy))
    published.load(root, download=True)
    assert server.handler.asked == list(published.archives), "fetched once"


def test_download_on_the_command_line_fetches_both_domains(tmp_path, monkeypatch, server):
    arguments = ["--protocol", "sequential", "--download"]
    for name, data, folder in (("omniglot", "data", "root"), ("fc100", "second-data", "second-root")):
        DOWNLOADED[name].write(tmp_path / name, monkeypatch)
        pack(monkeypatch, DOWNLOADED[name], tmp_path / name, server.folder, server.url)
        arguments += [f"--{data}", name, f"--{folder}", str(tmp_path / "roots" / name)]
    domains = load_domains(tyro.cli(Settings, args=arguments))
    for splits, name in zip(domains, ("omniglot", "fc100"), strict=True):
        assert_same(splits, DOWNLOADED[name].load(tmp_path / name))
        assert names_in(tmp_path / "roots" / name) >= {*DOWNLOADED[name].archives}


@pytest.mark.parametrize("published", ALL.values(), ids=ALL)
def test_an_archive_that_is_cut_short_is_named_and_leaves_nothing(tmp_path, monkeypatch, published):
    copy, root = tmp_path / "copy", tmp_path / "root"
    published.write(copy, monkeypatch)
    pack(monkeypatch, published, copy, root)
    *before, last = published.archives
    whole = (root / last).read_bytes()
    (root / last).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{published.load.__name__}: .*{last}.*delete it and fetch it"):
        published.load(root)
    assert names_in(root) == {*before, *unpacked(before), last}
    (root / last).write_bytes(whole)
    assert_same(published.load(root), published.load(copy))


def poison(archive, name, kind):
    """Add a member to an archive: a file of this name, or a link or device where a file is expected."""
    if archive.suffix == ".zip":
        member = zipfile.ZipInfo(name)
        member.create_system = 3
        member.external_attr = {"file": 0o100644, "link": 0o120777, "device": 0o020666}[kind] << 16
        with zipfile.ZipFile(archive, "a") as packed:
            packed.writestr(member, "/etc/passwd")
        return
    mode = "w:gz" if archive.suffix == ".gz" else "w"
    with tarfile.open(archive) as packed:
        members = [(member, member.isreg() and packed.extractfile(member).read()) for member in packed]
    bad = tarfile.TarInfo(name)
    types = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}
    bad.type = types.get(kind, tarfile.LNKTYPE)
    bad.linkname = "/etc/passwd"
    with tarfile.open(archive, mode) as packed:
        for member, content in members:
            packed.addfile(member, io.BytesIO(content or b""))
        packed.addfile(bad)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("TARGET", "file"),
        ("/TARGET", "file"),
        ("../../../evil", "file"),
        ("\\\\evil", "file"),
        ("C:\\evil", "file"),
        ("evil", "link"),
        ("evil", "hard link"),
        ("evil", "device"),
    ],
)
@pytest.mark.parametrize(
    ("published", "download"),
    [(published, False) for published in ALL.values()]
    + [(published, True) for published in DOWNLOADED.values()],
    ids=[*ALL, *(f"{name}-downloaded" for name in DOWNLOADED)],
)
def test_an_archive_that_writes_elsewhere_is_refused(
    tmp_path, monkeypatch, server, published, download, name, kind
):
    """Even where its checksum is the published one."""
    copy, root = tmp_path / "copy", tmp_path / "root"
    published.write(copy, monkeypatch)
    folder = server.folder if download else root
    pack(monkeypatch, published, copy, folder, server.url)
    *_, last = published.archives
    if kind == "hard link" and last.endswith(".zip"):
        kind = "link"  # a ZIP file has no others
    poison(folder / last, name.replace("TARGET", (tmp_path / "evil").as_posix()), kind)
    pack(monkeypatch, published, None, folder, server.url)
    with pytest.raises(ValueError, match=rf"{published.load.__name__}: cannot unpack .*{last}.*evil'"):
        published.load(root, download=download)
    assert unpacked([last]).isdisjoint(names_in(root))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith("evil")]


@pytest.mark.parametrize("published", DOWNLOADED.values(), ids=DOWNLOADED)
def test_a_download_that_breaks_off_is_named_and_leaves_nothing(tmp_path, monkeypatch, server, published):
    copy, root = tmp_path / "copy", tmp_path / "root"
    published.write(copy, monkeypatch)
    pack(monkeypatch, published, copy, server.folder, server.url)
    *before, last = published.archives
    server.handler.cut.add(last)
    with pytest.raises(OSError, match=rf"{published.load.__name__}: cannot download {server.url}/{last}"):
        published.load(root, download=True)
    assert names_in(root) == {*before, *unpacked(before)}
    server.handler.cut.clear()
    assert_same(published.load(root, download=True), published.load(copy))
