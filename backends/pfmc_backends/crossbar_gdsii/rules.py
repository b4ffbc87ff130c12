"""The foundry's design rules on the emitted masks; its own deck has the last word, this check is there at once.

All masks but the personalised ones are alike in all tiles: where the rules concern those alone they are checked once,
at one cell of each kind and surroundings. For the rest see rule_contexts. What looks suspicious, and
files that are drawn in another way, are checked shape by shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from pfmc.backend import Place, Progress, RuleCheck, Violated
from pfmc.bundle import TileRecord
from pfmc.errors import TechnologyError
from pfmc.layout.layout import tile_extent
from pfmc.technology.design_rules import Rule
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.density import check_densities
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.geometry import Bins
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy
from pfmc_backends.crossbar_gdsii.read import MASKS
from pfmc_backends.crossbar_gdsii.rule_contexts import Base, Contexts
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, Region, klayout_db, read_regions, violations
from pfmc_backends.crossbar_gdsii.rule_sites import Lattice, Rows
from pfmc_backends.crossbar_gdsii.rule_sorting import SortedRules

PLACES: Final = 5  # of each rule's violations that are told
TILE_LIMIT: Final = 20  # tiles with violations after which no more are looked at
AROUND_LIMIT: Final = 64  # different surroundings of arrays that are remembered

Found = dict[str, list[Box]]  # violations by rule, on the chip


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
    file = GdsiiFile(folder / MASKS)
    checker = _Checker(file, technology)
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
    densities, off = check_densities(file, technology)
    return RuleCheck(len(names), checked, (*violated, *off), tuple(densities))


@dataclass(frozen=True, eq=False)
class _Array:
    """The base masks where the strips stand, and what violates rules there.

    Attributes:
        rows: that meet the cells.
        bases: as each group of rules sees them.
    """

    rows: Rows
    bases: Sequence[Base]
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

    def __init__(self, file: GdsiiFile, technology: Technology) -> None:
        self._technology = technology
        self._rules = technology.design_rules.local
        names = Masks(technology, lambda _: klayout_db().Region())
        self._sorted = SortedRules(technology, names)
        self._layers = self._sorted.layers
        far = [*self._sorted.far, *(rule for rules in self._sorted.large.values() for _, rule in rules)]
        self._near_rules = [rule for rule in self._rules if rule not in far]
        self._pair_rules = [rule for rule in self._near_rules if rule not in self._sorted.base]
        self._hierarchy = Hierarchy(Contents(file, self._layers))
        personal = [layer.key for layer in technology.personalisation_layers]
        self._personal = sum(1 << code for code, key in enumerate(self._layers) if key in personal)
        self._all = (1 << len(self._layers) + 1) - 1  # what cannot be read among them
        self._lattice = Lattice.of(technology, self._sorted.reach)
        self._contexts = [Contexts(technology, rules, self._layers, reach) for rules, reach in self._sorted.pairs]
        relevant = [{key for rule in rules for key in names.sources(rule)} for rules, _ in self._sorted.pairs]
        self._relevant = [np.array([key in some for key in self._layers]) for some in relevant]
        self._margin = self._sorted.margin
        self._common: _Common | None = None
        self._around: dict[tuple[bytes, _Array], Found] = {}
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
        suspects = np.zeros(len(self._lattice.origins), dtype=np.bool_)
        for contexts, base, relevant in zip(self._contexts, common.array.bases, self._relevant, strict=True):
            suspected = contexts.suspects(base, personal[relevant[personal[:, 0]]])
            suspects |= True if suspected is None else suspected
        suspects[self._lattice.cut(personal[self._wrong_alone(personal, origin)])[0]] = True
        found = {name: list(boxes) for name, boxes in common.found.items()}
        if suspects.any() or self._sorted.whole:
            shapes = np.concatenate([common.array.rows, common.around, personal])
            near = self._lattice.meeting(shapes[:, 1:], self._lattice.near(suspects))
            _merge(
                found,
                self._violations(self._pair_rules, shapes[near], lambda boxes: self._lattice.meeting(boxes, suspects)),
            )
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
        known = around.tobytes(), array
        if known not in self._around:
            if len(self._around) >= AROUND_LIMIT:
                self._around.clear()
            self._around[known] = self._violations(self._near_rules, around, self._leaves_lattice)
            _merge(self._around[known], self._far(np.concatenate([static, stray])))
        found = {name: list(boxes) for name, boxes in array.found.items()}
        _merge(found, self._around[known])
        return _Common(key, array, np.concatenate([static[~meets], stray]), found)

    def _examined_array(self, rows: Rows) -> _Array:
        """Check the base masks where the strips stand, at one cell for each different surroundings."""
        lattice = self._lattice
        number, _ = lattice.classes(rows)
        picked = lattice.unlike(number, self._margin)
        shapes = rows[lattice.meeting(rows[:, 1:], lattice.near(picked, self._margin))]
        found = self._violations(
            self._sorted.base,
            shapes,
            lambda boxes: lattice.meeting(boxes, picked) & ~self._leaves_lattice(boxes),
        )
        bases = [Base(lattice, *lattice.classes(rows[relevant[rows[:, 0]]])) for relevant in self._relevant]
        return _Array(rows, bases, found)

    def _far(self, rows: Rows) -> Found:
        """The violations of rules that compare large distances."""
        found = self._violations(self._sorted.far, rows, _all)
        for key, rules in self._sorted.large.items():
            shapes = self._large(rows[rows[:, 0] == self._layers.index(key)], min(least for least, _ in rules))
            _merge(found, self._violations([rule for _, rule in rules], shapes, _all))
        return found

    def _large(self, rows: Rows, least: int) -> Rows:
        """Rectangles of one layer without those that meet no other one and are no larger than ``least``."""
        lattice, margin = self._lattice, self._margin
        low = np.array([lattice.x[0], lattice.y[0]]) - margin
        high = np.array([lattice.x[-1], lattice.y[-1]]) + margin
        boxes = np.clip(rows[:, 1:], np.tile(low, 2), np.tile(high, 2))
        small = np.flatnonzero(np.all(rows[:, 3:] - rows[:, 1:3] <= least, axis=1))
        origin = int(lattice.x[0]), int(lattice.y[0])
        size = min(lattice.pitch)
        first, _ = Bins(boxes, origin, (size, size)).meeting(boxes[small])
        return np.delete(rows, small[np.bincount(first, minlength=len(small)) == 1], axis=0)

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
        self._file = read = self._file or read_regions(self._hierarchy)
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
