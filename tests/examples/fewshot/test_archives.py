"""Finding, fetching and unpacking: safe against bad archives, bad networks and interruptions."""

import dataclasses
import errno
import functools
import hashlib
import io
import os
import random
import shutil
import stat
import tarfile
import threading
import zipfile

import pytest

from examples.fewshot.data import archives
from examples.fewshot.data.archives import Layout, find, locate, unpack

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
    with tarfile.open(path, mode) as packed:
        for name, content in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            packed.addfile(member, io.BytesIO(content))
    return path


WRITERS = {
    "set.zip": write_zip,
    "set.tar.gz": write_tar,
    "set.tgz": write_tar,
    "set.tar": functools.partial(write_tar, mode="w"),
}


def write_files(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder):
    """Every file below a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def assert_refused(archive, message, names=NAMES, md5=None):
    """A ValueError that names the archive and says what to do; nothing but the archive is left."""
    with pytest.raises(
        ValueError, match=rf"(?s)^test: .*{archive.name}.*{message}.*delete it and fetch it"
    ):
        unpack("test", archive, names, md5)
    assert names_in(archive.parent) == {archive.name}


def published(server, **changes):
    """The layout of a ZIP file that the server has."""
    path = write_zip(server.folder / "set.zip", FILES)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return dataclasses.replace(LAYOUT, **{"url": f"{server.url}/set.zip", "md5": md5, **changes})


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_what_is_unpacked_is_found(tmp_path, below):
    folder = write_files(tmp_path / below)
    assert locate("test", tmp_path, (LAYOUT,), download=False) == (LAYOUT, folder)


def test_files_must_lie_together_and_not_too_deep(tmp_path):
    write_files(tmp_path / "a" / "b" / "c")
    write_files(tmp_path / "d", {"one.bin": b"1"})
    write_files(tmp_path / "e", {"two.bin": b"2"})
    (tmp_path / "f" / "one.bin").mkdir(parents=True)
    (tmp_path / "f" / "two.bin").mkdir()
    assert find(tmp_path, NAMES) is None
    assert find(tmp_path, ("one.bin/",)) == tmp_path / "f"


def test_what_a_killed_process_left_is_passed_over(tmp_path):
    write_files(tmp_path / "tmp123.part" / "content")
    assert find(tmp_path, NAMES) is None
    archive = write_zip(tmp_path / "set.zip", FILES)
    assert unpack("test", archive, NAMES) == tmp_path / "set"


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


def test_layouts_are_taken_in_order(tmp_path):
    other = Layout(holds=("three.bin",), source="elsewhere")
    write_files(tmp_path / "x", {"three.bin": b"3"})
    write_zip(tmp_path / "set.zip", FILES)
    assert locate("test", tmp_path, (LAYOUT, other), download=False)[0] == LAYOUT
    assert locate("test", tmp_path, (other, LAYOUT), download=False)[0] == other


@pytest.fixture(params=["with", "without"])
def a_filter(request, monkeypatch):
    """Python with tarfile's filters, and without, as Debian 12 has it."""
    if request.param == "without":
        monkeypatch.delattr(tarfile, "data_filter")


