"""Which boxes meet, and which hang together: arrays of integer boxes (x0, y0, x1, y1)."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from pfmc.errors import ArtifactError

Boxes = Int[np.ndarray, "_ 4"]
Pairs = tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]

BIN_LIMIT: Final = 1 << 24  # entries and candidates of one search


class Bins:
    """Boxes sorted into the rectangular bins that they meet, to find those near others.

    Args:
        boxes: the boxes.
        origin, size: of the bins, x and y.
    """

    def __init__(self, boxes: Boxes, origin: tuple[int, int], size: tuple[int, int]) -> None:
        self.boxes, self._origin, self._size = boxes, origin, size
        ranges = self._ranges(boxes)
        low, high = (ranges[:, :2].min(axis=0), ranges[:, 2:].max(axis=0)) if len(boxes) else (np.zeros(2), np.zeros(2))
        self._low: list[int] = low.astype(np.int64).tolist()
        self._shape: list[int] = (high - low + 1).astype(np.int64).tolist()
        if self._shape[0] * self._shape[1] > BIN_LIMIT:
            raise _too_many()
        owner, bins = self._spread(ranges)
        order = np.argsort(bins, kind="stable")
        self._members = owner[order]
        self._begin = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=self._shape[0] * self._shape[1]))])

    def meeting(self, others: Boxes) -> Pairs:
        """Index pairs (of the others, of these) of boxes that overlap or touch, each once, sorted by the first.

        Raises:
            ArtifactError: if there are more than can be.
        """
        first, bins = self._spread(self._ranges(others))
        several = len(first) > len(others)  # an other box in several bins may meet the same one in each of them
        begin = self._begin.take(bins)
        counts = self._begin.take(bins + 1) - begin
        if np.all(counts == 1):
            second = self._members.take(begin)
        else:
            total = int(counts.sum())
            if total > BIN_LIMIT:
                raise _too_many()
            first = np.repeat(first, counts)
            second = self._members.take(np.arange(total) + np.repeat(begin - (np.cumsum(counts) - counts), counts))
        a, b = others.take(first, axis=0), self.boxes.take(second, axis=0)
        meet = (a[:, 0] <= b[:, 2]) & (b[:, 0] <= a[:, 2]) & (a[:, 1] <= b[:, 3]) & (b[:, 1] <= a[:, 3])
        if not meet.all():
            first, second = first[meet], second[meet]
        if several:
            first, second = np.divmod(np.unique(first * np.int64(len(self.boxes)) + second), max(len(self.boxes), 1))
        return first, second

    def _ranges(self, boxes: Boxes) -> Int[np.ndarray, "n 4"]:
        """First and last bin of each box, along x and y."""
        ranges = np.empty_like(boxes)
        for column in range(4):
            ranges[:, column] = (boxes[:, column] - self._origin[column % 2]) // self._size[column % 2]
        return ranges

    def _spread(self, ranges: Int[np.ndarray, "n 4"]) -> Pairs:
        """The number of a box and the number of a bin, for every bin that the box meets."""
        (low_x, low_y), (across, up) = self._low, self._shape
        x0, y0 = np.maximum(ranges[:, 0] - low_x, 0), np.maximum(ranges[:, 1] - low_y, 0)
        width = np.minimum(ranges[:, 2] - low_x, across - 1) - x0 + 1
        height = np.minimum(ranges[:, 3] - low_y, up - 1) - y0 + 1
        if np.all(width == 1) and np.all(height == 1):
            return np.arange(len(ranges)), y0 * across + x0
        width, height = np.maximum(width, 0), np.maximum(height, 0)
        counts = width.astype(np.int64) * height
        total = int(counts.sum())
        if total > BIN_LIMIT:
            raise _too_many()
        owner = np.repeat(np.arange(len(ranges)), counts)
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = np.divmod(within, width[owner])
        return owner, (y0[owner] + row) * across + x0[owner] + column


def _too_many() -> ArtifactError:
    return ArtifactError("far more shapes lie on each other than can be", "the mask file", "write the file again")


def shrunk(boxes: Boxes) -> Boxes:
    """Boxes such that two of them meet just when the given ones overlap, not when they only touch."""
    return np.asarray(boxes - np.array([0, 0, 1, 1], dtype=boxes.dtype))


def inside(a: Boxes, b: Boxes) -> Bool[np.ndarray, " n"]:
    """Which boxes lie wholly in those opposite them."""
    return np.asarray(np.all(a[:, :2] >= b[:, :2], axis=1) & np.all(a[:, 2:] <= b[:, 2:], axis=1))


def components(count: int, pairs: Pairs) -> Int[np.ndarray, " count"]:
    """The smallest index of those that hang together with each of ``count`` things, directly or through others."""
    a, b = pairs
    root = np.arange(count)
    while True:
        low = np.minimum(root[a], root[b])
        following = root.copy()
        np.minimum.at(following, a, low)
        np.minimum.at(following, b, low)
        following = following[following]
        if np.array_equal(following, root):
            return root
        root = following
