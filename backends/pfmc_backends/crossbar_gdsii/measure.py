"""Strips, their connections and blocked lengths, recovered from shapes alone; lengths in database units.

Nothing here knows what was drawn on purpose: a strip is poly between two contacts, a wire is metal with a label on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.geometry import Bins, Boxes, components, inside, shrunk
from pfmc_backends.crossbar_gdsii.wires import COLUMN, ROW, segments

Remark: TypeAlias = tuple[str, int, int]  # what does not belong, and where: x, y

SUBSTRATE: Final = 10**6  # beyond the numbers of rows
JOINT_LIMIT: Final = 256  # shapes on one strip whose cover of it is found together


@dataclass(frozen=True, eq=False)
class Array:
    """The strips of a tile and the wires that they connect.

    Attributes:
        boxes: of the strips' poly, sorted by row and column.
        path: from where to where, in y, current flows between the contacts' inner edges.
        reach: the contacts' outer edges.
        pad: length of metal 1 from the middle of the contact on the column's side to that of its via.
        rows: number of the row wire, or -1.
        columns: twice the number of the column wire, one more for n; or -1.
        whole: whether a strip joins one row to one column.
        row_squares, column_squares: of metal in front of each crossing, length over width; see :mod:`.wires`.
    """

    boxes: Boxes
    path: Int[np.ndarray, "n 2"]
    reach: Int[np.ndarray, "n 2"]
    pad: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " n"]
    whole: Bool[np.ndarray, " n"]
    row_squares: Float[np.ndarray, "rows strips"]
    column_squares: Float[np.ndarray, "rows strips"]
    bins: Bins
    remarks: tuple[Remark, ...]


@dataclass(frozen=True, eq=False)
class Blocked:
    """How the block lies on the strips of an array: its length on each, and in how many pieces between the contacts.

    ``buried`` are those with a covered contact.
    """

    length: Int[np.ndarray, " n"]
    pieces: Int[np.ndarray, " n"]
    buried: Bool[np.ndarray, " n"]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True, eq=False)
class Skeleton:
    """The shapes of a tile that are the same for every weight; labels are a text and a point each."""

    poly: Boxes
    contact: Boxes
    metal1: Boxes
    via1: Boxes
    metal2: Boxes
    labels1: Sequence[Remark]
    labels2: Sequence[Remark]
    remarks: Sequence[Remark] = ()  # on what could not be read


def bins_of(technology: Technology, boxes: Boxes) -> Bins:
    """Boxes in bins of one strip each."""
    grid, cell = technology.grid, technology.cell
    pitch, row_pitch = grid.units(cell.strip_pitch), grid.units(cell.row_pitch)
    return Bins(boxes, (-(pitch // 2), -(row_pitch - grid.units(cell.body_length)) // 2), (pitch, row_pitch))


def recover(technology: Technology, skeleton: Skeleton) -> Array:
    """The array that the shapes make."""
    remarks = list(skeleton.remarks)
    metal1, metal2, poly = (bins_of(technology, boxes) for boxes in (skeleton.metal1, skeleton.metal2, skeleton.poly))
    net1, net2 = _nets(metal1), _nets(metal2)
    row_of_net = _names(metal1, net1, skeleton.labels1, _row_number, remarks)
    column_of_net = _names(metal2, net2, skeleton.labels2, _column_number, remarks)

    via_net1 = _net_under(metal1, net1, skeleton.via1, "a via is not inside metal 1", remarks)
    via_net2 = _net_under(metal2, net2, skeleton.via1, "a via is not inside metal 2", remarks)
    joined = (via_net1 >= 0) & (via_net2 >= 0)
    via_column = np.where(joined, column_of_net[via_net2], -1)
    column_of_net1, clash = _only(via_net1, via_column, len(net1))
    remarks += [("metal 1 is joined to two columns", *at) for at in _corners(skeleton.metal1[clash])]

    strips, strip_of_poly = _strips(poly, remarks)
    contact_strip = _net_under(poly, strip_of_poly, skeleton.contact, "a contact is not inside poly", remarks)
    contact_net = _net_under(metal1, net1, skeleton.contact, "a contact is not inside metal 1", remarks)
    landed = (contact_strip >= 0) & (contact_net >= 0)
    contact_row = np.where(landed, row_of_net[contact_net], -1)
    contact_column = np.where(landed & (contact_row < 0), column_of_net1[contact_net], -1)
    via_y = np.zeros(len(net1))
    via_y[via_net1[joined]] = skeleton.via1[joined][:, [1, 3]].mean(axis=1)
    tap = np.where(contact_row >= 0, skeleton.contact[:, [0, 2]].mean(axis=1), via_y[contact_net])
    contacts = _Contacts(skeleton.contact, contact_strip, contact_row, contact_column, tap)
    rows, columns = (_only(contact_strip, number, len(strips)) for number in (contact_row, contact_column))
    size = int(technology.tile.rows.value), 2 * int(technology.tile.columns.value)
    row_squares, odd_rows = segments(
        skeleton.metal1,
        row_of_net[net1],
        {_row_number(text): x for text, x, _ in reversed(skeleton.labels1)},
        *(contact_row, columns[0][contact_strip], tap, size, ROW),
    )
    column_squares, odd_columns = segments(
        skeleton.metal2,
        column_of_net[net2],
        {_column_number(text): y for text, _, y in reversed(skeleton.labels2)},
        *(contact_column, rows[0][contact_strip], tap, (size[1], size[0]), COLUMN),
    )
    for odd, labels, number_of in (
        (odd_rows, skeleton.labels1, _row_number),
        (odd_columns, skeleton.labels2, _column_number),
    ):
        remarks += [
            (f"the wire {text} has strips before its pin or out of order", x, y)
            for text, x, y in labels
            if number_of(text) in odd
        ]
    return _array(technology, strips, contacts, rows, columns, (row_squares, column_squares.T), remarks)


@dataclass(frozen=True, eq=False)
class _Contacts:
    """Contacts, the strip that each one is on, the number of its row or column wire, and where along that it leads."""

    boxes: Boxes
    strip: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    tap: Float[np.ndarray, " n"]


def _array(
    technology: Technology,
    strips: Boxes,
    contacts: _Contacts,
    only_row: tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]],
    only_column: tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]],
    squares: tuple[Float[np.ndarray, "rows strips"], Float[np.ndarray, "rows strips"]],
    remarks: list[Remark],
) -> Array:
    """Strips with what their contacts say of them."""
    (rows, two_rows), (columns, two_columns) = only_row, only_column
    row_low, row_high = _span(contacts.boxes, contacts.strip, contacts.row >= 0, len(strips))
    column_low, column_high = _span(contacts.boxes, contacts.strip, contacts.column >= 0, len(strips))
    connected = (rows >= 0) & (columns >= 0)
    up, down = connected & (row_high <= column_low), connected & (column_high <= row_low)
    path = np.where(up[:, None], np.stack([row_high, column_low], 1), np.stack([column_high, row_low], 1))
    reach = np.where(up[:, None], np.stack([row_low, column_high], 1), np.stack([column_low, row_high], 1))
    whole = up | down
    pad, on_pad = np.zeros(len(strips)), (contacts.column >= 0) & (contacts.strip >= 0)
    pad[contacts.strip[on_pad]] = np.abs(contacts.tap - contacts.boxes[:, [1, 3]].mean(axis=1))[on_pad]
    for wrong, what in (
        (two_rows, "a strip is on two row wires"),
        (two_columns, "a strip is on two column wires"),
        ((rows < 0) & ~two_rows, "a strip is on no row wire"),
        ((columns < 0) & ~two_columns, "a strip is on no column wire"),
        (connected & ~whole, "a strip's contacts lie beside each other"),
    ):
        remarks += [(what, *at) for at in _corners(strips[wrong])]
    order = np.lexsort((columns, rows))
    boxes = strips[order]
    return Array(
        boxes,
        np.where(whole[:, None], path, 0)[order],
        np.where(whole[:, None], reach, 0)[order],
        pad[order],
        rows[order],
        columns[order],
        whole[order],
        *squares,
        bins_of(technology, shrunk(boxes)),
        tuple(remarks),
    )


def measure_block(array: Array, blocks: Boxes) -> Blocked:
    """How the block shapes lie on the strips: the union, along each strip, of what crosses it from side to side."""
    block, strip = array.bins.meeting(shrunk(blocks))
    b, s = blocks.take(block, axis=0), array.boxes.take(strip, axis=0)
    path, reach = array.path.take(strip, axis=0), array.reach.take(strip, axis=0)
    low, high = np.maximum(b[:, 1], path[:, 0]), np.minimum(b[:, 3], path[:, 1])
    crosses = (b[:, 0] <= s[:, 0]) & (b[:, 2] >= s[:, 2])
    over = ((b[:, 3] > path[:, 1]) & (b[:, 1] < reach[:, 1])) | ((b[:, 1] < path[:, 0]) & (b[:, 3] > reach[:, 0]))
    buried = np.zeros(len(array.boxes), dtype=np.bool_)
    buried[strip[over]] = True
    buried &= array.whole

    inner = crosses & (high > low)
    length, pieces = _union(strip[inner], low[inner], high[inner], len(array.boxes))
    remarks: list[Remark] = []
    partial = np.zeros(len(array.boxes), dtype=np.bool_)
    partial[strip[~crosses & (high > low)]] = True
    parts = np.flatnonzero(partial[strip] & (high > low))
    parts = parts[np.argsort(strip[parts], kind="stable")]
    starts = np.flatnonzero(np.diff(strip[parts], prepend=-1))
    for on_one in np.split(parts, starts[1:]) if len(parts) else ():
        index = int(strip[on_one[0]])
        complete = False
        if len(on_one) <= JOINT_LIMIT:
            length[index], complete = _joint_length(b[on_one], array.boxes[index], array.path[index])
        if not complete:
            remarks.append(("the block covers a part of a strip's width", *_corners(array.boxes[[index]])[0]))
    idle = blocks[np.bincount(block, minlength=len(blocks)) == 0]
    if len(idle) and len(array.boxes):  # what lies beside the array does no harm
        low_corner, high_corner = array.boxes[:, :2].min(axis=0), array.boxes[:, 2:].max(axis=0)
        idle = idle[np.all(idle[:, :2] < high_corner, axis=1) & np.all(idle[:, 2:] > low_corner, axis=1)]
    remarks += [("a block shape lies on no strip", *at) for at in _corners(idle)]
    remarks += [("the block covers a contact", *at) for at in _corners(array.boxes[buried])]
    return Blocked(length, pieces, buried, tuple(remarks))


def _union(
    owner: Int[np.ndarray, " k"], low: Int[np.ndarray, " k"], high: Int[np.ndarray, " k"], count: int
) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]:
    """Measure of the union of each owner's intervals, and in how many pieces it is."""
    begin, end = (owner.astype(np.int64) << 33) + low, (owner.astype(np.int64) << 33) + high
    if np.any(begin[1:] < begin[:-1]):
        order = np.argsort(begin, kind="stable")
        owner, begin, end = owner[order], begin[order], end[order]
    reached = np.maximum.accumulate(end)
    first = np.append(True, begin[1:] > reached[:-1])[: len(begin)]
    begin[1:] = np.maximum(begin[1:], reached[:-1])  # an earlier owner has reached less than this one begins at
    new = np.maximum(end - begin, 0)
    length = np.rint(np.bincount(owner, weights=new, minlength=count)).astype(np.int64)
    return length, np.bincount(owner[first], minlength=count)


