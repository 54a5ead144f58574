"""The training programs, as the tests of what all must do see them: another program is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from examples.fewshot import evaluate as fewshot_evaluate
from examples.fewshot import presets as fewshot_presets
from examples.fewshot import train as fewshot
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.continual import ContinualTraining
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.sequential import SequentialTraining
from examples.languages import presets as languages_presets
from examples.languages import train as languages
from examples.languages.evaluate import evaluate_run as evaluate_words
from examples.languages.settings import Settings as LanguagesSettings
from examples.rl import evaluate as rl_evaluate
from examples.rl import presets as rl_presets
from examples.rl import train as rl
from examples.rl.environments.vector import VectorEnvironment
from examples.rl.rollouts import Actor
from examples.rl.settings import Settings as RlSettings
from examples.training.command_line import read_settings
from examples.training.loop import Work
from examples.training.run_folder import RunFolder
from examples.training.settings import TrainingSettings
from tests.examples.fewshot.conftest import DOMAINS
from tests.examples.fewshot.conftest import TINY as FEWSHOT_TINY
from tests.examples.fewshot.processes import double_precision
from tests.examples.fewshot.processes import make_training as make_fewshot
from tests.examples.rl.conftest import TINY as RL_TINY
from tests.examples.rl.fakes import FakeEnvironment, fake_agent
from tests.examples.rl.training import make_training as make_rl
from tests.examples.runs import interrupt, press_ctrl_c

Patch = Callable[[Any, str, Any], object]  # as `setattr`


@dataclass(frozen=True)
class Program:
    """A program, its tiny runs and what is to be seen of them."""

    name: str  # what trackers call it
    module: ModuleType
    presets: ModuleType
    smoked: str  # the preset that --smoke is tried with
    # Of a run of moments: six steps of its last phase, with a line of metrics every two.
    settings: TrainingSettings
    # Kinds of runs, and what they change. "plain" has one phase; "endless" ends by a limit of time alone;
    # "unshared" begins with a phase that three processes can share; "program" has games of its own.
    kinds: Mapping[str, Mapping[str, Any]]
    stand_in: Callable[[Patch], None]  # puts data and games of moments in the place of the real ones
    pictures: Sequence[tuple[ModuleType, str]]  # functions that draw: most of a tiny run's time
    files: frozenset[str]  # that a run leaves
    lines: Sequence[tuple[Any, ...]]  # of its metrics: split, phase where there are several, step
    # Kind of a run, number of a step over all phases, what happens in the middle of it.
    stops: Sequence[tuple[str, int, Callable[[], None]]]
    weights: str  # what checkpoints call them
    damages: Mapping[str, Callable[[Any], object]]  # to a part of a checkpoint
    killed: Sequence[str]  # kinds of runs that are
    moments: Sequence[tuple[Any, str, str]]  # owner, name of a function that runs are killed in, its moment
    exact: Callable[[Any, Accelerator], Work]  # in double precision: so one process and several agree
    together: Sequence[str]  # kinds whose numbers do not depend on how many processes carry them out
    apart: Sequence[str]  # kinds whose numbers do
    hours: Callable[[Path], Sequence[str]]  # the command line of a run of hours, on what is put in a folder
    bar: str  # what its progress bar shows
    evaluate: Callable[[Path], object]  # scores the weights of a run's folder

    def of_kind(self, kind: str, **changes: Any) -> Any:
        """Settings of a run."""
        return replace(self.settings, **{**self.kinds[kind], **changes})

    def read(self, *arguments: str) -> Any:
        """The settings that a command line asks for."""
        presets = self.presets
        return read_settings(arguments, presets.PRESETS, presets.DESCRIPTIONS, type(self.settings)())

    def __str__(self) -> str:
        return self.name

    def without_pictures(self, patch: Patch) -> None:
        for module, name in self.pictures:
            patch(module, name, lambda *given, **named: None)


def _spoil(weights: dict[str, torch.Tensor]) -> None:
    weights[min(weights)].view(-1)[0] = torch.nan


def _images(folder: Path) -> list[str]:
    """The command line of a few-shot run on three characters of three alphabets."""
    for alphabet in "abc":
        for character in "xyz":
            for image in range(4):
                path = folder / "images" / alphabet / character / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((28, 28), 50).save(path)
    arguments = "--data folder --n-way 3 --n-layers 1 --n-heads 2 --d-model 16 "
    arguments += "--encoder-channels 8 --encoder-warmup-steps 3 --encoder-warmup-classes 3 "
    arguments += "--pool-classes 3 --pool-images 2 --queries 2 --batch-size 4 "
    arguments += "--report-every 100000 --validate-every 100000 --validation-episodes 4 --steps 1000000"
    return [*arguments.split(), "--root", str(folder / "images")]


def _fewshot_data(patch: Patch) -> None:
    patch(fewshot, "load_domains", lambda settings: DOMAINS[: len(settings.data_sets)])


# A bias before batch normalisation has a gradient of rounding alone, which a small epsilon blows up.
_JOINED = {"dropout": 0.0, "pools": 0, "epsilon": 1e-3}
_OF_EPISODES = {**_JOINED, "encoder_warmup_steps": 0, "train_encoder": True, "accumulation": 2}

FEWSHOT = Program(
    name="fewshot",
    module=fewshot,
    presets=fewshot_presets,
    settings=FEWSHOT_TINY,
    kinds={
        "sync": {},
        "plain": {"encoder_warmup_steps": 0},
        "endless": {"steps": 10**9},
        "unshared": {"encoder_warmup_classes": 6},
        "program": {**_JOINED, "encoder_warmup_steps": 0},
        "whole": {**_JOINED, "train_encoder": True, "encoder_warmup_steps": 3, "accumulation": 2},
        # The running statistics of the first phase are what the second one normalises by.
        "frozen": {**_JOINED, "encoder_warmup_steps": 3, "accumulation": 2},
        "joined-sequential": {
            **_OF_EPISODES,
            "protocol": "sequential",
            "second_data": "textures",
            "pools": 4,
            "k_shot": 3,
            "max_trim": 4,
        },
        "joined-bootstrapping": {
            **_OF_EPISODES,
            "protocol": "bootstrapping",
            "k_shot": 2,
            "future_shots": 1,
        },
        "joined-continual": {
            **_OF_EPISODES,
            "protocol": "continual",
            "second_data": "textures",
            "third_data": "digits",
            "pools": 4,
            "k_shot": 2,
            "queries": 3,
        },
        # As the presets for letters, but for the noise, which each process draws for itself.
        "joined-hard": {**_OF_EPISODES, "train_encoder": False, "feature_views": 2, "hard_episodes": 0.5},
        "encoder": {"train_encoder": True},
        "sequential": {"protocol": "sequential", "second_data": "textures", "k_shot": 2, "max_trim": 3},
        "bootstrapping": {"protocol": "bootstrapping", "future_shots": 1, "queries": 3},
        "continual": {"protocol": "continual", "second_data": "textures", "k_shot": 2, "queries": 3},
        "encoded": {
            "protocol": "bootstrapping",
            "future_shots": 1,
            "feature_views": 2,
            "feature_noise": 0.3,
            "pools": 0,
        },
        "published": {
            "encoder_warmup_steps": 0,
            "pools": 0,
            "accumulation": 4,
            "accumulation_rule": "published",
        },
    },
    stand_in=_fewshot_data,
    pictures=[
        (fewshot, "draw_curves"),
        (fewshot_evaluate, "draw_gallery"),
    ],
    files=frozenset(
        {
            *(".lock", "config.json", "metrics.json", "checkpoint.pt", "best.pt", "evaluation.json"),
            *("evaluation.md", "curves.png", "episodes.png"),
        }
    ),
    lines=[
        ("train", "encoder", 2),
        ("train", "encoder", 4),
        ("validation", "episodes", 0),
        ("train", "episodes", 2),
        ("validation", "episodes", 3),
        ("train", "episodes", 4),
        ("train", "episodes", 6),
        ("validation", "episodes", 6),
    ],
    # Just before and just after a report (every 2 steps), a validation (every 3), and the phases' ends.
    stops=[
        ("sync", 0, interrupt),
        ("sync", 2, press_ctrl_c),
        ("sync", 3, press_ctrl_c),
        ("sync", 4, press_ctrl_c),
        ("sync", 6, press_ctrl_c),
        ("sync", 7, interrupt),
        ("sync", 9, interrupt),
        ("sync", 9, press_ctrl_c),
        ("sequential", 2, press_ctrl_c),
        ("sequential", 6, press_ctrl_c),
        ("sequential", 7, interrupt),
        ("bootstrapping", 6, press_ctrl_c),
        ("bootstrapping", 7, interrupt),
        ("continual", 6, press_ctrl_c),
        ("continual", 7, interrupt),
        ("encoded", 6, press_ctrl_c),
        ("published", 0, interrupt),
        ("published", 1, interrupt),
        ("published", 3, press_ctrl_c),
    ],
    weights="learner",
    damages={
        "learner": _spoil,
        "head": lambda head: head.update(other=torch.ones(3)),
        "optimizer": lambda state: state.pop("state"),
    },
    killed=["encoder", "encoded", "sequential", "continual"],
    moments=[
        (objective, "forward", "in a step")
        for objective in (
            EncoderWarmup,
            EpisodeTraining,
            Bootstrapping,
            SequentialTraining,
            ContinualTraining,
        )
    ],
    exact=make_fewshot,
    together=[
        *("whole", "frozen", "joined-sequential", "joined-bootstrapping", "joined-continual", "joined-hard")
    ],
    apart=[],
    hours=_images,
    bar=r"episodes: .*loss=",  # that of the second phase
    evaluate=lambda folder: fewshot_evaluate.evaluate(fewshot_evaluate.Evaluation(runs=(folder,))),
    smoked="sequential-omniglot-miniimagenet-srwm",
)


def _fake_games(patch: Patch) -> None:
    """In the place of all but the cue task."""
    make_games, make_agent = rl.make_games, rl.make_agent

    def games(settings: RlSettings, block: range, seed: int) -> VectorEnvironment:
        if settings.games == ("cue",):
            return make_games(settings, block, seed)
        return FakeEnvironment(len(block), block.start, settings.seed, settings.games)

    def agent(settings: RlSettings, environment: VectorEnvironment) -> Any:
        if settings.games == ("cue",):
            return make_agent(settings, environment)
        return fake_agent(settings.seed)

    patch(rl, "make_games", games)
    patch(rl, "make_agent", agent)


def _cue(folder: Path) -> list[str]:
    arguments = "--games cue --core lstm --lstm-size 16 --n-features 16 --batch-size 2 --unroll 4 "
    return [*arguments.split(), "--frames", "1000000000"]


RL = Program(
    name="rl",
    module=rl,
    presets=rl_presets,
    settings=RL_TINY,
    kinds={
        "plain": {},
        "in turn": {"overlap": False},
        "endless": {"frames": 10**9},
        "unshared": {},
        "program": {
            name: getattr(rl_presets.PRESETS["cue-srwm"], name)
            for name in ("games", "core", "d_model", "n_heads", "batch_size", "unroll", "residual")
        }
        | {"frames": 3840},
        "overlapped": {"games": ("a", "b")},
        "clipped": {"games": ("a", "b"), "clip": 0.5, "overlap": False},
        "blocks": {"games": ("a", "b"), "environments": 8},
    },
    stand_in=_fake_games,
    pictures=[(rl, "draw_curves")],
    files=frozenset({".lock", "config.json", "metrics.json", "checkpoint.pt", "curves.png"}),
    lines=[("train", 2), ("train", 4), ("train", 6)],
    stops=[
        ("blocks", 2, press_ctrl_c),
        *(
            (kind, update, act)
            for kind in ("plain", "in turn")
            for update, act in (
                (0, press_ctrl_c),
                (1, press_ctrl_c),
                (2, interrupt),
                (4, press_ctrl_c),
                (5, press_ctrl_c),
            )
        ),
    ],
    weights="agent",
    damages={
        "agent": lambda agent: agent.popitem(),
        "optimizer": lambda state: next(iter(state["state"].values()))["square_avg"].fill_(torch.nan),
        "actor": lambda actor: _spoil(actor["weights"]),
    },
    killed=["plain"],
    moments=[
        (rl.Training, "_learn", "in an update"),
        (Actor, "finish", "waiting for an unroll"),
        (Actor, "start", "before an unroll"),
    ],
    exact=make_rl,
    together=["overlapped", "clipped"],
    apart=["blocks"],
    hours=_cue,
    bar=r"return=",
    evaluate=lambda folder: rl_evaluate.evaluate(rl_evaluate.Evaluation(runs=(folder,))),
    smoked="cue-srwm",
)


def _exact_reader(settings: LanguagesSettings, accelerator: Accelerator) -> Work:
    with double_precision():
        torch.manual_seed(settings.seed)
        return languages.Training(settings, accelerator)


def _words(folder: Path) -> list[str]:
    arguments = "--high 8 --bins 12 --n-heads 2 --d-model 8 --d-ff 8 --batch-size 2 --validation-words 2 "
    arguments += "--report-every 100000 --validate-every 100000 --steps 1000000"
    return arguments.split()


LANGUAGES = Program(
    name="languages",
    module=languages,
    presets=languages_presets,
    smoked="parity-srwm",
    settings=LanguagesSettings(
        name="tiny",
        high=8,
        bins=(12,),
        n_layers=1,
        n_heads=2,
        d_model=8,
        d_ff=8,
        dropout=0.1,
        curriculum=3,
        steps=6,
        batch_size=8,
        report_every=2,
        validate_every=3,
        validation_words=4,
        test_words=4,
    ),
    kinds={
        "plain": {},
        "endless": {"steps": 10**9, "schedule": "cosine"},
        "unshared": {},
        "program": {"dropout": 0.0},
        "whole": {"dropout": 0.0, "accumulation": 2},
    },
    stand_in=lambda patch: None,
    pictures=[(languages, "draw_curves")],
    files=FEWSHOT.files - {"episodes.png"},
    lines=[
        ("validation", 0),
        ("train", 2),
        ("validation", 3),
        ("train", 4),
        ("train", 6),
        ("validation", 6),
    ],
    stops=[
        ("plain", 0, interrupt),
        ("plain", 1, press_ctrl_c),
        ("plain", 2, press_ctrl_c),
        ("plain", 5, press_ctrl_c),
    ],
    weights="learner",
    damages={"learner": _spoil, "optimizer": lambda state: state.pop("state")},
    killed=["plain"],
    moments=[(languages.Labelling, "forward", "in a step")],
    exact=_exact_reader,
    together=["whole"],
    apart=[],
    hours=_words,
    bar=r"loss=",
    evaluate=lambda folder: evaluate_words(RunFolder(folder)),
)

PROGRAMS = {program.name: program for program in (FEWSHOT, RL, LANGUAGES)}
