import numpy as np
from PIL import Image

from examples.rl.plots import draw_comparison, draw_returns
from tests.examples.rl.test_tables import RESULT, SPLITS, number


def test_every_mean_and_interval_is_drawn(drawn, tmp_path):
    """Players stand beside each other around their split."""
    draw_returns(RESULT, SPLITS, tmp_path / "returns.png")
    with Image.open(tmp_path / "returns.png") as image:
        assert image.size[0] > 500
    [figure] = drawn
    maze, heist = figure.axes
    assert [maze.get_title(), heist.get_title()] == ["maze", "heist"]
    points = {str(container.get_label()): container.lines for container in maze.containers}
    assert list(points) == [
        "one (ff), greedy", "one (ff), sampled", "ff, 2 seeds, greedy", "ff, 2 seeds, sampled",
        "random policy",
    ]  # fmt: skip
    means, _, [bars] = points["ff, 2 seeds, sampled"]
    np.testing.assert_allclose(means.get_ydata(orig=False), [4, 6, 8])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[3.5, 4.5], [5.5, 6.5], [7.5, 8.5]])
    np.testing.assert_allclose(heist.containers[-1].lines[0].get_ydata(orig=False), [-4])
    where = np.array([line.get_xdata() for line, *_ in points.values()])
    assert (np.diff(where, axis=0) > 0.05).all()
    np.testing.assert_allclose(where.mean(axis=0), [0, 1, 2], atol=1e-12)
    labels = [text.get_text().replace("\n", " ") for text in maze.get_xticklabels()]
    assert labels == ["train levels 0–199, seen in training", "1000 levels 1000–1199", "test all of them"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(points)


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
    numbers = {"test": {"sampled": number(0.5, 0.1)}}
    curves = [
        [
            {"frames": 100 * i, "seconds": (60.0 + 60 * seed) * i, "episode_return": value}
            for i, value in enumerate(of_run)
        ]
        for seed, of_run in enumerate(returns)
    ]
    runs = [{"result": numbers, "curve": curve} for curve in curves]
    entry = {"label": "SRWM", "runs": runs, "summary": numbers}
    about = {"title": "t", "seeds": list(range(len(returns))), "episodes": 9}
    return {**about, "compared": {"srwm": entry}, "random": {"test": {"sampled": number(0.2, 0.05)}}}


def test_curves_of_seeds_are_smoothed_and_drawn_as_their_mean(drawn, tmp_path):
    draw_comparison(results([None, 1, 2, 3, 4, 5, 6], [None, 3, 4, 5, 6, 7, 8]), tmp_path / "p.png")
    by_frames, by_time, dots = drawn[0].axes
    means = [2, 2.5, 3, 3.5, 4, 5]
    np.testing.assert_allclose(by_frames.lines[0].get_xydata().T, [[100, 200, 300, 400, 500, 600], means])
    np.testing.assert_allclose(by_time.lines[0].get_xydata().T, [[1.5, 3, 4.5, 6, 7.5, 9], means])
    chance = dots.patches[0].get_extents().transformed(dots.transData.inverted())
    np.testing.assert_allclose([chance.x0, chance.x1], [0.15, 0.25])
    assert all(axes.lines[-1].get_ydata() == [0.2, 0.2] for axes in (by_frames, by_time))


def test_a_run_in_which_no_episode_ended_has_no_curve(drawn, tmp_path):
    draw_comparison(results([None, None]), tmp_path / "p.png")
    assert len(drawn[0].axes[0].lines[0].get_xdata()) == 0