def _joint_length(blocks: Boxes, strip: Int[np.ndarray, " 4"], path: Int[np.ndarray, " 2"]) -> tuple[int, bool]:
    """Length along which shapes together cover the whole width, and whether nowhere only a part of it."""
    levels = np.unique(np.clip(blocks[:, [1, 3]], path[0], path[1])).tolist()
    length, complete = 0, True
    for low, high in pairwise(levels):
        reached = int(strip[0])
        here = blocks[(blocks[:, 1] <= low) & (blocks[:, 3] >= high)]
        for left, right in sorted(here[:, [0, 2]].tolist()):
            if left <= reached:
                reached = max(reached, right)
        covered = reached >= int(strip[2])
        length += high - low if covered else 0
        complete &= covered or not len(here)
    return length, complete


def _nets(bins: Bins) -> Int[np.ndarray, " n"]:
    """For each shape the number of the piece of metal that it belongs to: shapes that share area or an edge."""
    a, b = bins.meeting(bins.boxes)
    at_a_corner = np.minimum(bins.boxes[a, 2:], bins.boxes[b, 2:]) == np.maximum(bins.boxes[a, :2], bins.boxes[b, :2])
    joined = ~np.all(at_a_corner, axis=1)
    return components(len(bins.boxes), (a[joined], b[joined]))


