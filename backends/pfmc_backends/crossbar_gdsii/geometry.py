"""Which boxes meet, and which hang together: arrays of integer boxes (x0, y0, x1, y1)."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from pfmc.errors import ArtifactError

Boxes = Int[np.ndarray, "n 4"]
Pairs = tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]

BIN_LIMIT: Final = 1 << 24  # entries and candidates of one search


class Bins:
    """Boxes sorted into the rectangular bins that they meet, to find those near others.

    Args:
        boxes: the boxes.
        origin, size: of the bins, x and y.

    """

    def __init__(self, boxes: Boxes, origin: tuple[int, int], size: tuple[int, int]) -> None:
        self.boxes, self._origin, self._size = boxes, np.tile(origin, 2), np.tile(size, 2)
        ranges = self._ranges(boxes)
        self._low = ranges[:, :2].min(axis=0) if len(boxes) else np.zeros(2, dtype=np.int64)
        high = ranges[:, 2:].max(axis=0) if len(boxes) else np.zeros(2, dtype=np.int64)
        self._shape = high - self._low + 1
        if int(self._shape.prod()) > BIN_LIMIT:
            raise _too_many()
        owner, bins = self._spread(ranges)
        order = np.argsort(bins, kind="stable")
        self._members = owner[order]
        self._begin = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=int(self._shape.prod())))])

    def meeting(self, others: Boxes) -> Pairs:
        """Index pairs (of the others, of these) of boxes that overlap or touch, each once, sorted by the first.

        Raises:
            ArtifactError: if there are more than can be.

        """
        owner, bins = self._spread(self._ranges(others))
        begin = self._begin[bins]
        counts = self._begin[bins + 1] - begin
        total = int(counts.sum())
        if total > BIN_LIMIT:
            raise _too_many()
        first = np.repeat(owner, counts)
        second = self._members[np.arange(total) + np.repeat(begin - (np.cumsum(counts) - counts), counts)]
        a, b = others[first], self.boxes[second]
        meet = (a[:, 0] <= b[:, 2]) & (b[:, 0] <= a[:, 2]) & (a[:, 1] <= b[:, 3]) & (b[:, 1] <= a[:, 3])
        first, second = first[meet], second[meet]
        if len(first) > 1:
            both = first * np.int64(len(self.boxes)) + second
            if np.any(both[1:] <= both[:-1]):
                first, second = np.divmod(np.unique(both), len(self.boxes))
        return first, second

    def _ranges(self, boxes: Boxes) -> Int[np.ndarray, "n 4"]:
        """First and last bin of each box, along x and y."""
        return np.asarray((boxes - self._origin) // self._size)

    def _spread(self, ranges: Int[np.ndarray, "n 4"]) -> Pairs:
        """The number of a box and the number of a bin, for every bin that the box meets."""
        low = np.maximum(ranges[:, :2] - self._low, 0)
        high = np.minimum(ranges[:, 2:] - self._low, self._shape - 1)
        width, height = (high - low + 1).clip(min=0).T
        counts = width * height
        total = int(counts.sum())
        if total > BIN_LIMIT:
            raise _too_many()
        owner = np.repeat(np.arange(len(ranges)), counts)
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = np.divmod(within, width[owner])
        return owner, (low[owner, 1] + row) * self._shape[0] + low[owner, 0] + column


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
