"""Fill: rectangles on layers of their own that keep the density of a chip within the foundry's limits.

Where they lie follows from where tiles and marks stand, so that models of one shape have the same fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import gdstk
import numpy as np
from jaxtyping import Int

from pfmc.layout.layout import PlacedTile, tile_extent
from pfmc.technology.schema import Fill, Technology
from pfmc_backends.crossbar_gdsii.cell import mark_places
from pfmc_backends.crossbar_gdsii.hierarchy import Box
from pfmc_backends.crossbar_gdsii.table import Frame

REPEAT_LIMIT: Final = 32767  # columns or rows of an array reference, two signed bytes in the file


def fill_cells(technology: Technology) -> list[gdstk.Cell]:
    """One rectangle for each kind of fill: ``fill0``, …."""
    units, cells = technology.grid.units, []
    for i, fill in enumerate(technology.chip.fill):
        cells.append(gdstk.Cell(f"fill{i}"))
        corner = units(fill.width), units(fill.height)
        cells[i].add(gdstk.rectangle((0, 0), corner, layer=fill.number, datatype=fill.datatype))
    return cells


def fill_references(technology: Technology, frame: Frame, tiles: Sequence[PlacedTile]) -> Iterator[gdstk.Reference]:
    """Arrays of them, within the frame and clear of what each kind keeps away from."""
    box = 0, 0, frame.width, frame.height
    taken = np.array([*_tiles(technology, tiles), *_marks(technology, frame)], dtype=np.int64)
    for i, fill in enumerate(technology.chip.fill):
        cell = gdstk.Cell(f"fill{i}")
        free = [box]
        if fill.clearance is not None:
            clearance = technology.grid.units(fill.clearance)
            free = free_boxes(box, taken + clearance * np.array([-1, -1, 1, 1]))
        for part in free:
            yield from _arrays(technology, fill, cell, part)


def free_boxes(box: Box, taken: Int[np.ndarray, "n 4"]) -> list[Box]:
    """What of a box is outside all those that are taken, in pieces from side to side."""
    x0, y0, x1, y1 = box
    levels = np.unique(np.clip(np.append(taken[:, [1, 3]], [y0, y1]), y0, y1))
    free: list[Box] = []
    for low, high in pairwise(levels.tolist()):
        here = taken[(taken[:, 1] <= low) & (taken[:, 3] >= high)]
        reached = x0
        for left, right in sorted(here[:, [0, 2]].clip(x0, x1).tolist()):
            if left > reached:
                free.append((reached, low, left, high))
            reached = max(reached, right)
        if reached < x1:
            free.append((reached, low, x1, high))
    return free


def _arrays(technology: Technology, fill: Fill, cell: gdstk.Cell, box: Box) -> Iterator[gdstk.Reference]:
    """As many as there is room for, in the middle of a box; half a space away from its sides."""
    units, step = technology.grid.units, technology.grid.step
    half = -(-units(fill.space) // (2 * step)) * step
    pitch = np.array([units(fill.width), units(fill.height)]) + 2 * half
    room = np.array(box[2:]) - np.array(box[:2])
    counts = room // pitch
    first = np.array(box[:2]) + half + (room - counts * pitch) // (2 * step) * step
    for column in range(0, int(counts[0]), REPEAT_LIMIT):
        for row in range(0, int(counts[1]), REPEAT_LIMIT):
            columns, rows = (counts - [column, row]).clip(max=REPEAT_LIMIT).tolist()
            origin = (first + pitch * [column, row]).tolist()
            yield gdstk.Reference(cell, origin, columns=columns, rows=rows, spacing=pitch.tolist())


def _tiles(technology: Technology, tiles: Sequence[PlacedTile]) -> Iterator[Box]:
    """Tiles and their rings."""
    left, bottom, width, height = tile_extent(technology)
    chip, units = technology.chip, technology.grid.units
    ring = units(chip.ring_distance) + units(chip.ring_width) + units(chip.ring_implant_overlap)
    for placed in tiles:
        x, y = placed.x + left, placed.y + bottom
        yield x - ring, y - ring, x + width + ring, y + height + ring


def _marks(technology: Technology, frame: Frame) -> Iterator[Box]:
    reach = technology.grid.units(technology.chip.mark_size) // 2
    for x, y in mark_places(technology, frame.width, frame.height):
        yield x - reach, y - reach, x + reach, y + reach