def _strips(poly: Bins, remarks: list[Remark]) -> tuple[Boxes, Int[np.ndarray, " poly"]]:
    """Plain strips, and for each poly shape the strip that it belongs to, or -1."""
    nets = _nets(poly)
    roots, strip = np.unique(nets, return_inverse=True)
    boxes = poly.boxes[roots].copy()
    np.minimum.at(boxes[:, 1], strip, poly.boxes[:, 1])
    np.maximum.at(boxes[:, 3], strip, poly.boxes[:, 3])
    bent = np.zeros(len(roots), dtype=np.bool_)
    bent[strip[np.any(poly.boxes[:, [0, 2]] != boxes[strip][:, [0, 2]], axis=1)]] = True
    remarks += [("poly that is not a plain strip", *at) for at in _corners(boxes[bent])]
    number = np.where(bent, -1, np.cumsum(~bent) - 1)
    return boxes[~bent], number[strip]


def _names(
    wires: Bins,
    nets: Int[np.ndarray, " n"],
    labels: Sequence[Remark],
    number_of: Callable[[str], int],
    remarks: list[Remark],
) -> Int[np.ndarray, " n"]:
    """The number that its label gives each net, or -1."""
    points = np.array([[x, y, x, y] for _, x, y in labels], dtype=np.int64).reshape(-1, 4)
    label, wire = wires.meeting(points)
    found: dict[int, set[int]] = {}
    carriers: dict[int, int] = {}
    for index, (text, x, y) in enumerate(labels):
        number = number_of(text)
        on = set(nets[wire[label == index]].tolist())
        if number < 0:
            remarks.append((f"the label {text} names no wire", x, y))
        elif not on:
            remarks.append((f"the label {text} is on no wire", x, y))
        for net in on if number >= 0 else ():
            found.setdefault(net, set()).add(number)
            if carriers.setdefault(number, net) != net:
                remarks.append((f"the label {text} is on a second wire", x, y))
    names = np.full(len(nets), -1, dtype=np.int64)
    for net, numbers in found.items():
        if len(numbers) == 1:
            names[net] = min(numbers)
        else:
            remarks.append(("a wire with two names", *_corners(wires.boxes[[net]])[0]))
    return names


