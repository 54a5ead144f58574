"""An episode as one picture: ``python -m examples.rl.contact_sheet --help``."""

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..training.command_line import run_with_options
from ..training.figures import new_figure
from ..training.run_folder import RunFolder
from ..training.settings import check_least
from .acting import Acted, Policy, RandomPolicy, play_episodes
from .environments import action_names, make_environment
from .environments.vector import Step, VectorEnvironment
from .evaluate import frames_of, load_run
from .tables import TEST_LEVELS

_COLUMNS = 8
_INK, _VALUE, _GAIN, _LOSS, _QUIET = "#22262e", "#1b4f8f", "#2f7d5b", "#c8472f", "#8a8a8a"


@dataclass(frozen=True)
class Sheet:
    """Draw one episode of a trained agent: some of its frames with what the agent did, expected and got."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    game: str | None = None
    """Which of the run's games; by default the first."""
    level: int | None = None
    """The level, of those that Procgen numbers; by default any of the test levels from 1000 on."""
    frames: int = 24
    """How many frames are shown, at even intervals from the first to the last."""
    greedy: bool = False
    """Take the most probable action instead of drawing one."""
    random: bool = False
    """Act at random instead."""
    seed: int = 1
    """Of the level, if none is given, and of the actions that are drawn."""
    max_steps: int = 1000
    """Stop playing after this many steps."""
    output: Path | None = None
    """The picture; by default contact_sheet.png in the run's folder."""


@dataclass(frozen=True)
class Recording:
    """T steps of an episode, or of its beginning."""

    frames: np.ndarray  # (T, C, H, W) uint8, what was seen at each step
    actions: np.ndarray  # (T,) int64, taken then
    values: np.ndarray  # (T,), what the agent expected then
    rewards: np.ndarray  # (T,), what the action brought
    finished: bool  # the episode came to its end


def record_episode(policy: Policy, environment: VectorEnvironment, **options: Any) -> Recording:
    """Play the first episode of an environment, a vector of one, with options of `play_episodes`."""
    seen: list[tuple[Step, Acted, Step]] = []
    episodes = play_episodes(policy, environment, 1, show=lambda *step: seen.append(step), **options)
    before, acted, after = zip(*seen, strict=True)
    return Recording(
        frames=np.concatenate([step.frame for step in before]),
        actions=np.concatenate([step.actions for step in acted]),
        values=np.concatenate([step.values for step in acted]),
        rewards=np.concatenate([step.reward for step in after]),
        finished=len(episodes.returns) == 1,
    )


def shown_steps(total: int, count: int) -> list[int]:
    """At most ``count`` steps of ``total``, at even intervals from the first to the last."""
    return sorted({round(step) for step in np.linspace(0, total - 1, min(count, total)).tolist()})


def draw_sheet(
    recording: Recording, *, names: tuple[str, ...], frames: int, title: str, path: Path
) -> None:
    """Draw frames with time, action, value and reward, and below them values and rewards of every step.

    The reward below a frame is what came from this step to the next frame that is shown. ``names`` are the
    actions'; ``frames``, how many are shown.
    """
    total = len(recording.frames)
    shown = shown_steps(total, frames)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(1.5 * max(columns, 4), 2.0 * rows + 2.6)
    got = f"return {recording.rewards.sum():g}" + ("" if recording.finished else " so far")
    figure.suptitle(f"{title}: {total} steps, {got}", color=_INK)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.0] * rows + [2.2])
    for place, (step, following) in enumerate(zip(shown, [*shown[1:], total], strict=True)):
        axes = figure.add_subplot(grid[divmod(place, columns)])
        reward = float(recording.rewards[step:following].sum())
        axes.imshow(recording.frames[step].transpose(1, 2, 0), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"t = {step}", fontsize=8, color=_QUIET)
        told = f"{names[recording.actions[step]]}\nV {recording.values[step]:.2f}   r {reward:+g}"
        axes.set_xlabel(told, fontsize=8, color=_colour(reward))
    _draw_values(figure.add_subplot(grid[rows, :]), recording, shown)
    figure.savefig(path, dpi=140)


def _draw_values(axes: Axes, recording: Recording, shown: list[int]) -> None:
    """Along the episode: the values, the rewards where there are any, and where the frames are from."""
    axes.plot(recording.values, color=_VALUE, linewidth=1.2, label="value")
    for step in np.flatnonzero(recording.rewards):
        reward = float(recording.rewards[step])
        axes.vlines(step, 0, reward, color=_colour(reward), linewidth=1.5)
    axes.plot([], [], color=_GAIN, label="reward")
    axes.plot(shown, recording.values[shown], ".", color=_INK, markersize=4, label="frames above")
    axes.axhline(0, color=_QUIET, linewidth=0.6)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def _colour(reward: float) -> str:
    return _GAIN if reward > 0 else _LOSS if reward < 0 else _INK


def main(options: Sheet) -> Path:
    """Play, draw, and say where the picture is."""
    o = options
    check_least("contact_sheet", o, frames=1, max_steps=1, seed=0, level=0)
    run = load_run(RunFolder(o.run))
    games, mode = run.settings.games, run.settings.mode
    game = games[0] if o.game is None else o.game
    if game not in games:
        raise ValueError(
            f"contact_sheet: --game must be one of the run's, {', '.join(games)}; got {game!r}"
        )
    numbered = game != "cue" and mode != "exploration"
    if o.level is not None and not numbered:
        raise ValueError("contact_sheet: --level: this game's levels have no numbers; leave it out")
    levels = (1000, TEST_LEVELS) if o.level is None else (o.level, 1)
    made = make_environment(game, 1, o.seed, mode=mode, levels=levels if numbered else (0, 0))
    with closing(made) as environment:
        policy = RandomPolicy(environment.n_actions) if o.random else run.model
        recording = record_episode(policy, environment, greedy=o.greedy, seed=o.seed, max_steps=o.max_steps)
    path = run.folder.contact_sheet if o.output is None else o.output
    who = "acting at random" if o.random else f"{run.settings.core}, {frames_of(run):,} frames"
    draw_sheet(recording, names=action_names(game), frames=o.frames, title=f"{game}, {who}", path=path)
    print(f"{path}: {len(recording.frames)} steps, return {recording.rewards.sum():g}")
    return path


if __name__ == "__main__":
    run_with_options(main, "examples.rl.contact_sheet", Sheet)
