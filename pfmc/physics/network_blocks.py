"""Hybrid matrices of a crossbar's small blocks and of two blocks joined: the compiled loops of `pfmc.physics.network`.

Only that module imports this one, and only when a network is solved, for Numba takes its time to import. What it
compiles is kept on disk where Numba finds a folder that it may write.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

# All that is compiled in depends on this file only: Numba tells by the text of a function's own file whether what it
# has on disk is still valid. SIDE: rows and columns up to which a block is built up device by device; measured.
SIDE = 8
PORTS = 4 * SIDE


def _compiled(function):  # type: ignore[no-untyped-def]
    fast = {"contract", "reassoc"}
    try:
        return njit(cache=True, error_model="numpy", fastmath=fast)(function)
    except RuntimeError:  # Numba finds no folder that it may write
        return njit(error_model="numpy", fastmath=fast)(function)


@_compiled
@no_type_check
def _insert(block, H, D, share):
    """Fill a block's matrix H, and of each device the open voltage per port's input, D, and its share of that voltage.

    Devices are put in one after another. One of conductance g that connects a row's and a column's wire end, whose
    voltages differ by d · u for the inputs u, sees the source resistance z = −eᵀ H e, where d = H e; it adds
    d dᵀ g / (1 + g z) to H. What the devices of a row add is summed before H is touched. The ports are in the order in
    which devices reach them: columns near and far, then near and far end of the last row, of the row before it, …

    Args:
        block: conductances, row and column segments (3, rows, SIDE); all loops over columns have one length, so that
            the compiler unrolls them.
    """
    g, row, column = block
    scaled = np.empty((SIDE, PORTS))
    for j in range(SIDE):
        H[j, SIDE + j] = H[SIDE + j, j] = 1.0
    for a in range(len(g)):
        i = len(g) - 1 - a
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
            share[a * SIDE + j] = 1.0 / (1.0 + g[i, j] * (d[top] - d[far]))
            for q in range(ports):
                scaled[j, q] = g[i, j] * share[a * SIDE + j] * d[q]
        for p in range(ports):
            for q in range(ports):
                total = H[p, q]
                for j in range(SIDE):
                    total += scaled[j, p] * added[j, q]
                H[p, q] = total


@_compiled
@no_type_check
def _filled(cells):
    """H, D and share (see `_insert`) of at most SIDE × SIDE crossings; columns filled up with absent devices."""
    _, rows, columns = cells.shape
    block = np.zeros((3, rows, SIDE))
    for kind in range(3):
        for i in range(rows):
            for j in range(columns):
                block[kind, i, j] = cells[kind, i, j]
    H, D, share = np.zeros((PORTS, PORTS)), np.empty((rows * SIDE, PORTS)), np.empty(rows * SIDE)
    _insert(block, H, D, share)
    return H, D, share


@_compiled
@no_type_check
def _order(m, n, right, top):
    """Where the ports left, bottom and, if wanted, top and right of m × n crossings are in the order of `_insert`."""
    order = np.empty(m * (1 + right) + n * (1 + top), np.int64)
    for i in range(m):
        order[i] = 2 * SIDE + 2 * (m - 1 - i)
        if right:
            order[len(order) - m + i] = order[i] + 1
    for j in range(n):
        order[m + j] = j
        if top:
            order[m + n + j] = SIDE + j
    return order


@_compiled
@no_type_check
def _block(cells, right, top):
    """Matrix of at most SIDE × SIDE crossings."""
    inner = _filled(cells)[0]
    order = _order(cells.shape[1], cells.shape[2], right, top)
    ports = len(order)
    H = np.empty((ports, ports))
    for p in range(ports):
        for q in range(ports):
            H[p, q] = inner[order[p], order[q]]
    return H


@_compiled
@no_type_check
def block_gradient(cells, right, top, bar, out):
    """Write the gradient with respect to the conductances, given that, symmetric, of the block's matrix, into `out`."""
    _, D, share = _filled(cells)
    order = _order(cells.shape[1], cells.shape[2], right, top)
    bars, w = np.zeros((PORTS, PORTS)), np.empty(PORTS)
    for p in range(len(order)):
        for q in range(len(order)):
            bars[order[p], order[q]] = bar[p, q]
    _, rows, columns = cells.shape
    for device in range(rows * SIDE - 1, -1, -1):  # undo one device after another
        a, j = device // SIDE, device % SIDE
        if j >= columns:
            continue
        i, far, top, ports = rows - 1 - a, 2 * SIDE + 2 * a + 1, SIDE + j, 2 * SIDE + 2 * a + 2
        d = D[device]
        slope = 0.0
        for p in range(ports):
            total = 0.0
            for q in range(ports):
                total += bars[p, q] * d[q]
            w[p] = total
            slope += total * d[p]
        out[i, j] = slope * share[device] ** 2
        k = cells[0, i, j] * share[device]
        for sign, end in ((1.0, far), (-1.0, top)):
            for p in range(ports):
                bars[end, p] += sign * k * w[p]
                bars[p, end] += sign * k * w[p]
            bars[end, far] += sign * k * k * slope
            bars[end, top] -= sign * k * k * slope


