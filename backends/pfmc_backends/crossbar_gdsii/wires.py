"""How many squares of metal lie between the pin of a wire and the strips along it, from the wire's shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import ArtifactError
from pfmc_backends.crossbar_gdsii.geometry import Boxes

ROW: Final = 0  # runs along x
COLUMN: Final = 1  # runs along y
PIECES_LIMIT: Final = 1000  # shapes of one wire; drawn it is one, cut at every strip a hundred


def segments(
    shapes: Boxes,
    number: Int[np.ndarray, " shapes"],
    pins: Mapping[int, int],
    wire: Int[np.ndarray, " taps"],
    crossing: Int[np.ndarray, " taps"],
    position: Float[np.ndarray, " taps"],
    size: tuple[int, int],
    axis: int,
) -> tuple[Float[np.ndarray, "wires crossings"], list[int]]:
    """Length over width of each wire's metal in front of each crossing, and the wires that are not as they should be.

    A crossing without a strip has nothing in front of it: that counts for the next one. Where taps lie before the pin
    or not in the order of the crossings, they count as at the place of the one before.

    Args:
        shapes: of the wires, one metal.
        number: of the wire that each shape belongs to, -1 for none.
        pins: place of each wire's pin along the axis.
        wire, crossing, position: of each place where a strip is connected, position along the axis.
        size: wires and crossings.
        axis: ROW or COLUMN.

    Raises:
        ArtifactError: if a wire is made of far more shapes than can be.
    """
    reach = np.full(size, np.nan)
    odd = []
    known = (wire >= 0) & (wire < size[0]) & (crossing >= 0) & (crossing < size[1])
    wire, crossing, position = wire[known], crossing[known], position[known]
    of_wire = _grouped(wire, size[0])
    shapes_of_wire = _grouped(number, size[0])
    for index, (taps, pieces) in enumerate(zip(of_wire, shapes_of_wire, strict=True)):
        if not len(taps) or not len(pieces) or index not in pins:
            continue
        if len(pieces) > PIECES_LIMIT:
            what = f"{'row' if axis == ROW else 'column'} wire {index} is made of {len(pieces)} shapes"
            raise ArtifactError(what, "the mask file", "merge them")
        squares = _squares(shapes[pieces], np.append(position[taps], pins[index]), axis)
        reach[index, crossing[taps]] = squares[:-1] - squares[-1]
        present = reach[index][~np.isnan(reach[index])]
        if present[0] < 0 or np.any(np.diff(present) < 0):
            odd.append(index)
    return np.diff(np.fmax.accumulate(np.fmax(reach, 0.0), axis=1), axis=1, prepend=0.0), odd


def _grouped(owner: Int[np.ndarray, " n"], count: int) -> list[Int[np.ndarray, " members"]]:
    """Indices of the members of owners 0 to ``count`` - 1."""
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(count + 1))
    return [order[a:b] for a, b in pairwise(bounds)]


def _squares(shapes: Boxes, positions: Float[np.ndarray, " n"], axis: int) -> Float[np.ndarray, " n"]:
    """Integral of 1 / width along one wire, up to each position, clipped to the wire; width is that of the union."""
    low, high, side_low, side_high = (shapes[:, i].tolist() for i in (axis, axis + 2, 1 - axis, 3 - axis))
    levels = sorted({*low, *high})
    total = [0.0]
    for a, b in pairwise(levels):
        sides = sorted(
            (p, q) for i, p, q in zip(range(len(low)), side_low, side_high, strict=True) if low[i] <= a and high[i] >= b
        )
        width, end = 0, -np.inf
        for p, q in sides:
            width += max(0, q - max(p, end))
            end = max(end, q)
        total.append(total[-1] + (b - a) / width if width else total[-1])
    return np.asarray(np.interp(positions, levels, total))
