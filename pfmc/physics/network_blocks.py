"""Hybrid matrices of a crossbar's small blocks and of two blocks joined: the compiled loops of `pfmc.physics.network`.

Small blocks are built up device by device, LANES of them at a time: each number is a vector with one entry per block,
so that all arithmetic is on vectors whatever the blocks' shapes. An array's last axis then is (number, lane), flat.

Only that module imports this one, and only when a network is solved, for Numba takes its time to import. What it
compiles is kept on disk where Numba finds a folder that it may write.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # Numba's own
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pfmc.physics.compiled import compiled

# All that is compiled in depends on this file only: Numba tells by the text of a function's own file whether what it
# has on disk is still valid. What is fastest was measured.
SIDE = 16
GROUP = 4  # devices whose changes are added to a block's matrix together
LANES = 4
PORTS = 4 * SIDE
WIDTH = (PORTS + 1) * LANES  # of a device's voltages; the last one is for a difference of two


@no_type_check
def _products_added(rows):
    """Compiled function that adds to each of `rows` rows of H, from row p on, Σ_k factor[k] · D[k, at + row] · D[k].

    Its arguments are H, p, how many ports of D count, factor (GROUP, LANES), D (GROUP, WIDTH) and at. H may be rows of
    D. Numba does not find the vectors in such loops itself, for its arrays might overlap.
    """

    @intrinsic
    def add(_, H, p, ports, factor, D, at):
        def generate(context, builder, signature, arguments):
            def array(k):
                return context.make_array(signature.args[k])(context, builder, arguments[k])

            def place(k, offset):
                return builder.bitcast(builder.gep(array(k).data, [offset]), vector.as_pointer())

            def load(k, offset):
                return builder.load(place(k, offset), align=8)

            def multiplied(a, b, plus):
                return builder.fadd(builder.fmul(a, b, flags=("contract",)), plus, flags=("contract",))

            vector, number = ir.VectorType(ir.DoubleType(), LANES), ir.IntType(64)
            stride = builder.udiv(cgutils.unpack_tuple(builder, array(0).strides)[0], number(8))
            first, at = builder.mul(arguments[1], stride), builder.mul(arguments[5], number(LANES))
            weights = [
                [
                    builder.fmul(load(3, number(k * LANES)), load(4, builder.add(at, number(k * WIDTH + row * LANES))))
                    for k in range(GROUP)
                ]
                for row in range(rows)
            ]
            with cgutils.for_range(builder, arguments[2]) as loop:
                q = builder.mul(loop.index, number(LANES))
                voltages = [load(4, builder.add(q, number(k * WIDTH))) for k in range(GROUP)]
                for row in range(rows):
                    offset = builder.add(builder.add(first, builder.mul(stride, number(row))), q)
                    total = load(0, offset)
                    for weight, voltage in zip(weights[row], voltages, strict=True):
                        total = multiplied(weight, voltage, total)
                    builder.store(total, place(0, offset), align=8)
            return context.get_dummy_value()

        return types.void(H, p, ports, factor, D, at), generate

    return add


_add_to_one = _products_added(1)
_add_to_two = _products_added(2)


@compiled
@no_type_check
def _difference(d, H, far, top):
    """Write row `far`, the last, less row `top` of the symmetric H, of which the lower triangle is there, into d."""
    at_far, at_top = H[far], H[top]
    for q in range((top + 1) * LANES):
        d[q] = at_far[q] - at_top[q]
    for p in range(top + 1, far + 1):
        for lane in range(LANES):
            d[p * LANES + lane] = at_far[p * LANES + lane] - H[p, top * LANES + lane]


@compiled
@no_type_check
def _insert(block, H, D, factor):
    """Fill the lower triangle of each lane's H, and of each device the open voltage per port's input, D, and factor.

    Devices are put in one after another. One of conductance g that connects a row's and a column's wire end, whose
    voltages differ by d · u for the inputs u, sees the source resistance z = −eᵀ H e, where d = H e; it adds
    d dᵀ g / (1 + g z) to H. What a group of devices adds is summed before H is touched. The ports are in the order in
    which devices reach them: columns near and far, then near and far end of the last row, of the row before it, …

    Args:
        block: conductances, row and column segments (3, rows, columns, LANES), last row first; full groups.
        H: zeros (PORTS, PORTS · LANES).
        D, factor: zeros for every device, (…, WIDTH) and (…, LANES), or for one group that is used over and over.
    """
    g, row, column = block
    rows, columns, _ = g.shape
    for j in range(columns):
        for lane in range(LANES):
            H[columns + j, j * LANES + lane] = 1.0
    for a in range(rows):
        near, far = 2 * (columns + a), 2 * (columns + a) + 1
        for lane in range(LANES):
            H[far, near * LANES + lane] = 1.0
        for start in range(0, columns, GROUP):
            first = (a * columns + start) % len(D)
            d, f = D[first : first + GROUP], factor[first : first + GROUP]
            f[:] = 0.0
            for k in range(GROUP):
                j, one = start + k, d[k]
                top = columns + j
                for lane in range(LANES):
                    H[far, far * LANES + lane] -= row[a, j, lane]
                    H[top, top * LANES + lane] -= column[a, j, lane]
                _difference(one, H, far, top)
                for other in d[:k]:
                    for lane in range(LANES):
                        other[PORTS * LANES + lane] = other[far * LANES + lane] - other[top * LANES + lane]
                if k:
                    _add_to_one(d, k, far + 1, f, d, PORTS)
                for lane in range(LANES):
                    z = one[top * LANES + lane] - one[far * LANES + lane]
                    f[k, lane] = g[a, j, lane] / (1.0 + g[a, j, lane] * z)
            for p in range(0, far + 1, 2):
                _add_to_two(H, p, p + 2, f, d, p)


@compiled
@no_type_check
def _inserted(cells, blocks, keep):
    """H, D and factor (see `_insert`) of up to LANES blocks, and how many columns they have, filled up.

    Args:
        blocks: of each block its first row, end row, first and end column, and how many of its ends on the left, at
            the bottom, at the top and on the right are ports.
        keep: whether D and factor are wanted.
    """
    rows, columns = 0, 0
    for y0, y1, x0, x1 in blocks[:, :4]:
        rows, columns = max(rows, y1 - y0), max(columns, x1 - x0)
    columns = -(-columns // GROUP) * GROUP
    block = np.zeros((3, rows, columns, LANES))
    for lane in range(len(blocks)):
        y0, y1, x0, x1 = blocks[lane, :4]
        for kind in range(3):
            for i in range(y0, y1):
                for j in range(x0, x1):
                    block[kind, y1 - 1 - i, j - x0, lane] = cells[kind, i, j]
    devices = rows * columns if keep else GROUP
    H, D, factor = np.zeros((PORTS, PORTS * LANES)), np.zeros((devices, WIDTH)), np.zeros((devices, LANES))
    _insert(block, H, D, factor)
    return H, D, factor, columns


@compiled
@no_type_check
def _order(block, columns):
    """Where a block's ports left, bottom, top and right are in the order of `_insert`."""
    left, bottom, top, right = block[4:]
    order = np.empty(left + bottom + top + right, np.int64)
    for i in range(left):
        order[i] = 2 * (columns + left - 1 - i)
    for j in range(bottom):
        order[left + j] = j
    for j in range(top):
        order[left + bottom + j] = columns + j
    for i in range(right):
        order[left + bottom + top + i] = 2 * (columns + right - 1 - i) + 1
    return order


