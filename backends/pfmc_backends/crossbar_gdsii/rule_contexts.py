"""Neighbouring strips that look alike to the rules are judged once.

A rule compares distances with numbers of at most ``reach``. So nothing changes for it when gaps beyond ``reach``,
between one coordinate and the next along the strips, shrink to one and the same length. And where strips stand farther
apart than that, a violation involves no more than two neighbours. Of the pairs of neighbours in a tile, brought to that
form, there are few hundred different ones, and the next tile has hardly a new one.

Each new pair is drawn, with its base masks and with a copy of each strip at its outer side, below and above others as
in the array, and the rules are asked once for the whole sheet. The copies may violate a rule that the strips in the
tile do not: that a pair is clean is certain, that it is not is a suspicion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from pfmc.technology.design_rules import Rule
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, klayout_db, violations
from pfmc_backends.crossbar_gdsii.rule_sites import Lattice, Rows

SLOTS: Final = 8  # personalised rectangles of a cell; drawn there are four at most
HALF: Final = 1 << 22  # database units: rectangles of a cell lie within, around the strip's origin
# Sums of numbers times these, modulo 2**64, tell keys apart: two of a million are alike with a probability of 3e-8.
WEIGHTS: Final = np.random.default_rng(0x5EED).integers(1, 1 << 63, 256, dtype=np.uint64) * 2 + 1


@dataclass(frozen=True, eq=False)
class Base:
    """The base masks of a tile, as far as they matter to a personalised one.

    Attributes:
        number: of each cell's contents.
        contents: by number.
    """

    lattice: Lattice
    number: Int[np.ndarray, " sites"]
    contents: list[Rows]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two neighbours: the left one's cell, what the two hold, and where each y coordinate comes to lie."""

    key: int
    site: int
    contents: tuple[Rows, Rows]
    heights: Mapping[int, int]

    @property
    def height(self) -> int:
        """Of the drawn cell."""
        return max(self.heights.values())


