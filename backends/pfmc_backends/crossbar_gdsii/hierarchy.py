"""The hierarchy of a GDSII file: what lies within a window of its chip, flattened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from pfmc_backends.crossbar_gdsii.contents import Contents, Instances, Lattice
from pfmc_backends.crossbar_gdsii.orientation import IDENTITY, Orientation

Box: TypeAlias = tuple[int, int, int, int]  # x0, y0, x1, y1

SMALL: Final = 256  # shapes of a structure that is flattened once and kept
POOL_LIMIT: Final = 1 << 22  # shapes that are kept so
DEPTH_LIMIT: Final = 100  # references within references
VISIT_LIMIT: Final = 10_000  # larger structures opened for one window
SHAPE_LIMIT: Final = 1 << 24  # shapes and placements in one window
NOWHERE: Final = 1 << 40  # beyond every coordinate


@dataclass(frozen=True, eq=False)
class Piece:
    """Placements of small structures (``structures``), or shapes as they stand (``shapes``, and one origin)."""

    orientation: Orientation
    origins: Int[np.ndarray, "n 2"]
    structures: Int[np.ndarray, " n"] | None = None
    shapes: Int[np.ndarray, "m 6"] = field(default_factory=lambda: np.zeros((0, 6), dtype=np.int32))


@dataclass
class _View:
    """What is being gathered: pieces with shapes of the ``wanted`` codes (bits) that meet the window (None: all)."""

    wanted: int
    window: Int[np.ndarray, "1 4"] | None
    pieces: list[Piece] = field(default_factory=list)
    visits: int = VISIT_LIMIT
    shapes: int = SHAPE_LIMIT


class Hierarchy:
    """The structures of a file, and the chip: of those that no other one refers to, the one that covers most.

    Raises:
        ArtifactError: if there is no chip, or references go round in a circle.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents, self.file = contents, contents.file
        count = len(self.file.names)
        self._boxes = np.tile(np.array([NOWHERE, NOWHERE, -NOWHERE, -NOWHERE], dtype=np.int64), (count, 1))
        self._codes = np.zeros(count, dtype=np.int64)  # bit c: holds shapes with code c; 0: holds nothing
        self._counts = np.zeros(count, dtype=np.float64)  # of shapes, flattened
        self._surveyed = np.zeros(count, dtype=np.bool_)
        self._first = np.full(count, -1, dtype=np.int64)  # where in the pool a small structure's shapes begin
        self._pool = np.zeros((1024, 6), dtype=np.int32)
        self._pooled = 0
        inner = np.zeros(count, dtype=np.bool_)
        for index in range(count):
            self._survey(index, inner, 0)
        size = self._boxes[:, 2:] - self._boxes[:, :2]
        area = np.where(self._codes > 0, size.prod(axis=1, dtype=np.float64), 0.0)
        tops = np.flatnonzero(~inner)
        if not tops.size:
            raise self.file.error("no structure that could be the chip", 0)
        self.chip = int(tops[np.argmax(area[tops])])

    @property
    def extent(self) -> Box:
        """Of the chip."""
        x0, y0, x1, y1 = self._boxes[self.chip].tolist()
        return x0, y0, x1, y1

    # What is where

    def _survey(self, index: int, inner: Bool[np.ndarray, " structures"], depth: int) -> None:
        """Find the extent of a structure, after those of the structures that it places."""
        if self._surveyed[index]:
            return
        if depth > DEPTH_LIMIT:
            raise self.file.error(
                f"references go round in a circle, or deeper than {DEPTH_LIMIT}", self.file.offset(index)
            )
        structure = self.contents.structure(index)
        for instances in structure.instances:
            self._extend(index, instances, 1.0, inner, depth)
        for lattice in structure.lattices:
            across, up = (offsets[[0, -1]] for offsets in lattice.offsets())
            corners = (across[None] + up[:, None]).reshape(-1, 2) + np.array(lattice.origin)
            placed = np.full(4, lattice.structure, dtype=np.int32)
            times = lattice.columns * lattice.rows / 4
            self._extend(index, Instances(lattice.orientation, placed, corners), times, inner, depth)
        if len(structure.shapes):
            self._merge(index, structure.shapes[:, 1:3], structure.shapes[:, 3:5])
            self._codes[index] |= np.bitwise_or.reduce(_bits(structure.shapes))
            self._counts[index] += len(structure.shapes)
        if self._codes[index] and np.abs(self._boxes[index]).max() >= 1 << 31:
            raise self.file.error("a structure reaches beyond the range of coordinates", self.file.offset(index))
        self._surveyed[index] = True

    def _extend(
        self, index: int, instances: Instances, times: float, inner: Bool[np.ndarray, " structures"], depth: int
    ) -> None:
        """Add the extent of references, after those of the structures that they place."""
        placed, origins, orientation = instances.structures, instances.origins, instances.orientation
        children = _distinct(placed, len(self._codes))
        for child in children[~self._surveyed[children]].tolist():
            self._survey(child, inner, depth + 1)
        inner[children] = True
        counts = self._counts[placed]
        self._counts[index] += times * counts.sum()
        codes = np.bitwise_or.reduce(self._codes[children])
        self._codes[index] |= codes | (1 << self.contents.odd if orientation.skew and codes else 0)
        large = counts > SMALL
        if large.any():
            exact = orientation.boxes(self._boxes[placed[large]])
            self._merge(index, exact[:, :2] + origins[large], exact[:, 2:] + origins[large])
            origins = origins[~large]
        children = children[(self._codes[children] != 0) & (self._counts[children] <= SMALL)]
        if len(children):  # for the many small ones the extent of all of them, wherever one is, will do
            boxes, (x, y) = orientation.boxes(self._boxes[children]), origins.T
            low, high = np.array([x.min(), y.min()]), np.array([x.max(), y.max()])
            self._merge(index, boxes[:, :2] + low, boxes[:, 2:] + high)

    def _merge(self, index: int, low: Int[np.ndarray, "n 2"], high: Int[np.ndarray, "n 2"]) -> None:
        self._boxes[index, :2] = np.minimum(self._boxes[index, :2], low.min(axis=0))
        self._boxes[index, 2:] = np.maximum(self._boxes[index, 2:], high.max(axis=0))

    # What meets a window

    def pieces(self, wanted: int, window: Box) -> list[Piece]:
        """What of the chip has shapes with the codes in ``wanted`` (bits) and meets the window.

        Raises:
            ArtifactError: if it is more than can be.
        """
        if self._pooled > POOL_LIMIT:
            self._pooled = 0
            self._first[:] = -1
        view = _View(wanted, np.array([window], dtype=np.int64))
        self._visit(view, self.chip, IDENTITY, np.zeros(2, dtype=np.int64))
        return view.pieces

    def flatten(self, pieces: Sequence[Piece], wanted: int) -> Int[np.ndarray, "n 6"]:
        """The shapes of the pieces with the codes in ``wanted``, as the rows of a Structure, in chip coordinates."""
        parts = [self.shapes(piece) for piece in pieces]
        rows = np.concatenate(parts) if parts else np.zeros((0, 6), dtype=np.int32)
        fits = _bits(rows) & wanted != 0
        return rows if fits.all() else rows[fits]

    def key(self, piece: Piece, x: int, y: int) -> tuple[object, ...]:
        """Equal for two pieces of which each looks the same from its (x, y)."""
        if piece.structures is None:
            return ((self.shapes(piece) - np.array([0, x, y, x, y, 0])).tobytes(),)
        origins = piece.origins - np.array([x, y])
        return piece.orientation, piece.structures.tobytes(), origins.tobytes()

    def shapes(self, piece: Piece) -> Int[np.ndarray, "n 6"]:
        """A piece, flattened."""
        if piece.structures is None:
            return _turned(piece.shapes, piece.orientation, piece.origins)
        if len(piece.structures) == 1 and self._counts[piece.structures[0]] > SMALL:
            view = _View(-1, None)
            self._visit(view, int(piece.structures[0]), piece.orientation, piece.origins[0])
            return self.flatten(view.pieces, -1)
        self._keep(piece.structures)
        first, counts = self._first[piece.structures], self._counts[piece.structures].astype(np.int64)
        begin = np.cumsum(counts) - counts
        index = np.arange(counts.sum()) + np.repeat(first - begin, counts)
        return _turned(self._pool.take(index, axis=0), piece.orientation, np.repeat(piece.origins, counts, axis=0))

    def _visit(self, view: _View, index: int, orientation: Orientation, origin: Int[np.ndarray, " 2"]) -> None:
        """Gather what a structure holds, itself placed at ``origin``."""
        view.visits -= 1
        window = None
        if view.window is not None:
            window = orientation.inverse().boxes(view.window - np.tile(origin, 2))[0]
            box = self._boxes[index]
            if np.all(box[:2] >= window[:2]) and np.all(box[2:] <= window[2:]):
                window = None  # it lies inside: no need to look at each
        structure = self.contents.structure(index)
        if len(structure.shapes):
            keep = _bits(structure.shapes) & view.wanted != 0
            if window is not None:
                keep &= meets(structure.shapes[:, 1:5], window)
            if keep.any():
                view.pieces.append(Piece(orientation, origin[None], shapes=structure.shapes[keep]))
        for lattice in structure.lattices:
            if self._codes[lattice.structure] & (-1 if lattice.orientation.skew else view.wanted):
                self._place(view, index, self._spread(view, index, lattice, window), window, orientation, origin)
        for instances in structure.instances:
            self._place(view, index, instances, window, orientation, origin)

    def _place(
        self,
        view: _View,
        index: int,
        instances: Instances,
        window: Int[np.ndarray, " 4"] | None,
        orientation: Orientation,
        origin: Int[np.ndarray, " 2"],
    ) -> None:
        """Gather what references in structure ``index`` place; ``window`` is in that structure's coordinates."""
        placed, turn = instances.structures, instances.orientation
        keep = self._codes[placed] & (-1 if turn.skew else view.wanted) != 0
        if window is not None:
            keep &= meets(turn.boxes(self._boxes[placed]) + np.tile(instances.origins, 2), window)
        if not keep.any():
            return
        origins = instances.origins
        if not keep.all():
            placed, origins = placed[keep], origins[keep]
        origins = orientation.points(origins) + origin
        turn = turn.then(orientation)
        if turn.skew:
            remark = self.contents.text_index(
                "what a reference turned by a part of a right angle places is not measured"
            )
            boxes = turn.boxes(self._boxes[placed]) + np.tile(origins, 2)
            rows = np.column_stack([np.full(len(boxes), self.contents.odd), boxes, np.full(len(boxes), remark)])
            view.pieces.append(Piece(IDENTITY, np.zeros((1, 2), dtype=np.int64), shapes=rows.astype(np.int32)))
            return
        small = self._counts[placed] <= SMALL
        view.shapes -= int(self._counts[placed[small]].sum()) + len(placed)
        if view.visits < np.count_nonzero(~small) or view.shapes < 0:
            raise self.file.error("far more shapes lie in one tile than can be", self.file.offset(index))
        if small.all():
            view.pieces.append(Piece(turn, origins, structures=placed))
            return
        if small.any():
            view.pieces.append(Piece(turn, origins[small], structures=placed[small]))
        for child, at in zip(placed[~small].tolist(), origins[~small], strict=True):
            if view.window is not None and window is None and not self._codes[child] & ~view.wanted:
                view.pieces.append(Piece(turn, at[None], structures=np.array([child])))  # wholly wanted, wholly inside
            else:
                self._visit(view, child, turn, at)

    def _spread(self, view: _View, index: int, lattice: Lattice, window: Int[np.ndarray, " 4"] | None) -> Instances:
        """The placements of an array; where its axes allow it, of those columns and rows only that meet the window."""
        offsets = list(lattice.offsets())
        if window is not None:
            box = lattice.orientation.boxes(self._boxes[lattice.structure][None])[0] + np.tile(lattice.origin, 2)
            for mine, other in ((0, lattice.up), (1, lattice.across)):
                offset = offsets[mine]
                for axis in (0, 1):
                    if other[axis] == 0:  # so that the place along this axis is decided here
                        along = offset[:, axis]
                        offset = offset[
                            (box[axis] + along <= window[axis + 2]) & (box[axis + 2] + along >= window[axis])
                        ]
                offsets[mine] = offset
        across, up = offsets
        view.shapes -= len(across) * len(up)
        if view.shapes < 0:
            raise self.file.error("an array has more placements in one tile than can be", self.file.offset(index))
        origins = (across[None] + up[:, None]).reshape(-1, 2) + np.array(lattice.origin)
        return Instances(lattice.orientation, np.full(len(origins), lattice.structure, dtype=np.int32), origins)

    def _keep(self, structures: Int[np.ndarray, " n"]) -> None:
        """Flatten small structures into the pool, where they are not there yet."""
        for index in _distinct(structures[self._first[structures] < 0], len(self._first)).tolist():
            view = _View(-1, None)
            self._visit(view, index, IDENTITY, np.zeros(2, dtype=np.int64))
            rows = self.flatten(view.pieces, -1)
            if self._pooled + len(rows) > len(self._pool):
                self._pool = np.concatenate([self._pool, np.zeros((len(self._pool) + len(rows), 6), dtype=np.int32)])
            self._first[index] = self._pooled
            self._pool[self._pooled : self._pooled + len(rows)] = rows
            self._pooled += len(rows)


