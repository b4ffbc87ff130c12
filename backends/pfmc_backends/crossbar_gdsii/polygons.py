"""Rectilinear outlines and paths cut into rectangles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Int

Rectangles = list[tuple[int, int, int, int]]  # lower left and upper right corner of each


def cut_outline(points: Int[np.ndarray, "n 2"]) -> Rectangles | None:
    """The area of an outline (winding number other than zero) as rectangles that do not overlap.

    It is cut at horizontal lines only, so that a shape which crosses a vertical strip from side to side does so in
    every piece too. None for an outline that has slanted edges.
    """
    begin, end = points, np.roll(points, -1, axis=0)
    step = end - begin
    if np.any((step[:, 0] != 0) & (step[:, 1] != 0)):
        return None
    rising = np.flatnonzero(step[:, 1])
    x, turn = begin[rising, 0], np.sign(step[rising, 1])
    low = np.minimum(begin[rising, 1], end[rising, 1])
    high = np.maximum(begin[rising, 1], end[rising, 1])
    found: Rectangles = []
    growing: dict[tuple[int, int], int] = {}  # spans of x that began at a y below and still go on
    levels: list[int] = np.unique(points[:, 1]).tolist()
    for bottom, top in pairwise(levels):
        crossing = np.flatnonzero((low <= bottom) & (high >= top))
        crossing = crossing[np.argsort(x[crossing], kind="stable")]
        at = x[crossing]
        last = np.append(at[1:] > at[:-1], True)  # of the crossings at one x
        spans = _spans(at[last].tolist(), np.cumsum(turn[crossing])[last].tolist())
        found += [(a, start, b, bottom) for (a, b), start in growing.items() if (a, b) not in spans]
        growing = {span: growing.get(span, bottom) for span in spans}
    return found + [(a, start, b, levels[-1]) for (a, b), start in growing.items()]


def _spans(x: list[int], winding: list[int]) -> set[tuple[int, int]]:
    """Maximal intervals between sorted crossings inside which the winding number is not zero."""
    spans: set[tuple[int, int]] = set()
    start, before = 0, 0
    for position, inside in zip(x, winding, strict=True):
        if inside and not before:
            start = position
        elif before and not inside:
            spans.add((start, position))
        before = inside
    return spans


def cut_path(points: Int[np.ndarray, "n 2"], width: int, begin_extension: int, end_extension: int) -> Rectangles | None:
    """The segments of a path as rectangles, which overlap at its corners; None if one is slanted or off the grid."""
    step = np.abs(np.diff(points, axis=0))
    if width % 2 or np.any((step[:, 0] != 0) & (step[:, 1] != 0)):
        return None
    half, last = width // 2, len(points) - 2
    found: Rectangles = []
    for i, (p, q) in enumerate(pairwise(points.tolist())):
        before = begin_extension if i == 0 else half
        after = end_extension if i == last else half
        along = 1 if p[0] == q[0] else 0
        (a, first), (b, second) = ((p[along], before), (q[along], after))
        if a > b:
            a, first, b, second = b, second, a, first
        side = p[1 - along]
        low, high = [0, 0], [0, 0]
        low[along], high[along] = a - first, b + second
        low[1 - along], high[1 - along] = side - half, side + half
        if low[0] < high[0] and low[1] < high[1]:
            found.append((low[0], low[1], high[0], high[1]))
    return found
