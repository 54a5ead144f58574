"""The settings of a training run: what ``--help`` explains and ``config.json`` records."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from srwm.nn import Residual

from ..training.cores import CoreName
from ..training.settings import FREE, SupervisedSettings
from .tasks import TASKS, Task

_MAY_BE_ZERO = ("curriculum", "early_stop", "seed", "threads", "workers")
_MAY_BE_NEGATIVE = ("beta_init",)
_NEVER_ZERO = ("max_minutes", "learning_rate", "input_gain", "epsilon")
_BELOW_ONE = ("dropout", "beta1", "beta2")


@dataclass(frozen=True)
class Settings(SupervisedSettings):
    """Train a model on words of a language, short ones, and see whether it has learnt the long ones too."""

    program: ClassVar[str] = "examples.languages.train"
    essential: ClassVar[tuple[str, ...]] = (
        *SupervisedSettings.essential,
        *("task", "high", "bins", "core", "n_layers", "d_model", "steps", "batch_size", "learning_rate"),
    )

    name: str = field(default="languages", metadata=FREE)
    """Name of the run; everything it writes goes to <runs>/<name>/."""

    task: str = "parity"
    """Whose words are read, listed below the presets; each position is answered."""
    low: int = 2
    """Shortest word to train on."""
    high: int = 50
    """Longest word to train on."""
    bins: tuple[int, ...] = (100, 500)
    """Longest words of the bins of longer ones: with 50 and 100 500, words of 51 to 100 and of 101 to 500.
    The first of them is validated too."""
    curriculum: int = 0
    """Steps in which the longest word to train on grows from --curriculum-from to --high; 0: none."""
    curriculum_from: int = 4
    """Longest word of the curriculum's first step."""

    core: CoreName = "srwm"
    """What reads the word. srwm: self-referential weight matrices; deltanet: a fast weight matrix written
    by a slow net, deltanet_negative with rates from 0 to 2; linear: the same without erasing; lstm;
    transformer; and the other layers of srwm.nn."""
    residual: Residual | None = None
    """Of the layers that have a choice, see srwm.nn.SRWM; by default norm_skip."""
    n_layers: int = 2
    """Layers, each followed by a feed-forward block (but for the lstm's)."""
    n_heads: int = 4
    """Heads of each layer; the lstm has none."""
    d_model: int = 64
    """Width of the layers; of the lstm, its hidden size."""
    d_ff: int = 256
    """Width of the feed-forward blocks."""
    dropout: float = 0.0
    """Dropout in the layers."""
    beta_init: float = 0.0
    """Mean of the initial weights behind the self-made learning rates."""
    q_scale: float = 1.0
    """Scale of the initial query weights."""
    input_softmax: bool = False
    """Whether a softmax goes over each head's input in an srwm layer."""
    input_gain: float = 1.0
    """Factor on the initial weights behind the symbols."""

    steps: int = 3000
    """Steps of training, unless all words of a validation are right before."""
    batch_size: int = 64
    """Words of a step, over all processes."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: up in a line over --lr-warmup, then down by half a cosine to --lr-final; constant: up in a
    line, then as it is."""
    lr_warmup: float = 0.0
    """Share of the training over which the learning rate rises from 0."""
    beta2: float = 0.999
    """Adam's decay of the mean of its square."""
    epsilon: float = 1e-8
    """Adam's addend to the denominator."""

    validate_every: int = 250
    """Steps between two validations; the best one decides which weights are kept."""
    validation_words: int = 256
    """Words of each bin in a validation, the same ones every time."""
    test_words: int = 500
    """Words of each bin in the final evaluation, at least 2."""

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        super().check()
        self.check_ranges(
            may_be_zero=_MAY_BE_ZERO,
            may_be_negative=_MAY_BE_NEGATIVE,
            never_zero=_NEVER_ZERO,
            below_one=_BELOW_ONE,
            at_most_one=("lr_warmup", "lr_final"),
        )
        if self.task not in TASKS:
            raise ValueError(f"train: --task must be one of {', '.join(TASKS)}; got {self.task!r}")
        if any(low > high for low, high in self.all_bins):
            raise ValueError(
                f"train: --low, --high and --bins must go up, got {self.low}, {self.high} and {self.bins}"
            )
        for low, high in self.all_bins:
            if not self.words.lengths(low, high):
                raise ValueError(
                    f"train: {self.task} has no words of {low} to {high} {self.words.unit}; choose another "
                    "--low, --high or --bins"
                )
        if self.curriculum and not self.words.lengths(self.low, self.curriculum_from):
            raise ValueError(
                f"train: {self.task} has no words of {self.low} to {self.curriculum_from} "
                f"{self.words.unit}, with which its curriculum begins; raise --curriculum-from"
            )
        if self.test_words < 2:
            raise ValueError(
                f"train: --test-words must be at least 2, for an interval, got {self.test_words}"
            )
        if self.core != "lstm" and self.d_model % self.n_heads:
            raise ValueError(
                f"train: --d-model must be a multiple of --n-heads ({self.n_heads}), got {self.d_model}"
            )

    @property
    def words(self) -> Task:
        """The task by its name."""
        return TASKS[self.task]

    @property
    def all_bins(self) -> list[tuple[int, int]]:
        """Shortest and longest words of each bin, first those of the training."""
        ends = (self.high, *self.bins)
        return [(self.low, self.high), *((a + 1, b) for a, b in zip(ends, self.bins, strict=False))]

    def longest(self, step: int) -> int:
        """Longest word of a step."""
        if step >= self.curriculum:
            return self.high
        grown = (self.high - self.curriculum_from) * step // self.curriculum
        return self.curriculum_from + grown
