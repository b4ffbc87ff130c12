"""Layout to masks: one GDSII file, streamed tile by tile, and the table of devices beside it.

Structures: ``strip``, what all strips share; ``array``, the base of a whole tile; ``fill0``, …; one per tile, which
refers to the array and, for each strip, to the value cell of its length (``r03475``); ``chip``. gdstk draws those that
are few; the references of a tile are one structured array.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import gdstk
import numpy as np
from jaxtyping import Bool, Int

from pfmc.backend import Emission, Progress
from pfmc.errors import ArtifactError, CapacityError, printable
from pfmc.layout.layout import Layout, PlacedTile
from pfmc.primitives.crossbar import CrossbarTile, Programmed
from pfmc.technology.schema import Technology
from pfmc.units import UNITS
from pfmc_backends.crossbar_gdsii import cell, records
from pfmc_backends.crossbar_gdsii.fill import fill_cells, fill_references
from pfmc_backends.crossbar_gdsii.table import Frame, TableWriter

MASKS: Final = "masks/chip.gds"
DEVICES: Final = "devices.parquet"
TIMESTAMP: Final = datetime(2000, 1, 1)  # the same input gives the same bytes


def emit(layout: Layout, folder: Path, progress: Progress) -> Emission:
    """Write masks and device table of a layout; see :class:`pfmc.backend.Backend`."""
    frame = Frame(layout.title, layout.width, layout.height)
    return draw(layout.technology, frame, layout.tiles, layout.programmed(), folder, progress)


def draw(
    technology: Technology,
    frame: Frame,
    tiles: Sequence[PlacedTile],
    programmed: Iterable[tuple[PlacedTile, Programmed]],
    folder: Path,
    progress: Progress,
) -> Emission:
    """Write masks and device table of tiles and their devices below ``folder``; one tile is in memory at a time.

    Raises:
        CapacityError: if the chip is larger than a GDSII file can describe.
        ArtifactError: if a tile's name cannot be that of a structure.
    """
    _check(technology, frame, tiles)
    primitive = CrossbarTile.of(technology)
    encoder = TileEncoder.of(technology, primitive)
    total = used = 0
    (folder / MASKS).parent.mkdir(parents=True, exist_ok=True)
    with (folder / MASKS).open("wb") as masks, TableWriter(folder / DEVICES, technology, frame) as table:
        masks.write(library_start(technology.grid.database_unit.si) + structures(base_cells(technology), technology))
        for placed, devices in programmed:
            masks.write(encoder.encode(placed.tile.name, devices.lengths))
            block = devices.lengths[: len(placed.tile.rows), : len(placed.tile.columns)]
            wanted = devices.wanted[: len(placed.tile.rows), : len(placed.tile.columns)]
            table.add(placed, wanted, primitive.resistance(block))
            total += devices.lengths.size
            used += block.size
            progress(1)
        masks.write(structures(encoder.value_cells(technology), technology))
        masks.write(structures([chip_cell(technology, frame, tiles)], technology))
        masks.write(records.record(records.ENDLIB))
    return Emission(((MASKS, "mask"), (DEVICES, "devices")), used, total - used)


@dataclass(frozen=True, eq=False)
class TileEncoder:
    """Encodes tiles: where strips stand is the same in all of them, so that only names change from tile to tile.

    Attributes:
        references: of a tile's strips, in row-major order, + before −.
        names: of the value cells, by length in manufacturing grid steps.
        seen: which of them were used; what the encoder learns on its way.
    """

    step: int
    references: np.ndarray
    names: np.ndarray
    seen: Bool[np.ndarray, " lengths"]

    @classmethod
    def of(cls, technology: Technology, primitive: CrossbarTile) -> TileEncoder:
        """An encoder for the tiles of a technology."""
        steps = primitive.length_max // primitive.step + 1
        digits = max(5, len(str(primitive.length_max)))
        digits += 1 - digits % 2  # with its letter, the name has an even length
        names = np.array([f"r{i * primitive.step:0{digits}}".encode() for i in range(steps)])
        row, column = np.indices((primitive.rows, 2 * primitive.columns), dtype=np.int64).reshape(2, -1)
        x = column * technology.grid.units(technology.cell.strip_pitch)
        y = row * technology.grid.units(technology.cell.row_pitch)
        return cls(primitive.step, records.srefs(names[np.zeros_like(x)], x, y), names, np.zeros(steps, dtype=np.bool_))

    def encode(self, name: str, lengths: Int[np.ndarray, "rows columns 2"]) -> bytes:
        """The structure of a tile whose strips have these blocked lengths (database units)."""
        index = lengths.reshape(-1) // self.step
        self.seen[index] = True
        self.references["name"] = self.names[index]
        base = records.srefs(np.array([b"array\0"], dtype="S6"), np.zeros(1), np.zeros(1))
        return b"".join(
            (
                records.dated(records.BGNSTR, TIMESTAMP),
                records.text(records.STRNAME, name),
                base.tobytes(),
                self.references.tobytes(),
                records.record(records.ENDSTR),
            )
        )

    def value_cells(self, technology: Technology) -> list[gdstk.Cell]:
        """A cell for each length that was used."""
        found = []
        for index in np.flatnonzero(self.seen).tolist():
            value = gdstk.Cell(self.names[index].decode())
            value.add(*_polygons(cell.value_shapes(technology, index * self.step)))
            found.append(value)
        return found


def base_cells(technology: Technology) -> list[gdstk.Cell]:
    """The cells that do not depend on the model: ``strip``, ``array`` and the fill."""
    units = technology.grid.units
    strip = gdstk.Cell("strip")
    strip.add(*_polygons(cell.strip_shapes(technology)))
    array = gdstk.Cell("array")
    array.add(*_polygons(cell.array_shapes(technology)), *_labels(cell.array_labels(technology)))
    pitch = units(technology.cell.strip_pitch), units(technology.cell.row_pitch)
    rows, strips = int(technology.tile.rows.value), 2 * int(technology.tile.columns.value)
    array.add(gdstk.Reference(strip, columns=strips, rows=rows, spacing=pitch))
    return [strip, array, *fill_cells(technology)]


def chip_cell(technology: Technology, frame: Frame, tiles: Sequence[PlacedTile]) -> gdstk.Cell:
    """The top: tiles with their names, frame, a mark in each corner, fill, and the title at the lower left."""
    outline = technology.layers.outline
    chip = gdstk.Cell("chip")
    chip.add(*_polygons([cell.Rectangle(outline, 0, 0, frame.width, frame.height)]))
    for x, y in cell.mark_places(technology, frame.width, frame.height):
        chip.add(*_polygons(cell.mark_shapes(technology, x, y)))
    chip.add(*fill_references(technology, frame, tiles))
    chip.add(*(gdstk.Reference(gdstk.Cell(placed.tile.name), (placed.x, placed.y)) for placed in tiles))
    chip.add(*_labels(cell.Label(outline, placed.tile.name, placed.x, placed.y) for placed in tiles))
    title = printable(frame.title).encode("ascii", "replace").decode()
    chip.add(*_labels([cell.Label(outline, title, 0, 0)]))
    return chip


def structures(cells: Sequence[gdstk.Cell], technology: Technology) -> bytes:
    """Cells drawn in database units, as GDSII structures without a library around them."""
    unit = technology.grid.database_unit.si
    library = gdstk.Library("pfmc", unit=unit, precision=unit)
    library.add(*cells)
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        path = Path(work) / "cells.gds"
        library.write_gds(path, max_points=0, timestamp=TIMESTAMP)
        data = path.read_bytes()
    first = next((start for tag, start, _ in records.walk(data) if tag == records.BGNSTR), len(data))
    return data[first : -len(records.record(records.ENDLIB))]


def library_start(unit: float) -> bytes:
    """Everything before the first structure; the database unit is ``unit`` metres, a user unit is a micrometre."""
    return b"".join(
        (
            records.record(records.HEADER, (600).to_bytes(2, "big")),
            records.dated(records.BGNLIB, TIMESTAMP),
            records.text(records.LIBNAME, "pfmc"),
            records.record(records.UNITS, records.real8(unit / UNITS["um"][1]) + records.real8(unit)),
        )
    )


def _check(technology: Technology, frame: Frame, tiles: Sequence[PlacedTile]) -> None:
    if max(frame.width, frame.height) > np.iinfo(np.int32).max:
        size = f"{frame.width} x {frame.height} database units"
        raise CapacityError("the chip is larger than a GDSII file can describe", size, "split the model")
    for placed in tiles:
        name = placed.tile.name
        taken = name in {"strip", "array", "chip"} or re.fullmatch(r"(r|fill)\d+", name)
        if taken or not records.STRUCTURE_NAME.fullmatch(name):
            raise ArtifactError("the tile's name cannot be that of a structure", f"tile {name}", "name it like t00000")


def _polygons(shapes: Iterable[cell.Rectangle]) -> Iterable[gdstk.Polygon]:
    for layer, x0, y0, x1, y1 in shapes:
        yield gdstk.rectangle((x0, y0), (x1, y1), layer=layer.number, datatype=layer.datatype)


def _labels(labels: Iterable[cell.Label]) -> Iterable[gdstk.Label]:
    for layer, text, x, y in labels:
        yield gdstk.Label(text, (x, y), layer=layer.number, texttype=layer.datatype)
