"""The public data sets in the archives that hold them: packed, downloaded, or cut short."""

import dataclasses
import gzip
import hashlib
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import tyro

from examples.fewshot.domains import load_domains
from examples.fewshot.settings import Settings
from tests.examples.fewshot.small_copies import DOWNLOADED, FORMS

PACKED = {name: form for name, form in FORMS.items() if form.archives}
FORMATS = {".zip": "zip", ".tar.gz": "gztar", ".tar": "tar"}
every_form = pytest.mark.parametrize("form", PACKED.values(), ids=PACKED)
every_download = pytest.mark.parametrize("form", [FORMS[name] for name in DOWNLOADED], ids=[*DOWNLOADED])


def publish(monkeypatch, form, folder, address=None):
    """Give the archives that lie in a folder the checksums, and the address, of the published ones."""
    layouts = [
        dataclasses.replace(
            layout,
            md5=layout.md5 and hashlib.md5((folder / layout.archive).read_bytes()).hexdigest(),
            url=layout.url and address and f"{address}/{layout.archive}",
        )
        if layout.archive in form.archives
        else layout
        for layout in form.layouts
    ]
    form.patch(monkeypatch, layouts=tuple(layouts))


def pack(monkeypatch, form, copy, folder, address=None):
    """A small copy, packed into ``folder``."""
    form.make(copy, monkeypatch)
    folder.mkdir(exist_ok=True)
    for name, held in form.archives.items():
        stem, ending = name.split(".", 1)
        shutil.make_archive(str(folder / stem), FORMATS[f".{ending}"], copy, held)
    publish(monkeypatch, form, folder, address)


def assert_same(splits, expected):
    for part, other in zip(splits, expected, strict=True):
        assert (part.names, part.alphabets) == (other.names, other.alphabets)
        np.testing.assert_array_equal(part.offsets, other.offsets)
        np.testing.assert_array_equal(part.images[:], other.images[:])


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def with_folders(archives):
    """The names of archives, and of the folders into which they go."""
    return {*archives, *(name.split(".")[0] for name in archives)}


@every_form
def test_a_packed_copy_is_read_as_the_unpacked_one(tmp_path, monkeypatch, form):
    copy, root = tmp_path / "copy", tmp_path / "root"
    pack(monkeypatch, form, copy, root)
    splits = form.load(root)
    assert names_in(root) == with_folders(form.archives)
    assert_same(splits, form.load(copy))


@every_download
def test_a_downloaded_copy_is_read_as_the_unpacked_one(tmp_path, monkeypatch, server, form):
    copy, root = tmp_path / "copy", tmp_path / "root"
    pack(monkeypatch, form, copy, server.folder, server.url)
    splits = form.load(root, download=True)
    assert names_in(root) == with_folders(form.archives)
    assert_same(splits, form.load(copy))
    form.load(root, download=True)
    assert server.handler.asked == list(form.archives), "fetched once"


def test_download_on_the_command_line_fetches_both_domains(tmp_path, monkeypatch, server):
    arguments = ["--protocol", "sequential", "--download"]
    for name, data, folder in (("omniglot", "data", "root"), ("fc100", "second-data", "second-root")):
        pack(monkeypatch, FORMS[name], tmp_path / name, server.folder, server.url)
        arguments += [f"--{data}", name, f"--{folder}", str(tmp_path / "roots" / name)]
    domains = load_domains(tyro.cli(Settings, args=arguments))
    for splits, name in zip(domains, ("omniglot", "fc100"), strict=True):
        assert_same(splits, FORMS[name].load(tmp_path / name))
        assert names_in(tmp_path / "roots" / name) >= {*FORMS[name].archives}


@every_form
def test_an_archive_that_is_cut_short_is_named_and_leaves_nothing(tmp_path, monkeypatch, form):
    copy, root = tmp_path / "copy", tmp_path / "root"
    pack(monkeypatch, form, copy, root)
    *before, last = form.archives
    whole = (root / last).read_bytes()
    (root / last).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{form.load.__name__}: .*{last}.*delete it and fetch it"):
        form.load(root)
    assert names_in(root) == with_folders(before) | {last}
    (root / last).write_bytes(whole)
    assert_same(form.load(root), form.load(copy))


def poison(archive):
    """Add a member that lies outside of the folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "a") as packed:
            packed.writestr("../../evil", b"evil")
        return
    compressed = archive.suffix == ".gz"
    content = io.BytesIO(gzip.decompress(archive.read_bytes()) if compressed else archive.read_bytes())
    with tarfile.open(fileobj=content, mode="a") as packed:
        packed.addfile(tarfile.TarInfo("../../evil"))
    archive.write_bytes(gzip.compress(content.getvalue()) if compressed else content.getvalue())


@pytest.mark.parametrize(
    ("form", "download"),
    [(form, False) for form in PACKED.values()] + [(FORMS[name], True) for name in DOWNLOADED],
    ids=[*PACKED, *(f"{name}-downloaded" for name in DOWNLOADED)],
)
def test_an_archive_that_writes_elsewhere_is_refused(tmp_path, monkeypatch, server, form, download):
    """Even where its checksum is the published one; `test_archives` has what else is refused."""
    root = tmp_path / "root"
    folder = server.folder if download else root
    pack(monkeypatch, form, tmp_path / "copy", folder, server.url)
    *before, last = form.archives
    poison(folder / last)
    publish(monkeypatch, form, folder, server.url)
    with pytest.raises(ValueError, match=rf"{form.load.__name__}: cannot unpack .*{last}.*evil'"):
        form.load(root, download=download)
    assert names_in(root) == with_folders(before) | {last}
    assert not [*tmp_path.rglob("*evil")]


@every_download
def test_a_download_that_breaks_off_is_named_and_leaves_nothing(tmp_path, monkeypatch, server, form):
    copy, root = tmp_path / "copy", tmp_path / "root"
    pack(monkeypatch, form, copy, server.folder, server.url)
    *before, last = form.archives
    server.handler.cut.add(last)
    with pytest.raises(OSError, match=rf"{form.load.__name__}: cannot download {server.url}/{last}"):
        form.load(root, download=True)
    assert names_in(root) == with_folders(before)
    server.handler.cut.clear()
    assert_same(form.load(root, download=True), form.load(copy))
