"""Nets and resistors of a tile as KLayout's netlist extraction finds them in the polygons of the masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice, pairwise
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from pfmc.technology.schema import Layer, Technology

SHAPES_LIMIT: Final = 4000  # of a net, for the place of a short to be looked for
REMARK_LIMIT: Final = 50

Point = tuple[float, float]  # database units, on the chip


class Label(NamedTuple):
    """A text, its place, whether it is on metal 1 (or 2), and the number of the net there, or -1."""

    text: str
    at: Point
    on_metal1: bool
    net: int


class Extraction:
    """A tile's conductors (poly without block, contacts, metal 1, vias, metal 2) and resistors (poly under block).

    Args:
        area: where shapes and labels count.

    Attributes:
        labels: of the tile.
        ends: numbers of the nets at both ends of each resistor; one with more ends is a star of several.
        places: of the resistors.
        leaving: what crosses the middle of the street around the tile: name of the layer, place, and net.
    """

    def __init__(self, db: ModuleType, layout: Any, top: Any, technology: Technology, area: Any) -> None:
        layers = technology.layers
        self._db = db

        def drawn(layer: Layer) -> Any:
            return db.Region(db.RecursiveShapeIterator(layout, top, layout.layer(*layer.key), area, True)).merged()

        poly, block = drawn(layers.poly), drawn(layers.block)
        names = ("contact", "metal1", "via1", "metal2")
        self._conductors = [poly - block, *(drawn(getattr(layers, name)) for name in names)]
        self._l2n = db.LayoutToNetlist(top.name, layout.dbu)
        body = poly & block
        for region, name in zip((*self._conductors, body), ("head", *names, "body"), strict=True):
            self._l2n.register(region, name)
        self._l2n.extract_devices(db.DeviceExtractorResistor("R", 1.0), {"R": body, "C": self._conductors[0]})
        for region in self._conductors:
            self._l2n.connect(region)
        for below, above in pairwise(self._conductors):
            self._l2n.connect(below, above)
        self._l2n.extract_netlist()
        (self._circuit,) = self._l2n.netlist().each_circuit()
        self.labels = [
            label
            for layer, on_metal1 in ((layers.metal1_text, True), (layers.metal2_text, False))
            for label in self._labels(
                db.RecursiveShapeIterator(layout, top, layout.layer(*layer.key), area, False), on_metal1
            )
        ]
        self.ends, self.places = self._resistors(layout.dbu)
        layer_names = (layers.poly.name, *(getattr(layers, name).name for name in names))
        self.leaving = [
            (name, _middle(part.bbox()), self._net(region, *_inside(part)))
            for name, region in zip(layer_names, self._conductors, strict=True)
            for part in islice((region - db.Region(area.bbox())).each(), REMARK_LIMIT)
        ]

    def _net(self, layer: Any, x: int, y: int) -> int:
        """The net at a point, or -1."""
        net = self._l2n.probe_net(layer, self._db.Point(x, y))
        return -1 if net is None else int(net.cluster_id)

    def _labels(self, iterator: Any, on_metal1: bool) -> Iterator[Label]:
        metal = self._conductors[2 if on_metal1 else 4]
        for text in self._db.Texts(iterator).each():
            yield Label(text.string, (float(text.x), float(text.y)), on_metal1, self._net(metal, text.x, text.y))

    def _resistors(self, dbu: float) -> tuple[Int[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
        ends, places = [], []
        for device in self._circuit.each_device():
            first, second, at = device.net_for_terminal(0), device.net_for_terminal(1), device.trans.disp
            ends.append((first.cluster_id, second.cluster_id))
            places.append((at.x / dbu, at.y / dbu))
        head = self._conductors[0]
        centre = max((net.cluster_id for net in self._circuit.each_net()), default=0)
        for entry in islice(self._l2n.each_log_entry(), REMARK_LIMIT):  # of poly that has not two ends
            polygon = entry.geometry.to_itype(dbu)
            centre += 1
            for part in head.interacting(self._db.Region(polygon)).each():
                ends.append((centre, self._net(head, *_inside(part))))
                places.append(_middle(polygon.bbox()))
        return np.array(ends, dtype=np.int64).reshape(-1, 2), np.array(places, dtype=np.float64).reshape(-1, 2)

    def strips(
        self, labelled_nets: Collection[int]
    ) -> Iterator[tuple[Int[np.ndarray, " members"], Bool[np.ndarray, "members 2"]]]:
        """Resistors that meet in nets without a label, and which of their ends are at nets with one."""
        ends = self.ends
        if not len(ends):
            return
        count = int(ends.max()) + 1
        labelled = np.zeros(count, dtype=np.bool_)
        labelled[[net for net in labelled_nets if 0 <= net < count]] = True
        named = labelled[ends]
        inside = ends[~named.any(axis=1)]
        graph = coo_array((np.ones(len(inside)), (inside[:, 0], inside[:, 1])), shape=(count, count))
        _, group = connected_components(graph, directed=False)
        inner = np.where(named[:, 0], np.where(named[:, 1], -1, ends[:, 1]), ends[:, 0])
        owner = np.where(inner < 0, count + np.arange(len(ends)), group[inner])
        order = np.argsort(owner, kind="stable")
        starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
        for members in np.split(order, starts[1:]):
            yield members, named[members]

    def extent(self, net: int, metal1: bool) -> tuple[float, float, float, float] | None:
        """x0, y0, x1, y1 around what a net has on a metal; None if it has nothing there."""
        found = self._circuit.net_by_cluster_id(net)
        box = (
            None if found is None else self._l2n.shapes_of_net(found, self._conductors[2 if metal1 else 4], True).bbox()
        )
        if box is None or box.empty():
            return None
        return float(box.left), float(box.bottom), float(box.right), float(box.top)

    def bridge(self, first: Label, second: Label) -> Point:
        """Where two labels of one net come together: the middle of the way with the fewest shapes between them."""
        net = self._circuit.net_by_cluster_id(first.net)
        boxes: list[tuple[int, int, int, int]] = []
        kinds: list[int] = []
        for kind, layer in enumerate(self._conductors):
            parts = self._l2n.shapes_of_net(net, layer, True).merged().decompose_trapezoids_to_region()
            boxes += [(b.left, b.bottom, b.right, b.top) for b in (part.bbox() for part in parts.each())]
            kinds += [kind] * (len(boxes) - len(kinds))
            if len(boxes) > SHAPES_LIMIT:
                return first.at
        shapes, kind_of = np.array(boxes), np.array(kinds)
        low = np.maximum(shapes[:, None, :2], shapes[None, :, :2])
        high = np.minimum(shapes[:, None, 2:], shapes[None, :, 2:])
        touch = np.all(low <= high, axis=2) & (np.abs(kind_of[:, None] - kind_of) <= 1)
        ends = [
            np.flatnonzero(
                (kind_of == (2 if label.on_metal1 else 4))
                & np.all(shapes[:, :2] <= label.at, axis=1)
                & np.all(shapes[:, 2:] >= label.at, axis=1)
            )[0]
            for label in (first, second)
        ]
        _, before = breadth_first_order(coo_array(touch).tocsr(), ends[0], directed=False)
        way = [int(ends[1])]
        while way[-1] != ends[0]:
            way.append(int(before[way[-1]]))
        a, b = way[(len(way) - 1) // 2], way[len(way) // 2]
        x, y = (low[a, b] + high[a, b]) / 2
        return float(x), float(y)


def _middle(box: Any) -> Point:
    return (box.left + box.right) / 2, (box.bottom + box.top) / 2


def _inside(polygon: Any) -> tuple[int, int]:
    """A point in a polygon: in the middle of one of its trapezoids, each of which has a box's middle inside."""
    box = next(iter(polygon.decompose_trapezoids())).bbox()
    return (box.left + box.right) // 2, (box.bottom + box.top) // 2
