"""What each kind of design rule forbids, on regions of KLayout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any, Final

from pfmc.errors import UsageError
from pfmc.technology.design_rules import DRAWN, Amount, Rule, parse_layer
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy

Region = Any  # klayout.db.Region: the package is optional


def klayout_db() -> ModuleType:
    """KLayout's database module.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        from klayout import db  # noqa: PLC0415 - optional, and large
    except ImportError:
        raise UsageError(
            "this check needs KLayout's Python module", None, "pip install 'pfmc[check]', or klayout"
        ) from None
    return db


class Masks:
    """The layers that rules speak of: those of the file, and what the technology makes of them.

    Args:
        technology: whose rules they are.
        drawn: what is on a layer of the file, by its number and datatype; asked once for each.
    """

    def __init__(self, technology: Technology, drawn: Callable[[tuple[int, int]], Region]) -> None:
        self.grid = technology.grid
        self._files = {name: layer.key for name, layer in technology.layers.drawn().items()}
        self._made: Mapping[str, str] = technology.design_rules.layers
        self._drawn = drawn
        self._regions: dict[str, Region] = {}
        self._unit = technology.grid.database_unit.si

    @cached_property
    def db(self) -> ModuleType:
        """KLayout."""
        return klayout_db()

    def made(self, text: str) -> str | None:
        """What a layer is made of, or None if it is one of the file."""
        if text in self._made:
            return self._made[text]
        return None if text in self._files or DRAWN.fullmatch(text) else text

    def sources(self, rule: Rule) -> frozenset[tuple[int, int]]:
        """Number and datatype of the layers of the file that a rule looks at."""
        texts = [text for text in (rule.layer, rule.other) if text is not None]
        return frozenset[tuple[int, int]]().union(*(self._sources(text) for text in texts))

    def _sources(self, text: str) -> frozenset[tuple[int, int]]:
        made = self.made(text)
        if made is None:
            number = DRAWN.fullmatch(text)
            return frozenset({(int(number[1]), int(number[2])) if number else self._files[text]})
        if made != text:
            return self._sources(made)
        first, steps = parse_layer(text)
        used = (first, *(step.operand for step in steps if step.operator in JOIN))
        return frozenset[tuple[int, int]]().union(*(self._sources(name) for name in used))

    def length(self, amount: Amount) -> int:
        """In database units."""
        return round(amount.si / self._unit)

    def area(self, amount: Amount) -> int:
        """In squares of the database unit."""
        return round(amount.si / self._unit**2)

    def region(self, text: str) -> Region:
        """What a rule calls a layer."""
        if text not in self._regions:
            made = DRAWN.fullmatch(text)
            if made:
                self._regions[text] = self._drawn((int(made[1]), int(made[2]))).merged()
            elif text in self._made:
                self._regions[text] = self.region(self._made[text])
            elif text in self._files:
                self._regions[text] = self._drawn(self._files[text]).merged()
            else:
                self._regions[text] = self._combined(text)
        return self._regions[text]

    def _combined(self, text: str) -> Region:
        first, steps = parse_layer(text)
        region = self.region(first)
        for operator, operand in steps:
            if operator == "over":
                region = region.with_area(0, round(float(operand) * 1e-12 / self._unit**2) + 1, True)
            elif operator == "squares":
                region = region.squares()
            elif operator == "bars":
                region = region.non_squares()
            else:
                region = JOIN[operator](region, self.region(operand)).merged()
        return region


def read_regions(hierarchy: Hierarchy) -> Callable[[tuple[int, int], Box], Region]:
    """What of the chip is on a layer and touches a box, as KLayout reads it: polygons of any shape."""
    db = klayout_db()
    layout = db.Layout()
    layout.read(str(hierarchy.file.path))
    top = layout.cell(hierarchy.file.names[hierarchy.chip])
    return lambda key, box: db.Region(db.RecursiveShapeIterator(layout, top, layout.layer(*key), db.Box(*box), False))


JOIN: Final[dict[str, Callable[[Region, Region], Region]]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "-": lambda a, b: a - b,
    "^": lambda a, b: a ^ b,
    "touching": lambda a, b: a.interacting(b),
    "clear_of": lambda a, b: a.not_interacting(b),
}


def violations(rule: Rule, masks: Masks) -> Iterator[Box]:
    """Where a rule is violated: the box around each place, as many as KLayout counts."""
    for found in KINDS[rule.kind](rule, masks):
        for item in found.each():
            box = item.bbox()
            yield box.left, box.bottom, box.right, box.top


def _other(rule: Rule, masks: Masks) -> Region:
    assert rule.other is not None  # the schema sees to it
    return masks.region(rule.other)


