import pytest

from examples.training.tables import markdown_table, number, percent


def test_a_table():
    expected = """\
|     | return | a longer head |
| --- | ------ | ------------- |
| one | 1      |               |
| 2   | 3      | 4             |"""
    assert markdown_table(["", "return", "a longer head"], [["one", "1", ""], ["2", "3", "4"]]) == expected


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        markdown_table(["a", "b"], [["1"]])


def test_numbers_with_their_intervals():
    values = {"mean": 0.98765, "interval_95": 0.0149}
    assert number(values) == "0.99 ± 0.01"
    assert percent(values) == "98.77 ± 1.49 %"
    assert percent(values, digits=1) == "98.8 ± 1.5 %"
