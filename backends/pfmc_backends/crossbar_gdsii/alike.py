"""What of a tile decides its connections: so that tiles that are alike in it need not be extracted again.

What rectangles connect depends on the order of their coordinates alone: which are larger, which are equal. The cells of
a tile have few different orders of personalised rectangles among themselves and to the base masks. And a cell that
joins the same of its wires as another one with the same base masks may take its place in any array, if what is
personalised there and conducts stays inside, and nothing leads out of the array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pfmc.bundle import TileRecord
from pfmc.layout.layout import tile_extent
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.hierarchy import Hierarchy
from pfmc_backends.crossbar_gdsii.rule_sites import Lattice, Rows

SLOTS: Final = 8  # personalised rectangles of a cell; drawn there are two at most


class Cell(NamedTuple):
    """Base masks and personalised rectangles of a cell, and which of the first reach its sides."""

    base: Rows
    personal: Rows
    ports: Int[np.ndarray, " ports"]


class Order(NamedTuple):
    """What decides the connections of a tile.

    Attributes:
        base: the base masks of the array with their labels, exactly.
        cells: a cell of each kind: by number of its base masks and place, and by order of what is personalised there.
        around: what lies around the array, exactly.
    """

    base: bytes
    cells: dict[tuple[int, bytes], Cell]
    around: bytes


@dataclass(frozen=True, eq=False)
class _Base:
    """Base masks in and around an array.

    Attributes:
        key: of the pieces of the file that they are.
        exactly: labels and masks in the array.
        around: the others.
        leaves: whether anything leads out of the array.
        number: of each cell, 16 times that of its contents and its place; and those contents.
    """

    key: object
    exactly: bytes
    around: Rows
    leaves: bool
    number: Int[np.ndarray, " sites"]
    contents: list[Rows]


@dataclass
class Orders:
    """Finds the orders of tiles in one file."""

    path: Path
    technology: Technology
    _base: _Base | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Survey the file."""
        layers, chip = self.technology.layers, self.technology.chip
        drawn = (layers.poly, layers.block, layers.contact, layers.metal1, layers.via1, layers.metal2)
        texts = dict.fromkeys((layers.metal1_text.key, layers.metal2_text.key))
        self._hierarchy = Hierarchy(Contents(GdsiiFile(self.path), [layer.key for layer in drawn], list(texts)))
        self.layers = drawn
        self._odd = len(drawn) + len(texts)
        personal = {layer.key for layer in self.technology.personalisation_layers}
        self._personal = sum(1 << code for code, layer in enumerate(drawn) if layer.key in personal)
        self._block = drawn.index(layers.block)
        self._lattice = Lattice.of(self.technology, self.technology.grid.units(chip.ring_distance) // 2)

    def of(self, tile: TileRecord) -> Order | None:
        """The order of a tile; None where rectangles do not tell what it connects."""
        left, bottom, width, height = tile_extent(self.technology)
        half = self.technology.grid.units(self.technology.chip.tile_spacing) // 2
        x, y = tile.x + left - half, tile.y + bottom - half
        window = x, y, x + width + 2 * half, y + height + 2 * half
        every = (1 << self._odd + 1) - 1
        pieces = self._hierarchy.pieces(every & ~self._personal, window)
        key = [self._hierarchy.key(piece, tile.x, tile.y) for piece in pieces]
        if self._base is None or self._base.key != key:
            self._base = self._examined(key, self._hierarchy.flatten(pieces, every & ~self._personal), tile)
        base = self._base
        personal = self._hierarchy.flatten(self._hierarchy.pieces(self._personal, window), self._personal)
        rows = _moved(personal, tile)[:, :5]
        inside, apart = self._inside(rows), self._apart(rows)
        conducting = rows[inside & (rows[:, 0] != self._block)]
        span = self._lattice.spans(conducting[:, 1:] + np.array([-1, -1, 1, 1]))
        if base.leaves or not np.all(inside | apart) or np.any(span[:, :2] != span[:, 2:]):
            return None
        if min(self._lattice.shape) < 2:  # where wires do not lead from cell to cell
            return None
        cells = self._cells(base, rows[inside])
        around = np.concatenate([base.around, rows[apart]])
        return None if cells is None else Order(base.exactly, cells, around.tobytes())

    @property
    def chip(self) -> str:
        """The name of the structure that is taken for the chip."""
        return self._hierarchy.file.names[self._hierarchy.chip].decode("ascii", "replace")

    @property
    def array(self) -> tuple[int, int, int, int]:
        """The box of the array, from a tile's origin."""
        x, y = self._lattice.x, self._lattice.y
        return int(x[0]), int(y[0]), int(x[-1]), int(y[-1])

    def _examined(self, key: object, rows: Int[np.ndarray, "n 6"], tile: TileRecord) -> _Base:
        """The base masks of a tile."""
        rows = _moved(rows, tile)
        inside, apart = self._inside(rows), self._apart(rows)
        leaves = bool(np.any(rows[:, 0] == self._odd)) or not np.all(inside | apart)
        number, contents = self._lattice.classes(rows[inside & (rows[:, 0] < len(self.layers)), :5])
        row, column = np.divmod(np.arange(len(number)), self._lattice.shape[1])
        last_row, last_column = np.array(self._lattice.shape) - 1
        place = (row == 0) + 2 * (row == last_row) + 4 * (column == 0) + 8 * (column == last_column)
        number = 16 * number + place
        return _Base(key, rows[inside].tobytes(), rows[apart, :5], leaves, number, contents)

    def _cells(self, base: _Base, rows: Rows) -> dict[tuple[int, bytes], Cell] | None:
        """The cells of different kinds; None if a cell has too many rectangles."""
        lattice = self._lattice
        site, found = lattice.cut(rows)
        counts = np.bincount(site, minlength=len(base.number))
        slots = int(counts.max(initial=0))
        if slots > SLOTS:
            return None
        slot = np.arange(len(site)) - (np.cumsum(counts) - counts)[site]
        held = np.full((len(counts), slots, 5), -1, dtype=np.int64)
        held[site, slot] = found
        cells: dict[tuple[int, bytes], Cell] = {}
        for number in np.unique(base.number).tolist():
            sites, contents = np.flatnonzero(base.number == number), base.contents[number // 16]
            here = [held[sites, :, 0]]
            for axis in (0, 1):
                along = held[sites][:, :, [1 + axis, 3 + axis]].reshape(len(sites), -1)
                fixed = np.unique(contents[:, [1 + axis, 3 + axis]])
                below = np.searchsorted(fixed, along, "left") + np.searchsorted(fixed, along, "right")
                among = np.sign(along[:, :, None] - along[:, None, :]).reshape(len(sites), -1)
                here += [below, among]
            orders, first = np.unique(np.concatenate(here, axis=1), axis=0, return_index=True)
            for order, one in zip(orders, sites[first], strict=True):
                ports = self._ports(contents, int(one))
                cells[number, order.tobytes()] = Cell(contents, held[one, : counts[one]], ports)
        return cells

    def _ports(self, contents: Rows, site: int) -> Int[np.ndarray, " ports"]:
        """Which rectangles in a cell reach its sides."""
        row, column = divmod(site, self._lattice.shape[1])
        x = self._lattice.x[column : column + 2] - column * self._lattice.pitch[0]
        y = self._lattice.y[row : row + 2] - row * self._lattice.pitch[1]
        sides = np.array([x[0], y[0], x[1], y[1]])
        return np.flatnonzero(np.any(contents[:, 1:] == sides, axis=1))

    def _inside(self, rows: Int[np.ndarray, "n k"]) -> Bool[np.ndarray, " n"]:
        """Which rectangles lie in the array, off its border."""
        x0, y0, x1, y1 = self.array
        return np.asarray((rows[:, 1] > x0) & (rows[:, 2] > y0) & (rows[:, 3] < x1) & (rows[:, 4] < y1))

    def _apart(self, rows: Int[np.ndarray, "n k"]) -> Bool[np.ndarray, " n"]:
        """Which lie outside it."""
        x0, y0, x1, y1 = self.array
        return np.asarray((rows[:, 3] <= x0) | (rows[:, 4] <= y0) | (rows[:, 1] >= x1) | (rows[:, 2] >= y1))


def _moved(rows: Int[np.ndarray, "n 6"], tile: TileRecord) -> Int[np.ndarray, "n 6"]:
    """Shapes from a tile's origin."""
    moved: Int[np.ndarray, "n 6"] = rows - np.array([0, tile.x, tile.y, tile.x, tile.y, 0], dtype=rows.dtype)
    return moved
