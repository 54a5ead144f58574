"""What a trainer does beside the loop: schedules, early stop, trackers, another run's encoder, workers."""

import dataclasses
import importlib.util
import sys
from functools import partial
from types import SimpleNamespace

import accelerate.tracking
import pytest
import torch
from accelerate.state import AcceleratorState

from examples.fewshot.settings import build_learner
from examples.fewshot.trainer import Training
from examples.training.interrupt import StopRequest
from examples.training.loop import Loop
from examples.training.run_folder import RunFolder, describe, load
from examples.training.schedule import published
from tests.examples import runs
from tests.examples.runs import numbers_of, without_times


@pytest.fixture
def settings(settings):
    """Episodes from the first step on, and a line for every step."""
    return dataclasses.replace(settings, encoder_warmup_steps=0, report_every=1)


def make_loop(settings, splits) -> Loop:
    return runs.make_loop(settings, partial(Training, settings, [splits]))


def run(settings, splits) -> tuple[Loop, list[dict]]:
    return runs.run(settings, partial(Training, settings, [splits]))


def test_the_published_schedule_counts_from_one_and_scales_the_encoders_rate(settings, splits):
    settings = dataclasses.replace(
        settings,
        schedule="published",
        warmup_steps=4,
        train_encoder=True,
        encoder_learning_rate_factor=0.5,
    )
    loop, lines = run(settings, splits)
    expected = [published(step, settings.d_model, 4) for step in range(1, 7)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(expected, rel=1e-12)
    others, encoder = loop.work.optimizer.param_groups
    assert encoder["lr"] == pytest.approx(0.5 * others["lr"])


def test_the_constant_schedule(settings, splits):
    _, lines = run(dataclasses.replace(settings, schedule="constant"), splits)
    assert {line["learning_rate"] for line in lines} == {settings.learning_rate}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_clip_bounds_the_norm_of_the_gradient_that_adam_takes(settings, splits, monkeypatch, accumulation):
    """That of all parameters together, and of all micro-batches."""
    settings = dataclasses.replace(
        settings, steps=1, pools=0, accumulation=accumulation, train_encoder=True, dropout=0.0
    )
    seen = []
    adam = torch.optim.Adam.step

    def noted(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        seen.append(torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None]))
        return adam(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    for clip in (0.0, 1e6, 0.01):
        run(dataclasses.replace(settings, name=f"clip-{clip}", clip=clip), splits)
    free, above, clipped = seen
    assert free.norm() > 0.1, "the bound would not be felt"
    assert torch.equal(above, free)
    torch.testing.assert_close(clipped, 0.01 * free / free.norm(), rtol=1e-4, atol=0.0)


def test_a_run_that_diverges_stops_before_anything_is_lost(settings, splits, monkeypatch):
    settings = dataclasses.replace(settings, report_every=2, steps=6)
    learn = Training.step

    def diverging(self, step, share_done):
        values = learn(self, step, share_done)
        if step == 3:
            self.trained()[0].data.view(-1)[0] = torch.nan
        return values

    monkeypatch.setattr(Training, "step", diverging)
    with pytest.raises(ValueError, match=r"train: episodes: the weights must be finite, .* step 4: "):
        run(settings, splits)
    state = load(RunFolder(settings.folder).checkpoint)
    assert state["progress"]["step"] == 3, "validation saves, too"
    assert all(value.isfinite().all() for value in state["learner"].values())
    lines = [line for line in RunFolder(settings.folder).reports() if line["split"] == "train"]
    assert [line["step"] for line in lines] == [2]


def test_training_stops_when_validation_no_longer_improves(settings, splits):
    patient = dataclasses.replace(settings, steps=1000, validate_every=1, early_stop=3, n_way=2)
    loop = make_loop(patient, splits)
    found = iter([0.5, 0.6, 0.6, 0.7, 0.1, 0.7, 0.6])
    loop.work.validate = lambda: {"accuracy": next(found)}
    assert loop.train(StopRequest())
    assert loop.progress.step == 6
    assert load(loop.folder.best)["progress"]["step"] == loop.progress.best_step == 3
    resumed, _ = run(dataclasses.replace(patient, resume=True), splits)
    assert resumed.progress.step == 6, "the run was over"


def test_best_weights_lost_between_checkpoint_and_copy_are_copied_on_resuming(settings, splits):
    loop = make_loop(settings, splits)
    rising = iter([0.1, 0.2, 0.3])
    loop.work.validate = lambda: {"accuracy": next(rising)}
    saved = loop.save_best
    loop.save_best = lambda: saved() if loop.progress.step < 6 else None
    assert loop.train(StopRequest())
    assert load(loop.folder.best)["progress"]["step"] == 3
    run(dataclasses.replace(settings, resume=True), splits)
    best = load(loop.folder.best)
    assert best["progress"]["step"] == 6
    for name, value in loop.work.learner.state_dict().items():
        assert torch.equal(best["learner"][name], value), name


def test_the_encoder_of_another_run(settings, splits):
    first = dataclasses.replace(settings, name="first", encoder_warmup_steps=3)
    source, _ = run(first, splits)
    taken = dataclasses.replace(settings, encoder_warmup_steps=3, encoder_from=source.folder.path, seed=7)
    loop, lines = run(taken, splits)
    assert {line["phase"] for line in lines} == {"episodes"}, "no warm-up"
    best = load(source.folder.best)["learner"]
    for name, value in loop.work.learner.encoder.state_dict().items():
        assert torch.equal(value, best["encoder." + name]), name
    with pytest.raises(ValueError, match=r"--encoder-from .* differ in blocks.0.*--encoder-channels"):
        run(dataclasses.replace(taken, name="other", encoder_channels=4), splits)
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        run(dataclasses.replace(taken, name="none", encoder_from=settings.runs / "nothing"), splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * torch.nan, "is not finite"),
        (lambda value: value.half(), "has the dtype torch.float16, expected torch.float32"),
    ],
)
def test_a_damaged_encoder_of_another_run_is_named(settings, splits, change, message):
    source = RunFolder(settings.runs / "first")
    learner = build_learner(settings).state_dict()
    name = min(name for name in learner if name.startswith("encoder.") and name.endswith("weight"))
    learner[name] = change(learner[name])
    source.begin(settings, {**describe(settings), "progress": {}, "learner": learner})
    taken = dataclasses.replace(settings, encoder_warmup_steps=3, encoder_from=source.path)
    with pytest.raises(ValueError, match=rf"first.checkpoint\.pt: the weight .* {message}; put back"):
        make_loop(taken, splits)


