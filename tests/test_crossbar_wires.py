"""Squares of metal in front of each crossing, from shapes alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pfmc_backends.crossbar_gdsii.wires import COLUMN, ROW, segments


def measured(shapes: list[tuple[int, int, int, int]], taps: list[int], pin: int, axis: int = ROW) -> list[float]:
    """Of one wire with crossings 0, 1, … at the taps."""
    count = len(taps)
    found, odd = segments(
        np.array(shapes),
        np.zeros(len(shapes), dtype=np.int64),
        {0: pin},
        np.zeros(count, dtype=np.int64),
        np.arange(count),
        np.array(taps, dtype=np.float64),
        (1, count),
        axis,
    )
    assert odd == []
    return list(found[0])


def test_a_plain_wire_has_length_over_width() -> None:
    assert measured([(-5, 0, 100, 4)], [0, 20, 60], -2) == [0.5, 5.0, 10.0]
    assert measured([(0, -5, 4, 100)], [0, 20, 60], -2, COLUMN) == [0.5, 5.0, 10.0]


def test_a_notch_narrows_the_wire_where_it_is() -> None:
    """Four wide, but half of it is missing from 20 to 28: two squares more."""
    notched = [(-5, 0, 20, 4), (20, 0, 28, 2), (28, 0, 100, 4)]
    assert measured(notched, [0, 20, 60], -2) == [0.5, 5.0, 12.0]


def test_shapes_that_overlap_count_once_and_branches_side_by_side_together() -> None:
    assert measured([(0, 0, 60, 4), (10, 0, 100, 4), (10, 2, 30, 4)], [40, 80], 0) == [10.0, 10.0]
    assert measured([(0, 0, 40, 4), (0, 10, 40, 14)], [40], 0) == [5.0]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_pieces_in_a_row_add_up(lengths: list[int], widths: list[int]) -> None:
    ends = np.cumsum([0, *lengths]).tolist()
    pieces = [(a, 0, b, w) for a, b, w in zip(ends[:-1], ends[1:], widths, strict=False)]
    np.testing.assert_allclose(
        sum(measured(pieces, ends, 0)), sum(n / w for n, w in zip(lengths, widths, strict=False))
    )


def test_a_crossing_without_a_strip_is_passed_over() -> None:
    found, odd = segments(
        np.array([(0, 0, 100, 1)]),
        np.zeros(1, dtype=np.int64),
        {0: 0},
        np.zeros(2, dtype=np.int64),
        np.array([0, 2]),
        np.array([10.0, 30.0]),
        (1, 4),
        ROW,
    )
    assert (found[0].tolist(), odd) == ([10.0, 0.0, 20.0, 0.0], [])


def test_strips_out_of_order_are_told() -> None:
    _, odd = segments(
        np.array([(0, 0, 100, 1)]),
        np.zeros(1, dtype=np.int64),
        {0: 0},
        np.zeros(2, dtype=np.int64),
        np.array([1, 0]),
        np.array([10.0, 30.0]),
        (1, 2),
        ROW,
    )
    assert odd == [0]
