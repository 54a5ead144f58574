"""Finding and unpacking, safe against bad archives and interruptions; `test_public_data` fetches."""

import dataclasses
import errno
import functools
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zipfile

import pytest

from examples.fewshot.data import archives
from examples.fewshot.data.archives import Layout, find, locate, unpack
from tests.examples.fewshot.damage import messages_of

NAMES = ("one.bin", "two.bin")
FILES = {"one.bin": b"1" * 5000, "two.bin": bytes(range(256)) * 40}
LAYOUT = Layout(holds=NAMES, source="the archive of the tests", archive="set.zip")
# Member names that would lead out of the folder on some system; TARGET is a path that can be written.
ESCAPES = (
    *("../evil", "a/../../evil", "a/../evil/..", ".. /evil", "../../evil/", "one.bin:evil"),
    *("TARGET", "/TARGET", "//TARGET", "///TARGET", "/TARGET/", "/\\evil", "\\/TARGET", "\\\\TARGET"),
    *("..\\evil", "a\\..\\..\\evil", "\\evil", "\\\\evil", "\\\\evil\\share\\file", "\\\\TARGET\\"),
    *("C:\\evil", "C:/evil", "C:evil", "a/C:evil", "file:///evil", "a\\evil"),
)


def write_zip(path, files):
    """An archive of `files`: a dict, or pairs of which several may have one name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items() if isinstance(files, dict) else files:
            packed.writestr(name, content)
    return path


def write_tar(path, files, mode="w:gz"):
    """The same; instead of a content there may be attributes of an empty member, such as its type."""
    with tarfile.open(path, mode) as packed:
        for name, content in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            if isinstance(content, dict):
                for attribute, value in content.items():
                    setattr(member, attribute, value)
                content = b""
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


WRITERS = {
    "set.zip": write_zip,
    "set.tar.gz": write_tar,
    "set.tgz": write_tar,
    "set.tar": functools.partial(write_tar, mode="w"),
}
every_kind = pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])


def write_files(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    """Every file below a folder, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def assert_refused(archive, message, names=NAMES, md5=None):
    """A ValueError that names the archive and says what to do; nothing but the archive is left."""
    with pytest.raises(
        ValueError, match=rf"(?s)^test: .*{archive.name}.*{message}.*delete it and fetch it"
    ):
        unpack("test", archive, names, md5)
    assert names_in(archive.parent) == {archive.name}


# Finding


def test_files_must_lie_together_and_not_too_deep_and_be_finished(tmp_path):
    write_files(tmp_path / "a" / "b" / "c")
    write_files(tmp_path / "d", {"one.bin": b"1"})
    write_files(tmp_path / "e", {"two.bin": b"2"})
    write_files(tmp_path / "tmp123.part" / "content")  # which a killed process left
    for name in NAMES:
        (tmp_path / "f" / name).mkdir(parents=True)
    assert find(tmp_path, NAMES) is None
    assert find(tmp_path, ("one.bin/",)) == tmp_path / "f"
    assert unpack("test", write_zip(tmp_path / "set.zip", FILES), NAMES) == tmp_path / "set"


def test_layouts_are_taken_in_order(tmp_path):
    other = Layout(holds=("three.bin",), source="elsewhere")
    write_files(tmp_path / "x", {"three.bin": b"3"})
    write_zip(tmp_path / "set.zip", FILES)
    assert locate("test", tmp_path, (LAYOUT, other), download=False)[0] == LAYOUT
    assert locate("test", tmp_path, (other, LAYOUT), download=False)[0] == other


@pytest.mark.parametrize(
    ("url", "root", "download", "last"),
    [
        (None, "nowhere", False, "root .* must be an existing folder, got .*nowhere.*; make it"),
        (None, "", False, "found nothing to read"),
        (None, "", True, "there is no stable public address"),
        ("http://127.0.0.1:9/set.zip", "", False, r"or add download=True \(--download\)"),
    ],
)
def test_what_is_missing_is_explained(tmp_path, url, root, download, last):
    layout = dataclasses.replace(LAYOUT, url=url, md5="0" * 32)
    with pytest.raises(FileNotFoundError, match=rf"(?s)^test: .*{last}") as error:
        locate("test", tmp_path / root, (layout,), download=download)
    files = "put there one of\n  * one.bin, two.bin, or set.zip, which holds them: the archive of the tests"
    assert files in str(error.value)
    assert ("download" in str(error.value)) == (url is not None or download)


