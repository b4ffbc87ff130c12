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

    Row i is driven at its column 0 end: source, `driver`, `row_segment[i, 0]`, crossing (i, 0), `row_segment[i, 1]`,
    crossing (i, 1), … Column j is sensed at its row 0 end: virtual ground, `sense`, `column_segment[0, j]`, crossing
    (0, j), `column_segment[1, j]`, crossing (1, j), … Segment [i, j] thus lies in front of crossing (i, j), on the
    side of the driver or of the sense node. Each of the two is one number for all segments, or an array that
    broadcasts to the conductances, (*batch, rows, columns): (rows, columns) for every segment by itself, (columns,)
    for equal rows, (batch, 1, 1) for one number per tile.

    With `double_ended` the same source also drives the far end of the row, through a segment like the one in front of
    the last crossing: crossing (i, columns − 1), `row_segment[i, columns − 1]`, `driver`, source. The other wire ends
    are open.

    Raises:
        UsageError: a resistance is negative or not finite.
    """

    row_segment: float | Float[np.ndarray, "*row_tile"]
    column_segment: float | Float[np.ndarray, "*column_tile"]
    driver: float = 0.0
    sense: float = 0.0
    double_ended: bool = False

    def __post_init__(self) -> None:
        for name in ("row_segment", "column_segment", "driver", "sense"):
            value = np.asarray(getattr(self, name))
            wrong = value[~(np.isfinite(value) & (value >= 0))]
            if wrong.size:
                raise UsageError(f"{name} is {wrong[0]} Ω", "wires", "give a finite resistance that is not negative")


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


def transfer_matrix(
    conductance: Float[np.ndarray, "*batch rows columns"], wires: Wires
) -> Float[np.ndarray, "*batch rows columns"]:
    """Current into column j's sense node per volt on row i, in siemens; all other rows at 0 V.

    With voltages v (rows,) on the drivers the column currents are v @ transfer_matrix(…). Leading axes are tiles of the
    same shape, each solved by itself.

    Args:
        conductance: siemens, ≥ 0; zero is an absent device.
        wires: the resistances around the devices.

    Raises:
        UsageError: a conductance is negative or not finite, the array is empty, or the wires do not fit it.
    """
    k, row, column = _crossings(conductance, wires)
    H, _ = _reduce(k, row, column, wires.double_ended, top=False)
    return _close(H, conductance.shape[-2:], row, wires)[0].reshape(conductance.shape)


def transfer_adjoint(
    conductance: Float[np.ndarray, "*batch rows columns"],
    wires: Wires,
    gradient: Float[np.ndarray, "*batch rows columns"],
) -> Float[np.ndarray, "*batch rows columns"]:
    """Gradient of Σ gradient · transfer_matrix(conductance, wires) with respect to every conductance.

    Args:
        conductance: siemens, ≥ 0; zero is an absent device.
        wires: the resistances around the devices.
        gradient: of a scalar with respect to the transfer matrix.

    Raises:
        UsageError: a conductance is negative or not finite, the array is empty, or the wires do not fit it.
    """
    rows, columns = conductance.shape[-2:]
    k, row, column = _crossings(conductance, wires)
    H, tree = _reduce(k, row, column, wires.double_ended, top=False)
    _, inputs, outputs = _close(H, (rows, columns), row, wires)
    H_bar = outputs.mT @ gradient.reshape(-1, rows, columns).mT @ inputs.mT
    k_bar = _spread(0.5 * (H_bar + H_bar.mT), (wires.double_ended, False), tree, row, column)
    series = (row + column)[:, :rows, :columns].reshape(conductance.shape)
    return np.asarray(k_bar[:, :rows, :columns].reshape(conductance.shape) / np.square(1.0 + conductance * series))


def wire_loading(conductance_max: float, wires: Wires, rows: int, columns: int) -> float:
    """How heavily the wires load a tile: x = G_max · (resistance of a whole wire), of the rows or columns the larger.

    Near 0.01 a tile can be compensated for its wires with little loss of range; near 1 hardly any range is left. (At
    the end of a row of N devices that all have G_max the voltage is lower by about x · N/2 of it, as long as that is
    small.) `conductance_max` is in siemens; segments that differ count with their mean; driver and sense resistances
    are not part of x.
    """
    along_row, along_column = np.mean(wires.row_segment) * columns, np.mean(wires.column_segment) * rows
    return float(conductance_max * max(along_row, along_column))


def _crossings(conductance: Array, wires: Wires) -> tuple[Array, Array, Array]:
    """Current through each device per volt across it and its own two segments; the segments; each (tiles, m, n).

    The array is padded with absent devices on wires without resistance until it can be halved down to a few crossings.
    """
    if conductance.size == 0 or not (np.isfinite(conductance).all() and (conductance >= 0).all()):
        raise UsageError("a conductance is negative or not finite, or there is none", "crossbar", "give siemens ≥ 0")
    *batch, rows, columns = conductance.shape
    padded = [-(-n // (part := 1 << max(0, int(math.log2(n / 3))))) * part if n > 3 else n for n in (rows, columns)]
    g, row, column = np.zeros((3, *batch, *padded))
    for name, array in (("row_segment", row), ("column_segment", column)):
        try:
            array[..., :rows, :columns] = getattr(wires, name)
        except ValueError:
            shape = np.shape(getattr(wires, name))
            raise UsageError(
                f"{name} has the shape {shape}, the conductances {conductance.shape}", "wires", "give fitting shapes"
            ) from None
    row[..., 0] += wires.driver
    column[..., 0, :] += wires.sense
    g[..., :rows, :columns] = conductance
    g, row, column = (array.reshape(-1, *padded) for array in (g, row, column))
    return g / (1.0 + g * (row + column)), row, column


def _reduce(k: Array, row: Array, column: Array, right: bool, top: bool) -> tuple[Array, _Join | None]:
    """Hybrid matrices of equal blocks k (blocks, m, n); ports in the order left, right, bottom, top.

    row and column are the segments; right and top say whether those ends are wanted.
    """
    _, m, n = k.shape
    if m == n == 1:
        return _crossing(k[:, 0, 0], row[:, 0, 0], column[:, 0, 0], right, top), None
    horizontal = n >= m
    if m * n <= TOGETHER and not (right and top):
        H, tree = _reduce(k, row, column, True, True)
        kept = np.repeat([True, right, True, top], [m, m, n, n]).nonzero()[0]
        return _sorted(H, kept), None if tree is None else replace(tree, kept=kept)
    half = (n if horizontal else m) // 2
    if horizontal:
        parts = [(k[:, :, :half], row[:, :, :half], column[:, :, :half])]
        parts += [(k[:, :, half:], row[:, :, half:], column[:, :, half:])]
        ends = [(True, top), (right, top)]
    else:
        parts = [(k[:, :half], row[:, :half], column[:, :half]), (k[:, half:], row[:, half:], column[:, half:])]
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


def _close(H: Array, shape: tuple[int, int], row: Array, wires: Wires) -> tuple[Array, Array, Array]:
    """Transfer matrix; every port's input per source voltage; every sense current per signed output of a port."""
    (rows, columns), m = shape, row.shape[1]
    far = m * wires.double_ended
    left, right = np.arange(rows), np.arange(m, m + far)[:rows]
    bottom = np.arange(m + far, m + far + columns)
    inputs, outputs = np.zeros((len(H), H.shape[-1], rows)), np.zeros((len(H), columns, H.shape[-1]))
    inputs[:, left, left] = 1.0
    outputs[:, np.arange(columns), bottom] = -1.0
    W = -H[:, bottom[:, None], left]
    if far:
        behind = wires.driver + row[:, :rows, columns - 1] - wires.driver * (columns == 1)
        # A row without any resistance: the second source brings no current, whatever is put before it.
        behind[behind + row[:, :rows].sum(axis=2) == 0] = 1.0
        loop = H[:, right[:, None], right] - behind[:, :, None] * np.eye(rows)
        inputs[:, right] = np.linalg.solve(loop, np.eye(rows) - H[:, right[:, None], left])
        outputs[:, :, right] = np.linalg.solve(loop, H[:, right[:, None], bottom]).mT
        W = W - H[:, bottom[:, None], right] @ inputs[:, right]
    return np.ascontiguousarray(W.mT), inputs, outputs


def _spread(H_bar: Array, ends: tuple[bool, bool], tree: _Join | None, row: Array, column: Array) -> Array:
    """Gradient with respect to k, given the symmetric gradient with respect to a block's signed hybrid matrix."""
    if tree is None:
        u = _device(row[:, 0, 0], column[:, 0, 0], *ends)
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
    first, second = (
        np.index_exp[:, :, :na] if horizontal else np.index_exp[:, :ma],
        (np.index_exp[:, :, na:] if horizontal else np.index_exp[:, ma:]),
    )
    rows, columns = (row[first], row[second]), (column[first], column[second])
    if len(tree.halves) == 1:
        both = _spread(
            np.concatenate(bars), tree.ends[0], tree.halves[0], np.concatenate(rows), np.concatenate(columns)
        )
        parts = [both[: len(H_bar)], both[len(H_bar) :]]
    else:
        parts = [_spread(*each) for each in zip(bars, tree.ends, tree.halves, rows, columns, strict=True)]
    return np.concatenate(parts, axis=2 if horizontal else 1)
