"""How much of the chip each layer covers, from the masks: in all, and in every window that a rule speaks of.

Windows begin at the chip's lower left corner and follow each other by half their side; where that leaves a rest, more
of them end at the right and upper edge. That is how the foundries' decks lay them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.backend import Density, Place, Violated
from pfmc.technology.design_rules import Rule
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, Region, klayout_db, read_regions

PLACES: Final = 5  # windows that are told of each rule
CELL: Final = 400e-6  # m: the most that is looked at in one piece
RASTER_LIMIT: Final = 1 << 24  # crossings of the lines on which boxes begin and end


def check_densities(file: GdsiiFile, technology: Technology) -> tuple[list[Density], list[Violated]]:
    """What the rules on density measure, and those that are violated and not left to the die.

    Raises:
        ArtifactError: if the masks cannot be understood.
    """
    rules = technology.design_rules.densities
    if not rules:
        return [], []
    chip = _Chip(file, technology, rules)
    unit = technology.grid.database_unit.si * 1e6
    measured, violated = [], []
    for rule in rules:
        windows, ratios = chip.measured(rule)
        if not len(ratios):
            continue  # the chip is smaller than a window
        assert rule.value is not None  # the schema sees to it
        limit = rule.value.si
        wrong = np.flatnonzero(ratios < limit if rule.kind == "min_density" else ratios > limit)
        least, most = float(ratios.min()), float(ratios.max())
        measured.append(Density(rule.name, rule.kind, limit, least, most, not len(wrong), rule.left_to_die))
        if len(wrong) and not rule.left_to_die:
            middles = (windows[wrong[:PLACES], :2] + windows[wrong[:PLACES], 2:]) / 2 * unit
            places = tuple(Place(round(x, 4), round(y, 4), "") for x, y in middles.tolist())
            violated.append(Violated(rule.name, len(wrong), places))
    return measured, violated


class _Chip:
    """The areas that layers cover in the cells of a grid such that each window is made of whole cells."""

    def __init__(self, file: GdsiiFile, technology: Technology, rules: tuple[Rule, ...]) -> None:
        masks = Masks(technology, lambda _: klayout_db().Region())
        self._length, self._cell = masks.length, round(CELL / technology.grid.database_unit.si)
        self._keys = sorted({key for rule in rules for key in masks.sources(rule)})
        outline = technology.layers.outline.key
        self._hierarchy = Hierarchy(Contents(file, [*self._keys, outline]))
        self._box = self._frame()
        sides = {self._length(rule.window) for rule in rules if rule.window is not None}
        self._starts = {side: (self._along(0, side), self._along(1, side)) for side in sides}
        self._levels = [self._cut(axis) for axis in (0, 1)]
        self._read: Callable[[tuple[int, int], Box], Region] | None = None
        self._covered = self._areas({rule.layer: masks.sources(rule) for rule in rules})

    def measured(self, rule: Rule) -> tuple[Int[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
        """The windows of a rule, and how much of each is covered."""
        if rule.window is None:
            windows = np.array([self._box])
        else:
            side = self._length(rule.window)
            x, y = (grid.ravel() for grid in np.meshgrid(*self._starts[side]))
            windows = np.stack([x, y, x + side, y + side], axis=1)
        x, y = self._levels
        left, right = np.searchsorted(x, windows[:, 0]), np.searchsorted(x, windows[:, 2])
        low, high = np.searchsorted(y, windows[:, 1]), np.searchsorted(y, windows[:, 3])
        sums = self._covered[rule.layer]
        covered = sums[high, right] - sums[low, right] - sums[high, left] + sums[low, left]
        return windows, covered / np.prod(windows[:, 2:] - windows[:, :2], axis=1, dtype=np.float64)

    def _frame(self) -> Box:
        """The chip's, or all that is drawn where it has none."""
        outline = 1 << len(self._keys)
        rows = self._hierarchy.flatten(self._hierarchy.pieces(outline, self._hierarchy.extent), outline)
        if not len(rows):
            return self._hierarchy.extent
        (x0, y0), (x1, y1) = rows[:, 1:3].min(axis=0).tolist(), rows[:, 3:5].max(axis=0).tolist()
        return x0, y0, x1, y1

    def _along(self, axis: int, side: int) -> Int[np.ndarray, " n"]:
        """Where windows begin; none if the chip is smaller."""
        low, high = self._box[axis], self._box[axis + 2]
        if high - low < side:
            return np.zeros(0, dtype=np.int64)
        return np.unique(np.append(np.arange(low, high - side + 1, side // 2), high - side))

    def _cut(self, axis: int) -> Int[np.ndarray, " n"]:
        """Where windows begin and end, and lines between so that no cell holds more than memory does."""
        low, high = self._box[axis], self._box[axis + 2]
        ends = [np.concatenate([starts[axis], starts[axis] + side]) for side, starts in self._starts.items()]
        return np.unique(np.concatenate([*ends, np.arange(low, high, self._cell), [high]]))

    def _areas(self, layers: dict[str, frozenset[tuple[int, int]]]) -> dict[str, Float[np.ndarray, "y x"]]:
        """By layer what it covers below and to the left of each crossing of the grid's lines."""
        x, y = self._levels
        areas = {layer: np.zeros((len(y), len(x))) for layer in layers}
        for i, j in np.ndindex(len(y) - 1, len(x) - 1):
            covered = self._covers((int(x[j]), int(y[i]), int(x[j + 1]), int(y[i + 1])))
            for layer, keys in layers.items():
                areas[layer][i + 1, j + 1] = covered(keys)
        return {layer: area.cumsum(axis=0).cumsum(axis=1) for layer, area in areas.items()}

    def _covers(self, cell: Box) -> Callable[[frozenset[tuple[int, int]]], float]:
        """What area layers of the file together cover in a cell."""
        db = klayout_db()
        wanted = (1 << len(self._keys)) - 1 | 1 << self._hierarchy.contents.odd
        rows = self._hierarchy.flatten(self._hierarchy.pieces(wanted, cell), wanted)
        if np.any(rows[:, 0] == self._hierarchy.contents.odd):
            self._read = read = self._read or read_regions(self._hierarchy)
            whole = db.Region(db.Box(*cell))
            return lambda keys: float((sum((read(key, cell) for key in keys), db.Region()) & whole).area())
        boxes = np.clip(rows[:, 1:5], np.tile(cell[:2], 2), np.tile(cell[2:], 2))
        return lambda keys: union_area(boxes[np.isin(rows[:, 0], [self._keys.index(key) for key in keys])])


def union_area(boxes: Int[np.ndarray, "n 4"]) -> float:
    """The area that boxes cover together, each point counted once."""
    x, left, right = _levels(boxes[:, [0, 2]])
    y, low, high = _levels(boxes[:, [1, 3]])
    if len(x) * len(y) > RASTER_LIMIT:
        db = klayout_db()
        return float(db.Region([db.Box(*box) for box in boxes.tolist()]).area())
    corners = [np.bincount(b * len(x) + a, minlength=len(x) * len(y)) for b in (low, high) for a in (left, right)]
    steps = corners[0] - corners[1] - corners[2] + corners[3]  # what the number of boxes changes by at each crossing
    covered = steps.reshape(len(y), len(x)).cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float(np.diff(y) @ (covered @ np.diff(x).astype(np.float64)))


def _levels(ends: Int[np.ndarray, "n 2"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Where boxes begin or end, and the index among these of where each does."""
    levels, index = np.unique(ends, return_inverse=True)
    first, last = index.reshape(-1, 2).T
    return levels.astype(np.int64), first, last
