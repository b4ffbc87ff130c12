"""The cell of a crossbar: one resistor strip between a row wire and a column wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pfmc.technology.base import Model
from pfmc.technology.quantities import Length, Offset


class WiderWires(Model):
    """Strips further apart, and what that leaves room for: replaces these lengths of the cell."""

    strip_pitch: Length
    block_overhang: Length
    pad_width: Length
    column_wire_width: Length


class Cell(Model):
    """Geometry of one resistor strip and its place in the array.

    The origin of a strip is the middle of its width (x) and the start of its body (y). The body runs upwards over
    ``body_length``; below and above it are the heads, each with one contact. What changes from weight to weight is how
    much of the body the block covers: all but a window, or its lower end; in the family "slide" the upper contact moves
    with the block's end, under a pad that is long enough. In the family "taps" the block is the same for all: bodies of
    ``length_min`` in a chain, a contact and a pad above each, and what changes is on which of them the via stands.
    """

    family: Literal["window", "end", "slide", "taps"]
    strip_width: Length
    strip_pitch: Length  # between the strips of a pair, and of neighbours: columns + and − alternate
    row_pitch: Length
    body_length: Length  # of the longest resistor: contact to contact, less contact_distance at both ends
    head_length: Length  # of poly beyond the body, at both ends
    length_min: Length  # of the blocked part of a programmed strip
    length_max: Length
    window_start: Length | None = None  # family "window": the window's lower edge above the start of the body
    window_length: Length | None = None  # family "taps": of silicide between two bodies
    block_overhang: Length  # of the block beyond the strip, at both sides
    contact_width: Length
    contact_height: Length
    contact_distance: Length  # from the body's ends
    pad_width: Length  # metal 1 over the upper contact
    pad_height: Length
    pad_offset: Offset  # lower edge relative to the end of the body, or of each (negative: below)
    via_size: Length
    via_offset: Length  # lower edge above the end of the body, or of the last one that counts
    row_wire_width: Length
    row_wire_offset: Offset  # lower edge relative to the start of the body (negative: below)
    row_wire_extension: Length  # beyond the outermost strips' edges; half a pin
    column_wire_width: Length
    column_wire_extension: Length  # beyond the first and the last body
    blanket_margin_x: Length  # beyond the outermost strips' edges
    blanket_margin_y: Length  # beyond the outermost heads
    wider_wires: tuple[WiderWires, ...] = ()  # that can be chosen to reach an accuracy that a user asks for


def geometry(cell: Cell) -> Iterator[tuple[str, bool, str]]:
    """What must hold between a cell's lengths: key, whether it does, what is wrong if not."""

    def least(length: float, *parts: float) -> bool:
        return length >= sum(parts) - 1e-12

    width, pitch, body = cell.strip_width.si, cell.strip_pitch.si, cell.body_length.si
    reach = cell.contact_distance.si + cell.contact_height.si
    yield "strip_pitch", least(pitch, width, 2 * cell.block_overhang.si), "blocks of neighbours overlap"
    yield "row_pitch", least(cell.row_pitch.si, body, 2 * cell.head_length.si), "strips of neighbouring rows overlap"
    yield "head_length", least(cell.head_length.si, reach), "does not hold the contact"
    yield "contact_width", least(width, cell.contact_width.si), "is wider than the strip"
    yield "length_min", cell.length_min.si < cell.length_max.si, "is not below cell.length_max"
    yield "length_max", least(body, cell.length_max.si), "is more than cell.body_length"
    via_in_pad = least(cell.via_offset.si, cell.pad_offset.si) and least(
        cell.pad_offset.si + cell.pad_height.si, cell.via_offset.si, cell.via_size.si
    )
    yield "via_offset", via_in_pad and least(cell.pad_width.si, cell.via_size.si), "the via leaves the pad"
    if cell.family == "taps":
        yield "window_length", cell.window_length is not None, "the taps family needs it"
        window = cell.window_length.si if cell.window_length else 0.0
        yield "window_length", least(window, cell.contact_distance.si, reach), "does not hold a contact"
        bodies = round(cell.length_max.si / cell.length_min.si)
        yield "length_max", abs(bodies * cell.length_min.si - cell.length_max.si) < 1e-12, "is not of whole bodies"
        whole = abs(cell.length_max.si + (bodies - 1) * window - body) < 1e-12
        yield "body_length", whole, "is not that of the bodies and windows together"
        apart = cell.length_min.si + window - cell.pad_height.si > 1e-12
        yield "pad_height", apart, "pads touch each other"
    elif cell.window_length is not None:
        yield "window_length", False, "only the taps family has it"
    first = cell.length_min.si if cell.family in {"slide", "taps"} else body  # below the lowest upper contact
    pad_low = (first if cell.family == "taps" else body) + cell.pad_offset.si
    pad_high = body + cell.pad_offset.si + cell.pad_height.si
    covers = least(first, pad_low - cell.contact_distance.si) and least(pad_high, body, reach)
    yield "pad_height", covers, "the pad leaves a contact uncovered"
    wire_low = cell.row_wire_offset.si
    wire_high = wire_low + cell.row_wire_width.si
    on_contacts = least(-reach, wire_low) and least(wire_high, -cell.contact_distance.si)
    yield "row_wire_width", on_contacts, "leaves a contact uncovered"
    apart = min(pad_low - wire_high, wire_low + cell.row_pitch.si - pad_high) > 1e-12
    yield "row_wire_width", apart, "row wires touch the pads"
    if cell.family == "window":
        yield "window_start", cell.window_start is not None, "the window family needs it"
        yield "length_max", cell.length_max.si < body, "leaves no window in cell.body_length"
    if cell.window_start is not None:
        yield "window_start", cell.family == "window", "only the window family has it"
        yield "window_start", cell.window_start.si < cell.length_min.si, "is not below cell.length_min"