@compiled
@no_type_check
def _matrices(cells, blocks):
    """Matrices of up to LANES blocks."""
    H, _, _, columns = _inserted(cells, blocks, False)
    found = []
    for lane in range(len(blocks)):
        order = _order(blocks[lane], columns)
        ports = len(order)
        matrix = np.empty((ports, ports))
        for p in range(ports):
            for q in range(p + 1):
                low, high = min(order[p], order[q]), max(order[p], order[q])
                matrix[p, q] = matrix[q, p] = H[high, low * LANES + lane]
        found.append(matrix)
    return found


@compiled
@no_type_check
def block_gradient(cells, block, bar, out):
    """Write the gradient with respect to the conductances, given that, symmetric, of a block's matrix, into `out`."""
    _, D, factor, columns = _inserted(cells, block.reshape(1, -1), True)
    order = _order(block, columns)
    y0, y1, x0, x1 = block[:4]
    rows = y1 - y0
    bars, d, w = np.zeros((PORTS, PORTS)), np.empty(PORTS), np.empty(PORTS)
    for p in range(len(order)):
        for q in range(len(order)):
            bars[order[p], order[q]] = bar[p, q]
    for a in range(rows - 1, -1, -1):  # undo one device after another
        for j in range(x1 - x0 - 1, -1, -1):
            device, far, top, ports = a * columns + j, 2 * (columns + a) + 1, columns + j, 2 * (columns + a) + 2
            for p in range(ports):
                d[p] = D[device, p * LANES]
            slope = 0.0
            for p in range(ports):
                total = 0.0
                for q in range(ports):
                    total += bars[p, q] * d[q]
                w[p] = total
                slope += total * d[p]
            g, k = cells[0, y1 - 1 - a, x0 + j], factor[device, 0]
            share = k / g if g > 0 else 1.0  # of its open voltage that is left at the device: 1 / (1 + g z)
            out[y1 - 1 - a, x0 + j] = slope * share**2
            for sign, end in ((1.0, far), (-1.0, top)):
                for p in range(ports):
                    bars[end, p] += sign * k * w[p]
                    bars[p, end] += sign * k * w[p]
                bars[end, far] += sign * k * k * slope
                bars[end, top] -= sign * k * k * slope


