"""Layout versus schematic: what the masks' polygons connect, against what the table of tiles promises.

The polygons are judged by KLayout's extraction, once for tiles that are alike in what decides it (see alike). Resistors
that meet in a net without a label are one strip, which must join one row wire to one column wire of its tile, and each
pair of them must be joined. Poly without a block conducts: a strip that has lost its block is a short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from pfmc.backend import Progress
from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError, printable
from pfmc.layout.layout import tile_extent
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.alike import Order, Orders
from pfmc_backends.crossbar_gdsii.cell_joints import Joints, cell_joints
from pfmc_backends.crossbar_gdsii.extraction import Extraction, Label, Point
from pfmc_backends.crossbar_gdsii.read import MASKS
from pfmc_backends.crossbar_gdsii.rule_kinds import klayout_db

FINDING_LIMIT: Final = 20  # of each tile
TILE_LIMIT: Final = 20  # tiles with findings after which no more are looked at
SUBSTRATE: Final = "sub"  # the label of the ring around a tile

Finding = tuple[str, Point | None]


def check_connectivity(
    folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress
) -> tuple[str, ...]:
    """What the masks in ``folder`` join and should not, or do not join and should: a line each; none if all is well.

    Raises:
        UsageError: if KLayout's Python module is not installed.
        ArtifactError: if the masks cannot be understood.
    """
    db = klayout_db()
    layout = db.Layout()
    try:
        layout.read(str(folder / MASKS))
    except RuntimeError as e:
        raise ArtifactError(f"KLayout cannot read the masks: {e}", str(folder / MASKS)) from None
    unit = technology.grid.database_unit.si * 1e6
    if abs(layout.dbu - unit) > 1e-6 * unit or not layout.top_cells():
        raise ArtifactError(f"no chip with a database unit of {unit:g} um", str(folder / MASKS), "compile again")
    top = max(layout.top_cells(), key=lambda cell: cell.bbox().area())
    lines: list[str] = []
    bad = 0
    judge = _Judge(db, layout, top, technology, folder / MASKS)
    for tile in tiles:
        name = f"tile {printable(tile.name)}"
        found = judge.findings(tile)
        for what, at in found[:FINDING_LIMIT]:
            lines.append(f"{name}: {what}" + (f" at {at[0] * unit:.3f},{at[1] * unit:.3f} um" if at else ""))
        if len(found) > FINDING_LIMIT:
            lines.append(f"{name}: and {len(found) - FINDING_LIMIT} more")
        progress(1)
        bad += bool(found)
        if bad == TILE_LIMIT:
            lines.append(f"{name} is the last that was looked at")
            break
    return tuple(lines)


class _Judge:
    """What is wrong with one tile after the other; nothing, if a tile is like one with which nothing is wrong."""

    def __init__(self, db: ModuleType, layout: Any, top: Any, technology: Technology, path: Path) -> None:
        self._db, self._layout, self._top, self._technology = db, layout, top, technology
        self._orders = Orders(path, technology)
        self._comparable = self._orders.chip == top.name
        self._joints: dict[bytes, dict[tuple[int, bytes], Joints]] = {}  # of the cells of arrays, by their base masks
        self._right: dict[bytes, set[tuple[int, Joints]]] = {}  # those with which nothing is wrong
        self._around: set[bytes] = set()  # surroundings of arrays with which nothing is wrong

    def findings(self, tile: TileRecord) -> list[Finding]:
        """What is wrong with a tile."""
        order = self._orders.of(tile) if self._comparable else None
        kinds = set[tuple[int, Joints]]() if order is None else self._kinds(order)
        known = order is not None and kinds <= self._right.get(order.base, set())
        if order is not None and known and (order.around in self._around or self._encloses(tile)):
            self._around.add(order.around)
            return []
        extracted = self._extracted(self._area(tile))
        found = list(_compare(_Wires(self._technology, tile, extracted.labels), extracted))
        if order is not None and not found:
            self._right.setdefault(order.base, set()).update(kinds)
            self._around.add(order.around)
        return found

    def _kinds(self, order: Order) -> set[tuple[int, Joints]]:
        """What the cells of an array join, with the numbers of their base masks."""
        known = self._joints.setdefault(order.base, {})
        new = [kind for kind in order.cells if kind not in known]
        known.update(
            zip(new, cell_joints(self._db, self._technology, self._orders, [order.cells[k] for k in new]), strict=True)
        )
        return {(kind[0], known[kind]) for kind in order.cells}

    def _area(self, tile: TileRecord) -> Any:
        """A tile and half of the streets around it."""
        left, bottom, width, height = tile_extent(self._technology)
        half = self._technology.grid.units(self._technology.chip.tile_spacing) // 2
        box = self._db.Box(left, bottom, left + width, bottom + height).enlarged(half, half)
        return self._db.Region(box.moved(tile.x, tile.y))

    def _extracted(self, area: Any) -> Extraction:
        return Extraction(self._db, self._layout, self._top, self._technology, area)

    def _encloses(self, tile: TileRecord) -> bool:
        """Whether around an array there is a ring with its label, and nothing that is joined to it."""
        array = self._db.Region(self._db.Box(*self._orders.array).moved(tile.x, tile.y))
        around = self._extracted(self._area(tile) - array)
        rings = {label.net for label in around.labels}
        labelled = all(label.text == SUBSTRATE and label.on_metal1 for label in around.labels)
        joined = any(net in rings for _, _, net in around.leaving)
        return labelled and len(rings) == 1 and min(rings) >= 0 and not len(around.ends) and not joined


class _Wires:
    """The wires of a tile by their labels.

    Attributes:
        rows, columns: the names that there should be, in order.
        places: of the labels found, the first of each name.
        names: of each net with a label, in order.
    """

    def __init__(self, technology: Technology, tile: TileRecord, labels: Sequence[Label]) -> None:
        cell, units = technology.cell, technology.grid.units
        self._origin = tile.x - units(cell.strip_pitch) / 2, tile.y - units(cell.head_length)
        self._pitch = units(cell.strip_pitch), units(cell.row_pitch)
        self.rows = [f"row{i}" for i in range(int(technology.tile.rows.value))]
        self.columns = [f"col{j}{side}" for j in range(int(technology.tile.columns.value)) for side in "pn"]
        self.order = {name: i for i, name in enumerate((*self.rows, *self.columns, SUBSTRATE))}
        self._labels = labels
        self.places: dict[str, Point] = {}
        found: dict[int, set[str]] = {}
        for label in labels:
            if label.net >= 0 and self._known(label):
                self.places.setdefault(label.text, label.at)
                found.setdefault(label.net, set()).add(label.text)
        self.names = {net: sorted(texts, key=self.order.__getitem__) for net, texts in found.items()}

    def _known(self, label: Label) -> bool:
        return label.text in self.order and label.on_metal1 == (label.text not in self.columns)

    def around(self, at: Point) -> tuple[str, str] | None:
        """The row and the column whose strip should stand at a place; None outside the array."""
        column, row = (int((at[i] - self._origin[i]) // self._pitch[i]) for i in (0, 1))
        if not (0 <= row < len(self.rows) and 0 <= column < len(self.columns)):
            return None
        return self.rows[row], self.columns[column]

    def findings(self, tile: Extraction) -> Iterator[Finding]:
        """What is wrong with labels, and which wires are one."""
        by_name: dict[str, Label] = {}
        for label in self._labels:
            if not self._known(label):
                yield f"the label {printable(label.text, 40)} is that of no wire", label.at
            elif label.net < 0:
                yield f"the label {label.text} is on no metal", label.at
            elif by_name.setdefault(label.text, label).net != label.net:
                yield f"the label {label.text} is on a second wire", label.at
        for name in self.order:
            if name not in self.places:
                yield f"no wire has the label {name}", None
        for names in self.names.values():
            for one, other in pairwise(names):
                first, second = by_name[one], by_name[other]
                if first.net == second.net:
                    yield f"{one} and {other} are shorted", tile.bridge(first, second)


class _Strip:
    """Resistors that meet in nets without a label, and the wires at their ends.

    Attributes:
        inner: the net without a label where most of them meet, or -1.
        at: the middle of them.
    """

    def __init__(self, wires: _Wires, nets: Iterable[int], inner: int, at: Point) -> None:
        self.nets, self.inner, self.at = set(nets), inner, at
        names = [name for net in self.nets for name in wires.names[net]]
        self.names = sorted(names, key=wires.order.__getitem__)
        self.rows = [name for name in self.names if name.startswith("row")]
        self.columns = [name for name in self.names if name.startswith("col")]

    @property
    def joined(self) -> set[tuple[str, str]]:
        """The pairs of a row and a column."""
        return set(product(self.rows, self.columns))


def _strips(tile: Extraction, wires: _Wires) -> Iterator[_Strip]:
    """All strips of a tile."""
    ends = tile.ends
    for members, named in tile.strips(wires.names):
        nets = ends[members][named]
        x, y = tile.places[members].mean(axis=0)
        hubs = ends[members][~named]
        hub = int(np.bincount(hubs).argmax()) if len(hubs) else -1
        yield _Strip(wires, nets.tolist(), hub, (float(x), float(y)))


def _compare(wires: _Wires, tile: Extraction) -> Iterator[Finding]:
    """What is wrong with a tile."""
    of_tile = {*wires.names, *tile.ends.ravel().tolist()}
    for name, at, net in tile.leaving:
        if net in of_tile:  # a part of the chip's frame may reach into the street too
            yield f"{name} crosses the street around the tile", at
    yield from wires.findings(tile)
    missing = set(product(wires.rows, wires.columns))
    strips = list(_strips(tile, wires))
    for strip in strips:
        missing -= strip.joined
        if len(strip.nets) > 2 and strip.joined:
            yield f"{', '.join(strip.names)} are joined by poly", strip.at
    for strip in strips:
        if strip.names and not strip.joined:
            yield from _open(tile, wires, strip, missing)
    for row, column in sorted(missing, key=lambda pair: (wires.order[pair[0]], wires.order[pair[1]])):
        if row in wires.places and column in wires.places:
            yield f"no strip joins {row} and {column}", (wires.places[column][0], wires.places[row][1])


def _open(tile: Extraction, wires: _Wires, strip: _Strip, missing: set[tuple[str, str]]) -> Iterator[Finding]:
    """Why strips at rows are at no column, or the other way round; the pairs that this explains are taken off."""
    to_row = not strip.rows
    partners, others = (strip.columns, wires.columns) if to_row else (strip.rows, wires.rows)
    place = wires.around(strip.at)
    wire = "" if place is None else place[0 if to_row else 1]
    pairs = {(wire, partner) if to_row else (partner, wire) for partner in partners}
    if not pairs or not pairs <= missing:
        if len(strip.nets) > 1:  # else resistors that lead nowhere, as beyond the via in a chain of taps
            yield f"{', '.join(strip.names[:4])} are joined to a wire without a label", strip.at
        return
    missing -= pairs
    if wire not in wires.places:
        return  # that its label is not there has been said
    if len(partners) == 1:
        yield f"the strip of {wire}, {partners[0]} is not connected to {wire}", strip.at
        return
    x0, y0, x1, y1 = tile.extent(strip.inner, metal1=to_row) or (*strip.at, *strip.at)
    at = (x0, (y0 + y1) / 2) if to_row else ((x0 + x1) / 2, y0)
    first = others.index(partners[0])
    where = f"between {others[first - 1]} and {partners[0]}" if first else f"before {partners[0]}"
    yield f"{wire} is open {where}", at
