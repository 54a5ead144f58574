"""Playing a number of episodes, which are chosen before anything is known of them.

Letters in the shapes: B environments, E episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .acting import Acted, Policy, act, gumbel_noise
from .environments.vector import Step, VectorEnvironment


@dataclass(frozen=True)
class Episodes:
    """Episodes that were played.

    Attributes
    ----------
    returns : (E,) float64, unclipped.
    lengths : (E,) int64.
    """

    returns: np.ndarray
    lengths: np.ndarray


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
    count : E.
    greedy : take the most probable action; otherwise draw one.
    seed : of the actions that are drawn.
    max_steps : to stop after, whether or not all have ended.
    tell : is told how many episodes ended in each step.
    show : is shown each step: what was seen, what was done in unfinished rows, and what came of it.

    Returns
    -------
    The episodes that ended, ordered by environment, and in each by time.

    Raises
    ------
    ValueError : for fewer episodes than environments.
    """
    B = environment.count
    if count < B:
        raise ValueError(
            f"play_episodes: count must be at least the number of environments, {B}, got {count}; "
            "make fewer environments"
        )
    wanted = count // B + (np.arange(B) < count % B)
    played: list[list[tuple[float, int]]] = [[] for _ in range(B)]
    policy.eval()
    states = policy.initial_state(B)
    step = environment.reset()
    busy = np.arange(B)
    for steps in itertools.count() if max_steps is None else range(max_steps):
        if not len(busy):
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
        for row in ended:
            played[row].append((float(step.episode_return[row]), int(step.episode_length[row])))
        tell(len(ended))
        busy = np.flatnonzero([len(of_one) < most for of_one, most in zip(played, wanted, strict=True)])
    found = list(itertools.chain.from_iterable(played))
    return Episodes(
        np.array([gained for gained, _ in found], np.float64), np.array([n for _, n in found], np.int64)
    )