@_compiled
@no_type_check
def _shared(part, k, runs):
    """The rows of a part's k shared ports: their own columns; those of its other ports."""
    own, others = np.empty((k, k)), np.empty((k, runs[3] + runs[6]))
    for p in range(k):
        for q in range(k):
            own[p, q] = part[runs[0] + p, runs[0] + q]
        column = 0
        for run in (1, 4):
            old, size = runs[run], runs[run + 2]
            for q in range(size):
                others[p, column + q] = part[runs[0] + p, old + q]
            column += size
    return own, others


@_compiled
@no_type_check
def eliminate(A, B, k, first, second):
    """What the k ends that are far ends of A and near ends of B have to do with the other inputs, x of A and y of B.

    These ends have the voltages v = −R i + A' x and the currents i = Y v + B' y, so (1 + R Y) v = A' x − R B' y. R and
    Y are positive semidefinite, so that this has one solution, without wire resistance too.

    Args:
        first, second: for A and B, the first shared port and two runs of the other ports, each from, to, how many.

    Returns:
        A', B', Y, v per x, v per y and i per x, the inputs in the order of the runs.
    """
    minus_R, inputs_a = _shared(A, k, first)
    Y, inputs_b = _shared(B, k, second)
    loop = minus_R @ Y
    for p in range(k):
        for q in range(k):
            loop[p, q] = (p == q) - loop[p, q]
    loop = np.linalg.inv(loop)
    v_a = loop @ inputs_a
    return inputs_a, inputs_b, Y, v_a, (loop @ minus_R) @ inputs_b, Y @ v_a


@_compiled
@no_type_check
def _place(H, part, change, runs):
    """Write a part's own entries plus `change` to where its ports lie in the whole's matrix."""
    row = 0
    for one in (1, 4):
        old_row, new_row, rows = runs[one], runs[one + 1], runs[one + 2]
        for p in range(rows):
            column = 0
            for other in (1, 4):
                old, new, size = runs[other], runs[other + 1], runs[other + 2]
                for q in range(size):
                    H[new_row + p, new + q] = part[old_row + p, old + q] + change[row + p, column + q]
                column += size
        row += rows


@_compiled
@no_type_check
def _place_across(H, across, first, second):
    """Write what the second part's ports have to do with the first's, and the reverse, into the whole's matrix."""
    row = 0
    for one in (1, 4):
        new_row, rows = second[one + 1], second[one + 2]
        for p in range(rows):
            column = 0
            for other in (1, 4):
                new, size = first[other + 1], first[other + 2]
                for q in range(size):
                    H[new_row + p, new + q] = H[new + q, new_row + p] = across[row + p, column + q]
                column += size
        row += rows


@_compiled
@no_type_check
def reduce(cells, steps, keep):
    """Matrices of the blocks that are left after the steps and, with `keep`, those of the two parts of each join.

    Args:
        cells: conductances, row and column segments (3, rows, columns), rows counted from the top.
        steps: one after another, of a small block 0, its first row, end row, first and end column, `right`, `top`;
            of a join of the last two matrices 1, the shared ports, all ports, `first` and `second` of `eliminate`.
    """
    done, parts = [np.empty((0, 0))], [np.empty((0, 0))]
    for step in steps:
        if step[0] == 0:
            H = _block(cells[:, step[1] : step[2], step[3] : step[4]], step[5], step[6])
        else:
            B, A, first, second = done.pop(), done.pop(), step[3:10], step[10:]
            inputs_a, inputs_b, _, v_a, v_b, i_a = eliminate(A, B, step[1], first, second)
            H = np.empty((step[2], step[2]))
            _place(H, A, inputs_a.T @ i_a, first)
            _place(H, B, inputs_b.T @ v_b, second)
            _place_across(H, inputs_b.T @ v_a, first, second)
            if keep:
                parts.append(A)
                parts.append(B)
        done.append(H)
    return done[1:], parts
