"""Hybrid matrices of equal blocks of a crossbar: the compiled inner loops of `pfmc.physics.network`.

Only that module imports this one, and only when a network is solved, for Numba takes its time to import. What it
compiles is kept on disk.
"""

from __future__ import annotations

from functools import cache
from typing import no_type_check

import numpy as np
from numba import njit

from pfmc.physics.network import SIDE, Array

PORTS = 4 * SIDE
# The ports of a leaf, SIDE rows and columns, in the order in which devices reach them: columns near and far, then near
# and far end of the last row, of the row before it, … `ORDER` picks from these: left, bottom, top, right.
ORDER = np.r_[PORTS - 2 : 2 * SIDE - 1 : -2, 0 : 2 * SIDE, PORTS - 1 : 2 * SIDE : -2]
LEFT, BOTTOM, TOP, RIGHT = range(4)


def blocks(g: Array, row: Array, column: Array, unit: int) -> Array:
    """Matrices (tiles, m, n, ports, ports) of arrays (tiles, rows, columns) cut into blocks of unit × unit crossings.

    `unit` is SIDE times a power of two and divides rows and columns; rows count from the top; ports are in the order
    left, bottom, top, right.
    """
    plan, order = _plan(unit)
    return np.asarray(_blocks(g, row, column, unit, plan, order))


@cache
def _plan(unit: int) -> tuple[Array, Array]:
    """How leaves are joined in pairs up to unit × unit, and where the result has left, bottom, top and right ports.

    A line of the plan per join: how many ports are shared and how many are not, then the indices of a's shared, a's
    other, b's shared and b's other ports; b is on the right or on the top of a. The result has a's other ports first.
    """
    kind, place = np.empty(PORTS, int), np.empty(PORTS, int)
    kind[ORDER], place[ORDER] = np.arange(PORTS) // SIDE, np.arange(PORTS) % SIDE
    m = n = SIDE
    lines = []
    while m < unit or n < unit:
        near, far = (LEFT, RIGHT) if n == m else (BOTTOM, TOP)
        shared_a, shared_b = (np.flatnonzero(kind == end)[np.argsort(place[kind == end])] for end in (far, near))
        other_a, other_b = np.flatnonzero(kind != far), np.flatnonzero(kind != near)
        lines.append(np.r_[len(shared_a), len(other_a), shared_a, other_a, shared_b, other_b])
        # Of the other ports, those along the cut count on: columns from the left, rows from the top.
        along_a = (kind[other_a] != near) * (m if near == BOTTOM else 0)
        along_b = (kind[other_b] != far) * (n if near == LEFT else 0)
        place = np.r_[place[other_a] + along_a, place[other_b] + along_b]
        kind = np.r_[kind[other_a], kind[other_b]]
        m, n = (m, 2 * n) if near == LEFT else (2 * m, n)
    plan = np.zeros((len(lines), max([len(line) for line in lines], default=0)), int)
    for index, line in enumerate(lines):
        plan[index, : len(line)] = line
    return plan, np.lexsort((place, kind))


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
@no_type_check
def _insert(g, row, column, H, D, share):
    """Fill a block's matrix H, and of each device the open voltage per port's input, D, and its share of that voltage.

    Devices are put in one after another. One of conductance g that connects a row's and a column's wire end, whose
    voltages differ by d · u for the inputs u, sees the source resistance z = −eᵀ H e, where d = H e; it adds
    d dᵀ g / (1 + g z) to H. What the devices of a row add is summed before H is touched.
    """
    H[:] = 0.0
    D[:] = 0.0
    scaled = np.empty((SIDE, PORTS))
    for j in range(SIDE):
        H[j, SIDE + j] = H[SIDE + j, j] = 1.0
    for a in range(SIDE):
        i = SIDE - 1 - a
        near, far, ports = 2 * SIDE + 2 * a, 2 * SIDE + 2 * a + 1, 2 * SIDE + 2 * a + 2
        H[near, far] = H[far, near] = 1.0
        added = D[a * SIDE : (a + 1) * SIDE]
        for j in range(SIDE):
            top = SIDE + j
            H[far, far] -= row[i, j]
            H[top, top] -= column[i, j]
            d = added[j]
            for q in range(ports):
                d[q] = H[far, q] - H[top, q]
            for before in range(j):
                factor, other = scaled[before, far] - scaled[before, top], added[before]
                for q in range(ports):
                    d[q] += factor * other[q]
            share[i, j] = 1.0 / (1.0 + g[i, j] * (d[top] - d[far]))
            for q in range(ports):
                scaled[j, q] = g[i, j] * share[i, j] * d[q]
        for p in range(ports):
            for q in range(ports):
                total = H[p, q]
                for j in range(SIDE):
                    total += scaled[j, p] * added[j, q]
                H[p, q] = total


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
@no_type_check
def _add_product(X, Y, out):
    """Out += X Y for as many columns of X as SIDE divides."""
    for i in range(X.shape[0]):
        for k in range(0, X.shape[1], SIDE):
            for j in range(Y.shape[1]):
                total = out[i, j]
                for at in range(SIDE):
                    total += X[i, k + at] * Y[k + at, j]
                out[i, j] = total


@njit(cache=True, error_model="numpy")
@no_type_check
def _invert(X):
    """X becomes its inverse: Gauss-Jordan elimination with row pivots."""
    n = len(X)
    pivots = np.empty(n, np.int64)
    for c in range(n):
        p = c
        for r in range(c + 1, n):
            if abs(X[r, c]) > abs(X[p, c]):
                p = r
        pivots[c] = p
        for j in range(n):
            X[c, j], X[p, j] = X[p, j], X[c, j]
        scale = 1.0 / X[c, c]
        X[c, c] = 1.0
        for j in range(n):
            X[c, j] *= scale
        for r in range(n):
            if r != c:
                factor = X[r, c]
                X[r, c] = 0.0
                for j in range(n):
                    X[r, j] -= factor * X[c, j]
    for c in range(n - 1, -1, -1):
        p = pivots[c]
        for r in range(n):
            X[r, c], X[r, p] = X[r, p], X[r, c]


