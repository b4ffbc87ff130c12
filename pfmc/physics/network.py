"""The crossbar with wire resistance, solved exactly: every wire segment counts, no iteration.

A block of the array is described by a hybrid matrix H. Its inputs are the voltages at the wire ends that lead to a
source or sense node (left, bottom) and the currents at the far wire ends (drawn at the right, fed in at the top); its
outputs are the currents at the near ends (into the left, out of the bottom) and the voltages at the far ends. Two
neighbours are joined by eliminating the voltages and currents that they share, halves into wholes (nested dissection of
a grid: George, SIAM J. Numer. Anal. 10, 1973). Unlike admittances, hybrid matrices stay finite without wire resistance,
and an open wire end is a row and column left out. By reciprocity H with the rows of the column wires negated ("signed")
is symmetric; the adjoint uses that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import UsageError

Array = np.ndarray
TOGETHER = 4096  # crossings up to which blocks at the edge are solved in one batch with the others; measured


@dataclass(frozen=True)
class Wires:
    """What lies between the sources, the devices and the sense nodes, in ohms; each may be zero.

    Row i is driven at its column 0 end: source, `driver`, one `row_segment`, crossing (i, 0), one `row_segment`,
    crossing (i, 1), … Column j is sensed at its row 0 end: virtual ground, `sense`, one `column_segment`, crossing
    (0, j), … With `double_ended` the same source also drives the far end of the row: crossing (i, columns − 1), one
    `row_segment`, `driver`, source. The other wire ends are open.
    """

    row_segment: float
    column_segment: float
    driver: float = 0.0
    sense: float = 0.0
    double_ended: bool = False

    def __post_init__(self) -> None:
        for name in ("row_segment", "column_segment", "driver", "sense"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value} Ω", "wires", "give a finite resistance that is not negative")


@dataclass(frozen=True)
class _Join:
    """What the adjoint needs of one join: the shared current and voltage per external input, and the halves."""

    horizontal: bool
    current: Array
    voltage: Array
    shapes: list[tuple[int, int]]
    ends: list[tuple[bool, bool]]  # whether the halves' right and top wire ends are among their ports
    halves: list[_Join | None]  # one for both if they are equal; None: single crossings
    kept: Array | None = None  # the ports that were kept, where open wire ends were left out only afterwards


def transfer_matrix(conductance: Float[np.ndarray, "rows columns"], wires: Wires) -> Float[np.ndarray, "rows columns"]:
    """Current into column j's sense node per volt on row i, in siemens; all other rows at 0 V.

    Args:
        conductance: siemens, ≥ 0; zero is an absent device.
        wires: the resistances around the devices.

    Raises:
        UsageError: a conductance is negative or not finite, or the array is empty.
    """
    _check(conductance)
    k, row, column = _crossings(conductance, wires)
    H, _ = _reduce(k[None], row, column, _both_ends(wires), top=False)
    return _close(H[0], conductance.shape, k.shape, wires)[0]


def transfer_adjoint(
    conductance: Float[np.ndarray, "rows columns"], wires: Wires, gradient: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """Gradient of Σ gradient · transfer_matrix(conductance, wires) with respect to every conductance.

    Args:
        conductance: siemens, ≥ 0; zero is an absent device.
        wires: the resistances around the devices.
        gradient: of a scalar with respect to the transfer matrix.

    Raises:
        UsageError: a conductance is negative or not finite, or the array is empty.
    """
    _check(conductance)
    rows, columns = conductance.shape
    k, row, column = _crossings(conductance, wires)
    H, tree = _reduce(k[None], row, column, _both_ends(wires), top=False)
    _, inputs, outputs = _close(H[0], conductance.shape, k.shape, wires)
    H_bar = outputs.T @ gradient.T @ inputs.T
    k_bar = _spread(0.5 * (H_bar + H_bar.T)[None], (_both_ends(wires), False), tree, row[None], column[None])[0]
    series = row[:columns] + column[:rows, None]
    return np.asarray(k_bar[:rows, :columns] / np.square(1.0 + conductance * series))  # k = g / (1 + g · series)


def _check(conductance: Array) -> None:
    if conductance.size == 0 or not (np.isfinite(conductance).all() and (conductance >= 0).all()):
        raise UsageError("a conductance is negative or not finite, or there is none", "crossbar", "give siemens ≥ 0")


def _both_ends(wires: Wires) -> bool:
    """Whether a second source makes a difference: not through a row without any resistance."""
    return wires.double_ended and wires.driver + wires.row_segment > 0


def _crossings(conductance: Array, wires: Wires) -> tuple[Array, Array, Array]:
    """Current through each device per volt across it and its own two segments; the segment before each column and row.

    The array is padded with absent devices on wires without resistance until it can be halved down to a few crossings.
    """
    rows, columns = conductance.shape
    padded = [-(-n // (part := 1 << max(0, int(math.log2(n / 3))))) * part if n > 3 else n for n in (rows, columns)]
    row, column = np.zeros(padded[1]), np.zeros(padded[0])
    row[:columns], column[:rows] = wires.row_segment, wires.column_segment
    row[0] += wires.driver
    column[0] += wires.sense
    g = np.zeros(padded)
    g[:rows, :columns] = conductance
    return g / (1.0 + g * (row + column[:, None])), row, column


def _reduce(k: Array, row: Array, column: Array, right: bool, top: bool) -> tuple[Array, _Join | None]:
    """Hybrid matrices of equal blocks k (blocks, m, n); ports in the order left, right, bottom, top.

    row (…, n) and column (…, m) are the segments; right and top say whether those ends are wanted.
    """
    _, m, n = k.shape
    row, column = np.broadcast_to(row, (len(k), n)), np.broadcast_to(column, (len(k), m))
    if m == n == 1:
        return _crossing(k[:, 0, 0], row[:, 0], column[:, 0], right, top), None
    horizontal = n >= m
    if m * n <= TOGETHER and not (right and top):
        H, tree = _reduce(k, row, column, True, True)
        kept = np.repeat([True, right, True, top], [m, m, n, n]).nonzero()[0]
        return _sorted(H, kept), None if tree is None else replace(tree, kept=kept)
    half = (n if horizontal else m) // 2
    if horizontal:
        parts = [(k[:, :, :half], row[:, :half], column), (k[:, :, half:], row[:, half:], column)]
        ends = [(True, top), (right, top)]
    else:
        parts = [(k[:, :half], row, column[:, :half]), (k[:, half:], row, column[:, half:])]
        ends = [(right, True), (right, top)]
    if parts[0][0].shape == parts[1][0].shape and ends[0] == ends[1]:
        stacked = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
        both, tree = _reduce(stacked[0], stacked[1], stacked[2], *ends[0])
        A, B, trees = both[: len(k)], both[len(k) :], [tree]
    else:
        (A, tree_a), (B, tree_b) = (_reduce(*part, *end) for part, end in zip(parts, ends, strict=True))
        trees = [tree_a, tree_b]
    return _join(A, B, [part[0].shape[1:] for part in parts], ends, horizontal, trees)


def _device(row: Array, column: Array, right: bool, top: bool) -> Array:
    """Voltage across device and own segments per input (left, right, bottom, top) of a crossing."""
    one = np.ones_like(row)
    return np.stack([one] + [-row] * right + [-one] + [-column] * top, axis=-1)


def _crossing(k: Array, row: Array, column: Array, right: bool, top: bool) -> Array:
    """Signed hybrid matrices (column rows negated) of single crossings."""
    u = _device(row, column, right, top)
    H: Array = k[:, None, None] * u[:, :, None] * u[:, None, :]
    b = 1 + right
    if right:
        H[:, 0, 1] += 1.0
        H[:, 1, 0] += 1.0
        H[:, 1, 1] -= row
    if top:
        H[:, b, b + 1] -= 1.0
        H[:, b + 1, b] -= 1.0
        H[:, b + 1, b + 1] -= column
    return H


def _order(m: int, n: int, right: bool, top: bool, horizontal: bool) -> Int[np.ndarray, " ports"]:
    """Ports of a block sorted along the direction of a join: near ends, sides, far ends."""
    ports = np.arange(m * (1 + right) + n * (1 + top))
    L, R, B, T = np.split(ports, np.cumsum([m, m * right, n]))
    return np.concatenate([L, B, T, R] if horizontal else [B, L, R, T])


def _merged(shapes: list[tuple[int, int]], ends: list[tuple[bool, bool]], horizontal: bool) -> Array:
    """Where each port of the whole (left, right, bottom, top) lies among the sorted outer ports of its halves."""
    (ma, na), (mb, nb) = shapes
    right, top = ends[1]
    if horizontal:
        sizes = [ma, na, na * top, nb, nb * top, mb * right]
        order = [0, 5, 1, 3, 2, 4]
    else:
        sizes = [na, ma, ma * right, mb, mb * right, nb * top]
        order = [1, 3, 2, 4, 0, 5]
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return np.concatenate([groups[g] for g in order])


def _sorted(H: Array, order: Array) -> Array:
    """Rows and columns of each matrix in the given order; one flat gather is five times as fast as two indices."""
    ports = H.shape[-1]
    flat = H.reshape(len(H), ports * ports).take((order[:, None] * ports + order).ravel(), axis=1)
    return np.asarray(flat.reshape(len(H), len(order), len(order)))


def _join(
    A: Array,
    B: Array,
    shapes: list[tuple[int, int]],
    ends: list[tuple[bool, bool]],
    horizontal: bool,
    halves: list[_Join | None],
) -> tuple[Array, _Join]:
    """The block made of A and, to its right or on its top, B."""
    A, B = (_sorted(H, _order(*shape, *end, horizontal)) for H, shape, end in zip((A, B), shapes, ends, strict=True))
    s = shapes[0][0] if horizontal else shapes[0][1]
    sign = 1.0 if horizontal else -1.0
    outer, size = A.shape[-1] - s, A.shape[-1] + B.shape[-1] - 2 * s
    resistance, admittance = sign * A[:, outer:, outer:], sign * B[:, :s, :s]
    inward = sign * B[:, :s, s:]
    given = np.concatenate([sign * A[:, outer:, :outer], resistance @ inward], axis=-1)
    loop = np.eye(s) - resistance @ admittance
    # 1 + resistance · admittance is well conditioned, and NumPy multiplies batches faster than it substitutes.
    voltage = given / loop if s == 1 else np.linalg.inv(loop) @ given
    current = admittance @ voltage
    current[:, :, outer:] += inward
    H = np.zeros((len(A), size, size))
    np.matmul(A[:, :outer, outer:], current, out=H[:, :outer])
    np.matmul(B[:, s:, :s], voltage, out=H[:, outer:])
    H[:, :outer, :outer] += A[:, :outer, :outer]
    H[:, outer:, outer:] += B[:, s:, s:]
    return _sorted(H, _merged(shapes, ends, horizontal)), _Join(horizontal, current, voltage, shapes, ends, halves)


def _close(H: Array, shape: tuple[int, ...], padded: tuple[int, ...], wires: Wires) -> tuple[Array, Array, Array]:
    """Transfer matrix; every port's input per source voltage; every sense current per signed output of a port."""
    (rows, columns), (m, _) = shape, padded
    far = m * _both_ends(wires)
    left, right = np.arange(rows), np.arange(m, m + far)[:rows]
    bottom = np.arange(m + far, m + far + columns)
    inputs, outputs = np.zeros((len(H), rows)), np.zeros((columns, len(H)))
    inputs[left, left] = 1.0
    outputs[np.arange(columns), bottom] = -1.0
    W = -H[np.ix_(bottom, left)]
    if far:
        loop = H[np.ix_(right, right)] - (wires.driver + wires.row_segment) * np.eye(rows)
        inputs[right] = np.linalg.solve(loop, np.eye(rows) - H[np.ix_(right, left)])
        outputs[:, right] = np.linalg.solve(loop, H[np.ix_(right, bottom)]).T
        W = W - H[np.ix_(bottom, right)] @ inputs[right]
    return np.ascontiguousarray(W.T), inputs, outputs


