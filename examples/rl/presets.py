"""Settings by name: the published experiments with each core, and ours for two cores of a CPU.

The published values are those of the scripts of Irie et al. 2022
(https://arxiv.org/abs/2202.05780, https://github.com/IDSIA/modern-srwm).
"""

from dataclasses import replace
from typing import get_args

from .cores import CoreName
from .settings import Settings

CORES: tuple[CoreName, ...] = get_args(CoreName)

# Six games on 200 levels of the easy distribution; 48 actors, 8 of each game, of which an update learns
# from 32.
_EASY = Settings(games=("bigfish", "fruitbot", "maze", "leaper", "plunder", "starpilot"), environments=48)

# Four games on 500 levels of the memory distribution, where much of what matters is out of sight.
_MEMORY = replace(_EASY, games=("dodgeball", "heist", "maze", "miner"), mode="memory", levels=500)

# Minutes on two cores. What only a carried state can solve, episodes following one another in an unroll.
_CUE = Settings(
    games=("cue",),
    d_model=64,
    n_heads=4,
    d_ff=128,
    lstm_size=64,
    batch_size=16,
    unroll=40,
    frames=500_000,
    learning_rate=1e-3,
    entropy_cost=0.05,  # at 0.01 a policy that calls two colours the same stays with it for long
    report_every=10,
)
# The published form of the self-referential layers, with a softmax of inputs that are all but alike, does
# not learn this task in so few frames. The LSTM takes twice as many, and some seeds never learn it at 3e-3.
_CUE_SELF_REFERENTIAL = replace(_CUE, residual="pre_norm", input_softmax="off", input_gain=2.0)
_CUE_OF_CORES = {
    **dict.fromkeys(("srwm", "srwm_no_carry", "fake_sr", "sr_delta"), _CUE_SELF_REFERENTIAL),
    "lstm": replace(_CUE, learning_rate=1.5e-3, frames=1_000_000),
}

# Less than two hours on one core. These three rise early. Smaller batches than the published make twice as
# many updates of so few frames.
_FEW_FRAMES = replace(_EASY, environments=None, batch_size=16, frames=1_000_000, report_every=10)

_SETS = {
    "procgen-easy": ("published: six games", _EASY),
    "procgen-memory": ("published: four games with much out of sight", _MEMORY),
    "cue": ("a built-in task of memory", _CUE),
    **{
        game: ("few frames of one game", replace(_FEW_FRAMES, games=(game,)))
        for game in ("starpilot", "coinrun", "fruitbot")
    },
}


# What each is, its core, and its settings but for the core.
_TABLE = {
    f"{name}-{core}".replace("_", "-"): (what, core, _CUE_OF_CORES.get(core, s) if s is _CUE else s)
    for name, (what, s) in _SETS.items()
    for core in CORES
}
PRESETS: dict[str, Settings] = {
    name: replace(settings, core=core, preset=name, name=name)
    for name, (_, core, settings) in _TABLE.items()
}
DESCRIPTIONS = {name: f"{what}, {core}" for name, (what, core, _) in _TABLE.items()}


# What ``--smoke`` leaves of a run at most.
_UPDATES = 4
_MOST = {"n_layers": 2, "n_heads": 4, "d_model": 32, "d_ff": 32, "lstm_size": 32, "n_features": 32}


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything."""
    s = settings
    batch_size, unroll = min(s.batch_size, 4), min(s.unroll, 8)
    return replace(
        s,
        **{name: min(getattr(s, name), most) for name, most in _MOST.items()},
        channels=tuple(min(channels, 4) for channels in s.channels),
        scale=1,
        batch_size=batch_size,
        environments=None if s.environments is None else max(batch_size, len(s.games)),
        unroll=unroll,
        bptt=None if s.bptt is None else min(s.bptt, unroll),
        frames=min(s.frames, _UPDATES * batch_size * unroll),
        report_every=1,
    )
