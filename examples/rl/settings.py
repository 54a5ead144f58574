"""The settings of a training run: what ``--help`` explains and ``config.json`` records."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..training.settings import FREE, TrainingSettings
from .cores import CoreName


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Train an agent that may rewrite its own weights while it plays."""

    program: ClassVar[str] = "examples.rl.train"
    essential: ClassVar[tuple[str, ...]] = (
        *TrainingSettings.essential,
        *("games", "levels", "core", "frames", "batch_size", "unroll", "learning_rate", "entropy_cost"),
    )

    name: str = field(default="rl", metadata=FREE)
    """Name of the run; everything it writes goes to <runs>/<name>/."""

    games: tuple[str, ...] = ("cue",)
    """What is played; the parallel environments are divided over several. cue: a built-in task of
    memory; or games of Procgen: bigfish, starpilot, ..."""
    mode: Literal["easy", "hard", "extreme", "memory", "exploration"] = "easy"
    """Procgen's distribution of levels."""
    start_level: int = 0
    """First of the levels to train on."""
    levels: int = 200
    """How many levels there are to train on; 0: all that Procgen can make."""

    core: CoreName = "srwm"
    """What lies between the pixels' features and the action. feedforward: nothing; lstm; deeper:
    feed-forward layers; deltanet: a fast weight matrix written by a slow net; srwm: self-referential
    weight matrices; srwm_no_carry: srwm that begins anew at every step; fake_sr: srwm that never
    changes its weights; sr_delta: a deltanet whose slow net is an srwm; self_modifying_titans:
    memories that generate their own updates, with retention."""
    n_layers: int = 2
    """Layers, each followed by a feed-forward block; the lstm has one and no such block."""
    n_heads: int = 8
    """Heads of each layer."""
    d_model: int = 128
    """Width of the layers."""
    d_ff: int = 512
    """Width of the feed-forward blocks."""
    lstm_size: int = 256
    """Entries of the lstm's hidden state."""
    residual: Literal["plain", "norm_skip", "pre_norm"] = "plain"
    """How an srwm's or fake_sr's output joins its input: plain, as published; norm_skip, the few-shot
    learners' form; pre_norm."""
    input_softmax: Literal["usual", "on", "off"] = "usual"
    """Whether a softmax goes over each head's input in an srwm or fake_sr; usual: as published, on
    in the former and off in the latter."""
    beta_init: float = 0.0
    """Mean of the initial weights behind an srwm's self-made learning rates."""
    q_scale: float = 1.0
    """Scale of an srwm's initial query weights."""
    input_gain: float = 1.0
    """Factor on the initial weights behind the features, in front of the layers."""
    channels: tuple[int, ...] = (16, 32, 32)
    """Channels of the encoder's parts, each of which halves height and width."""
    scale: int = 1
    """Factor on those channels."""
    n_features: int = 256
    """Entries of a frame's features."""

    frames: int = 300_000_000
    """Steps of all environments together; they decide the learning-rate schedule."""
    batch_size: int = 32
    """Unrolls that an update learns from, over all processes."""
    unroll: int = 50
    """Steps of an unroll that are acted on."""
    environments: int | None = None
    """Environments that are played in turn, over all processes; by default as many as an update
    learns from."""
    overlap: bool = True
    """Collect the next unrolls while the learner computes, with weights one update old; without, act
    and learn take turns."""
    bptt: int | None = None
    """Cut the gradient through the agent's state every so many steps; by default it flows through
    the whole unroll. 1, as in the published code: what decides the writing is then never trained."""

    learning_rate: float = 6e-4
    """Initial learning rate of RMSProp."""
    schedule: Literal["linear", "constant"] = "linear"
    """linear: the learning rate falls in a line, to 0 at the last frame."""
    alpha: float = 0.99
    """RMSProp's decay of the mean of the gradient's square."""
    momentum: float = 0.0
    """Of RMSProp."""
    epsilon: float = 0.01
    """RMSProp's addend to the root of that mean."""
    clip: float = 40.0
    """Largest norm of the gradient; a longer one is scaled down. 0 turns it off."""

    discount: float = 0.99
    """Of what follows a step."""
    reward_clip: float = 1.0
    """The learner sees rewards clamped to plus or minus this much."""
    baseline_cost: float = 0.5
    """Weight of half the squared error of the values; losses are sums over steps and unrolls."""
    entropy_cost: float = 0.01
    """Weight of the negative entropy of the policy."""
    vtrace_lambda: float = 1.0
    """Below 1, V-trace trusts the values more and the returns less."""
    rho_bar: float = 1.0
    """Upper bound of V-trace's weights of the temporal differences."""
    c_bar: float = 1.0
    """Upper bound of those that carry corrections back."""
    pg_rho_bar: float = 1.0
    """Upper bound of those of the policy gradient."""
    report_every: int = 20
    """Updates between two lines of metrics.json, each with a checkpoint."""
    environment_threads: int = field(default=0, metadata=FREE)
    """Threads that Procgen's games of a process are played in; 0 leaves EnvPool's own choice."""

    @property
    def frames_per_update(self) -> int:
        """Steps of all environments from one update to the next."""
        return self.unroll * self.batch_size

    @property
    def updates(self) -> int:
        """Until all frames are played."""
        return -(-self.frames // self.frames_per_update)

    @property
    def played(self) -> int:
        """Environments over all processes."""
        return self.batch_size if self.environments is None else self.environments

    def check(self) -> None:
        """Raise ValueError for settings that do not fit together."""
        super().check()
        self.check_ranges(
            may_be_zero=("start_level", "levels", "seed", "threads", "environment_threads"),
            may_be_negative=("beta_init",),
            never_zero=(
                *("learning_rate", "epsilon", "max_minutes", "reward_clip", "input_gain"),
                *("rho_bar", "c_bar", "pg_rho_bar"),
            ),
            below_one=("alpha", "momentum"),
            at_most_one=("discount", "vtrace_lambda"),
        )
        if not self.games:
            raise ValueError("train: --games must name at least one game")
        if self.core != "lstm" and self.d_model % self.n_heads:
            raise ValueError(
                f"train: --d-model must be a multiple of --n-heads ({self.n_heads}), got {self.d_model}"
            )
        if self.played < self.batch_size:
            raise ValueError(
                f"train: --environments must be at least --batch-size ({self.batch_size}), "
                f"got {self.environments}"
            )
        if self.played < len(self.games):
            raise ValueError(
                f"train: --environments must be at least the number of --games ({len(self.games)}), "
                f"got {self.played}"
            )
