"""The foundry's design rules on the emitted masks; its own deck has the last word, this check is there at once.

All masks but the personalised ones are alike in all tiles: where the rules concern those alone they are checked once,
at cells that differ from the usual and at a few usual ones. For the rest see rule_contexts. What looks suspicious, and
files that are drawn in another way, are checked shape by shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from pfmc.backend import Progress
from pfmc.bundle import TileRecord
from pfmc.errors import TechnologyError
from pfmc.layout.layout import tile_extent
from pfmc.technology.design_rules import SELECTING, Rule, parse_layer
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy
from pfmc_backends.crossbar_gdsii.read import MASKS
from pfmc_backends.crossbar_gdsii.rule_contexts import Base, Contexts
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, Region, klayout_db, violations
from pfmc_backends.crossbar_gdsii.rule_sites import Lattice, Rows

PLACES: Final = 5  # of each rule's violations that are told
TILE_LIMIT: Final = 20  # tiles with violations after which no more are looked at
AROUND_LIMIT: Final = 64  # different surroundings of arrays that are remembered
FAR: Final = 2.0  # um: rules that compare larger distances are checked on the whole tile

Found = dict[str, list[Box]]  # violations by rule, on the chip


@dataclass(frozen=True)
class Place:
    """Where a rule is violated: the middle of it in um on the chip, and the tile's name, empty for none."""

    x: float
    y: float
    tile: str


@dataclass(frozen=True)
class Violated:
    """A rule that is violated, how often, and where first."""

    rule: str
    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class RuleCheck:
    """What a check found.

    Attributes:
        rules: how many were checked.
        tiles: how many were; fewer than there are after ``TILE_LIMIT`` with violations.
        violated: in the order of the technology's rules.
    """

    rules: int
    tiles: int
    violated: tuple[Violated, ...]

    @property
    def clean(self) -> bool:
        """Whether no rule is violated."""
        return not self.violated


def check_rules(folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress) -> RuleCheck:
    """Check the masks in ``folder`` against the technology's design rules.

    Raises:
        UsageError: if KLayout's Python module is not installed.
        TechnologyError: if the technology has no rules.
        ArtifactError: if the masks cannot be understood.
    """
    klayout_db()
    names = list(dict.fromkeys(rule.name for rule in technology.design_rules.rules))
    if not names:
        raise TechnologyError("no design rules to check", technology.name, "add a section [design_rules]")
    checker = _Checker(folder / MASKS, technology)
    micrometres = technology.grid.database_unit.si * 1e6
    counts, places = dict.fromkeys(names, 0), {name: list[Place]() for name in names}

    def note(found: Found, tile: str) -> None:
        for name, boxes in found.items():
            counts[name] += len(boxes)
            for x0, y0, x1, y1 in boxes[: PLACES - len(places[name])]:
                middle = round((x0 + x1) / 2 * micrometres, 4), round((y0 + y1) / 2 * micrometres, 4)
                places[name].append(Place(*middle, tile))

    note(checker.outside(tiles), "")
    checked = bad = 0
    for tile in tiles:
        found = checker.tile(tile)
        note(found, tile.name)
        checked, bad = checked + 1, bad + bool(found)
        progress(1)
        if bad == TILE_LIMIT:
            break
    violated = [Violated(name, counts[name], tuple(places[name])) for name in names if counts[name]]
    return RuleCheck(len(names), checked, tuple(violated))


