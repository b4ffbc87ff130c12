"""Geometry of a strip, of what is personalised on it, and of the array that strips stand in; database units.

The one place that knows the shapes of the cell families. See :class:`pfmc.technology.schema.Cell` for the coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pfmc.layout.layout import tile_extent
from pfmc.technology.quantities import Quantity
from pfmc.technology.schema import Layer, Technology


class Rectangle(NamedTuple):
    """A rectangle on a layer: lower left and upper right corner."""

    layer: Layer
    x0: int
    y0: int
    x1: int
    y1: int


class Label(NamedTuple):
    """A text on a layer and where it is anchored."""

    layer: Layer
    text: str
    x: int
    y: int


def strip_shapes(technology: Technology) -> Iterator[Rectangle]:
    """What all strips share: poly, and of contacts, pads, vias, blocks and markers those that are not personalised."""
    layers, cell, units = technology.layers, technology.cell, technology.grid.units
    body, head = units(cell.body_length), units(cell.head_length)
    distance, height = units(cell.contact_distance), units(cell.contact_height)
    yield _centred(technology, layers.poly, cell.strip_width, -head, body + head)
    yield _centred(technology, layers.contact, cell.contact_width, -distance - height, -distance)
    ends = [body]
    if cell.family == "taps":
        parts = blocked_parts(technology, units(cell.length_max))
        ends = [high for _, high in parts]
        yield from _blocks(technology, parts)
    else:
        yield _via(technology, body)
    for end in ends:
        pad = end + units(cell.pad_offset)
        yield _centred(technology, layers.metal1, cell.pad_width, pad, pad + units(cell.pad_height))
        if cell.family != "slide":
            yield _upper_contact(technology, end)


def value_shapes(technology: Technology, length: int) -> Iterator[Rectangle]:
    """What makes a strip that ``length`` of the body is blocked on: the block and what follows it, or the via."""
    parts = blocked_parts(technology, length)
    if technology.cell.family == "taps":
        yield _via(technology, parts[-1][1])
        return
    yield from _blocks(technology, parts)
    if technology.cell.family == "slide":
        yield _upper_contact(technology, length)


def blocked_parts(technology: Technology, length: int) -> list[tuple[int, int]]:
    """From where to where the block covers the path: all of the body but the window, or its start, or bodies."""
    cell, units = technology.cell, technology.grid.units
    body = units(cell.body_length)
    if cell.window_length is not None:
        one, pitch = units(cell.length_min), units(cell.length_min) + units(cell.window_length)
        return [(low, low + one) for low in range(0, length // one * pitch, pitch)]
    if cell.window_start is None:
        return [(0, length)]
    window = units(cell.window_start)
    return [(0, window), (window + body - length, body)]


def _blocks(technology: Technology, parts: list[tuple[int, int]]) -> Iterator[Rectangle]:
    """The block over parts of a strip, and the marker."""
    layers, cell, units = technology.layers, technology.cell, technology.grid.units
    half_width = units(cell.strip_width) // 2 + units(cell.block_overhang)
    for low, high in parts:
        yield Rectangle(layers.block, -half_width, low, half_width, high)
        yield _centred(technology, layers.marker, cell.strip_width, low, high)


def array_shapes(technology: Technology) -> Iterator[Rectangle]:
    """What a tile has beside its strips: row and column wires with pins at their ends, blankets, outline and ring."""
    layers, cell, units = technology.layers, technology.cell, technology.grid.units
    rows, strips = int(technology.tile.rows.value), 2 * int(technology.tile.columns.value)
    left, bottom, width, height = tile_extent(technology)
    edge = units(cell.strip_width) // 2 + units(cell.row_wire_extension)
    right = (strips - 1) * units(cell.strip_pitch) + edge
    row_width, column_half = units(cell.row_wire_width), units(cell.column_wire_width) // 2
    low = -units(cell.column_wire_extension)
    high = (rows - 1) * units(cell.row_pitch) + units(cell.body_length) - low
    for row in range(rows):
        y = row * units(cell.row_pitch) + units(cell.row_wire_offset)
        yield Rectangle(layers.metal1, -edge, y, right, y + row_width)
        yield Rectangle(layers.metal1_pin, -edge, y, -edge + 2 * units(cell.row_wire_extension), y + row_width)
    for strip in range(strips):
        x = strip * units(cell.strip_pitch)
        yield Rectangle(layers.metal2, x - column_half, low, x + column_half, high)
        yield Rectangle(layers.metal2_pin, x - column_half, low, x + column_half, low + 2 * column_half)
    for layer in (*layers.blankets, layers.outline):
        yield Rectangle(layer, left, bottom, left + width, bottom + height)
    yield from _ring(technology)


def _ring(technology: Technology) -> Iterator[Rectangle]:
    """A closed ring of contacts to the substrate, with a pin in its lower left corner."""
    layers, chip, units = technology.layers, technology.chip, technology.grid.units
    distance, width = units(chip.ring_distance), units(chip.ring_width)
    overlap, size, pitch = (
        units(length) for length in (chip.ring_implant_overlap, chip.ring_contact_size, chip.ring_contact_pitch)
    )
    x0, y0, x1, y1 = _around(technology, distance)
    for layer in (layers.diffusion, layers.metal1):
        yield from _frame(layer, (x0, y0, x1, y1), width)
    yield from _frame(layers.diffusion_implant, _around(technology, distance - overlap), width + 2 * overlap)
    yield Rectangle(layers.metal1_pin, x0 - width, y0 - width, x0, y0)
    inset = (width - size) // 2
    for x in range(x0 + width, x1 - width - size, pitch):
        for y in (y0 - width + inset, y1 + inset):
            yield Rectangle(layers.contact, x, y, x + size, y + size)
    for y in range(y0 + width, y1 - width - size, pitch):
        for x in (x0 - width + inset, x1 + inset):
            yield Rectangle(layers.contact, x, y, x + size, y + size)


def _around(technology: Technology, distance: int) -> tuple[int, int, int, int]:
    """The box at a distance around a tile."""
    left, bottom, width, height = tile_extent(technology)
    return left - distance, bottom - distance, left + width + distance, bottom + height + distance


def _frame(layer: Layer, inner: tuple[int, int, int, int], width: int) -> Iterator[Rectangle]:
    """A frame around a box."""
    x0, y0, x1, y1 = inner
    yield Rectangle(layer, x0 - width, y0 - width, x1 + width, y0)
    yield Rectangle(layer, x0 - width, y1, x1 + width, y1 + width)
    yield Rectangle(layer, x0 - width, y0, x0, y1)
    yield Rectangle(layer, x1, y0, x1 + width, y1)


def array_labels(technology: Technology) -> Iterator[Label]:
    """Names of the wires, in the middle of their pins: row0, …; col0p, col0n, …; and sub for the ring."""
    layers, cell, units = technology.layers, technology.cell, technology.grid.units
    left, half_row = -(units(cell.strip_width) // 2), units(cell.row_wire_width) // 2
    for row in range(int(technology.tile.rows.value)):
        y = row * units(cell.row_pitch) + units(cell.row_wire_offset)
        yield Label(layers.metal1_text, f"row{row}", left, y + half_row)
    y = units(cell.column_wire_width) // 2 - units(cell.column_wire_extension)
    for strip in range(2 * int(technology.tile.columns.value)):
        yield Label(layers.metal2_text, f"col{strip // 2}{'pn'[strip % 2]}", strip * units(cell.strip_pitch), y)
    x, y, _, _ = _around(technology, units(technology.chip.ring_distance) + units(technology.chip.ring_width) // 2)
    yield Label(layers.metal1_text, "sub", x, y)


def mark_places(technology: Technology, width: int, height: int) -> Iterator[tuple[int, int]]:
    """The middles of the alignment marks of a chip of this size, one in each corner."""
    step = technology.grid.step
    inset = technology.grid.units(technology.chip.frame_margin) // (2 * step) * step
    for x in (inset, width - inset):
        for y in (inset, height - inset):
            yield x, y


def mark_shapes(technology: Technology, x: int, y: int) -> Iterator[Rectangle]:
    """An alignment mark with its middle at x, y: a cross on poly, and in its quadrants a square of each later mask.

    The gap between a square and the arms beside it shows how far that mask stands off the poly.
    """
    layers, units = technology.layers, technology.grid.units
    width = units(technology.chip.mark_width)
    reach, half = units(technology.chip.mark_size) // 2, width // 2
    yield Rectangle(layers.poly, x - reach, y - half, x + reach, y + half)
    yield Rectangle(layers.poly, x - half, y - reach, x + half, y + reach)
    yield Rectangle(layers.block, x + width, y + width, x + reach, y + reach)
    yield Rectangle(layers.metal1, x - reach, y + width, x - width, y + reach)
    yield Rectangle(layers.metal2, x - reach, y - reach, x - width, y - width)


def _upper_contact(technology: Technology, end: int) -> Rectangle:
    """The contact above what ends at ``end``, block or body."""
    cell, units = technology.cell, technology.grid.units
    low = end + units(cell.contact_distance)
    return _centred(technology, technology.layers.contact, cell.contact_width, low, low + units(cell.contact_height))


def _via(technology: Technology, end: int) -> Rectangle:
    """The via above what ends at ``end``."""
    cell, units = technology.cell, technology.grid.units
    low = end + units(cell.via_offset)
    return _centred(technology, technology.layers.via1, cell.via_size, low, low + units(cell.via_size))


def _centred(technology: Technology, layer: Layer, width: Quantity, low: int, high: int) -> Rectangle:
    half = technology.grid.units(width) // 2
    return Rectangle(layer, -half, low, half, high)