@pytest.mark.parametrize("member", ESCAPES)
@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
@pytest.mark.usefixtures("a_filter")
def test_members_that_would_leave_the_folder_are_refused(tmp_path, name, member):
    root = tmp_path / "x" / "root"
    root.mkdir(parents=True)
    member = member.replace("TARGET", (tmp_path / "evil").as_posix())
    archive = WRITERS[name](root / name, {**FILES, member: b""})
    assert_refused(archive, r"evil.*' would leave the folder")
    assert list(contents(tmp_path)) == [f"x/root/{name}"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
@pytest.mark.parametrize("member", ["../evil", "/TARGET"])
def test_the_libraries_too_keep_members_inside(tmp_path, monkeypatch, name, member):
    """Should a name pass by mistake."""
    root = tmp_path / "root"
    root.mkdir()
    member = member.replace("TARGET", (tmp_path / "evil").as_posix())
    archive = WRITERS[name](root / name, {member: b"1"})
    monkeypatch.setattr(archives, "_check_members", list)
    assert_refused(archive, "")
    assert list(contents(tmp_path)) == [f"root/{name}"]


@pytest.mark.parametrize("name", ["one\0two.bin", "one.bin\0", "one.bin\0/../../../evil"])
def test_names_with_a_nul_are_refused(tmp_path, name):
    """A ZIP file can hold them as they are, a TAR file in an extended header."""
    plain = "x" * len(name)
    archive = write_zip(tmp_path / "set.zip", {plain: b"1", **FILES})
    archive.write_bytes(archive.read_bytes().replace(plain.encode(), name.encode()))
    assert_refused(archive, r"its member 'one.*\\x00.*would leave the folder")
    archive.unlink()
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        member = tarfile.TarInfo("one.bin")
        member.pax_headers = {"path": name}
        packed.addfile(member)
    assert_refused(tmp_path / "set.tar", r"its member 'one.*\\x00.*would leave the folder")


def test_files_are_not_given_the_archives_rights(tmp_path, a_filter):
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        folder = tarfile.TarInfo("set")
        folder.type, folder.mode = tarfile.DIRTYPE, 0
        packed.addfile(folder)
        for name in NAMES:
            member = tarfile.TarInfo(f"set/{name}")
            member.mode = 0o6777
            packed.addfile(member)
    found = unpack("test", tmp_path / "set.tar", NAMES)
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


def test_members_without_a_name_are_refused(tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("one.bin", b"1")
        packed.infolist()[0].filename = ""  # as it is written into the central directory
    assert zipfile.ZipFile(archive).namelist() == [""]
    assert_refused(archive, "one of its members has no name")
    archive.unlink()
    tar = WRITERS["set.tar"](tmp_path / "set.tar", {**FILES, "": b"1"})
    assert_refused(tar, "one of its members has no name")


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_with_one_place_or_none_are_refused(tmp_path, name):
    """The later would replace the earlier, or be passed over; or a file would have to be a folder."""
    archive = tmp_path / name
    for first, second in (
        ("a.bin", "a.bin"),
        ("a.bin", "./a.bin"),
        ("a/b.bin", "a//b.bin"),
        ("a", "a/"),
        ("a/", "a"),
        (".", "b"),
        ("./", "."),
    ):
        WRITERS[name](archive, [*FILES.items(), (first, b""), (second, b"")])
        assert_refused(archive, r"its member '[abin./]+' would take the place")
    for files in (
        {"one.bin": b"1", "one.bin/two.bin": b"2"},
        {"one.bin/two.bin": b"2", "one.bin": b"1"},
        {"x" * 5000: b"1"},
    ):
        assert_refused(WRITERS[name](archive, files), "")
    WRITERS[name](archive, [("./", b""), ("a/", b""), ("a/", b""), *FILES.items()])
    assert contents(unpack("test", archive, NAMES)) == FILES


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "set.zip", FILES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extractall", full)
        with pytest.raises(OSError, match=r"test: cannot unpack .*set\.zip.*No space.*see to the disk"):
            unpack("test", archive, NAMES)
    assert names_in(tmp_path) == {"set.zip"}
    assert contents(unpack("test", archive, NAMES)) == FILES


@pytest.mark.parametrize("compression", ["zip", "", "gz", "bz2", "xz"])
def test_every_damage_is_named(tmp_path, compression):
    """Whatever byte is wrong, and whatever compression a file of this name really has."""
    archive = tmp_path / ("set.zip" if compression == "zip" else "set.tar.gz")
    if compression == "zip":
        write_zip(archive, FILES)
    else:
        write_tar(archive, {"a.bin": b"abc", **FILES}, f"w:{compression}")
    whole = archive.read_bytes()
    generator = random.Random(0)
    messages = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 1, 8])):
            damaged[generator.randrange(min(len(whole), 4000))] = generator.randrange(256)
        archive.write_bytes(damaged)
        try:
            shutil.rmtree(unpack("test", archive, NAMES))
        except ValueError as error:
            messages.append(str(error))
        assert names_in(tmp_path) == {archive.name}
    assert len(messages) > 5
    assert all(str(archive) in message for message in messages)


