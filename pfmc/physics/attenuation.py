"""What the wires of a crossbar leave of its devices' currents, each wire taken alone: compiled loops.

A wire alone is a ladder: segments in a line, and a device from each crossing to where all other wires are ideal. What
is left of a device's current is the voltage of its row at the crossing, per volt of the source, times the share of a
current into its column there that reaches the sense node; by reciprocity that is a voltage of the column's ladder.

An array of pairs is (rows, 2 · columns), the devices of + and − alternate. Only :mod:`pfmc.physics.precompensation`
imports this module, and only when it has something to compute.
"""

from __future__ import annotations

from typing import NamedTuple, no_type_check

import numpy as np

from pfmc.physics.compiled import compiled

ROUNDS = 50  # after which `settled` gives up
SETTLED = 1e-3  # change of the scale, and of any pair as a share of the range, at which it ends; the next is smaller


class Ladders(NamedTuple):
    """Resistances of all wires, in ohms: the first axis counts along a wire, from its near end.

    Attributes:
        column: in front of each device of a column, (rows, 2 · columns), with what leads to the sense node.
        row: likewise, (2 · columns, rows), with what leads to the driver.
        back: of the rows from their other end, if that is driven too; else empty.
        row_end, back_end: siemens from the far end to ground, (rows,).
    """

    column: np.ndarray
    row: np.ndarray
    back: np.ndarray
    row_end: np.ndarray
    back_end: np.ndarray


@compiled
@no_type_check
def _ladder(g, segments, end, voltage):
    """Voltages along wires, (crossings, wires), per volt at their near ends, beside each other; ``end`` as above."""
    crossings, wires = g.shape
    beyond = end.copy()
    for k in range(crossings - 1, -1, -1):
        for j in range(wires):
            total = beyond[j] + g[k, j]
            left = 1.0 / (1.0 + segments[k, j] * total)
            voltage[k, j] = left
            beyond[j] = total * left
    for k in range(1, crossings):
        for j in range(wires):
            voltage[k, j] *= voltage[k - 1, j]


@compiled
@no_type_check
def _turned(matrix):
    """The transpose, eight rows at a time: as many as lie in one line of a cache."""
    rows, columns = matrix.shape
    turned = np.empty((columns, rows))
    for start in range(0, rows, 8):
        for j in range(columns):
            for i in range(start, min(start + 8, rows)):
                turned[j, i] = matrix[i, j]
    return turned


@compiled
@no_type_check
def _columns(g, ladders):
    """Voltages along the columns per volt at their near ends, (rows, 2 · columns)."""
    voltage = np.empty(g.shape)
    _ladder(g, ladders.column, np.zeros(g.shape[1]), voltage)
    return voltage


@compiled
@no_type_check
def _rows(g, ladders):
    """Voltages along the rows per volt of their sources, (rows, 2 · columns)."""
    turned = _turned(g)
    voltage = np.empty(turned.shape)
    _ladder(turned, ladders.row, ladders.row_end, voltage)
    if len(ladders.back):
        wires, crossings = turned.shape
        mirrored, other = np.empty(turned.shape), np.empty(turned.shape)
        for j in range(wires):
            for i in range(crossings):
                mirrored[wires - 1 - j, i] = turned[j, i]
        _ladder(mirrored, ladders.back, ladders.back_end, other)
        for j in range(wires):
            for i in range(crossings):
                voltage[j, i] += other[wires - 1 - j, i]
    return _turned(voltage)


@compiled
@no_type_check
def attenuation(g, ladders):
    """Of every device, (rows, 2 · columns)."""
    left, row = _columns(g, ladders), _rows(g, ladders)
    for i in range(g.shape[0]):
        for j in range(g.shape[1]):
            left[i, j] *= row[i, j]
    return left


@compiled
@no_type_check
def settled(target, g, ladders, low, span, goal):
    """Signed numbers d of pairs, the scale s up to ``goal``, and how far from the largest that can be.

    If wires were alone, pairs G+ = low + max(d, 0), G− = low + max(−d, 0) with |d| ≤ span would have the effective
    matrix s · target: (G+) α+ − (G−) α− = s · target, with the attenuations α that they cause.

    See :func:`pfmc.physics.precompensation.feasible_scale` for the last of what is returned.

    Args:
        target: (m, n), not all zero.
        g: of all devices of the array; those of the block are overwritten.
        goal: may be infinite.
    """
    m, n = target.shape
    largest = 0.0
    for i in range(m):
        for j in range(n):
            largest = max(largest, abs(target[i, j]))
    s = min(span / largest, goal)
    d = s * target
    room, change = 0.0, np.inf
    for _ in range(ROUNDS):
        for i in range(m):
            for j in range(n):
                g[i, 2 * j], g[i, 2 * j + 1] = low + max(d[i, j], 0.0), low + max(-d[i, j], 0.0)
        column, row = _columns(g, ladders), _rows(g, ladders)
        before, s, room = s, goal, np.inf
        for i in range(m):
            for j in range(n):
                plus, minus = column[i, 2 * j] * row[i, 2 * j], column[i, 2 * j + 1] * row[i, 2 * j + 1]
                wanted = target[i, j]
                if wanted != 0.0:
                    most = span * plus + low * (plus - minus) if wanted > 0 else span * minus - low * (plus - minus)
                    room = min(room, most)
                    s = min(s, most / abs(wanted))
        if s <= 0.0:  # so heavily loaded that it must be approached from below
            s = before / 2
        change = abs(s - before) / before if s < goal else 0.0
        for i in range(m):
            for j in range(n):
                plus, minus = column[i, 2 * j] * row[i, 2 * j], column[i, 2 * j + 1] * row[i, 2 * j + 1]
                rest = s * target[i, j] - low * (plus - minus)
                now = min(max(rest / (plus if rest > 0 else minus), -span), span)
                change = max(change, abs(now - d[i, j]) / span)
                d[i, j] = now
        if change < SETTLED:
            break
    most = g.max()
    lighter = _rows(g * (g / most), ladders)
    coupling = most * (1.0 - lighter.min()) * (1.0 - column.min()) / room if room > 0 else np.inf
    return d, s, coupling + change
