import pytest

from examples.training.tables import markdown_table


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