class Contexts:
    """What was found about pairs of neighbours.

    Args:
        layers: number and datatype of each code.
        reach: no rule compares a distance with a larger one; a multiple of the grid.
    """

    def __init__(
        self, technology: Technology, rules: Sequence[Rule], layers: Sequence[tuple[int, int]], reach: int
    ) -> None:
        self._technology, self._rules, self._layers, self._reach = technology, rules, layers, reach
        self._gap = reach + technology.grid.step
        self._keys = np.zeros(0, dtype=np.uint64)  # sorted
        self._dirty = np.zeros(0, dtype=np.bool_)
        self._lowest: dict[tuple[bool, bool], Pair] = {}  # one in the first row at each place, to draw below others
        self._highest: dict[tuple[bool, bool], Pair] = {}  # and one in the last row

    def suspects(self, base: Base, personal: Rows) -> Bool[np.ndarray, " sites"] | None:
        """The cells of pairs that may violate a rule; None if the tile is too unusual to tell.

        Args:
            personal: rectangles on the personalised layers, in coordinates of the tile.
        """
        lattice, count = base.lattice, len(base.number)
        site, found = lattice.cut(personal)
        counts = np.bincount(site, minlength=count)
        begin = np.cumsum(counts) - counts
        if counts.max() > SLOTS or np.abs(found[:, 1:]).max(initial=0) >= HALF or lattice.pitch[0] <= self._reach:
            return None
        if not self._alike_below(lattice, site, found):
            return None
        slot = np.arange(len(site)) - begin[site]
        slots = max(int(counts.max()), 1)
        form = np.zeros((count, slots), dtype=np.uint64)
        form[site, slot] = ((found[:, 0] + 1) << 48) | ((found[:, 1] + HALF) << 24) | (found[:, 3] + HALF)
        y = np.full((count, 2 * slots), -lattice.margin, dtype=np.int64)  # a height more changes nothing
        y[site, 2 * slot], y[site, 2 * slot + 1] = found[:, 2], found[:, 4]
        kind = form @ WEIGHTS[:slots] + base.number.astype(np.uint64) * WEIGHTS[slots] + self._place(lattice)
        left = np.flatnonzero(np.arange(count) % lattice.shape[1] != lattice.shape[1] - 1)
        keys = np.zeros(len(left), dtype=np.uint64)
        fresh: dict[int, Pair] = {}
        both = kind[left] * WEIGHTS[-1] + kind[left + 1]
        kinds, of_kind = np.unique(both, return_inverse=True)
        bounds = np.split(np.argsort(of_kind, kind="stable"), np.cumsum(np.bincount(of_kind))[:-1])
        for combined, members in zip(kinds, bounds, strict=True):
            sites = left[members]
            heights = self._heights(base, y, sites)
            drawn = self._shrunk(heights)
            keys[members] = drawn.astype(np.uint64) @ WEIGHTS[: drawn.shape[1]] + combined
            new, first = np.unique(keys[members], return_index=True)
            for i in first[~self._known(new)].tolist():
                held = [
                    np.concatenate([base.contents[base.number[s]], found[begin[s] : begin[s] + counts[s]]])
                    for s in (sites[i], sites[i] + 1)
                ]
                mapped = dict(zip(heights[i].tolist(), drawn[i].tolist(), strict=True))
                key = int(keys[members[i]])
                fresh[key] = Pair(key, int(sites[i]), (held[0], held[1]), mapped)
        if fresh:
            self._learn(fresh, self._judge(lattice, list(fresh.values())))
        dirty = left[self._dirty[np.searchsorted(self._keys, keys)]]
        suspects = np.zeros(count, dtype=np.bool_)
        suspects[dirty] = suspects[dirty + 1] = True
        return suspects

    def _alike_below(self, lattice: Lattice, site: Int[np.ndarray, " n"], found: Rows) -> bool:
        """Whether all cells hold the same within reach of their lower side: it matters not which one lies above."""
        limit = self._reach - lattice.margin
        low = found[:, 2] < limit
        if not low.any():
            return True
        sites, rows = site[low], np.minimum(found[low], [HALF, HALF, HALF, HALF, limit])
        each, left_over = divmod(len(rows), len(lattice.origins))
        if left_over or np.any(sites != np.repeat(np.arange(len(lattice.origins)), each)):
            return False
        return bool(np.all(rows.reshape(-1, each, 5) == rows[:each]))

    @staticmethod
    def _place(lattice: Lattice) -> np.ndarray:
        """A number for each cell that says whether it is in the first or last row or column."""
        rows, columns = lattice.shape
        row, column = np.divmod(np.arange(rows * columns), columns)
        place = (row == 0) + 2 * (row == rows - 1) + 4 * (column == 0) + 8 * (column == columns - 1)
        return np.asarray(place.astype(np.uint64) * WEIGHTS[-2])

    @staticmethod
    def _heights(base: Base, y: Int[np.ndarray, "sites k"], sites: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
        """All y coordinates of pairs of one kind."""
        lattice, first = base.lattice, int(sites[0])
        row = first // lattice.shape[1]
        sides = lattice.y[row : row + 2] - row * lattice.pitch[1]
        held = [base.contents[base.number[s]][:, [2, 4]].ravel() for s in (first, first + 1)]
        fixed = np.unique(np.concatenate([sides, *held]))
        return np.concatenate([y[sites], y[sites + 1], np.broadcast_to(fixed, (len(sites), len(fixed)))], axis=1)

    def _shrunk(self, heights: Int[np.ndarray, "n m"]) -> Int[np.ndarray, "n m"]:
        """Where each coordinate comes to lie when gaps beyond reach shrink; the lowest at zero."""
        order = np.argsort(heights, axis=1)
        steps = np.diff(np.take_along_axis(heights, order, axis=1), axis=1)
        places = np.zeros(heights.shape, dtype=np.int64)
        np.cumsum(np.minimum(steps, self._gap), axis=1, out=places[:, 1:])
        drawn = np.empty_like(places)
        np.put_along_axis(drawn, order, places, axis=1)
        return drawn

    def _known(self, keys: np.ndarray) -> Bool[np.ndarray, " n"]:
        at = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), dtype=np.bool_)
        inside = at < len(self._keys)
        known[inside] = self._keys[at[inside]] == keys[inside]
        return known

    def _learn(self, fresh: Mapping[int, Pair], dirty: set[int]) -> None:
        keys = np.concatenate([self._keys, np.array(list(fresh), dtype=np.uint64)])
        flags = np.concatenate([self._dirty, np.array([key in dirty for key in fresh], dtype=np.bool_)])
        order = np.argsort(keys)
        self._keys, self._dirty = keys[order], flags[order]

    # The sheet

    def _judge(self, lattice: Lattice, pairs: Sequence[Pair]) -> set[int]:
        """The keys of the pairs that violate a rule where they are drawn."""
        db = klayout_db()
        step = 8 * lattice.pitch[0] + 2 * int(max(-lattice.x[0], lattice.x[-1] - lattice.x[-2]))
        boxes: list[list[object]] = [[] for _ in self._layers]
        floors: list[tuple[list[int], list[Pair]]] = []
        for number, block in enumerate(self._blocks(lattice, pairs)):
            bottom, levels = 0, []
            for pair in block:
                levels.append(bottom)
                for offset, rows in self._columns(lattice, pair):
                    x = number * step + offset
                    for code, x0, y0, x1, y1 in rows.tolist():
                        low, high = pair.heights[y0] + bottom, pair.heights[y1] + bottom
                        boxes[code].append(db.Box(x + x0, low, x + x1, high))
                bottom += pair.height
            floors.append((levels, block))
        regions = {key: db.Region(drawn) for key, drawn in zip(self._layers, boxes, strict=True)}
        masks = Masks(self._technology, lambda key: regions.get(key, db.Region()))
        dirty: set[int] = set()
        for rule in self._rules:
            for x0, y0, x1, y1 in violations(rule, masks):
                number = (x0 + x1 + step) // (2 * step)
                levels, block = floors[number]
                left, right = self._middle(lattice, block[0])
                if x1 >= number * step + left and x0 <= number * step + right:
                    first, last = np.searchsorted(levels, [y0, y1 + 1]).tolist()
                    dirty.update(pair.key for pair in block[max(first - 1, 0) : last])
        return dirty

    def _blocks(self, lattice: Lattice, pairs: Sequence[Pair]) -> list[list[Pair]]:
        """Pairs one on the other as cells in an array are: one of its first row below, one of its last row on top.

        Pairs that stand at its left or right border, or at none, do so among themselves.
        """
        rows, columns = lattice.shape
        by_place: dict[tuple[bool, bool], list[Pair]] = {}
        for pair in pairs:
            column = pair.site % columns
            by_place.setdefault((column == 0, column == columns - 2), []).append(pair)
        blocks: list[list[Pair]] = []
        for place, among in by_place.items():
            lowest = [pair for pair in among if pair.site < columns]
            if rows == 1:
                blocks += [[pair] for pair in lowest]
                continue
            highest = [pair for pair in among if pair.site >= (rows - 1) * columns]
            inner = [pair for pair in among if columns <= pair.site < (rows - 1) * columns]
            below = self._lowest.setdefault(place, (lowest or among)[0])
            above = self._highest.setdefault(place, (highest or among)[0])
            for i in range(max(len(lowest), len(highest), 1)):
                ends = (lowest[i] if i < len(lowest) else below), (highest[i] if i < len(highest) else above)
                blocks.append([ends[0], *(inner if i == 0 else []), ends[1]])
        return blocks

    @staticmethod
    def _middle(lattice: Lattice, pair: Pair) -> tuple[int, int]:
        """Where the two strips themselves stand, without copies, from the left one's origin."""
        column, pitch = pair.site % lattice.shape[1], lattice.pitch[0]
        cuts = lattice.x[[column, column + 2]] - column * pitch
        return int(cuts[0]), int(cuts[1])

    @staticmethod
    def _columns(lattice: Lattice, pair: Pair) -> list[tuple[int, Rows]]:
        """What stands in each column of a pair's drawing, from the left strip's origin."""
        column, pitch = pair.site % lattice.shape[1], lattice.pitch[0]
        left, right = pair.contents
        columns = [(0, left), (pitch, right)]
        if column > 0:
            columns.append((-pitch, left))
        if column < lattice.shape[1] - 2:
            columns.append((2 * pitch, right))
        return columns
