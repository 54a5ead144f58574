"""The settings of a training run: what ``--help`` explains and ``config.json`` records."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from . import models
from .models import FewShotLearner

# A field marked so may differ between a run and its resumption: it decides where and how long the
# program runs, not which numbers it computes.
_FREE = {"free": True}
_MAY_BE_ZERO = ("encoder_warmup_steps", "seed", "threads")


@dataclass(frozen=True)
class Settings:
    """Train a self-referential weight matrix to learn characters from a few examples."""

    name: str = field(default="fewshot", metadata=_FREE)
    """Name of the run; everything it writes goes to <runs>/<name>/."""
    runs: Path = field(default=Path("runs"), metadata=_FREE)
    """Folder of all runs."""
    resume: bool = field(default=False, metadata=_FREE)
    """Continue the run of this name from its last checkpoint, with the same settings."""
    overwrite: bool = field(default=False, metadata=_FREE)
    """Delete an earlier run of this name and start anew."""

    data: Literal["glyphs", "folder"] = "glyphs"
    """glyphs: letters rendered from matplotlib's fonts; folder: images below --root."""
    root: Path | None = None
    """With --data folder: a folder in Omniglot's layout, alphabet/character/*.png."""
    rotate_classes: bool = True
    """In episodes, each training class makes three more, turned by 90, 180 and 270 degrees. The
    encoder's warm-up does not see those: three of four classes then look to the layers as the
    test's will, as no encoder has learnt to tell them apart."""
    n_way: int = 5
    """Classes of an episode (N)."""
    k_shot: int = 1
    """Labelled examples of each class (K)."""
    augment_evaluation: bool = True
    """Distort validation and test images at random as the training images are: a harder task."""

    n_layers: int = 2
    """Self-referential layers, each followed by a feed-forward block."""
    n_heads: int = 16
    """Heads of each self-referential layer."""
    d_model: int = 256
    """Width of the layers."""
    ff_factor: int = 4
    """Width of the feed-forward blocks, in units of the layers' width."""
    encoder_channels: int = 64
    """Channels of the convolutional encoder."""
    dropout: float = 0.0
    """Dropout in the layers."""
    encoder_dropout: float = 0.0
    """Dropout in the encoder."""
    beta_init: float = 0.0
    """Mean of the initial weights behind the self-made learning rates."""
    q_scale: float = 1.0
    """Scale of the initial query weights."""
    unit_features: bool = True
    """Centre each image's features and scale them to length 1 before the layers."""
    input_gain: float = 20.0
    """Factor on the initial weights behind features and labels; with 1, as published, training
    waits far longer at chance."""

    encoder_warmup_steps: int = 1000
    """Steps in which the encoder alone learns to tell the training classes apart, before any
    episode; 0 for none."""
    encoder_warmup_minutes: float | None = None
    """Stop the encoder's warm-up after this time even if steps are left."""
    encoder_warmup_classes: int = 32
    """Classes of a warm-up step."""
    encoder_warmup_images: int = 2
    """Images of each class in a warm-up step, at least 2."""
    encoder_warmup_learning_rate: float = 1e-2
    """Peak learning rate of the warm-up."""

    steps: int = 3400
    """Steps of training on episodes; they decide the learning-rate schedule."""
    max_minutes: float | None = field(default=None, metadata=_FREE)
    """Stop training after this time, warm-up and validation included, even if steps are left.
    The learning rate then falls with the time where that is ahead of the steps; such a run is
    not reproducible to the bit."""
    pools: int = 1
    """Pools of images drawn at each step; each is encoded once and serves many episodes."""
    pool_classes: int = 16
    """Classes of a pool; with as many as --n-way, and --episodes as many as --pools, no two
    episodes share an image."""
    pool_images: int = 3
    """Images of each class in a pool; those beyond the K shots are queries."""
    episodes: int = 32
    """Episodes of a step, shared evenly among the pools."""
    queries: int = 10
    """Queries of a training episode, at most n_way * (pool_images - k_shot)."""
    encoder: Literal["tuned", "frozen"] = "frozen"
    """Whether the encoder learns from the episodes too."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    encoder_learning_rate_factor: float = 0.1
    """The encoder's learning rate in episodes, relative to the other layers'."""
    lr_warmup: float = 0.05
    """Share of the training over which the learning rate rises from 0, in both phases."""
    lr_final: float = 0.01
    """Final learning rate, relative to the peak; the way there is half a cosine."""
    beta1: float = 0.9
    """Adam's decay of the mean of the gradient."""
    beta2: float = 0.995
    """Adam's decay of the mean of its square."""
    epsilon: float = 1e-9
    """Adam's addend to the denominator."""
    clip: float = 1.0
    """Largest norm of the gradient; a longer one is scaled down. 0 turns it off."""

    report_every: int = 50
    """Steps between two lines of metrics.json, each with a checkpoint."""
    validate_every: int = 500
    """Steps between two validations; the best one decides which weights are kept."""
    validation_episodes: int = 400
    """Episodes of a validation, the same ones every time."""
    test_episodes: int = 2000
    """Episodes of the final evaluation on the test classes."""
    test_queries: int = 5
    """Queries of each validation or test episode; an episode counts once, by their mean."""
    seed: int = 0
    """Of the initial weights and of every random draw."""
    threads: int = field(default=0, metadata=_FREE)
    """Threads for PyTorch; 0 leaves its own choice."""

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return self.runs / self.name

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            least = 1 if isinstance(value, int) and f.name not in _MAY_BE_ZERO else 0
            if not value >= least:
                raise ValueError(f"train: {_flag(f.name)} must be at least {least}, got {value}")
        for name in ("max_minutes", "encoder_warmup_minutes", "learning_rate"):
            if getattr(self, name) == 0:
                raise ValueError(f"train: {_flag(name)} must be above 0, got 0")
        if self.encoder_warmup_images < 2:
            raise ValueError(
                "train: --encoder-warmup-images must be at least 2, an image and another of its "
                f"class, got {self.encoder_warmup_images}"
            )
        if self.pool_classes < self.n_way:
            raise ValueError(
                f"train: --pool-classes must be at least --n-way ({self.n_way}), got {self.pool_classes}"
            )
        if self.queries > self.n_way * (self.pool_images - self.k_shot):
            raise ValueError(
                "train: --queries must be at most n_way * (pool_images - k_shot) = "
                f"{self.n_way * (self.pool_images - self.k_shot)}, got {self.queries}; "
                "raise --pool-images"
            )
        if self.episodes % self.pools:
            raise ValueError(
                f"train: --episodes must be a multiple of --pools ({self.pools}), got {self.episodes}"
            )

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()
        }

    def changes(self, recorded: dict[str, Any]) -> list[str]:
        """What differs from recorded settings, apart from the fields that are free to differ."""
        fixed = {f.name for f in fields(self) if "free" not in f.metadata}
        now = self.record()
        return [
            f"{_flag(name)}: was {recorded.get(name)}, now {now.get(name)}"
            for name in sorted(fixed)
            if recorded.get(name) != now.get(name)
        ]

    def command(self) -> str:
        """The shell command that starts this run."""
        words = ["python", "-m", "examples.fewshot.train"]
        for f in fields(self):
            value = getattr(self, f.name)
            if value != f.default and isinstance(value, bool):
                words.append(_flag(f.name if value else f"no_{f.name}"))
            elif value != f.default:
                words += [_flag(f.name), str(value)]
        return shlex.join(words)


def load_settings(recorded: dict[str, Any]) -> Settings:
    """The inverse of `Settings.record`."""
    paths = {name: Path(recorded[name]) for name in ("runs", "root") if recorded[name] is not None}
    return Settings(**{**recorded, **paths})


def build_learner(settings: Settings) -> FewShotLearner:
    """The model that the settings describe, with fresh weights."""
    return models.build_learner(
        n_way=settings.n_way,
        encoder_channels=settings.encoder_channels,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        d_model=settings.d_model,
        ff_factor=settings.ff_factor,
        dropout=settings.dropout,
        encoder_dropout=settings.encoder_dropout,
        beta_init=settings.beta_init,
        q_scale=settings.q_scale,
        unit_features=settings.unit_features,
        input_gain=settings.input_gain,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
