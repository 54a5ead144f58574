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
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from examples.fewshot.data import archives
from examples.fewshot.data.archives import Layout, find, locate, unpack

NAMES = ("one.bin", "two.bin")
FILES = {"one.bin": b"1" * 5000, "two.bin": bytes(range(256)) * 40}
# Member names that would lead out of the folder on some system; TARGET is a path that can be written.
ESCAPES = (
    "../evil",
    "a/../../evil",
    "a/../evil/..",
    ".. /evil",
    "TARGET",
    "/TARGET",
    "//TARGET",
    "///TARGET",
    "..\\evil",
    "a\\..\\..\\evil",
    "\\evil",
    "\\\\evil",
    "\\\\evil\\share\\file",
    "/\\evil",
    "\\/TARGET",
    "\\\\TARGET",
    "C:\\evil",
    "C:/evil",
    "C:evil",
    "a/C:evil",
    "file:///evil",
    "one.bin:evil",
)
LAYOUT = Layout(holds=NAMES, source="the archive of the tests", archive="set.zip")


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


class Members(list):
    """Names and contents of which several may have one name, in the place of a dict."""

    def items(self):
        return self


def write_tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            packed.addfile(member, io.BytesIO(content))
    return path


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


def published(server, files=FILES, **changes):
    """The layout of a ZIP file that the server has."""
    path = write_zip(server.folder / "set.zip", files)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return dataclasses.replace(LAYOUT, url=f"{server.url}/set.zip", **{"md5": md5, **changes})


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


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_zip, "set.zip"),
        (write_tar, "set.tar.gz"),
        (write_tar, "set.tgz"),
        (functools.partial(write_tar, mode="w"), "set.tar"),
    ],
)
@pytest.mark.parametrize("inside", ["", "./", "set/", "other/"])
def test_archives_are_unpacked_once(tmp_path, monkeypatch, write, name, inside):
    layout = dataclasses.replace(LAYOUT, archive=name)
    archive = write(tmp_path / name, {inside + file: content for file, content in FILES.items()})
    found, folder = locate("test", tmp_path, (layout,), download=False)
    assert found == layout
    assert contents(folder) == FILES
    assert folder == tmp_path / "set" / ("other" if inside == "other/" else "")
    assert {path.name for path in tmp_path.iterdir()} == {name, "set"}
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


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize(("write", "archive"), [(write_zip, "set.zip"), (write_tar, "set.tar.gz")])
@pytest.mark.usefixtures("a_filter")
def test_members_that_would_leave_the_folder_are_refused(tmp_path, write, archive, name):
    root = tmp_path / "x" / "root"
    root.mkdir(parents=True)
    name = name.replace("TARGET", (tmp_path / "evil").as_posix())
    write(root / archive, {**FILES, name: b"evil"})
    with pytest.raises(ValueError, match=rf"cannot unpack .*{archive}.*evil.*' would leave the folder"):
        unpack("test", root / archive, NAMES)
    assert [path.name for path in root.iterdir()] == [archive]
    assert list(contents(tmp_path)) == [f"x/root/{archive}"]


@pytest.mark.parametrize("name", ["/TARGET/", "//TARGET/", "\\\\TARGET\\", "../../evil/"])
@pytest.mark.parametrize("write", [write_zip, functools.partial(write_tar, mode="w")])
def test_folders_that_would_lie_outside_are_refused(tmp_path, write, name):
    root = tmp_path / "x" / "root"
    root.mkdir(parents=True)
    archive = root / ("set.zip" if write is write_zip else "set.tar")
    name = name.replace("TARGET", (tmp_path / "evil").as_posix())
    if write is write_zip:
        write(archive, {**FILES, name: b""})
    else:
        with tarfile.open(archive, "w") as packed:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            packed.addfile(member)
    with pytest.raises(ValueError, match=r"evil.*' would leave the folder"):
        unpack("test", archive, NAMES)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["one\0two.bin", "one.bin\0", "one.bin\0/../../../evil"])
