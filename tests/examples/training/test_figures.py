import numpy as np
import pytest
from PIL import Image

from examples.training.figures import (
    COLOURS,
    SHARES,
    STRETCHED,
    Dots,
    band,
    common_points,
    draw_dots,
    finish,
    interval,
    least_to_greatest,
    legend_above,
    line,
    new_figure,
    save,
    stretch_ends,
)


def test_a_band_around_a_line_with_markers_where_there_are_few_points():
    axes = new_figure(4, 3).subplots()
    values = interval({"mean": [0.5, 0.9], "interval_95": [0.1, 0.2]}, SHARES)
    band(axes, [1, 2], values, "SRWM", COLOURS[0])
    line(axes, range(50), [0.5] * 50, "many", COLOURS[1])
    [drawn, many], [area] = axes.lines, axes.collections
    np.testing.assert_allclose(drawn.get_xydata(), [[1, 0.5], [2, 0.9]])
    assert (drawn.get_marker(), many.get_marker()) == ("o", "None")
    corners = {tuple(corner) for corner in area.get_paths()[0].vertices.round(9)}
    assert corners == {(1, 0.4), (1, 0.6), (2, 0.7), (2, 1.0)}, "within the bounds"


def test_a_band_over_seeds():
    middle, low, high = least_to_greatest(np.array([[1.0, 5.0], [3.0, 4.0], [2.0, 9.0]]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2, 6], [1, 4], [3, 9])


def test_curves_are_compared_where_all_have_values():
    curves = [
        [{"step": 1, "a": None, "b": 0}, {"step": 2, "a": 20, "b": 21}, {"step": 3, "a": 30, "b": 31}],
        [{"step": 1, "a": 1, "b": 1}, {"step": 3, "a": 33, "b": 34}, {"step": 2, "a": 22, "b": 23}],
        [{"step": 2, "a": 24, "b": 25}, {"step": 3, "a": 35, "b": 36}, {"step": 4, "a": 40, "b": 41}],
    ]
    points, values = common_points(curves, "step", "b", "a")
    assert points.tolist() == [2, 3]
    assert values.tolist() == [[[21, 31], [23, 34], [25, 36]], [[20, 30], [22, 33], [24, 35]]]
    assert common_points(curves[:2], "step", "a")[0].tolist() == [2, 3], "the first has no a in step 1"
    points, values = common_points([*curves[:1], []], "step", "a")
    assert (points.shape, values.shape) == ((0,), (1, 2, 0)), "a run that was never validated"


def test_dots_stand_one_below_the_other_with_their_intervals():
    axes = new_figure(4, 3).subplots()
    dots = [
        Dots("SRWM", {"mean": 0.9, "interval_95": 0.2}, [0.8, 1.0], COLOURS[0], "90 %"),
        Dots("LSTM", {"mean": 0.5, "interval_95": 0.1}, [0.45, 0.55], COLOURS[1], "50 %"),
    ]
    draw_dots(axes, dots, STRETCHED)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["SRWM", "LSTM"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "from top to bottom"
    for place, (container, low, high) in enumerate(
        zip(axes.containers, (0.7, 0.4), (0.9995, 0.6), strict=True)
    ):
        mean, _, [bars] = container.lines
        np.testing.assert_allclose(mean.get_xydata(), [[dots[place].value["mean"], place]])
        np.testing.assert_allclose(bars.get_segments()[0], [[low, place], [high, place]])
    offsets = [part.get_offsets().tolist() for part in axes.collections if len(part.get_offsets()) == 2]
    assert offsets == [[[0.8, 0], [0.9995, 0]], [[0.45, 1], [0.55, 1]]]
    assert [text.get_text() for text in axes.texts] == ["90 %", "50 %"]


@pytest.mark.parametrize("shares", [[0.2, 0.97], STRETCHED, [0.5, 0.5]])
def test_everything_is_in_sight_where_the_ends_are_stretched(shares, tmp_path):
    figure = new_figure(4, 3)
    axes = figure.subplots()
    line(axes, [0, 1], shares, "SRWM", COLOURS[0])
    stretch_ends(axes, "y")
    save(figure, tmp_path / "picture.png", "shares")
    low, high = axes.get_ylim()
    assert 0 < low < min(shares) <= max(shares) < high < 1


def test_a_picture_has_one_legend_and_explains_what_is_no_word(drawn, tmp_path):
    figure = new_figure(8, 4)
    one, other = figure.subplots(1, 2)
    line(one, [0], [0], "SRWM, --bptt 1", COLOURS[0])
    line(other, [0], [0], "SRWM, --bptt 1", COLOURS[0])
    line(other, [0], [0], "chance", COLOURS[1])
    finish(one, "steps", "accuracy", shares=True)
    save(figure, tmp_path / "picture.png", "run of fake_sr", note="bands: seeds")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (8 * 140, 4 * 140)
    assert (one.get_xlabel(), one.get_ylabel()) == ("steps", "accuracy")
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["SRWM, --bptt 1", "chance"]
    told = legend.get_title().get_text().replace("\n", " ")
    assert told == (
        "bands: seeds; SRWM: self-referential weight matrix; fake SR: an SRWM that never changes its "
        "weights; --bptt 1: no gradient through earlier steps"
    )
    assert drawn == [figure]


def test_axes_with_a_legend_of_their_own_need_no_other(tmp_path):
    figure = new_figure(8, 4)
    one, other = figure.subplots(1, 2)
    beside = other.twinx()
    for axes, label in ((one, "loss"), (other, "frames"), (beside, "share")):
        line(axes, [0], [0], label, COLOURS[0])
    legend_above(one)
    legend_above(other, beside)
    save(figure, tmp_path / "picture.png", "a run")
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["frames", "share"]
    assert figure.legends == []
