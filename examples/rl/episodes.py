"""Playing a number of episodes, which are chosen before anything is known of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .acting import Acted, Policy, act, gumbel_noise
from .environments.vector import Step, VectorEnvironment


class Episodes(NamedTuple):
    """E episodes that were played: ordered by environment, and in each by time."""

    returns: np.ndarray  # (E,) float64, unclipped
    lengths: np.ndarray  # (E,) int64


def play_episodes(
    policy: Policy,
    environment: VectorEnvironment,
    count: int,
    *,
    greedy: bool,
    seed: int,
    max_steps: int | None = None,
    tell: Callable[[int], object] = lambda ended: None,
    show: Callable[[Step, Acted, Step], object] = lambda before, acted, after: None,
) -> Episodes:
    """Play ``count`` episodes: of each of the B environments the first ``count / B``.

    Which episodes count is settled beforehand, environment by environment, and all of them are played to
    their end. Taking the first ``count`` that end, wherever they do, would prefer short ones. Where B does
    not divide ``count``, the first environments play one more.

    Parameters
    ----------
    policy : put into evaluation mode.
    environment : freshly made, with at most ``count`` environments; it is reset.
    greedy : take the most probable action; otherwise draw one.
    seed : of the actions that are drawn.
    max_steps : to stop after, whether or not all have ended.
    tell : is told how many episodes ended in each step.
    show : is shown each step: what was seen, what was done in unfinished rows, and what came of it.
    """
    B = environment.count
    if count < B:
        raise ValueError(
            f"play_episodes: count must be at least the number of environments, {B}, got {count}; "
            "make fewer environments"
        )
    left = count // B + (np.arange(B) < count % B)
    found: list[tuple[int, float, int]] = []
    policy.eval()
    states = policy.initial_state(B)
    step = environment.reset()
    for steps in itertools.count():
        busy = np.flatnonzero(left)
        if not len(busy) or steps == max_steps:
            break
        noise = None if greedy else gumbel_noise((B, environment.n_actions), seed, steps)[busy]
        carried = [state[busy] for state in states]
        acted = act(policy, step.frame[busy], step.reward[busy], step.done[busy], carried, noise)
        for state, new in zip(states, acted.states, strict=True):
            state[busy] = new
        actions = np.zeros(B, np.int64)  # whatever, where all that count are played
        actions[busy] = acted.actions
        before, step = step, environment.step(actions)
        show(before, acted, step)
        ended = busy[step.done[busy]]
        found += [(row, float(step.episode_return[row]), int(step.episode_length[row])) for row in ended]
        left[ended] -= 1
        tell(len(ended))
    found.sort(key=lambda episode: episode[0])
    return Episodes(
        np.array([gained for _, gained, _ in found], np.float64), np.array([n for *_, n in found], np.int64)
    )
