"""What lies between a crossbar tile's pins and its strips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pfmc.physics.network import Wires
from pfmc.technology.schema import Technology


def pins(technology: Technology) -> tuple[int, int]:
    """Where wires are connected: x of the rows' pins, y of the columns' pins, in database units from the tile's origin.

    A row's pin is at the left edge of its first strip, a column's at the lower end of its wire.
    """
    cell, units = technology.cell, technology.grid.units
    return -(units(cell.strip_width) // 2), units(cell.column_wire_width) // 2 - units(cell.column_wire_extension)


def nominal_wires(technology: Technology) -> Wires:
    """The wires of a tile as they are drawn: sheet resistance times length over width, from pin to strip to strip.

    Where vias move, they stand where those of the longest strips do. The segments broadcast to the crossings:
    (1, 2 · columns) of the rows and (rows, 1) of the columns.
    """
    cell, wires, tile = technology.cell, technology.wires, technology.tile
    unit = technology.grid.database_unit.si
    pin_x, pin_y = (at * unit for at in pins(technology))
    row = np.full((1, 2 * int(tile.columns.value)), cell.strip_pitch.si)
    column = np.full((int(tile.rows.value), 1), cell.row_pitch.si)
    row[0, 0] = -pin_x
    column[0, 0] = cell.body_length.si + cell.via_offset.si + cell.via_size.si / 2 - pin_y
    return Wires(
        row_segment=row * wires.metal1_sheet_resistance.si / cell.row_wire_width.si,
        column_segment=column * wires.metal2_sheet_resistance.si / cell.column_wire_width.si,
        driver=wires.driver_resistance.si,
        sense=wires.sense_resistance.si,
        double_ended=wires.driven_ends == 2,
    )


def via_travel(technology: Technology) -> float:
    """Metres that a strip's via moves along its column wire for every metre of blocked length."""
    cell = technology.cell
    return 0.0 if cell.window_length is None else 1 + cell.window_length.si / cell.length_min.si


def moved_vias(wires: Wires, travelled: Float[np.ndarray, "rows strips"]) -> Wires:
    """The wires where each strip's via stands away from its nominal place.

    Args:
        travelled: resistance of the column wire between the two places, ohms, positive away from the pin.
    """
    return replace(wires, column_segment=wires.column_segment + np.diff(travelled, axis=0, prepend=0.0))