def test_workers_draw_the_same_images(settings, splits):
    alone, lines = run(dataclasses.replace(settings, name="alone"), splits)
    helped, others = run(dataclasses.replace(settings, name="helped", workers=2), splits)
    assert [without_times(line) for line in lines] == [without_times(line) for line in others]
    mine, theirs = numbers_of(alone.folder), numbers_of(helped.folder)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


def test_tensorboard_hears_what_metrics_hold(settings, splits):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop, lines = run(dataclasses.replace(settings, trackers=("tensorboard",)), splits)
    loop.accelerator.end_training()
    [events] = loop.folder.trackers.rglob("events.out.*")
    read = EventAccumulator(str(events)).Reload()
    heard = [(event.step, event.value) for event in read.Scalars("train/episodes/loss")]
    assert heard == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert len(read.Scalars("validation/episodes/accuracy")) == 3


@pytest.mark.parametrize("moment", ["in a step", "between report and checkpoint"])
def test_tensorboard_shows_every_report_of_a_resumed_run_once(settings, splits, monkeypatch, moment):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = dataclasses.replace(settings, trackers=("tensorboard",))
    loop = make_loop(settings, splits)

    def interrupt_at_five(act):
        def acting():
            if loop.progress.step == 5:
                raise KeyboardInterrupt
            act()

        return acting

    name = "_step" if moment == "in a step" else "save"
    monkeypatch.setattr(loop, name, interrupt_at_five(getattr(loop, name)))
    with pytest.raises(KeyboardInterrupt):
        loop.train(StopRequest())
    loop.accelerator.end_training()

    resumed, _ = run(dataclasses.replace(settings, resume=True), splits)
    resumed.accelerator.end_training()
    assert len(list(loop.folder.trackers.rglob("events.out.*"))) == 2
    read = EventAccumulator(str(loop.folder.trackers / "fewshot")).Reload()
    assert [event.step for event in read.Scalars("train/episodes/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in read.Scalars("validation/episodes/accuracy")] == [0, 3, 6]


@pytest.fixture
def wandb_runs(monkeypatch) -> list[dict]:
    """What `wandb.init` is given, of a package that takes everything and does nothing."""
    begun = []

    def init(**options):
        begun.append(options)
        return SimpleNamespace(log=lambda values, step: None, finish=lambda: None)

    package = SimpleNamespace(init=init, __spec__=importlib.util.find_spec("json"))
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [accelerate.tracking.LoggerType.WANDB])
    return begun


def test_a_resumed_run_goes_on_in_wandb_and_a_new_one_begins(settings, splits, wandb_runs):
    settings = dataclasses.replace(settings, trackers=("wandb",))
    for change in ({}, {"resume": True}, {"overwrite": True}):
        loop, _ = run(dataclasses.replace(settings, **change), splits)
    first, resumed, anew = (options["id"] for options in wandb_runs)
    assert first == resumed != anew
    assert {(options["project"], options["resume"]) for options in wandb_runs} == {("fewshot", "allow")}
    (loop.folder.trackers / "wandb.json").write_text("{}")
    with pytest.raises(ValueError, match=r"wandb.json has no id of a run in Weights & Biases; remove it"):
        loop.train(StopRequest())


def test_a_tracker_that_is_not_installed_is_named(settings, splits, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more)
    )
    with pytest.raises(ValueError, match=r"--trackers wandb needs the package wandb, .* pip install wandb"):
        make_loop(dataclasses.replace(settings, trackers=("wandb",)), splits)


def test_bfloat16_trains_parameters_that_stay_in_single_precision(settings, splits):
    AcceleratorState._reset_state(reset_partial_state=True)  # which remembers the first run's precision
    try:
        loop, lines = run(dataclasses.replace(settings, mixed_precision="bf16", dropout=0.0), splits)
        assert torch.is_autocast_enabled("cpu") is False
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    _, exact = run(dataclasses.replace(settings, name="whole", dropout=0.0), splits)
    assert all(p.dtype == torch.float32 for p in loop.work.learner.parameters())
    assert lines[0]["loss"] != exact[0]["loss"]
    assert lines[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02)
