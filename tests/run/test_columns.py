"""Tables in the terminal: columns of equal width, nothing behind the last word."""

from __future__ import annotations

from unicscale.run.columns import columns, fitting

ROWS = [["run", "loss", "where"], ["runs/a", "10.5", ""], ["b", "0.25", "n1"]]


def test_words_stand_left_and_numbers_right_where_asked() -> None:
    assert columns(ROWS) == ["run     loss  where", "runs/a  10.5", "b       0.25  n1"]
    assert columns(ROWS, right=True) == ["run     loss  where", "runs/a  10.5", "b       0.25     n1"]
    assert columns([]) == []


def test_as_many_columns_fit_as_their_widths_and_gaps_allow() -> None:
    assert [fitting(ROWS, width) for width in (0, 6, 11, 12, 18, 19, 80)] == [1, 1, 1, 2, 2, 3, 3]