def _length(rule: Rule, masks: Masks) -> int:
    assert rule.value is not None
    return masks.length(rule.value)


def _area(rule: Rule, masks: Masks) -> int:
    assert rule.value is not None
    return masks.area(rule.value)


def _width(rule: Rule, masks: Masks) -> list[Any]:
    """Narrower, corner to corner too."""
    return [masks.region(rule.layer).width_check(_length(rule, masks), False, masks.db.Metrics.Euclidian)]


def _opened(region: Region, width: int) -> Region:
    """What of a region is wider."""
    return region.with_bbox_min(width, None, False).sized(-(width // 2)).sized(width // 2)


def _max_width(rule: Rule, masks: Masks) -> list[Any]:
    """Wider, in both directions."""
    return [_opened(masks.region(rule.layer), _length(rule, masks))]


def _space(rule: Rule, masks: Masks) -> list[Any]:
    """Closer, between polygons or in a notch of one."""
    region, value, metrics = masks.region(rule.layer), _length(rule, masks), masks.db.Metrics.Euclidian
    run = None if rule.run is None else masks.length(rule.run) + 1
    if rule.wide is None:
        return [region.space_check(value, False, metrics, None, run)]
    wide = _opened(region, masks.length(rule.wide))
    if wide.is_empty():
        return []
    # Not shielded: the wide metal's edges lie on those of the region, and would hide behind them.
    return [region.separation_check(wide, value, False, metrics, None, run, None, False)]


def _separation(rule: Rule, masks: Masks) -> list[Any]:
    """Closer to the other layer, from outside it."""
    region, metrics = masks.region(rule.layer), masks.db.Metrics.Euclidian
    return [region.separation_check(_other(rule, masks), _length(rule, masks), False, metrics)]


def _distance(rule: Rule, masks: Masks) -> list[Any]:
    """Closer to the other layer's edges, or farther from all of them."""
    value = _length(rule, masks)
    around = _other(rule, masks).edges().extended(0, 0, value, value, False)
    return [*_separation(rule, masks), masks.region(rule.layer).not_interacting(around)]


def _enclosure(rule: Rule, masks: Masks) -> list[Any]:
    """Inside the other layer's edge and closer to it."""
    region, metrics = masks.region(rule.layer), masks.db.Metrics.Euclidian
    return [region.enclosed_check(_other(rule, masks), _length(rule, masks), False, metrics)]


def _endcap(rule: Rule, masks: Masks) -> list[Any]:
    """Sides beside one that is enclosed by less than ``near``, and themselves enclosed by less than the value."""
    region, other, metrics = masks.region(rule.layer), _other(rule, masks), masks.db.Metrics.Projection
    assert rule.near is not None
    near = region.enclosed_check(other, masks.length(rule.near), True, metrics).first_edges().merged()
    corners = near.extended_in(2)
    beside = region.edges().interacting(corners) - near
    return [beside.enclosed_check(other.edges(), _length(rule, masks), False, metrics), corners.merged(2)]


def _overlap(rule: Rule, masks: Masks) -> list[Any]:
    """Overlapping by less."""
    region, metrics = masks.region(rule.layer), masks.db.Metrics.Euclidian
    return [region.overlap_check(_other(rule, masks), _length(rule, masks), False, metrics)]


def _smaller(rule: Rule, masks: Masks) -> list[Any]:
    return [masks.region(rule.layer).with_area(0, _area(rule, masks), False)]


def _hole_smaller(rule: Rule, masks: Masks) -> list[Any]:
    """A hole, less what stands in it, is smaller."""
    region = masks.region(rule.layer)
    return [(region.holes() - region).with_area(0, _area(rule, masks), False)]


def _size(rule: Rule, masks: Masks) -> list[Any]:
    """No square of this side."""
    region, value = masks.region(rule.layer), _length(rule, masks)
    boxes = region.rectangles()
    return [region.non_rectangles(), boxes.with_bbox_width(value, True) | boxes.with_bbox_height(value, True)]


def _forbidden(rule: Rule, masks: Masks) -> list[Any]:
    return [masks.region(rule.layer)]


def _grid(rule: Rule, masks: Masks) -> list[Any]:
    """A vertex off the manufacturing grid."""
    return [masks.region(rule.layer).grid_check(masks.grid.step, masks.grid.step)]


KINDS: Final[dict[str, Callable[[Rule, Masks], list[Any]]]] = {
    "width": _width,
    "max_width": _max_width,
    "space": _space,
    "separation": _separation,
    "distance": _distance,
    "enclosure": _enclosure,
    "endcap": _endcap,
    "overlap": _overlap,
    "area": _smaller,
    "hole_area": _hole_smaller,
    "size": _size,
    "forbidden": _forbidden,
    "grid": _grid,
}
