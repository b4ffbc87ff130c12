"""Read the masks back: the resistance of every device, from the geometry of the file and the technology alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.backend import Progress, TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError
from pfmc.physics.network import Wires
from pfmc.primitives.crossbar import model_resistance
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy, meets
from pfmc_backends.crossbar_gdsii.measure import Array, Blocked, Remark, Skeleton, measure_block, recover

MASKS: Final = Path("masks") / "chip.gds"
POLY, CONTACT, BLOCK, METAL1, VIA1, METAL2, LABEL1, LABEL2, ODD = range(9)
COMPLAINT_LIMIT: Final = 20
FAR: Final = 1 << 40  # database units: beyond what a GDSII file can describe
LIMIT: Final = (1 << 30) - 1  # of coordinates within a tile, so that those of two boxes can be added


def read_tiles(
    folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress
) -> Iterator[TileAsBuilt]:
    """Recover the tiles from ``folder``/masks/chip.gds, in the order asked for.

    Raises:
        ArtifactError: if the file cannot be understood.
    """
    reader = TileReader(folder / MASKS, technology)
    for tile in tiles:
        yield reader.read(tile)
        progress(1)


class TileReader:
    """Reads tile after tile from one file. What tiles have in common, all but the block, is analysed once.

    Raises:
        ArtifactError: if the file cannot be understood.
    """

    def __init__(self, path: Path, technology: Technology) -> None:
        layers = technology.layers
        file = GdsiiFile(path)
        unit = technology.grid.database_unit.si
        if abs(file.database_unit - unit) > 1e-6 * unit:
            raise ArtifactError(
                f"the database unit is {file.database_unit:.3g} m, not {unit:.3g} m", str(path), "write the file in it"
            )
        drawn = (layers.poly, layers.contact, layers.block, layers.metal1, layers.via1, layers.metal2)
        contents = Contents(file, [layer.key for layer in drawn], [layers.metal1_text.key, layers.metal2_text.key])
        self._technology = technology
        self._texts = contents.texts
        self._hierarchy = Hierarchy(contents)
        self._shared: tuple[list[tuple[object, ...]], Array, Wires] | None = None

    def read(self, tile: TileRecord) -> TileAsBuilt:
        """The devices of a tile's block."""
        rows, columns = tile.row_stop - tile.row_start, tile.column_stop - tile.column_start
        size = int(self._technology.tile.rows.value), int(self._technology.tile.columns.value)
        if not (0 < rows <= size[0] and 0 < columns <= size[1] and abs(tile.x) + abs(tile.y) < FAR):
            raise ArtifactError(
                f"a block of {rows} x {columns} at {tile.x},{tile.y} does not fit", f"tile {tile.name}", "compile again"
            )
        window = self._window(tile)
        array, wires = self._array(tile, window)
        blocked = measure_block(array, self._blocks(tile, window))
        resistance = self._resistance(array, blocked)
        known = (array.rows < size[0]) & (array.columns < 2 * size[1]) & np.isfinite(resistance)
        place = array.rows[known] * 2 * size[1] + array.columns[known]

        def total(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "rows columns 2"]:
            sums = np.bincount(place, values, minlength=2 * size[0] * size[1])
            return np.asarray(sums, dtype=np.float64).reshape(*size, 2)

        unit = self._technology.grid.database_unit.si
        count = np.bincount(place, minlength=2 * size[0] * size[1]).reshape(*size, 2)
        devices = count[:rows, :columns]
        with np.errstate(divide="ignore"):  # no strip: no conductance, and a resistance without bound
            built = 1.0 / total(1.0 / resistance[known])
        remarks = [*self._miscounted(devices), *array.remarks, *blocked.remarks]
        return TileAsBuilt(
            name=tile.name,
            resistance=built,
            wires=wires,
            found=int(np.count_nonzero(devices)),
            complaints=self._complaints(tile, remarks),
            length=total(blocked.length[known] * unit) / np.maximum(count, 1),
            width=total((array.boxes[known, 2] - array.boxes[known, 0]) * unit),
        )

    def _wires(self, array: Array) -> Wires:
        """The wires of a tile as they are drawn."""
        wires = self._technology.wires
        return Wires(
            row_segment=array.row_squares * wires.metal1_sheet_resistance.si,
            column_segment=array.column_squares * wires.metal2_sheet_resistance.si,
            driver=wires.driver_resistance.si,
            sense=wires.sense_resistance.si,
            double_ended=wires.driven_ends == 2,
        )

    def _window(self, tile: TileRecord) -> Box:
        """The tile's strips and half a street around them, on the chip."""
        half_street = self._technology.grid.units(self._technology.chip.tile_spacing) // 2
        x0, y0, x1, y1 = _extent(self._technology)
        return (
            tile.x + x0 - half_street,
            tile.y + y0 - half_street,
            tile.x + x1 + half_street,
            tile.y + y1 + half_street,
        )

    def _array(self, tile: TileRecord, window: Box) -> tuple[Array, Wires]:
        """The strips and wires of a tile; those of the tile before, the same objects, if all but the block is."""
        wanted = ((1 << (ODD + 1)) - 1) & ~(1 << BLOCK)
        pieces = self._hierarchy.pieces(wanted, window)
        key = [self._hierarchy.key(piece, tile.x, tile.y) for piece in pieces]
        if self._shared is not None and self._shared[0] == key:
            return self._shared[1:]
        rows = self._hierarchy.flatten(pieces, wanted)
        array = recover(self._technology, self._skeleton(rows, tile, window))
        self._shared = key, array, self._wires(array)
        return self._shared[1:]

    def _skeleton(self, rows: Int[np.ndarray, "n 6"], tile: TileRecord, window: Box) -> Skeleton:
        """Shapes sorted by layer and cut off at the window, in coordinates of the tile."""
        rows = rows[meets(rows[:, 1:5], np.array(window))]
        boxes = np.clip(rows[:, 1:5], np.tile(window[:2], 2), np.tile(window[2:], 2))
        boxes = boxes.astype(np.int64) - np.array([tile.x, tile.y, tile.x, tile.y])
        solid = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
        x0, y0, x1, y1 = _extent(self._technology)
        in_array = (boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        code = rows[:, 0]

        def noted(kind: int) -> list[Remark]:
            of_kind = code == kind
            return [
                (self._texts[text], x, y)
                for text, (x, y) in zip(rows[of_kind, 5].tolist(), boxes[of_kind, :2].tolist(), strict=True)
            ]

        poly, contact = (boxes[solid & in_array & (code == layer)] for layer in (POLY, CONTACT))
        metal1, via1, metal2 = (boxes[solid & (code == layer)] for layer in (METAL1, VIA1, METAL2))
        return Skeleton(poly, contact, metal1, via1, metal2, noted(LABEL1), noted(LABEL2), noted(ODD))

    def _blocks(self, tile: TileRecord, window: Box) -> Int[np.ndarray, "n 4"]:
        """The shapes that keep silicide off, in coordinates of the tile."""
        pieces = self._hierarchy.pieces(1 << BLOCK, window)
        rows = self._hierarchy.flatten(pieces, 1 << BLOCK)
        boxes = rows[:, 1:5] - np.array([tile.x, tile.y, tile.x, tile.y])
        return np.asarray(np.clip(boxes, -LIMIT, LIMIT).astype(np.int32))

    def _resistance(self, array: Array, blocked: Blocked) -> Float[np.ndarray, " n"]:
        """Of each strip, ohms; infinite where its path is broken."""
        grid = self._technology.grid
        unit = grid.database_unit.si
        heads = 2 * grid.units(self._technology.cell.contact_distance)  # what the terminals include
        bare = np.maximum(array.path[:, 1] - array.path[:, 0] - blocked.length - heads, 0)
        width = (array.boxes[:, 2] - array.boxes[:, 0]) * unit
        conducts = array.whole & ~blocked.buried & (width > self._technology.resistor.width_reduction.si)
        resistance = np.full(len(width), np.inf)
        resistance[conducts] = model_resistance(
            self._technology,
            blocked.length[conducts] * unit,
            bare[conducts] * unit,
            width[conducts],
            array.pad[conducts] * unit,
            blocked.pieces[conducts],
        )
        return resistance

    def _miscounted(self, devices: Int[np.ndarray, "rows columns 2"]) -> list[Remark]:
        """Remarks on positions with no device, or with several; they stand where the strip should."""
        grid, cell = self._technology.grid, self._technology.cell
        pitch, row_pitch = grid.units(cell.strip_pitch), grid.units(cell.row_pitch)
        remarks = []
        for r, c, polarity in np.argwhere(devices != 1).tolist():
            count = int(devices[r, c, polarity]) or "no"
            what = f"row {r} and column {c}{'pn'[polarity]} are joined by {count} whole strip{'s' * (count != 'no')}"
            remarks.append((what, (2 * c + polarity) * pitch, r * row_pitch))
        return remarks

    def _complaints(self, tile: TileRecord, remarks: Sequence[Remark]) -> tuple[str, ...]:
        """Remarks as lines, with their places on the chip."""
        micrometres = self._technology.grid.database_unit.si * 1e6
        lines = [
            f"{what} at {(tile.x + x) * micrometres:.3f},{(tile.y + y) * micrometres:.3f} um"
            for what, x, y in remarks[:COMPLAINT_LIMIT]
        ]
        if len(remarks) > COMPLAINT_LIMIT:
            lines.append(f"and {len(remarks) - COMPLAINT_LIMIT} more")
        return tuple(lines)


def tile_shapes(
    folder: Path, technology: Technology, tile: TileRecord, window: Box
) -> dict[str, Int[np.ndarray, "n 4"]]:
    """Rectangles of a tile by layer, for pictures; see :class:`pfmc.backend.Backend`.

    Raises:
        ArtifactError: if the file cannot be understood.
    """
    kinds = technology.layers
    single = (kinds.poly, kinds.contact, kinds.block, kinds.marker, kinds.metal1, kinds.via1, kinds.metal2)
    drawn = (*single, *kinds.blankets)
    hierarchy = Hierarchy(Contents(GdsiiFile(folder / MASKS), [layer.key for layer in drawn]))
    wanted = (1 << len(drawn)) - 1
    x0, y0, x1, y1 = window
    rows = hierarchy.flatten(hierarchy.pieces(wanted, (tile.x + x0, tile.y + y0, tile.x + x1, tile.y + y1)), wanted)
    boxes = rows[:, 1:5] - np.array([tile.x, tile.y, tile.x, tile.y])
    near = meets(boxes, np.array(window))
    return {layer.name: boxes[near & (rows[:, 0] == code)] for code, layer in enumerate(drawn)}


def _extent(technology: Technology) -> Box:
    """From the first strip's corner to the last one's, in coordinates of the tile."""
    grid, cell = technology.grid, technology.cell
    rows, columns = int(technology.tile.rows.value), int(technology.tile.columns.value)
    half_width, head = grid.units(cell.strip_width) // 2, grid.units(cell.head_length)
    right = (2 * columns - 1) * grid.units(cell.strip_pitch) + half_width
    return -half_width, -head, right, (rows - 1) * grid.units(cell.row_pitch) + grid.units(cell.body_length) + head
