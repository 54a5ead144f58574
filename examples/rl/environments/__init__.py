"""Games to act in, many at a time, by name."""

from collections.abc import Sequence

from .cue import COLOURS, CueEnvironment
from .procgen import ACTIONS, MODES, Mode, ProcgenEnvironment
from .vector import VectorEnvironment

GAMES = ("cue", *MODES)


def make_environment(
    name: str | Sequence[str],
    count: int,
    seed: int,
    *,
    first: int = 0,
    mode: Mode = "easy",
    levels: tuple[int, int] = (0, 0),
    threads: int = 0,
) -> VectorEnvironment:
    """``count`` environments of one game or several.

    Parameters
    ----------
    name : "cue", see `CueEnvironment`; or a game of Procgen, or several, see `ProcgenEnvironment`, which
        says what the other arguments are. The cue task has the mode "easy" alone, and no levels: every
        episode of it is new, whatever is given here.
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    for given in names:
        if given not in GAMES:
            raise ValueError(f"make_environment: name must be one of {', '.join(GAMES)}; got {given!r}")
    if "cue" not in names:
        return ProcgenEnvironment(
            names, count, seed, first=first, mode=mode, levels=levels, threads=threads
        )
    if set(names) != {"cue"}:
        raise ValueError(
            "make_environment: name: cue has other frames and actions than the games of Procgen and cannot "
            f"be played beside them, got {', '.join(names)}"
        )
    if mode != "easy":
        raise ValueError(f"make_environment: mode must be 'easy' for cue, which has no other, got {mode!r}")
    return CueEnvironment(count, seed, first=first)


def action_names(name: str) -> tuple[str, ...]:
    """What the actions of a game do, by number."""
    return COLOURS if name == "cue" else ACTIONS