class _Sorted:
    """Rules by how they are checked.

    Attributes:
        base: those that no personalised layer takes part in.
        far: those of them that compare distances beyond ``FAR``.
        pairs: those that are checked on pairs of strips.
        areas: layer and least area, database units, of personalised layers each of whose rectangles shows by itself.
        whole: others with a personalised layer, checked on the whole tile.
        reach: the largest distance that ``pairs`` compare.
        margin: the largest that any compare but those in ``far``.
    """

    def __init__(self, technology: Technology, masks: Masks) -> None:
        personal = {layer.key for layer in technology.personalisation_layers}
        self.base: list[Rule] = []
        self.far: list[Rule] = []
        self.pairs: list[Rule] = []
        self.areas: list[tuple[tuple[int, int], int]] = []
        self.whole: list[Rule] = []
        self.layers = sorted({key for rule in technology.design_rules.rules for key in masks.sources(rule)})
        for rule in technology.design_rules.rules:
            lengths = [a for a in (rule.value, rule.wide, rule.near) if a is not None and a.unit != "um2"]
            runs = [] if rule.run is None else [rule.run]
            if not masks.sources(rule) & personal:
                far = any(amount.si > FAR * 1e-6 for amount in lengths + runs)
                (self.far if far else self.base).append(rule)
            elif rule.kind == "area" and self._of_one_layer(rule, masks):
                assert rule.value is not None
                self.areas.append((min(masks.sources(rule)), masks.area(rule.value)))
            elif rule.kind in {"area", "hole_area"} or any(a.si > FAR * 1e-6 for a in lengths):
                self.whole.append(rule)
            elif rule.kind != "grid":
                self.pairs.append(rule)
        self.reach = self._largest(self.pairs, masks)
        self.margin = self._largest([*self.base, *self.pairs, *self.whole], masks)
        for i, rule in enumerate(self.pairs):  # a run may be cut short where gaps shrink, but not below reach
            if rule.run is not None and masks.length(rule.run) > self.reach:
                amount = rule.run.model_copy(update={"value": technology.grid.database_unit.si * 1e6 * self.reach})
                self.pairs[i] = rule.model_copy(update={"run": amount.model_copy(update={"unit": "um"})})

    @staticmethod
    def _largest(rules: Sequence[Rule], masks: Masks) -> int:
        """The largest distance that rules compare; database units, on the manufacturing grid."""
        amounts = [a for rule in rules for a in (rule.value, rule.wide, rule.near) if a is not None and a.unit != "um2"]
        step = masks.grid.step
        return -(-max((masks.length(amount) for amount in amounts), default=0) // step) * step

    @staticmethod
    def _of_one_layer(rule: Rule, masks: Masks) -> bool:
        """Whether the rule's layer is some of the polygons of one layer of the file."""
        text: str | None = rule.layer
        while text is not None:
            first, steps = parse_layer(text)
            if any(step.operator not in (*SELECTING, "over") for step in steps):
                return False
            text = masks.made(first)
        return True


@dataclass(frozen=True, eq=False)
class _Array:
    """The base masks where the strips stand, and what violates rules there.

    Attributes:
        rows: that meet the cells.
    """

    rows: Rows
    base: Base
    found: Found


@dataclass(frozen=True, eq=False)
class _Common:
    """What a tile has in common with the one before: all but what is personalised.

    Attributes:
        around: what meets the chip near the array, but not the array alone.
        found: there and in the array.
    """

    key: object
    array: _Array
    around: Rows
    found: Found


class _Checker:
    """Checks tile after tile of one file."""

    def __init__(self, path: Path, technology: Technology) -> None:
        self._technology, self._path = technology, path
        self._rules = technology.design_rules.rules
        names = Masks(technology, lambda _: klayout_db().Region())
        self._sorted = _Sorted(technology, names)
        self._layers = self._sorted.layers
        self._hierarchy = Hierarchy(Contents(GdsiiFile(path), self._layers))
        personal = [layer.key for layer in technology.personalisation_layers]
        self._personal = sum(1 << code for code, key in enumerate(self._layers) if key in personal)
        self._all = (1 << len(self._layers) + 1) - 1  # what cannot be read among them
        self._contexts = Contexts(technology, self._sorted.pairs, self._layers, self._sorted.reach)
        self._lattice = Lattice.of(technology, self._sorted.reach)
        relevant = {key for rule in self._sorted.pairs for key in names.sources(rule)}
        self._relevant = np.array([key in relevant for key in self._layers])
        self._margin = self._sorted.margin
        self._common: _Common | None = None
        self._around: dict[bytes, Found] = {}
        self._file: Callable[[tuple[int, int], Box], Region] | None = None

    # Tiles

    def tile(self, tile: TileRecord) -> Found:
        """The violations in a tile and half the streets around it."""
        window, origin = self._window(tile), (tile.x, tile.y)
        grown = _grown(window, self._margin)
        pieces = self._hierarchy.pieces(self._all & ~self._personal, grown)
        rows = self._rows(self._personal, grown, origin)
        inside = self._in_lattice(rows)
        personal, stray = rows[inside], rows[~inside]
        key = [self._hierarchy.key(piece, *origin) for piece in pieces], stray.tobytes()
        if self._common is None or self._common.key != key:
            static = self._moved(self._hierarchy.flatten(pieces, self._all & ~self._personal), origin)
            if np.any(static[:, 0] == len(self._layers)):
                return self._from_file(window)
            self._common = self._examined(key, static, stray, personal)
        common = self._common
        suspects = self._contexts.suspects(common.array.base, personal)
        if suspects is None:
            suspects = np.ones(len(self._lattice.origins), dtype=np.bool_)
        suspects[self._lattice.cut(personal[self._wrong_alone(personal, origin)])[0]] = True
        found = {name: list(boxes) for name, boxes in common.found.items()}
        shapes = np.concatenate([common.array.rows, common.around, personal])
        if suspects.any():
            rules = [rule for rule in self._rules if rule not in self._sorted.base and rule not in self._sorted.far]
            near = self._lattice.meeting(shapes[:, 1:], self._lattice.near(suspects))
            _merge(found, self._violations(rules, shapes[near], lambda boxes: self._lattice.meeting(boxes, suspects)))
        _merge(found, self._violations(self._sorted.whole, shapes, _all))
        x, y = origin
        return {n: [(a + x, b + y, c + x, d + y) for a, b, c, d in boxes] for n, boxes in found.items()}

    def _examined(self, key: object, static: Rows, stray: Rows, personal: Rows) -> _Common:
        """Check what is not personalised, and what lies around the array, as far as it is new."""
        beyond = self._leaves_lattice(static[:, 1:], self._margin)
        meets = self._in_lattice(static)
        rows = static[meets]
        array = self._common.array if self._common is not None else None
        if array is None or not np.array_equal(array.rows, rows):
            array = self._examined_array(rows)
        border = personal[self._leaves_lattice(personal[:, 1:], self._margin)]
        around = np.concatenate([static[beyond], stray, border])
        known = around.tobytes()
        if known not in self._around:
            if len(self._around) >= AROUND_LIMIT:
                self._around.clear()
            rules = [rule for rule in self._rules if rule not in self._sorted.far]
            self._around[known] = self._violations(rules, around, self._leaves_lattice)
            _merge(self._around[known], self._violations(self._sorted.far, np.concatenate([static, stray]), _all))
        found = {name: list(boxes) for name, boxes in array.found.items()}
        _merge(found, self._around[known])
        return _Common(key, array, np.concatenate([static[~meets], stray]), found)

    def _examined_array(self, rows: Rows) -> _Array:
        """Check the base masks where the strips stand: cells at the border or unlike most, and a few of the others."""
        lattice = self._lattice
        number, _ = lattice.classes(rows)
        row, column = np.divmod(np.arange(len(number)), lattice.shape[1])
        picked = number != np.argmax(np.bincount(number))
        picked |= (row == 0) | (row == lattice.shape[0] - 1) | (column == 0) | (column == lattice.shape[1] - 1)
        regular = np.flatnonzero(~lattice.near(picked))
        if len(regular):  # two by two, which show all there is between neighbours
            first = int(regular[0])
            picked[[first, first + 1, first + lattice.shape[1], first + lattice.shape[1] + 1]] = True
        shapes = rows[lattice.meeting(rows[:, 1:], lattice.near(picked))]
        found = self._violations(
            self._sorted.base,
            shapes,
            lambda boxes: lattice.meeting(boxes, picked) & ~self._leaves_lattice(boxes),
        )
        return _Array(rows, Base(lattice, *lattice.classes(rows[self._relevant[rows[:, 0]]])), found)

    def _wrong_alone(self, personal: Rows, origin: tuple[int, int]) -> Bool[np.ndarray, " n"]:
        """Personalised rectangles off the grid, or smaller than an area that they must have."""
        step = self._technology.grid.step
        wrong = np.any((personal[:, 1:] + np.tile(origin, 2)) % step != 0, axis=1)
        size = (personal[:, 3:] - personal[:, 1:3]).astype(np.int64)
        for key, least in self._sorted.areas:
            wrong |= (personal[:, 0] == self._layers.index(key)) & (size[:, 0] * size[:, 1] < least)
        return np.asarray(wrong)

    def _violations(
        self,
        rules: Iterable[Rule],
        rows: Rows,
        counts: Callable[[Int[np.ndarray, "n 4"]], Bool[np.ndarray, " n"]],
    ) -> Found:
        """The violations of rules by rectangles, as far as they count by where they are."""
        db = klayout_db()

        def drawn(key: tuple[int, int]) -> Region:
            here = rows[rows[:, 0] == self._layers.index(key), 1:]
            return db.Region([db.Box(*box) for box in here.tolist()])

        return _found(rules, Masks(self._technology, drawn), counts)

    # The chip around the tiles, and files that are not made of rectangles

    def outside(self, tiles: Sequence[TileRecord]) -> Found:
        """The violations beyond the tiles and half the streets around them."""
        db = klayout_db()
        rest = db.Region(db.Box(*self._hierarchy.extent)) - db.Region([db.Box(*self._window(tile)) for tile in tiles])
        rest = rest.merged()
        windows = [
            (b.left, b.bottom, b.right, b.top) for b in (p.bbox() for p in rest.decompose_trapezoids_to_region().each())
        ]
        if not windows:
            return {}
        seen = [self._rows(self._all, _grown(window, self._margin), (0, 0)) for window in windows]
        rows = np.unique(np.concatenate(seen), axis=0)
        areas = np.array(windows)

        def beyond(boxes: Int[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
            return np.array([_touch(areas, box).any() for box in boxes], dtype=np.bool_)

        if not np.any(rows[:, 0] == len(self._layers)):
            return self._violations(self._rules, rows, beyond)
        found: Found = {}
        for window in windows:
            _merge(found, self._from_file(window))
        return found

    def _from_file(self, window: Box) -> Found:
        """The violations in a part of the chip, by the polygons of the file."""
        db = klayout_db()
        if self._file is None:
            layout = db.Layout()
            layout.read(str(self._path))
            top = layout.cell(self._hierarchy.file.names[self._hierarchy.chip])
            self._file = lambda key, box: db.Region(
                db.RecursiveShapeIterator(layout, top, layout.layer(*key), db.Box(*box), False)
            )
        read = self._file
        grown = _grown(window, self._margin)
        masks = Masks(self._technology, lambda key: read(key, grown))
        return _found(self._rules, masks, lambda boxes: _touch(boxes, np.array(window)))

    # Where things are

    def _window(self, tile: TileRecord) -> Box:
        half_street = self._technology.grid.units(self._technology.chip.tile_spacing) // 2
        left, bottom, width, height = tile_extent(self._technology)
        return _grown((tile.x + left, tile.y + bottom, tile.x + left + width, tile.y + bottom + height), half_street)

    def _rows(self, wanted: int, window: Box, origin: tuple[int, int]) -> Rows:
        """Rectangles on the layers ``wanted``, from an origin."""
        return self._moved(self._hierarchy.flatten(self._hierarchy.pieces(wanted, window), wanted), origin)

    @staticmethod
    def _moved(rows: Int[np.ndarray, "n 6"], origin: tuple[int, int]) -> Rows:
        moved: Rows = rows[:, :5] - np.array([0, *origin, *origin], dtype=rows.dtype)
        return moved

    def _in_lattice(self, rows: Rows) -> Bool[np.ndarray, " n"]:
        """Which rectangles meet the cells."""
        x, y = self._lattice.x, self._lattice.y
        return np.asarray((rows[:, 1] < x[-1]) & (rows[:, 3] > x[0]) & (rows[:, 2] < y[-1]) & (rows[:, 4] > y[0]))

    def _leaves_lattice(self, boxes: Int[np.ndarray, "n 4"], margin: int = 0) -> Bool[np.ndarray, " n"]:
        """Which boxes reach beyond the cells, or closer than a margin to where they end."""
        x, y = self._lattice.x, self._lattice.y
        low = (boxes[:, 0] < x[0] + margin) | (boxes[:, 1] < y[0] + margin)
        return np.asarray(low | (boxes[:, 2] > x[-1] - margin) | (boxes[:, 3] > y[-1] - margin))


def _all(boxes: Int[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    return np.ones(len(boxes), dtype=np.bool_)


def _found(
    rules: Iterable[Rule], masks: Masks, counts: Callable[[Int[np.ndarray, "n 4"]], Bool[np.ndarray, " n"]]
) -> Found:
    found: Found = {}
    for rule in rules:
        boxes = list(violations(rule, masks))
        if boxes:
            kept = [box for box, counted in zip(boxes, counts(np.array(boxes)).tolist(), strict=True) if counted]
            if kept:
                _merge(found, {rule.name: kept})
    return found


def _merge(found: Found, more: Mapping[str, list[Box]]) -> None:
    for name, boxes in more.items():
        found.setdefault(name, []).extend(boxes)


def _grown(box: Box, margin: int) -> Box:
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _touch(boxes: Int[np.ndarray, "n 4"], box: Int[np.ndarray, " 4"]) -> Bool[np.ndarray, " n"]:
    """Which boxes meet one."""
    return np.asarray(
        (boxes[:, 0] <= box[2]) & (boxes[:, 2] >= box[0]) & (boxes[:, 1] <= box[3]) & (boxes[:, 3] >= box[1])
    )
