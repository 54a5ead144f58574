import dataclasses
import json

import pytest
import torch

from examples.training import run_folder
from examples.training.run_folder import RunFolder, Written, describe, load, save


def started(settings) -> RunFolder:
    folder = RunFolder(settings.folder)
    assert folder.open(settings) is None
    folder.begin(settings, {})
    size, checksum = folder.report({"step": 1}, Written())
    progress = {"metrics_bytes": size, "metrics_checksum": checksum}
    save({**describe(settings), "progress": progress}, folder.checkpoint)
    return folder


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


def test_config_is_json_of_every_setting(settings):
    folder = started(settings)
    config = json.loads(folder.config.read_text(), parse_constant=pytest.fail)
    assert config == settings.record()
    assert set(config) == {f.name for f in dataclasses.fields(settings)}


def test_a_run_is_not_overwritten_unasked(settings):
    folder = started(settings)
    with pytest.raises(FileExistsError, match=r"already holds a run; add --resume .* --overwrite"):
        folder.open(settings)
    pictures = (folder.curves, folder.episodes, folder.positions, folder.contact_sheet)
    for made in (folder.best, folder.evaluation, *pictures):
        made.touch()
    (folder.path / "evaluation-shots.json").touch()
    assert folder.open(dataclasses.replace(settings, overwrite=True)) is None
    assert folder.reports() == []
    assert {file.name for file in folder.path.iterdir()} == {"config.json", "metrics.json"}


def test_resuming_drops_what_was_reported_after_the_checkpoint(settings):
    folder = started(settings)
    folder.report({"step": 2}, Written())
    assert folder.open(dataclasses.replace(settings, resume=True)) is not None
    assert folder.reports() == [{"step": 1}]


def test_resuming_with_changed_settings_names_them(settings):
    folder = started(settings)
    changed = dataclasses.replace(settings, resume=True, steps=99, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"--learning-rate: was 0.004, now 0.5; --steps: was 6"):
        folder.open(changed)


def test_resuming_for_longer_is_no_change(settings):
    folder = started(settings)
    free = dataclasses.replace(settings, resume=True, max_minutes=5.0)
    assert folder.open(free) is not None


def test_nothing_to_resume(settings):
    with pytest.raises(FileNotFoundError, match="leave --resume out"):
        RunFolder(settings.folder).open(dataclasses.replace(settings, resume=True))


def test_resume_and_overwrite_exclude_each_other(settings):
    both = dataclasses.replace(settings, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(settings.folder).open(both)