@compiled
@no_type_check
def _shared(part, k, runs):
    """The rows of a part's k shared ports: their own columns; those of its other ports."""
    own, others = np.empty((k, k)), np.empty((k, runs[3] + runs[6]))
    shared = part[runs[0] : runs[0] + k]
    own[:] = shared[:, runs[0] : runs[0] + k]
    others[:, : runs[3]] = shared[:, runs[1] : runs[1] + runs[3]]
    others[:, runs[3] :] = shared[:, runs[4] : runs[4] + runs[6]]
    return own, others


@compiled
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


@compiled
@no_type_check
def _place(H, part, change, runs):
    """Write a part's own entries plus `change` to where its ports lie in the whole's matrix."""
    row = 0
    for one in (1, 4):
        old_row, new_row, rows = runs[one], runs[one + 1], runs[one + 2]
        column = 0
        for other in (1, 4):
            old, new, size = runs[other], runs[other + 1], runs[other + 2]
            for p in range(rows):
                target, own = H[new_row + p, new : new + size], part[old_row + p, old : old + size]
                added = change[row + p, column : column + size]
                for q in range(size):
                    target[q] = own[q] + added[q]
            column += size
        row += rows


@compiled
@no_type_check
def _place_across(H, across, first, second):
    """Write what the second part's ports have to do with the first's, and the reverse, into the whole's matrix."""
    row = 0
    for one in (1, 4):
        new_row, rows = second[one + 1], second[one + 2]
        column = 0
        for other in (1, 4):
            new, size = first[other + 1], first[other + 2]
            source = across[row : row + rows, column : column + size]
            H[new_row : new_row + rows, new : new + size] = source
            H[new : new + size, new_row : new_row + rows] = source.T
            column += size
        row += rows


@compiled
@no_type_check
def reduce(cells, steps, keep):
    """Matrices of the blocks that are left after the steps and, with `keep`, those of the two parts of each join.

    Args:
        cells: conductances, row and column segments (3, rows, columns), rows counted from the top.
        steps: one after another, of a small block 0 and what `_inserted` says; of a join of the last two
            matrices 1, the shared ports, all ports, `first` and `second` of `eliminate`.
    """
    blocks = steps[steps[:, 0] == 0, 1:9]
    done, parts, ready, begun = [np.empty((0, 0))], [np.empty((0, 0))], [np.empty((0, 0))], 0
    for step in steps:
        if step[0] == 0:
            if len(ready) == 1:
                ready += _matrices(cells, blocks[begun : begun + LANES])[::-1]
                begun += LANES
            H = ready.pop()
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
