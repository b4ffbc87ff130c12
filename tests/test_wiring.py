"""The wires of a tile as the technology draws them."""

from __future__ import annotations

import numpy as np

from pfmc.primitives.wiring import nominal_wires, pins
from pfmc.technology.loader import load


def test_segments_are_squares_of_metal_between_pin_and_strips() -> None:
    technology = load("generic")
    wires = nominal_wires(technology)
    cell = technology.cell
    per_strip = 0.1 * cell.strip_pitch.si / cell.row_wire_width.si
    per_row = 0.1 * cell.row_pitch.si / cell.column_wire_width.si
    row, column = np.asarray(wires.row_segment), np.asarray(wires.column_segment)
    assert row.shape == (1, 128)
    assert column.shape == (64, 1)
    np.testing.assert_allclose(row[0, 1:], per_strip)
    np.testing.assert_allclose(column[1:, 0], per_row)
    pin_x, pin_y = pins(technology)
    np.testing.assert_allclose(row[0, 0], 0.1 * -pin_x * 1e-9 / cell.row_wire_width.si)
    via = cell.body_length.si + cell.via_offset.si + cell.via_size.si / 2
    np.testing.assert_allclose(column[0, 0], 0.1 * (via - pin_y * 1e-9) / cell.column_wire_width.si)
    assert (wires.driver, wires.sense, wires.double_ended) == (1.0, 1.0, False)