def _spread(H_bar: Array, ends: tuple[bool, bool], tree: _Join | None, row: Array, column: Array) -> Array:
    """Gradient with respect to k, given the symmetric gradient with respect to a block's signed hybrid matrix."""
    if tree is None:
        u = _device(row[:, 0], column[:, 0], *ends)
        return np.asarray(np.einsum("bi,bij,bj->b", u, H_bar, u)[:, None, None])
    if tree.kept is not None:
        (ma, na), (mb, nb) = tree.shapes
        ports = 2 * ((ma + na + nb) if tree.horizontal else (ma + mb + na))
        inner_bar, H_bar = H_bar, np.zeros((len(H_bar), ports, ports))
        H_bar[:, tree.kept[:, None], tree.kept] = inner_bar
    horizontal, current, voltage = tree.horizontal, tree.current, tree.voltage
    s, outer = current.shape[1], len(_order(*tree.shapes[0], *tree.ends[0], horizontal)) - current.shape[1]
    H_bar = _sorted(H_bar, np.argsort(_merged(tree.shapes, tree.ends, horizontal)))
    to_current, to_voltage = current @ H_bar, voltage @ H_bar
    A_bar = np.empty((len(H_bar), outer + s, outer + s))
    A_bar[:, :outer, :outer] = H_bar[:, :outer, :outer]
    A_bar[:, outer:, :outer] = to_current[:, :, :outer]
    A_bar[:, :outer, outer:] = to_current[:, :, :outer].mT
    A_bar[:, outer:, outer:] = to_current @ current.mT
    inner = H_bar.shape[-1] - outer
    B_bar = np.empty((len(H_bar), inner + s, inner + s))
    B_bar[:, s:, s:] = H_bar[:, outer:, outer:]
    B_bar[:, :s, s:] = to_voltage[:, :, outer:]
    B_bar[:, s:, :s] = to_voltage[:, :, outer:].mT
    B_bar[:, :s, :s] = to_voltage @ voltage.mT
    bars = [
        _sorted(bar, np.argsort(_order(*shape, *end, horizontal)))
        for bar, shape, end in zip((A_bar, B_bar), tree.shapes, tree.ends, strict=True)
    ]
    (ma, na), _ = tree.shapes
    rows = (row[:, :na], row[:, na:]) if horizontal else (row, row)
    columns = (column, column) if horizontal else (column[:, :ma], column[:, ma:])
    if len(tree.halves) == 1:
        both = _spread(
            np.concatenate(bars), tree.ends[0], tree.halves[0], np.concatenate(rows), np.concatenate(columns)
        )
        parts = [both[: len(H_bar)], both[len(H_bar) :]]
    else:
        parts = [_spread(*each) for each in zip(bars, tree.ends, tree.halves, rows, columns, strict=True)]
    return np.concatenate(parts, axis=2 if horizontal else 1)