@pytest.mark.parametrize(
    "kind", ["zip", tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = tmp_path / ("set.zip" if kind == "zip" else "set.tar")
    if kind == "zip":
        link = zipfile.ZipInfo("one.bin")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        write_zip(archive, [(link, "/etc/passwd")])
    else:
        with tarfile.open(archive, "w") as packed:
            member = tarfile.TarInfo("one.bin")
            member.type, member.linkname = kind, "/etc/passwd"
            packed.addfile(member)
    assert_refused(archive, r"member 'one.bin' is no plain file", ("one.bin",))


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_archives_are_refused(tmp_path, name, share):
    files = {**FILES, "noise.bin": os.urandom(20_000), "two.bin": os.urandom(20_000)}
    archive = WRITERS[name](tmp_path / name, files)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(archive, "")
    archive.write_bytes(whole)
    assert contents(unpack("test", archive, NAMES)) == files


def test_an_altered_archive_is_refused(tmp_path):
    archive = WRITERS["set.tar"](tmp_path / "set.tar", FILES)
    whole = archive.read_bytes()
    md5 = hashlib.md5(whole).hexdigest()
    archive.write_bytes(whole[:600] + b"2" + whole[601:])  # a file's content, of which TAR has no checksum
    assert_refused(archive, rf"its MD5 must be {md5}, got ", md5=md5)
    archive.write_bytes(whole)
    assert contents(unpack("test", archive, NAMES, md5)) == FILES


def test_another_archive_is_refused(tmp_path):
    archive = write_zip(tmp_path / "set.zip", {"one.bin": b"1", "three.bin": b"3"})
    assert_refused(archive, r"must hold one\.bin, two\.bin, but does not")


def test_something_in_the_way_is_left_alone(tmp_path):
    archive = write_zip(tmp_path / "set.zip", FILES)
    write_files(tmp_path / "set", {"mine.txt": b"mine"})
    with pytest.raises(FileExistsError, match=r"set' exists and does not hold .*remove or rename it"):
        unpack("test", archive, NAMES)
    assert contents(tmp_path / "set") == {"mine.txt": b"mine"}


def test_two_at_once(tmp_path, monkeypatch):
    """Both unpack before either is done; the second to finish takes the first one's folder."""
    archive = write_zip(tmp_path / "set.zip", FILES)
    barrier = threading.Barrier(2)
    extract = archives._extract
    found = []

    def together(*args):
        barrier.wait(10)
        extract(*args)

    monkeypatch.setattr(archives, "_extract", together)
    threads = [
        threading.Thread(target=lambda: found.append(contents(unpack("test", archive, NAMES))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FILES] * 2
    assert names_in(tmp_path) == {"set.zip", "set"}


def test_download_once(server, tmp_path):
    layout = published(server)
    root = tmp_path / "new" / "root"
    found, folder = locate("test", root, (LAYOUT, layout), download=True)
    assert found == layout
    assert contents(folder) == FILES
    assert names_in(root) == {"set.zip", "set"}
    for download in (True, False):
        assert locate("test", root, (layout,), download=download) == (layout, folder)
    assert server.handler.asked == ["set.zip"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"md5": "0" * 32}, ValueError, r"/set\.zip is not the published set\.zip.* 0{32}"),
        ({}, OSError, "cannot download http://127"),  # broken off
        ({"url": "nothing.zip"}, OSError, r"cannot download .*nothing\.zip"),
        ({"url": "http://127.0.0.1:9/set.zip"}, OSError, "cannot download http://127"),
    ],
    ids=["altered", "cut", "missing", "refused"],
)
def test_a_failed_download_leaves_nothing_and_can_be_repeated(server, tmp_path, change, error, message):
    good = published(server)
    if change.get("url") == "nothing.zip":
        change = {"url": f"{server.url}/nothing.zip"}
    elif not change:
        server.handler.cut.add("set.zip")
    root = tmp_path / "root"
    with pytest.raises(error, match=rf"test: .*{message}.*put it into .*root"):
        locate("test", root, (dataclasses.replace(good, **change),), download=True)
    assert names_in(root) == set()
    server.handler.cut.clear()
    assert contents(locate("test", root, (good,), download=True)[1]) == FILES


def test_what_is_missing_is_explained(tmp_path):
    advice = r"one\.bin, two\.bin, or set\.zip, which holds them: the archive of the tests"
    message = rf"test: root must be an existing folder, got .*nowhere.*; make it .*\n.*{advice}"
    with pytest.raises(FileNotFoundError, match=message):
        locate("test", tmp_path / "nowhere", (LAYOUT,), download=False)
    with pytest.raises(FileNotFoundError, match=advice) as error:
        locate("test", tmp_path, (LAYOUT,), download=False)
    assert "download" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=rf"{advice}\nthere is no stable public address"):
        locate("test", tmp_path, (LAYOUT,), download=True)
    layout = dataclasses.replace(LAYOUT, url="http://127.0.0.1:9/set.zip", md5="0" * 32)
    with pytest.raises(FileNotFoundError, match=rf"{advice}\nor add download=True \(--download\)"):
        locate("test", tmp_path, (layout,), download=False)
