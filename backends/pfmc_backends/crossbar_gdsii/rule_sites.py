"""A tile cut into the cells of its strips: what lies in each, and which cells hold the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from pfmc.layout.layout import tile_extent
from pfmc.technology.schema import Technology

Rows = Int[np.ndarray, "_ 5"]  # code of the layer, x0, y0, x1, y1


@dataclass(frozen=True, eq=False)
class Lattice:
    """Cells of one strip each, from left to right and from bottom to top; those at the border reach farther out.

    Attributes:
        x, y: where the cells are cut; database units, from the tile's origin.
        pitch: between the origins of strips, x and y; the first strip's is the tile's.
        margin: between a strip's body and its cell's lower and upper side.
    """

    x: Int[np.ndarray, " vertical_cuts"]
    y: Int[np.ndarray, " horizontal_cuts"]
    pitch: tuple[int, int]
    margin: int

    @classmethod
    def of(cls, technology: Technology, reach: int) -> Lattice:
        """The lattice whose border lies ``reach`` beyond the tile's blankets."""
        cell, units = technology.cell, technology.grid.units
        pitch = units(cell.strip_pitch), units(cell.row_pitch)
        margin = (pitch[1] - units(cell.body_length)) // 2
        columns, rows = 2 * int(technology.tile.columns.value), int(technology.tile.rows.value)
        x, y = np.arange(columns + 1) * pitch[0] - pitch[0] // 2, np.arange(rows + 1) * pitch[1] - margin
        left, bottom, width, height = tile_extent(technology)
        x[[0, -1]] = left - reach, left + width + reach
        y[[0, -1]] = bottom - reach, bottom + height + reach
        return cls(x, y, pitch, margin)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.y) - 1, len(self.x) - 1

    @cached_property
    def origins(self) -> Int[np.ndarray, "sites 2"]:
        """Of the strips, row by row."""
        rows, columns = np.divmod(np.arange(self.shape[0] * self.shape[1]), self.shape[1])
        return np.stack([columns * self.pitch[0], rows * self.pitch[1]], axis=1)

    def spans(self, boxes: Int[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
        """First column and row, last column and row that each box meets; the last before the first where it is none."""
        last_column, last_row = self.shape[1] - 1, self.shape[0] - 1
        return np.stack(
            [
                np.maximum(np.searchsorted(self.x, boxes[:, 0], "right") - 1, 0),
                np.maximum(np.searchsorted(self.y, boxes[:, 1], "right") - 1, 0),
                np.minimum(np.searchsorted(self.x, boxes[:, 2], "left") - 1, last_column),
                np.minimum(np.searchsorted(self.y, boxes[:, 3], "left") - 1, last_row),
            ],
            axis=1,
        )

    def cut(self, rows: Rows) -> tuple[Int[np.ndarray, " m"], Rows]:
        """What of rectangles lies in each cell: the cell's number, and the rectangle from the strip's origin.

        They are sorted by cell, else in the order given.
        """
        span = self.spans(rows[:, 1:])
        width, height = np.maximum(span[:, 2:] - span[:, :2] + 1, 0).T
        counts = width * height
        owner = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        up, across = np.divmod(within, np.maximum(width[owner], 1))
        column, row = span[owner, 0] + across, span[owner, 1] + up
        site = row * self.shape[1] + column
        if np.any(site[1:] < site[:-1]):
            order = np.argsort(site, kind="stable")
            site, owner, column, row = site[order], owner[order], column[order], row[order]
        found = rows[owner].astype(np.int64)
        found[:, 1] = np.maximum(found[:, 1], self.x[column]) - column * self.pitch[0]
        found[:, 2] = np.maximum(found[:, 2], self.y[row]) - row * self.pitch[1]
        found[:, 3] = np.minimum(found[:, 3], self.x[column + 1]) - column * self.pitch[0]
        found[:, 4] = np.minimum(found[:, 4], self.y[row + 1]) - row * self.pitch[1]
        return site, found

    def classes(self, rows: Rows) -> tuple[Int[np.ndarray, " sites"], list[Rows]]:
        """The number of each cell's contents, and the contents by number."""
        site, found = self.cut(rows)
        order = np.lexsort([*found.T[::-1], site])
        site, found = site[order], found[order]
        bounds = np.searchsorted(site, np.arange(len(self.origins) + 1))
        numbers: dict[bytes, int] = {}
        contents: list[Rows] = []
        number = np.empty(len(self.origins), dtype=np.int64)
        for i in range(len(number)):
            here = found[bounds[i] : bounds[i + 1]]
            number[i] = numbers.setdefault(here.tobytes(), len(contents))
            if number[i] == len(contents):
                contents.append(here)
        return number, contents

    def unlike(self, number: Int[np.ndarray, " sites"], reach: int) -> Bool[np.ndarray, " sites"]:
        """One cell for each different surroundings within reach, by the numbers of the cells' contents."""
        windows = self._windows(number, reach, -1).reshape(len(number), -1)
        _, first = np.unique(windows, axis=0, return_index=True)
        found = np.zeros(len(number), dtype=np.bool_)
        found[first] = True
        return found

    def near(self, sites: Bool[np.ndarray, " sites"], reach: int = 0) -> Bool[np.ndarray, " sites"]:
        """Those cells and all around them, those within reach too."""
        return np.asarray(self._windows(sites, reach, 0).any(axis=(2, 3)).ravel())

    def _windows(self, values: np.ndarray, reach: int, beyond: int) -> np.ndarray:
        """The values of each cell and of the cells around it; ``beyond`` where there are none."""
        across, up = (1 + reach // pitch for pitch in self.pitch)
        padded = np.pad(values.reshape(self.shape), ((up, up), (across, across)), constant_values=beyond)
        return np.lib.stride_tricks.sliding_window_view(padded, (2 * up + 1, 2 * across + 1))

    def meeting(self, boxes: Int[np.ndarray, "n 4"], sites: Bool[np.ndarray, " sites"]) -> Bool[np.ndarray, " n"]:
        """Which boxes touch one of the cells; touching counts."""
        sums = np.pad(np.cumsum(np.cumsum(sites.reshape(self.shape), axis=0), axis=1), ((1, 0), (1, 0)))
        c0, r0, c1, r1 = self.spans(boxes + np.array([-1, -1, 1, 1])).T
        c1, r1 = np.maximum(c1 + 1, c0), np.maximum(r1 + 1, r0)
        c0, r0 = np.minimum(c0, self.shape[1]), np.minimum(r0, self.shape[0])
        return np.asarray(sums[r1, c1] - sums[r0, c1] - sums[r1, c0] + sums[r0, c0] > 0)
