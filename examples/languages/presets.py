"""Settings by name, one for each task and learner, and the learners' sizes and learning rates.

All learners have two layers, four heads and feed-forward blocks of 256 where they have such, and about as
many parameters.
"""

from dataclasses import replace
from typing import Any

from .settings import Settings
from .tasks import TASKS

# Learner -> what it is called, and its settings. Of three rates it has the one with which it did best in
# validation, on parity and dyck-1, see docs/results/languages-rates.json.
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "srwm": ("SRWM", {"core": "srwm", "learning_rate": 3e-3}),
    "srwm-pre-norm": ("SRWM, pre-norm", {"core": "srwm", "residual": "pre_norm", "learning_rate": 3e-4}),
    "deltanet": ("DeltaNet", {"core": "deltanet", "learning_rate": 3e-3}),
    "deltanet-negative": ("DeltaNet, rates to 2", {"core": "deltanet_negative", "learning_rate": 3e-3}),
    "linear": ("linear attention", {"core": "linear", "learning_rate": 1e-3}),
    "recurrent-delta": ("Recurrent Delta Net", {"core": "recurrent_delta", "learning_rate": 3e-3}),
    "delta-rnn": ("Delta RNN", {"core": "delta_rnn", "learning_rate": 3e-3}),
    "self-modifying": ("self-modifying memory", {"core": "self_modifying_titans", "learning_rate": 3e-4}),
    "lstm": ("LSTM", {"core": "lstm", "d_model": 80, "learning_rate": 3e-3}),
    "transformer": ("Transformer", {"core": "transformer", "learning_rate": 1e-3}),
}

# What differs from the usual settings, by task. Lengths of programs are statements.
_PROGRAMS: dict[str, Any] = {"high": 100, "bins": ()}
_LISTS: dict[str, Any] = {"low": 5, "high": 100, "bins": (200,)}
_OF_TASKS = {
    **{task: _PROGRAMS for task in TASKS if task.startswith("code")},
    **{task: _LISTS for task in TASKS if task.startswith("listops")},
}


# Words of a group that grow as the training goes on, and a rate that falls: up to an hour a run.
LONG = ("s3", "a5")
_LONG: dict[str, Any] = {
    **{"steps": 40_000, "curriculum": 15_000, "validate_every": 1000},
    **{"learning_rate": 1e-3, "schedule": "cosine", "lr_warmup": 0.02},
}


def _preset(task: str, learner: str, name: str, **more: Any) -> Settings:
    _, of_learner = LEARNERS[learner]
    given = {**of_learner, **_OF_TASKS.get(task, {}), **more}
    return replace(Settings(), task=task, name=name, preset=name, **given)


PRESETS = {
    f"{task}{kind}-{learner}": _preset(task, learner, f"{task}{kind}-{learner}", **more)
    for kind, tasks, more in (("", TASKS, {}), ("-long", LONG, _LONG))
    for task in tasks
    for learner in LEARNERS
}

DESCRIPTIONS = {
    **{f"{task}-LEARNER": f"LEARNER: {', '.join(LEARNERS)}" if task == "parity" else "" for task in TASKS},
    **{f"{task}-long-LEARNER": "words that grow, up to an hour" for task in LONG},
}


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything but words, whose lengths the task decides."""
    s = settings
    return replace(
        s,
        curriculum=min(s.curriculum, 2),
        n_layers=min(s.n_layers, 2),
        n_heads=min(s.n_heads, 4),
        d_model=min(s.d_model, 32),
        d_ff=min(s.d_ff, 32),
        steps=min(s.steps, 4),
        batch_size=2 * s.accumulation,
        report_every=1,
        validate_every=min(s.validate_every, 2),
        validation_words=min(s.validation_words, 4),
        test_words=min(s.test_words, 4),
    )
