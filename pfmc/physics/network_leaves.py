"""Hybrid matrices of small blocks of a crossbar, device by device: the compiled inner loops of `pfmc.physics.network`.

Only that module imports this one, and only when a network is solved, for Numba takes its time to import. What it
compiles is kept on disk.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from pfmc.physics.network import SIDE

PORTS = 4 * SIDE
# The ports in the order in which devices reach them: columns near and far, then near and far end of the last row, of
# the row before it, … `ORDER` picks from these: left, bottom, top, right.
ORDER = np.r_[PORTS - 2 : 2 * SIDE - 1 : -2, 0 : 2 * SIDE, PORTS - 1 : 2 * SIDE : -2]


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


@njit(cache=True, error_model="numpy")
@no_type_check
def blocks(g, row, column):
    """Matrices (tiles, blocks, blocks, PORTS, PORTS) of arrays (tiles, rows, columns) cut into blocks."""
    tiles, m, n = g.shape
    m, n = m // SIDE, n // SIDE
    out = np.empty((tiles, m, n, PORTS, PORTS))
    H, D, share = np.empty((PORTS, PORTS)), np.empty((SIDE * SIDE, PORTS)), np.empty((SIDE, SIDE))
    for tile in range(tiles):
        for y in range(m):
            for x in range(n):
                here = (tile, slice(y * SIDE, (y + 1) * SIDE), slice(x * SIDE, (x + 1) * SIDE))
                _insert(g[here], row[here], column[here], H, D, share)
                for p in range(PORTS):
                    for q in range(PORTS):
                        out[tile, y, x, p, q] = H[ORDER[p], ORDER[q]]
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
