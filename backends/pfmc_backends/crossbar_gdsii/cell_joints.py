"""What single cells of an array join, as KLayout's netlist extraction finds it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Final

import numpy as np

from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.alike import Cell, Orders
from pfmc_backends.crossbar_gdsii.extraction import Extraction

APART: Final = 1000  # database units between cells on their sheet

# Of the pieces of wires in a cell, by their numbers: the first of the net of each, and those that strips join.
Joints = tuple[tuple[int, ...], frozenset[frozenset[int]]]


def cell_joints(db: ModuleType, technology: Technology, orders: Orders, cells: Sequence[Cell]) -> list[Joints]:
    """What each cell joins: all are drawn on one sheet, and each piece of metal that reaches a side has a label."""
    layers = technology.layers
    layout = db.Layout()
    layout.dbu = technology.grid.database_unit.si * 1e6
    sheet = layout.create_cell("cells")
    texts = {layers.metal1.key: layers.metal1_text, layers.metal2.key: layers.metal2_text}
    right = 0
    for number, cell in enumerate(cells):
        rows = np.concatenate([cell.base, cell.personal]).astype(np.int64)
        shift = right - int(rows[:, 1].min(initial=0))
        for i, (code, x0, y0, x1, y1) in enumerate(rows.tolist()):
            box, layer = db.Box(x0 + shift, y0, x1 + shift, y1), orders.layers[code]
            sheet.shapes(layout.layer(*layer.key)).insert(box)
            if layer.key in texts and i in cell.ports:
                label = db.Text(f"{number} {i}", box.center().x, box.center().y)
                sheet.shapes(layout.layer(*texts[layer.key].key)).insert(label)
        right = shift + int(rows[:, 3].max(initial=0)) + APART
    extracted = Extraction(db, layout, sheet, technology, db.Region(sheet.bbox().enlarged(APART, APART)))
    nets: list[dict[int, int]] = [{} for _ in cells]
    for label in extracted.labels:
        number, i = map(int, label.text.split())
        nets[number][i] = label.net
    first: dict[int, int] = {}  # piece of each net
    owner: dict[int, int] = {}
    for number, pieces in enumerate(nets):
        for i in sorted(pieces):
            first.setdefault(pieces[i], i)
            owner[pieces[i]] = number
    strips: list[set[frozenset[int]]] = [set() for _ in cells]
    for members, named in extracted.strips(owner):
        joined = np.unique(extracted.ends[members][named]).tolist()
        if len(joined) > 1:  # else they lead nowhere, as beyond the via in a chain of taps
            strips[owner[joined[0]]].add(frozenset(first[net] for net in joined))
    pieces_of = (tuple(first[pieces[i]] for i in sorted(pieces)) for pieces in nets)
    return list(zip(pieces_of, map(frozenset, strips), strict=True))