def _row_number(text: str) -> int:
    if text == "sub":  # the ring around a tile: no row, but a wire of its own
        return SUBSTRATE
    match = re.fullmatch(r"row(\d{1,6})", text, re.ASCII)
    return int(match[1]) if match else -1


def _column_number(text: str) -> int:
    match = re.fullmatch(r"col(\d{1,6})([pn])", text, re.ASCII)
    return 2 * int(match[1]) + (match[2] == "n") if match else -1


def _net_under(
    bins: Bins, nets: Int[np.ndarray, " n"], boxes: Boxes, otherwise: str, remarks: list[Remark]
) -> Int[np.ndarray, " boxes"]:
    """The net of a shape that each box lies inside of, or -1."""
    box, shape = bins.meeting(boxes)
    covered = inside(boxes[box], bins.boxes[shape])
    under = np.full(len(boxes), -1, dtype=np.int64)
    under[box[covered]] = nets[shape[covered]]
    bare = np.ones(len(boxes), dtype=np.bool_)
    bare[box[covered]] = False
    remarks += [(otherwise, *at) for at in _corners(boxes[bare])]
    return under


def _only(
    owner: Int[np.ndarray, " k"], value: Int[np.ndarray, " k"], count: int
) -> tuple[Int[np.ndarray, " count"], Bool[np.ndarray, " count"]]:
    """The one value that is not negative of each owner, or -1; and which owners have several."""
    valid = (owner >= 0) & (value >= 0)
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, owner[valid], value[valid])
    np.maximum.at(high, owner[valid], value[valid])
    several = (high >= 0) & (low != high)
    return np.where(several, -1, high), several


def _span(
    boxes: Boxes, owner: Int[np.ndarray, " k"], valid: Bool[np.ndarray, " k"], count: int
) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]:
    """The lowest and highest y of each owner's boxes."""
    valid = valid & (owner >= 0)
    low, high = np.full(count, np.iinfo(np.int32).max), np.full(count, np.iinfo(np.int32).min)
    np.minimum.at(low, owner[valid], boxes[valid, 1])
    np.maximum.at(high, owner[valid], boxes[valid, 3])
    return low, high


def _corners(boxes: Boxes) -> list[tuple[int, int]]:
    """The lower left corners."""
    return [(x, y) for x, y in boxes[:, :2].tolist()]