def test_names_with_a_nul_are_refused(tmp_path, name):
    """A ZIP file can hold them as they are, a TAR file in an extended header."""
    plain = "x" * len(name)
    archive = write_zip(tmp_path / "set.zip", {plain: b"1", **FILES})
    archive.write_bytes(archive.read_bytes().replace(plain.encode(), name.encode()))
    with pytest.raises(ValueError, match=r"set\.zip.*its member 'one.*\\x00.*would leave the folder"):
        unpack("test", archive, NAMES)
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.PAX_FORMAT) as packed:
        member = tarfile.TarInfo("one.bin")
        member.pax_headers = {"path": name}
        packed.addfile(member)
    with pytest.raises(ValueError, match=r"set\.tar.*its member 'one.*\\x00.*would leave the folder"):
        unpack("test", tmp_path / "set.tar", NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "set.tar"}


@pytest.mark.parametrize("inside", ["set\\", ".\\", "set//", "set/./"])
@pytest.mark.parametrize("write", [write_zip, functools.partial(write_tar, mode="w")])
def test_unusual_names_that_stay_inside_are_unpacked(tmp_path, write, inside):
    archive = tmp_path / ("set.zip" if write is write_zip else "set.tar")
    write(archive, {inside + file: content for file, content in FILES.items()})
    assert contents(unpack("test", archive, NAMES)) == FILES


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
    archive = write_tar(tmp_path / "set.tar", {**FILES, "three.bin": b"3"}, mode="w")
    content = archive.read_bytes()
    start = content.index(b"three.bin")
    altered = content[:start] + b"T" + content[start + 1 :]
    end = {"altered": None, "cut short at a member": start, "cut short in a header": start + 100}[damage]
    archive.write_bytes(altered[:end])
    with pytest.raises(
        ValueError, match=r"^test: cannot unpack .*set\.tar.*header.*delete it and fetch it"
    ):
        unpack("test", archive, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


def test_members_without_a_name_are_refused(tmp_path):
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("one.bin", b"1")
        packed.infolist()[0].filename = ""  # as it is written into the central directory
    assert zipfile.ZipFile(archive).namelist() == [""]
    tar = write_tar(tmp_path / "set.tar", {**FILES, "": b"1"}, mode="w")
    for path in (archive, tar):
        with pytest.raises(
            ValueError, match=rf"^test: cannot unpack .*{path.name}.*one of its members has no name.*fetch"
        ):
            unpack("test", path, NAMES)
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "set.tar"}


