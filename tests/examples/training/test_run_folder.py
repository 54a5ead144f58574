import contextlib
import dataclasses
import errno
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest
import torch

from examples.training import run_folder
from examples.training.checkpoint import describe, load, save
from examples.training.experiments import is_finished
from examples.training.run_folder import RunFolder
from tests.examples.launching import ROOT
from tests.examples.training.conftest import Settings


def started(settings) -> RunFolder:
    folder = RunFolder(settings.folder)
    assert folder.open(settings) is None
    folder.begin(settings, {})
    size, checksum = folder.report({"step": 1})
    progress = {"metrics_bytes": size, "metrics_checksum": checksum}
    save({**describe(settings), "progress": progress, "weights": torch.ones(3)}, folder.checkpoint)
    return folder


def resuming(settings):
    return dataclasses.replace(settings, resume=True)


def overwriting(settings):
    return dataclasses.replace(settings, overwrite=True)


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def names(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


@pytest.fixture(params=[(errno.ENOSPC, 200), (errno.EROFS, -1), (errno.EACCES, -1)], ids=str)
def failing(request, monkeypatch) -> Callable[[], str]:
    """Called, it lets the disk refuse what is written in the place of a checkpoint; what it then says."""
    number, room = request.param
    opened = Path.open

    class Refusing(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    def opening(self, mode="r", *args, **kwargs):
        if self.name == "checkpoint.part":
            return Refusing(self, mode.replace("b", ""))
        return opened(self, mode, *args, **kwargs)

    def fail() -> str:
        monkeypatch.setattr(Path, "open", opening)
        return os.strerror(number)

    return fail


def test_a_failing_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save({"weights": torch.ones(3)}, path)

    def half(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save({"weights": torch.zeros(3)}, path)
    assert torch.equal(load(path)["weights"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_overwriting_deletes_what_the_run_left_and_nothing_else(settings):
    folder = started(settings)
    pictures = (folder.curves, folder.episodes, folder.positions, folder.contact_sheet)
    for made in (folder.best, folder.evaluation, *pictures):
        made.touch()
    for name in ("evaluation.md", "evaluation-shots.json", "evaluation-shots.png"):
        (folder.path / name).touch()
    (folder.trackers / "fewshot").mkdir(parents=True)
    (folder.path / "evaluation_x").mkdir()
    (folder.path / "evaluation-x.json").mkdir()
    (folder.path / "evaluation notes.txt").touch()
    before = contents(folder)
    assert folder.open(overwriting(settings)) is None
    assert contents(folder) == before, "nothing is deleted before the new run's checkpoint is there"
    folder.begin(settings, {"new": True})
    assert folder.reports() == []
    assert load(folder.checkpoint) == {"new": True}
    own = {".lock", "config.json", "metrics.json", "checkpoint.pt"}
    assert names(folder) == own | {"evaluation_x", "evaluation-x.json", "evaluation notes.txt"}


@pytest.mark.parametrize("name", ["best.pt", "metrics.json", "curves.png", "config.json"])
def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_deleted(settings, name):
    folder = started(settings)
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).mkdir()
    before = contents(folder)
    for changed in (overwriting(settings), resuming(settings)):
        with pytest.raises(
            IsADirectoryError, match=f"{name} is a folder where the run has a file; move it"
        ):
            folder.open(changed)
    assert contents(folder) == before


def test_trackers_that_are_a_link_are_left_where_they_are(settings, tmp_path):
    folder = started(settings)
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "event").touch()
    folder.trackers.symlink_to(tmp_path / "events")
    folder.begin(settings, {})
    assert not folder.trackers.is_symlink()
    assert (tmp_path / "events" / "event").exists()


def test_a_run_folder_that_is_a_link(settings, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    settings.folder.symlink_to(tmp_path / "elsewhere")
    folder = started(settings)
    assert folder.open(resuming(settings)) is not None
    folder.begin(settings, {})
    assert settings.folder.is_symlink()
    assert (tmp_path / "elsewhere" / "checkpoint.pt").exists()


@pytest.mark.parametrize("what", ["run", "runs"])
def test_a_file_in_the_place_of_the_folder_is_named(settings, what):
    path = {"run": settings.folder, "runs": settings.runs / "file"}[what]
    path.write_text("mine")
    settings = dataclasses.replace(settings, runs=settings.runs / "file") if what == "runs" else settings
    with pytest.raises(OSError, match=f"{settings.folder}.*; .* choose another") as raised:
        RunFolder(settings.folder).open(settings)
    assert "\n" not in str(raised.value)
    assert path.read_text() == "mine"


def test_a_disk_that_refuses_a_checkpoint_leaves_all_that_was_there(settings, failing):
    folder = started(settings)
    (folder.trackers / "fewshot").mkdir(parents=True)
    before, state = contents(folder), {"weights": torch.zeros(1000)}
    why = failing()
    with pytest.raises(OSError, match=rf"cannot begin a run in .*tiny: {why}; make room"):
        folder.begin(settings, state)
    with pytest.raises(OSError, match=rf"cannot write .*checkpoint.pt: {why}; make room .* --resume"):
        save(state, folder.checkpoint)
    assert contents(folder) == before
    assert folder.trackers.exists()
    first = RunFolder(settings.runs / "first")
    with pytest.raises(OSError, match=rf"cannot begin a run in .*first: {why}; make room"):
        first.begin(settings, state)
    assert names(first) == {".lock"}
    assert first.open(settings) is None, "the same command begins it later"


def test_a_folder_that_cannot_be_claimed_is_named(settings, monkeypatch):
    def acquire(self):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(OSError, match=r"cannot write to the folder .*: Read-only file system; make room"):
        RunFolder(settings.folder).open(settings)


def test_a_folder_that_cannot_be_looked_into_is_named(settings, monkeypatch):
    folder = started(settings)
    stat = Path.stat

    def refusing(self, **kwargs):
        if self.name in ("checkpoint.pt", "best.pt"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return stat(self, **kwargs)

    monkeypatch.setattr(Path, "stat", refusing)
    for look in (lambda: folder.open(resuming(settings)), lambda: folder.best_or_last(Settings)):
        with pytest.raises(PermissionError, match=r"cannot read .*\.pt: Permission denied; mend its"):
            look()


def test_a_folder_that_disappears_is_named(settings):
    folder = started(settings)
    shutil.rmtree(folder.path)
    for write in (lambda: save({}, folder.checkpoint), lambda: folder.report({})):
        with pytest.raises(
            FileNotFoundError, match=r"cannot write .*: No such file or directory; make room"
        ):
            write()


def test_resuming_drops_what_was_reported_after_the_checkpoint(settings):
    folder = started(settings)
    folder.report({"step": 2})
    with folder.metrics.open("a") as file:
        file.write('{"step": 3, "lo')  # and was killed
    assert [line["step"] for line in folder.reports()] == [1, 2]
    assert folder.open(resuming(settings)) is not None
    assert folder.reports() == [{"step": 1}]


def test_what_cannot_be_resumed_is_named(settings):
    with pytest.raises(FileNotFoundError, match="leave --resume out"):
        RunFolder(settings.folder).open(resuming(settings))
    assert not settings.folder.exists()
    folder = started(settings)
    for changes, message in (
        ({"steps": 99, "learning_rate": 0.5}, r"--learning-rate: was 0.004, now 0.5; --steps: was 6"),
        ({"overwrite": True}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=message):
            folder.open(dataclasses.replace(settings, resume=True, **changes))


def change(**changes: object) -> Callable[[Path], None]:
    """Write the checkpoint again, with some of its parts changed or, if None, left out."""

    def changed(path: Path) -> None:
        state = {**load(path), **changes}
        torch.save({name: value for name, value in state.items() if value is not None}, path)

    return changed


def change_settings(**changes: object) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        recorded = {**load(path)["settings"], **changes}
        change(settings={name: value for name, value in recorded.items() if value != "none"})(path)

    return changed


def foreign_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "something else")


_OTHER_VERSION = "expected the recorded settings of a run of this version, but they"

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged, cut short or no checkpoint"),
    "a byte short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged, cut short"),
    "text": (lambda path: path.write_text("something else"), "is damaged, cut short or no checkpoint"),
    "archive": (foreign_archive, "is damaged, cut short or no checkpoint"),
    "code": (lambda path: torch.save({"settings": Path}, path), "is damaged, cut short or no checkpoint"),
    "a tensor": (lambda path: torch.save(torch.ones(3), path), "is damaged, cut short or no checkpoint"),
    "no settings": (change(settings=None), "is no checkpoint of a run: it has no settings"),
    "no progress": (change(progress=None), "is no checkpoint of a run"),
    "a length missing": (change(progress={}), "does not say how long metrics.json was"),
    "newer": (change(format=4), "was written by another version of the program, in format 4; this one"),
    "oldest": (change(format=None), "was written by another version of the program, in format 1; this one"),
    "newer settings": (change_settings(depth=3, width=4), f"{_OTHER_VERSION} have depth, width"),
    "older settings": (change_settings(decay="none"), f"{_OTHER_VERSION} lack decay"),
    "another program": (change(program="other.train"), "is of a run of other.train, not of nothing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_checkpoint_that_is_not_the_runs_is_named_and_nothing_is_changed(settings, name):
    damage, message = DAMAGE[name]
    folder = started(settings)
    folder.report({"step": 2})
    damage(folder.checkpoint)
    before = contents(folder)
    with pytest.raises(ValueError, match=rf"checkpoint\.pt.*{message}.*[;,] (put back|use )") as raised:
        folder.open(resuming(settings))
    assert "\n" not in str(raised.value)
    assert contents(folder) == before
    if name != "a length missing":  # which only resuming asks for
        with pytest.raises(ValueError, match=message):
            folder.best_or_last(Settings)


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    """Of the bytes between the parts of the archive nothing is read, and so they may change."""
    path = tmp_path / "checkpoint.pt"
    save({"settings": {"name": "tiny"}, "weights": torch.ones(3)}, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        flipped = whole[place] ^ 1 << place % 8
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        try:
            state = load(path)
        except ValueError:
            refused += 1
        else:
            assert state["settings"] == {"name": "tiny"}
            assert torch.equal(state["weights"], torch.ones(3))
    assert refused > 400


def test_best_weights_that_are_lost_or_damaged_are_named_before_training_goes_on(settings):
    folder = started(settings)
    state = load(folder.checkpoint)
    state["progress"] |= {"step": 6, "best_step": 4}
    save(state, folder.checkpoint)
    with pytest.raises(FileNotFoundError, match=r"best.pt is missing, the weights that did best .*; put"):
        folder.open(resuming(settings))
    folder.best.write_bytes(folder.checkpoint.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"best.pt is damaged"):
        folder.open(resuming(settings))
    folder.best.write_bytes(folder.checkpoint.read_bytes())
    assert folder.open(resuming(settings)) is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is not as the run wrote it"),
        (b'{"step": 1}', "is not as the run wrote it"),
        (b'{"step": 2}\n', "is not as the run wrote it"),
        (b"something else, and longer", "is not as the run wrote it"),
    ],
)
def test_metrics_that_are_not_the_runs_are_named_before_training_goes_on(settings, content, message):
    folder = started(settings)
    folder.metrics.unlink()
    if content is not None:
        folder.metrics.write_bytes(content)
    before = contents(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"metrics\.json:? {message}.*; put back"):
        folder.open(resuming(settings))
    assert contents(folder) == before


def test_damaged_settings_of_a_run_are_named(settings):
    folder = started(settings)
    assert not is_finished(settings, folder.evaluation)
    for text in ("", "{", "[]", "\xff"):
        folder.config.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"config.json is damaged: .*; put back a copy"):
            is_finished(settings, folder.evaluation)


_CLAIM = """
import os, sys, time
from pathlib import Path
from examples.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.claim()
if sys.argv[2] == "with a child" and os.fork() == 0:  # as a loader's worker, which outlives a kill
    time.sleep(60)
    os._exit(0)
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_program() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a program that claims a run."""
    begun = []

    def start(path: Path, how: str = "alone") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", _CLAIM, str(path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
            text=True,
        )
        begun.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in begun:
        if os.name == "nt":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # the child too
        process.communicate()


@pytest.mark.parametrize(
    "how",
    [
        "alone",
        pytest.param(
            "with a child", marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
        ),
    ],
)
def test_a_run_that_another_program_works_on_is_neither_resumed_nor_overwritten(
    settings, other_program, how
):
    folder = started(settings)
    del folder  # and its claim
    process = other_program(settings.folder, how)
    folder = RunFolder(settings.folder)
    folder.report({"step": 2})
    before = contents(folder)
    for changed in (resuming(settings), overwriting(settings)):
        with pytest.raises(BlockingIOError, match=r"tiny is in use: another program .*; wait until"):
            RunFolder(settings.folder).open(changed)
    with pytest.raises(BlockingIOError, match="is in use"):
        folder.begin(settings, {})
    assert contents(folder) == before
    process.kill()
    process.wait()
    assert folder.open(resuming(settings)) is not None


def test_a_program_claims_its_own_run_as_often_as_it_likes(settings, tmp_path, other_program):
    folder = started(settings)
    (tmp_path / "link").symlink_to(settings.folder)
    others = [RunFolder(settings.folder), RunFolder(tmp_path / "link")]
    for other in others:
        other.claim()
    del folder, other
    others.pop()
    with pytest.raises(AssertionError):  # it could not claim it
        other_program(settings.folder)
    del others
    other_program(settings.folder)