@njit(cache=True, error_model="numpy")
@no_type_check
def _join(A, B, line, H):
    """H of the block made of A and, to its right or on its top, B: `network._join` for a pair, by a line of `_plan`."""
    s, other = line[0], line[1]
    ports = s + other
    far, of_a, near, of_b = line[2 : 2 + s], line[2 + s : 2 + ports], line[2 + ports :][:s], line[2 + ports + s :]
    resistance, admittance, loop = np.empty((s, s)), np.empty((s, s)), np.zeros((s, s))
    given, to_b = np.empty((s, 2 * other)), np.empty((s, other))
    from_a, from_b = np.empty((other, s)), np.empty((other, s))
    minus = np.zeros((s, other))
    voltage, current = np.zeros((s, 2 * other)), np.zeros((s, 2 * other))
    for i in range(s):
        loop[i, i] = 1.0
        for j in range(s):
            resistance[i, j], admittance[i, j] = -A[far[i], far[j]], B[near[i], near[j]]
        for j in range(other):
            given[i, j], to_b[i, j] = A[far[i], of_a[j]], B[near[i], of_b[j]]
            from_a[j, i], from_b[j, i] = given[i, j], to_b[i, j]
            current[i, other + j] = to_b[i, j]
    _add_product(resistance, admittance, loop)
    _invert(loop)
    _add_product(resistance, to_b, minus)
    given[:, other:] = -minus
    _add_product(loop, given, voltage)
    _add_product(admittance, voltage, current)
    for i in range(other):
        for j in range(other):
            H[i, j], H[other + i, other + j] = A[of_a[i], of_a[j]], B[of_b[i], of_b[j]]
            H[i, other + j] = H[other + i, j] = 0.0
    _add_product(from_a, current, H[:other])
    _add_product(from_b, voltage, H[other:])


@njit(cache=True, error_model="numpy")
@no_type_check
def _blocks(g, row, column, unit, plan, order):
    """`blocks`. A block's leaves are numbered so that those to be joined are neighbours: bits of x and of y in turn."""
    tiles, m, n = g.shape
    m, n, steps = m // unit, n // unit, len(plan)
    out = np.empty((tiles, m, n, 4 * unit, 4 * unit))
    D, share = np.empty((SIDE * SIDE, PORTS)), np.empty((SIDE, SIDE))
    half = [np.empty((1 << steps, PORTS, PORTS))]
    for step in range(steps):
        half.append(np.empty((1 << (steps - 1 - step), 2 * plan[step, 1], 2 * plan[step, 1])))
    for tile in range(tiles):
        for y in range(m):
            for x in range(n):
                for leaf in range(1 << steps):
                    i, j = (y + 1) * unit - SIDE, x * unit
                    for bit in range(0, steps, 2):
                        j += (leaf >> bit & 1) * (SIDE << bit // 2)
                        i -= (leaf >> (bit + 1) & 1) * (SIDE << bit // 2)
                    here = (tile, slice(i, i + SIDE), slice(j, j + SIDE))
                    _insert(g[here], row[here], column[here], half[0][leaf], D, share)
                for step in range(steps):
                    for pair in range(1 << (steps - 1 - step)):
                        _join(half[step][2 * pair], half[step][2 * pair + 1], plan[step], half[step + 1][pair])
                H = half[steps][0]
                for p in range(4 * unit):
                    for q in range(4 * unit):
                        out[tile, y, x, p, q] = H[order[p], order[q]]
    return out


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
@no_type_check
def gradient(g, row, column, bars):
    """Gradient with respect to g of Σ bars · blocks(g, row, column), bars symmetric."""
    tiles, m, n = g.shape
    out = np.empty((tiles, m, n))
    m, n = m // SIDE, n // SIDE
    H, D, share = np.empty((PORTS, PORTS)), np.empty((SIDE * SIDE, PORTS)), np.empty((SIDE, SIDE))
    bar, w = np.empty((PORTS, PORTS)), np.empty(PORTS)
    for tile in range(tiles):
        for y in range(m):
            for x in range(n):
                here = (tile, slice(y * SIDE, (y + 1) * SIDE), slice(x * SIDE, (x + 1) * SIDE))
                block = g[here]
                _insert(block, row[here], column[here], H, D, share)
                for p in range(PORTS):
                    for q in range(PORTS):
                        bar[ORDER[p], ORDER[q]] = bars[tile, y, x, p, q]
                for device in range(SIDE * SIDE - 1, -1, -1):  # undo one device after another
                    a, j = device // SIDE, device % SIDE
                    i, far, top, ports = SIDE - 1 - a, 2 * SIDE + 2 * a + 1, SIDE + j, 2 * SIDE + 2 * a + 2
                    d = D[device]
                    slope = 0.0
                    for p in range(ports):
                        total = 0.0
                        for q in range(ports):
                            total += bar[p, q] * d[q]
                        w[p] = total
                        slope += total * d[p]
                    out[tile, y * SIDE + i, x * SIDE + j] = slope * share[i, j] ** 2
                    k = block[i, j] * share[i, j]
                    for sign, end in ((1.0, far), (-1.0, top)):
                        for p in range(ports):
                            bar[end, p] += sign * k * w[p]
                            bar[p, end] += sign * k * w[p]
                        bar[end, far] += sign * k * k * slope
                        bar[end, top] -= sign * k * k * slope
    return out
