import numpy as np
from PIL import Image

from examples.rl.plots import draw_comparison, draw_returns
from tests.examples.rl.test_tables import RESULT, SPLITS, number


def points_of(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By who played: the means, and the ends of the intervals (2, columns)."""
    found = {}
    for container in axes.containers:
        line, _, [bars] = container.lines
        ends = np.array([segment[:, 1] for segment in bars.get_segments()]).T
        found[str(container.get_label())] = (line.get_ydata(orig=False), ends)
    return found


def test_every_mean_and_interval_is_drawn(drawn, tmp_path):
    draw_returns(RESULT, SPLITS, tmp_path / "returns.png")
    with Image.open(tmp_path / "returns.png") as image:
        assert image.size[0] > 500
    [figure] = drawn
    maze, heist = figure.axes
    assert [maze.get_title(), heist.get_title()] == ["maze", "heist"]
    points = points_of(maze)
    assert list(points) == [
        "one (ff), greedy", "one (ff), sampled", "two (ff), greedy", "two (ff), sampled",
        "ff, 2 seeds, greedy", "ff, 2 seeds, sampled", "random policy",
    ]  # fmt: skip
    means, ends = points["two (ff), sampled"]
    np.testing.assert_allclose(means, [3, 5, 7])
    np.testing.assert_allclose(ends, [[2.5, 4.5, 6.5], [3.5, 5.5, 7.5]])
    np.testing.assert_allclose(points_of(heist)["random policy"][0], [-4])
    labels = [text.get_text().replace("\n", " ") for text in maze.get_xticklabels()]
    assert labels == ["train levels 0–199, seen in training", "1000 levels 1000–1199", "test all of them"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(points)


def test_players_stand_beside_each_other_around_their_split(drawn, tmp_path):
    draw_returns(RESULT, SPLITS, tmp_path / "returns.png")
    where = np.array([container.lines[0].get_xdata() for container in drawn[0].axes[0].containers])
    assert (np.diff(where, axis=0) > 0.05).all()
    np.testing.assert_allclose(where.mean(axis=0), [0, 1, 2], atol=1e-12)


def test_panels_without_a_game_are_empty(drawn, tmp_path):
    games = [f"game {place}" for place in range(4)]
    parts = {game: {"train": {"sampled": {"return": number(1, 1)}}} for game in games}
    result = {**RESULT, "games": games, "runs": [], "seeds": [], "random": {"games": parts}}
    draw_returns(result, SPLITS, tmp_path / "returns.png")
    axes = drawn[0].axes
    assert [one.get_title() for one in axes] == [*games, "", ""]
    assert [one.axison for one in axes] == [True] * 4 + [False] * 2


def results(*returns: list[float | None]) -> dict:
    """Of a study of one row, with the returns that the runs reported."""
    number = {"mean": 0.5, "interval_95": 0.1}
    runs = [
        {
            "result": {"test": {"sampled": number}},
            "curve": [
                {"frames": 100 * i, "seconds": (60.0 + 60 * seed) * i, "episode_return": value}
                for i, value in enumerate(of_run)
            ],
        }
        for seed, of_run in enumerate(returns)
    ]
    entry = {"label": "SRWM", "runs": runs, "summary": {"test": {"sampled": number}}}
    seeds = list(range(len(returns)))
    chance = {"test": {"sampled": {"mean": 0.2, "interval_95": 0.05}}}
    return {"title": "t", "seeds": seeds, "episodes": 9, "compared": {"srwm": entry}, "random": chance}


def test_curves_of_seeds_are_smoothed_and_drawn_as_their_mean(drawn, tmp_path):
    draw_comparison(results([None, 1, 2, 3, 4, 5, 6], [None, 3, 4, 5, 6, 7, 8]), tmp_path / "p.png")
    by_frames, by_time, _ = drawn[0].axes
    means = [2, 2.5, 3, 3.5, 4, 5]
    np.testing.assert_allclose(by_frames.lines[0].get_xydata().T, [[100, 200, 300, 400, 500, 600], means])
    np.testing.assert_allclose(by_time.lines[0].get_xydata().T, [[1.5, 3, 4.5, 6, 7.5, 9], means])


def test_a_run_in_which_no_episode_ended_has_no_curve(drawn, tmp_path):
    draw_comparison(results([None, None]), tmp_path / "p.png")
    assert len(drawn[0].axes[0].lines[0].get_xdata()) == 0