@pytest.mark.parametrize("write", [write_zip, functools.partial(write_tar, mode="w")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_with_one_place_are_refused(tmp_path, write):
    """The later would replace the earlier, or be passed over."""
    archive = tmp_path / ("set.zip" if write is write_zip else "set.tar")
    for first, second in (
        ("a.bin", "a.bin"),
        ("a.bin", "./a.bin"),
        ("a/b.bin", "a//b.bin"),
        ("a", "a/"),
        ("a/", "a"),
        ("a/b", "a"),
        (".", "b"),
        ("./", "."),
    ):
        write(archive, Members([*FILES.items(), (first, b""), (second, b"")]))
        with pytest.raises(
            ValueError, match=rf"cannot unpack .*{archive.name}.*its member '[abin./]+' would take the"
        ):
            unpack("test", archive, NAMES)
        assert [path.name for path in tmp_path.iterdir()] == [archive.name]
    write(archive, Members([("./", b""), ("a/", b""), ("a/", b""), *FILES.items()]))
    assert contents(unpack("test", archive, NAMES)) == FILES


@pytest.mark.parametrize("write", [write_zip, functools.partial(write_tar, mode="w")])
def test_names_that_cannot_be_together_are_refused(tmp_path, write):
    archive = tmp_path / ("set.zip" if write is write_zip else "set.tar")
    for files in (
        {"one.bin": b"1", "one.bin/two.bin": b"2"},
        {"one.bin/two.bin": b"2", "one.bin": b"1"},
        {"x" * 5000: b"1"},
    ):
        write(archive, files)
        with pytest.raises(
            ValueError, match=rf"test: cannot unpack .*{archive.name}.*delete it and fetch it"
        ):
            unpack("test", archive, NAMES)
        assert [path.name for path in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize(("write", "name"), [(write_zip, "set.zip"), (write_tar, "set.tar.gz")])
@pytest.mark.usefixtures("a_filter")
def test_what_lies_outside_after_unpacking_is_noticed(tmp_path, monkeypatch, write, name):
    """Should a name pass by mistake, or a link be in the folder that no member made."""
    root = tmp_path / "root"
    root.mkdir()
    outside = (tmp_path / "one.bin").as_posix()
    write(root / name, {outside: b"1"})
    with monkeypatch.context() as patched:
        patched.setattr(archives, "_checked", lambda member, plain: member)
        with pytest.raises(ValueError, match=r"one\.bin' is not in the folder after unpacking"):
            unpack("test", root / name, ("one.bin",))
    write(root / name, {"a/two.bin": b"1"})
    mkdir = Path.mkdir

    def with_a_link(folder, *args, **kwargs):
        mkdir(folder, *args, **kwargs)
        (folder / "a").symlink_to(tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", with_a_link)
        with pytest.raises(ValueError, match=r"a/two\.bin' (is not in the folder|would be .* outside)"):
            unpack("test", root / name, ("one.bin",))
    assert [path.name for path in root.iterdir()] == [name]


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "set.zip", FILES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(zipfile.ZipFile, "extract", full)
        with pytest.raises(OSError, match=r"test: cannot unpack .*set\.zip.*No space.*see to the disk"):
            unpack("test", archive, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
    assert contents(unpack("test", archive, NAMES)) == FILES


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tar.bz2", "set.tar.xz"])
def test_every_damage_is_named(tmp_path, name):
    """Whatever byte is wrong, and whatever compression a file of this name really has."""
    if name == "set.zip":
        whole = write_zip(tmp_path / name, FILES).read_bytes()
    else:
        mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[name.split(".")[-1]]
        whole = write_tar(tmp_path / name, {"a.bin": b"abc", **FILES}, mode).read_bytes()
    (tmp_path / name).unlink()
    archive = tmp_path / ("set.zip" if name == "set.zip" else "set.tar.gz")
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
        assert [path.name for path in tmp_path.iterdir()] == [archive.name]
    assert len(messages) > 5
    assert all(str(archive) in message for message in messages)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_tars_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        member = tarfile.TarInfo("one.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        packed.addfile(member)
    with pytest.raises(ValueError, match=r"member 'one.bin' is no plain file"):
        unpack("test", tmp_path / "set.tar", ("one.bin",))
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


def test_links_in_zips_are_refused(tmp_path):
    link = zipfile.ZipInfo("one.bin")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"member 'one.bin' is no plain file"):
        unpack("test", tmp_path / "set.zip", ("one.bin",))
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_zip, "set.zip"),
        (write_tar, "set.tar.gz"),
        (functools.partial(write_tar, mode="w"), "set.tar"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_archives_are_refused(tmp_path, write, name, share):
    files = {**FILES, "noise.bin": os.urandom(20_000), "two.bin": os.urandom(20_000)}
    archive = write(tmp_path / name, files)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=rf"test: .*{name}.*delete it and fetch it again"):
        unpack("test", archive, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    archive.write_bytes(whole)
    assert contents(unpack("test", archive, NAMES)) == files


def test_an_altered_archive_is_refused(tmp_path):
    archive = write_tar(tmp_path / "set.tar", FILES, "w")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    altered = bytearray(archive.read_bytes())
    altered[600] ^= 1
    archive.write_bytes(altered)
    with pytest.raises(ValueError, match=rf"its MD5 must be {md5}, got .*delete it and fetch it again"):
        unpack("test", archive, NAMES, md5)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]
    altered[600] ^= 1
    archive.write_bytes(altered)
    assert contents(unpack("test", archive, NAMES, md5)) == FILES


def test_a_damaged_zip_is_refused(tmp_path):
    archive = write_zip(tmp_path / "set.zip", FILES)
    altered = bytearray(archive.read_bytes())
    altered[50] ^= 1
    archive.write_bytes(altered)
    with pytest.raises(ValueError, match=r"cannot unpack .*set\.zip"):
        unpack("test", archive, NAMES)


def test_another_archive_is_refused(tmp_path):
    archive = write_zip(tmp_path / "set.zip", {"one.bin": b"1", "three.bin": b"3"})
    with pytest.raises(ValueError, match=r"set\.zip' must hold one\.bin, two\.bin, but does not"):
        unpack("test", archive, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


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
    failures = []

    def together(*args):
        barrier.wait(10)
        extract(*args)

    def run():
        try:
            assert contents(unpack("test", archive, NAMES)) == FILES
        except Exception as error:  # shown by the assertion below
            failures.append(error)

    monkeypatch.setattr(archives, "_extract", together)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "set"}


def test_download_once(server, tmp_path):
    layout = published(server)
    root = tmp_path / "new" / "root"
    found, folder = locate("test", root, (LAYOUT, layout), download=True)
    assert found == layout
    assert contents(folder) == FILES
    assert {path.name for path in root.iterdir()} == {"set.zip", "set"}
    for download in (True, False):
        assert locate("test", root, (layout,), download=download) == (layout, folder)
    assert server.handler.asked == ["set.zip"]


def test_a_proxy_for_the_rest_of_the_world_is_not_asked(server, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert contents(locate("test", tmp_path / "root", (published(server),), download=True)[1]) == FILES


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    layout = published(server, md5="0" * 32)
    with pytest.raises(ValueError, match=rf"{server.url}/set\.zip is not the published set\.zip.* 0{{32}}"):
        locate("test", tmp_path / "root", (layout,), download=True)
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("failure", ["cut", "missing", "refused"])
def test_a_failed_download_leaves_nothing_and_can_be_repeated(server, tmp_path, failure):
    layout = good = published(server)
    if failure == "cut":
        server.handler.cut.add("set.zip")
    elif failure == "missing":
        layout = dataclasses.replace(good, url=f"{server.url}/nothing.zip")
    else:
        layout = dataclasses.replace(good, url="http://127.0.0.1:9/set.zip")
    root = tmp_path / "root"
    with pytest.raises(OSError, match=r"test: cannot download http://127.*put it into .*root"):
        locate("test", root, (layout,), download=True)
    assert list(root.iterdir()) == []
    server.handler.cut.clear()
    assert contents(locate("test", root, (good,), download=True)[1]) == FILES


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    layout = published(server)

    def interrupted(url, md5, *, fname, path, progressbar):
        (path / fname).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(archives.pooch, "retrieve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            locate("test", tmp_path / "root", (layout,), download=True)
    assert list((tmp_path / "root").iterdir()) == []
    assert contents(locate("test", tmp_path / "root", (layout,), download=True)[1]) == FILES


def test_a_killed_download_leaves_nothing_that_looks_finished(server, tmp_path):
    files = {**FILES, "noise.bin": os.urandom(50_000)}  # more than is held back before it is written
    layout = published(server, files)
    server.handler.slow.add("set.zip")
    root = tmp_path / "root"
    program = (  # the module alone, for a quick start
        f"import sys; sys.path.append({str(Path(archives.__file__).parent)!r})\n"
        "from archives import Layout, locate\n"
        f"locate('test', {str(root)!r}, ({layout!r},), download=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in root.glob("*.part/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait(10) != 0
    assert [path.suffix for path in root.iterdir()] == [".part"]
    with pytest.raises(FileNotFoundError):
        locate("test", root, (layout,), download=False)
    server.handler.slow.clear()
    assert contents(locate("test", root, (layout,), download=True)[1]) == files


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