# Unpacking


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("inside", ["", "./", "set/", "other/", "set//", "set/./"])
def test_archives_are_unpacked_once(tmp_path, monkeypatch, name, inside):
    layout = dataclasses.replace(LAYOUT, archive=name)
    archive = WRITERS[name](tmp_path / name, {inside + file: content for file, content in FILES.items()})
    found, folder = locate("test", tmp_path, (layout,), download=False)
    assert found == layout
    assert contents(folder) == FILES
    assert folder == tmp_path / "set" / ("other" if inside == "other/" else "")
    assert names_in(tmp_path) == {name, "set"}
    monkeypatch.setattr(archives, "_extract", None)
    assert locate("test", tmp_path, (layout,), download=False) == (layout, folder)
    assert unpack("test", archive, NAMES) == folder


@pytest.fixture(params=["with", "without"])
def a_filter(request, monkeypatch):
    """Python with tarfile's filters, and without, as Debian 12 has it."""
    if request.param == "without":
        monkeypatch.delattr(tarfile, "data_filter")


@pytest.mark.parametrize("member", ESCAPES)
@pytest.mark.usefixtures("a_filter")
def test_members_of_a_tar_that_would_leave_the_folder_are_refused(tmp_path, monkeypatch, member):
    """And should a name pass by mistake, the library keeps it inside."""
    root = tmp_path / "x" / "root"
    root.mkdir(parents=True)
    target = member.replace("TARGET", (tmp_path / "evil").as_posix())
    archive = write_tar(root / "set.tar.gz", {**FILES, target: b""})
    assert_refused(archive, r"evil.*' is no plain file or folder inside it")
    if member in ("../evil", "/TARGET") and hasattr(tarfile, "data_filter"):
        monkeypatch.setattr(archives, "_check_member", id)
        write_tar(archive, {target: b"1"})
        assert_refused(archive, "")
    assert list(contents(tmp_path)) == ["x/root/set.tar.gz"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("member", ESCAPES)
def test_members_of_a_zip_stay_in_the_folder(tmp_path, member):
    root = tmp_path / "x" / "root"
    root.mkdir(parents=True)
    archive = write_zip(root / "set.zip", {**FILES, member.replace("TARGET", str(tmp_path / "evil")): b""})
    assert unpack("test", archive, NAMES).is_relative_to(root / "set")
    assert names_in(tmp_path) == {"x"}
    assert names_in(tmp_path / "x") == {"root"}
    assert names_in(root) == {"set.zip", "set"}


KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
NULS = ("one\0two.bin", "one.bin\0", "one.bin\0/../../../evil")
REFUSED = [
    *(
        ("set.tar", {"one.bin": {"type": kind, "linkname": "/etc/passwd"}}, "member 'one.bin' is no plain")
        for kind in KINDS
    ),
    ("set.tar", {**FILES, "": b"1"}, ""),
    *(("set.tar", {**FILES, "x": {"pax_headers": {"path": nul}}}, "") for nul in NULS),
    *(
        (name, files, "")
        for name in ("set.zip", "set.tar")
        for files in (
            {"one.bin": b"1", "one.bin/two.bin": b"2"},
            {"one.bin/two.bin": b"2", "one.bin": b"1"},
            {"x" * 5000: b"1"},
            {"one.bin": b"1", "three.bin": b"3"},
        )
    ),
]


@pytest.mark.parametrize(("name", "files", "message"), REFUSED)
def test_bad_members_are_refused(tmp_path, name, files, message):
    assert_refused(
        WRITERS[name](tmp_path / name, files), message, ("one.bin",) if "plain" in message else NAMES
    )


def test_a_link_in_a_zip_is_a_file_with_its_target(tmp_path):
    link = zipfile.ZipInfo("one.bin")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    found = unpack("test", write_zip(tmp_path / "set.zip", [(link, "/etc/passwd")]), ["one.bin"])
    assert not (found / "one.bin").is_symlink()
    assert (found / "one.bin").read_text() == "/etc/passwd"


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_folders_may_come_twice(tmp_path, name):
    archive = WRITERS[name](tmp_path / name, [("./", b""), ("a/", b""), ("a/", b""), *FILES.items()])
    assert contents(unpack("test", archive, NAMES)) == FILES


@pytest.mark.usefixtures("a_filter")
def test_files_are_not_given_the_archives_rights(tmp_path):
    members = {"set/": {"mode": 0}, **{f"set/{name}": {"mode": 0o6777} for name in NAMES}}
    found = unpack("test", write_tar(tmp_path / "set.tar", members, "w"), NAMES)
    assert {stat.S_IMODE((found / name).stat().st_mode) for name in NAMES} == {0o644}
    assert stat.S_IMODE(found.stat().st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("damage", ["altered", "cut short at a member", "cut short in a header"])
def test_a_tar_is_read_to_its_end(tmp_path, damage):
    """tarfile takes a header that it cannot read, and the end of the file, for the end of the archive."""
    archive = WRITERS["set.tar"](tmp_path / "set.tar", {**FILES, "three.bin": b"3"})
    content = archive.read_bytes()
    start = content.index(b"three.bin")
    altered = content[:start] + b"T" + content[start + 1 :]
    end = {"altered": None, "cut short at a member": start, "cut short in a header": start + 100}[damage]
    archive.write_bytes(altered[:end])
    assert_refused(archive, "header")


@pytest.mark.parametrize("compression", ["zip", "", "gz", "bz2", "xz"])
def test_every_damage_is_named(tmp_path, compression):
    """Whatever byte is wrong, wherever it ends, and whatever compression a file of this name really has."""
    archive = tmp_path / ("set.zip" if compression == "zip" else "set.tar.gz")
    files = {"a.bin": b"abc", **FILES, "noise.bin": os.urandom(20_000)}
    write_zip(archive, files) if compression == "zip" else write_tar(archive, files, f"w:{compression}")
    whole = archive.read_bytes()
    for share in (0.0, 0.3, 0.7):
        archive.write_bytes(whole[: int(len(whole) * share)])
        assert_refused(archive, "")

    def read():
        try:
            shutil.rmtree(unpack("test", archive, NAMES))
        finally:
            assert names_in(tmp_path) == {archive.name}

    assert len(messages_of(archive, whole, 60, 8, read, within=4000)) > 5
    archive.write_bytes(whole)
    assert contents(unpack("test", archive, NAMES)) == files


def test_an_altered_archive_is_refused(tmp_path):
    archive = WRITERS["set.tar"](tmp_path / "set.tar", FILES)
    whole = archive.read_bytes()
    md5 = hashlib.md5(whole).hexdigest()
    archive.write_bytes(whole[:600] + b"2" + whole[601:])  # a file's content, of which TAR has no checksum
    assert_refused(archive, rf"its MD5 must be {md5}, got ", md5=md5)


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "set.zip", FILES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match=r"test: cannot unpack .*set\.zip.*No space.*see to the disk"):
        unpack("test", archive, NAMES)
    assert names_in(tmp_path) == {"set.zip"}


def test_something_in_the_way_is_left_alone(tmp_path):
    archive = write_zip(tmp_path / "set.zip", FILES)
    write_files(tmp_path / "set", {"mine.txt": b"mine"})
    with pytest.raises(FileExistsError, match=r"set' exists and does not hold .*remove or rename it"):
        unpack("test", archive, NAMES)
    assert contents(tmp_path / "set") == {"mine.txt": b"mine"}


def test_two_at_once(tmp_path, monkeypatch):
    """Another process unpacks meanwhile; its folder is taken."""
    archive = write_zip(tmp_path / "set.zip", FILES)
    extract = archives._extract

    def slow(*args):
        monkeypatch.setattr(archives, "_extract", extract)
        unpack("test", archive, NAMES)
        extract(*args)

    monkeypatch.setattr(archives, "_extract", slow)
    assert contents(unpack("test", archive, NAMES)) == FILES
    assert names_in(tmp_path) == {"set.zip", "set"}