def _distinct(indices: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " m"]:
    """The different ones of indices below ``count``, in order."""
    if len(indices) < count // 8:
        return np.unique(indices)
    seen = np.zeros(count, dtype=np.bool_)
    seen[indices] = True
    return np.flatnonzero(seen)


def _bits(rows: Int[np.ndarray, "n 6"]) -> Int[np.ndarray, " n"]:
    """The code of each row as a bit."""
    return np.asarray(np.left_shift(1, rows[:, 0], dtype=np.int32))


def meets(boxes: Int[np.ndarray, "n 4"], window: Int[np.ndarray, " 4"]) -> Bool[np.ndarray, " n"]:
    """Which boxes touch a window."""
    x, y = (
        (boxes[:, 0] <= window[2]) & (boxes[:, 2] >= window[0]),
        (boxes[:, 1] <= window[3]) & (boxes[:, 3] >= window[1]),
    )
    return np.asarray(x & y)


def _turned(
    rows: Int[np.ndarray, "n 6"], orientation: Orientation, origins: Int[np.ndarray, "m 2"]
) -> Int[np.ndarray, "n 6"]:
    """Rows turned and moved, by one origin or one for each."""
    moved = np.empty_like(rows)
    moved[:, 0], moved[:, 5] = rows[:, 0], rows[:, 5]
    boxes = orientation.boxes(rows[:, 1:5])
    for column in range(4):
        moved[:, 1 + column] = boxes[:, column] + origins[:, column % 2]
    return moved
