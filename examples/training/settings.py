"""What the settings of every training program have in common."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

S = TypeVar("S", bound="RunSettings")

# A field marked so may differ between a run and its resumption: it decides where and how long the
# program runs, not which numbers it computes.
FREE = {"free": True}
# A field marked so came later: runs that were recorded without it had its default.
ADDED = {"added": True}


@dataclass(frozen=True)
class RunSettings:
    """Which run it is; a program's own settings follow in its subclass."""

    program: ClassVar[str]  # its name, as ``python -m`` takes it
    # What ``--help`` shows; ``--help-all`` shows the others too.
    essential: ClassVar[tuple[str, ...]] = ("name", "runs", "resume", "overwrite", "preset", "smoke")

    name: str = field(default="run", metadata=FREE)
    """Name of the run; everything it writes goes to <runs>/<name>/, which is below <runs>."""
    runs: Path = field(default=Path("runs"), metadata=FREE)
    """Folder of all runs."""
    resume: bool = field(default=False, metadata=FREE)
    """Continue the run of this name from its last checkpoint."""
    overwrite: bool = field(default=False, metadata=FREE)
    """Delete an earlier run of this name and start anew."""
    preset: str | None = field(default=None, metadata=FREE)
    """Start from the settings of this name, listed above, instead of the defaults."""
    smoke: bool = field(default=False, metadata=FREE)
    """Try all of it out in seconds, with few and small of everything, in the run <name>-smoke."""

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return self.runs / self.name

    def record(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))  # str: of paths
        return values

    @classmethod
    def from_record(cls: type[S], recorded: dict[str, Any]) -> S:
        """The inverse of `record`."""
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if not f.metadata.keys() & {"free", "added"}}
        unknown, missing = sorted(recorded.keys() - known), sorted(needed - recorded.keys())
        if unknown or missing:
            what = f"they have {', '.join(unknown)}" if unknown else f"they lack {', '.join(missing)}"
            raise ValueError(
                f"{cls.program}: expected the recorded settings of a run of this version, but {what}; use "
                "the program and version that recorded them"
            )
        hints = get_type_hints(cls)

        def read(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return tuple(value)
            is_path = Path in (hints[name], *get_args(hints[name]))
            return Path(value) if is_path and value is not None else value

        return cls(**{name: read(name, value) for name, value in recorded.items()})

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together: here, for a name that leads out of the
        folder of all runs, on any system.
        """
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(self.name)
            if not path.parts or path.anchor or ".." in path.parts or "\0" in self.name:
                raise ValueError(
                    f"train: --name must be that of a folder below --runs, got {self.name!r}; give --runs "
                    "for another place"
                )

    def changes(self, recorded: dict[str, Any]) -> list[str]:
        """What differs from recorded settings, apart from the fields that are free to differ."""
        now, usual = self.record(), type(self)().record()
        was = {f.name: usual[f.name] for f in fields(self) if "added" in f.metadata} | recorded
        free = {f.name for f in fields(self) if "free" in f.metadata}
        return [
            f"{flag(name)}: was {was.get(name)}, now {now.get(name, 'unknown')}"
            for name in sorted((was.keys() | now.keys()) - free)
            if was.get(name) != now.get(name, "unknown")
        ]

    def check_ranges(
        self,
        *,
        may_be_zero: Collection[str] = (),
        may_be_negative: Collection[str] = (),
        never_zero: Collection[str] = (),
        below_one: Collection[str] = (),
        at_most_one: Collection[str] = (),
    ) -> None:
        """Raise ValueError for the first number that is out of its range: an int must be at least 1, any
        other number at least 0, but for the fields that are named.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            least: float = 1 if isinstance(value, int) and f.name not in may_be_zero else 0
            if f.name in may_be_negative:
                least = float("-inf")
            if not value >= least:
                raise ValueError(f"train: {flag(f.name)} must be at least {least}, got {value}")
            if f.name in never_zero and value == 0:
                raise ValueError(f"train: {flag(f.name)} must be above 0, got 0")
            if f.name in below_one and value >= 1:
                raise ValueError(f"train: {flag(f.name)} must be below 1, got {value}")
            if f.name in at_most_one and value > 1:
                raise ValueError(f"train: {flag(f.name)} must be at most 1, got {value}")


@dataclass(frozen=True)
class TrainingSettings(RunSettings):
    """How long a run trains, on what, and what it reports."""

    essential = (*RunSettings.essential, "max_minutes", "seed", "threads")

    max_minutes: float | None = field(default=None, metadata=FREE)
    """Stop training after this time. The learning rate falls with the time where that is ahead of the
    steps; such a run is not reproducible to the bit."""
    report_every: int = 50
    """Steps between two lines of metrics.json, each with a checkpoint."""
    seed: int = 0
    """Of the initial weights and of every random draw."""
    threads: int = field(default=0, metadata=FREE)
    """Threads of each process; 0: PyTorch's choice, or with --resume as many as before: the last digits
    of sums depend on their number."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16: matrix products and convolutions in bfloat16, everything else in float32."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = field(default=(), metadata=FREE)
    """Where to report to besides metrics.json."""


@dataclass(frozen=True)
class SupervisedSettings(TrainingSettings):
    """What training by Adam on labelled batches has in every program."""

    batch_size: int = 32
    """Words, episodes or sequences of a step, over all processes."""
    accumulation: int = 1
    """Parts into which each process cuts a step's batch, to need less memory. Batch normalisation sees
    one part at a time."""
    lr_final: float = 0.01
    """Final learning rate of the cosine, relative to the peak."""
    beta1: float = 0.9
    """Adam's decay of the mean of the gradient."""
    beta2: float = 0.995
    """Adam's decay of the mean of its square."""
    epsilon: float = 1e-9
    """Adam's addend to the denominator."""
    clip: float = 1.0
    """Largest norm of the gradient; a longer one is scaled down. 0 turns it off."""
    validate_every: int = 500
    """Steps between two validations; the best one decides which weights are kept."""
    early_stop: int = 0
    """Stop after this many validations in a row that were not the best; 0 never does."""
    workers: int = field(default=0, metadata=FREE)
    """Processes that draw batches ahead of the training, for each one that trains; 0: it draws them
    itself."""

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        super().check()
        if self.accumulation and self.batch_size % self.accumulation:  # 0 is out of its range
            raise ValueError(
                f"train: --batch-size must be a multiple of --accumulation ({self.accumulation}), "
                f"got {self.batch_size}"
            )


def check_least(program: str, options: object, **least: int) -> None:
    """Raise ValueError for the first of the options that is below its least value; None is not."""
    for name, number in least.items():
        value = getattr(options, name)
        if value is not None and value < number:
            raise ValueError(f"{program}: {flag(name)} must be at least {number}, got {value}")


def flag(name: str) -> str:
    """How a field is called on the command line."""
    return "--" + name.replace("_", "-")
