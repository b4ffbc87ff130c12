"""The crossbar with wire resistance, solved exactly: every wire segment counts, no iteration.

A block of the array is described by a hybrid matrix H. Its inputs are the voltages at the wire ends that lead to a
source or sense node (left, bottom) and the currents drawn at the far wire ends (right, top); its outputs are the
currents into the near ends and the voltages at the far ends. By reciprocity H is symmetric. Two neighbours are joined
by eliminating the voltages and currents that they share, blocks into larger blocks and these into the whole (nested
dissection of a grid: George, SIAM J. Numer. Anal. 10, 1973). Unlike admittances, hybrid matrices stay finite without
wire resistance, and an open wire end is a row and column left out.

Ports are in the order left, bottom, top, right; columns count from the left, rows from the *top* (so that a join moves
few runs of ports).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pfmc.errors import UsageError

Array = np.ndarray
SIDE = 8  # rows and columns of the smallest blocks, which are solved device by device
TOGETHER = 1 << 14  # crossings up to which tiles are solved at once: what a core's cache holds; measured


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


class _Block(NamedTuple):
    """A block's rows and columns, and whether its right and top wire ends are among its ports."""

    m: int
    n: int
    right: bool = True
    top: bool = True


class _Side(NamedTuple):
    """Where the ports of one of two joined blocks are: those shared; from where to where the others move, in runs."""

    shared: slice
    moves: list[tuple[slice, slice]]


@dataclass(frozen=True)
class _Join:
    """What the adjoint needs of a join: the shared voltage and current per input of the whole, and the ports."""

    voltage: Array
    current: Array
    first: _Side
    second: _Side


class _Tree(NamedTuple):
    join: _Join
    first: _Tree | None
    second: _Tree | None


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
    _check(conductance)
    W = np.empty(conductance.shape)
    rows, columns = conductance.shape[-2:]
    out = W.reshape(-1, rows, columns)
    for tiles, g, row, column in _arrays(conductance, wires):
        H = _reduce(g, row, column, wires.double_ended)[0]
        out[tiles] = _close(H, (rows, columns), row, wires)[0]
    return W


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
    _check(conductance)
    g_bar = np.empty(conductance.shape)
    rows, columns = conductance.shape[-2:]
    out, W_bar = g_bar.reshape(-1, rows, columns), gradient.reshape(-1, rows, columns)
    for tiles, g, row, column in _arrays(conductance, wires):
        H, levels, tree = _reduce(g, row, column, wires.double_ended)
        _, inputs, outputs = _close(H, (rows, columns), row, wires)
        H_bar = outputs.mT @ W_bar[tiles].mT @ inputs.mT
        found = _spread(0.5 * (H_bar + H_bar.mT), levels, tree, (g, row, column), wires.double_ended)
        out[tiles] = found[:, ::-1][:, :rows, :columns]
    return g_bar


def wire_loading(conductance_max: float, wires: Wires, rows: int, columns: int) -> float:
    """How heavily the wires load a tile: x = G_max · (resistance of a whole wire), of the rows or columns the larger.

    Near 0.01 a tile can be compensated for its wires with little loss of range; near 1 hardly any range is left. (At
    the end of a row of N devices that all have G_max the voltage is lower by about x · N/2 of it, as long as that is
    small.) `conductance_max` is in siemens; segments that differ count with their mean; driver and sense resistances
    are not part of x.
    """
    along_row, along_column = np.mean(wires.row_segment) * columns, np.mean(wires.column_segment) * rows
    return float(conductance_max * max(along_row, along_column))


def _check(conductance: Array) -> None:
    if conductance.size == 0 or not (np.isfinite(conductance).all() and (conductance >= 0).all()):
        raise UsageError("a conductance is negative or not finite, or there is none", "crossbar", "give siemens ≥ 0")


def _arrays(conductance: Array, wires: Wires) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Some tiles after another: which, their conductances, and the segments in front of each crossing.

    Arrays are padded with absent devices on wires without resistance to whole blocks; rows count from the top.
    """
    rows, columns = conductance.shape[-2:]
    given = [conductance.reshape(-1, rows, columns)]
    for name in ("row_segment", "column_segment"):
        value = np.asarray(getattr(wires, name))
        try:
            given.append(np.broadcast_to(value, conductance.shape).reshape(-1, rows, columns))
        except ValueError:
            what = f"{name} has the shape {value.shape}, the conductances {conductance.shape}"
            raise UsageError(what, "wires", "give shapes that fit") from None
    step = max(1, TOGETHER // (rows * columns))
    unit = _unit(rows, columns, min(step, len(given[0])))
    m, n = (-(-size // unit) * unit for size in (rows, columns))
    for start in range(0, len(given[0]), step):
        tiles = slice(start, start + step)
        g, row, column = np.zeros((3, len(given[0][tiles]), m, n))
        for padded, array in zip((g, row, column), given, strict=True):
            padded[:, ::-1][:, :rows, :columns] = array[tiles]
        row[:, m - rows :, 0] += wires.driver
        column[:, -1, :columns] += wires.sense
        yield tiles, g, row, column


def _unit(rows: int, columns: int, tiles: int) -> int:
    """Side of the blocks that are built up equally all over the array.

    Large ones need few joins, small ones little padding. The numbers are measured: seconds per crossing^1.5 and per
    join.
    """

    def cost(unit: int) -> float:
        crossings = (-(-rows // unit) * unit) * (-(-columns // unit) * unit)
        return float(3e-9 * tiles * crossings**1.5 + 5e-5 * crossings / unit**2)

    return min((4 * SIDE, 2 * SIDE, SIDE), key=cost)


def _reduce(g: Array, row: Array, column: Array, right: bool) -> tuple[Array, list[_Join], _Tree | None]:
    """Hybrid matrices of whole tiles, open at the top; the joins that made equal blocks all over; those of the rest."""
    from pfmc.physics import network_leaves  # noqa: PLC0415  imports Numba

    H = network_leaves.blocks(g, row, column)
    tiles, m, n = H.shape[:3]
    levels: list[_Join] = []
    side = SIDE
    while _doubles(side, m, n):
        square, wide = _Block(side, side), _Block(side, 2 * side)
        H = H.reshape(tiles * m * n // 2, 2, *H.shape[-2:])
        H, join = _join(H[:, 0], H[:, 1], square, square, horizontal=True)
        levels.append(join)
        H = H.reshape(tiles * m // 2, 2, n // 2, *H.shape[-2:])
        H, join = _join(H[:, 1], H[:, 0], wide, wide, horizontal=False)
        levels.append(join)
        side, m, n = 2 * side, m // 2, n // 2
    H, tree = _halves(H.reshape(tiles, m, n, *H.shape[-2:]), side, right, top=False)
    return H, levels, tree


def _doubles(side: int, m: int, n: int) -> bool:
    """Whether m × n blocks are made into half as many of twice the side, as far as `_unit` has padded for."""
    return side < 4 * SIDE and m % 2 == 0 and n % 2 == 0


def _halves(H: Array, side: int, right: bool, top: bool) -> tuple[Array, _Tree | None]:
    """The matrix of an array (tiles, m, n) of blocks."""
    m, n = H.shape[1:3]
    if m == n == 1:
        kept = _kept(side, right, top)
        return H[:, 0, 0][:, kept[:, None], kept], None
    near, far = _cut(m, n)
    horizontal = n >= m
    A, first = _halves(H[near], side, right or horizontal, top or not horizontal)
    B, second = _halves(H[far], side, right, top)
    if horizontal:
        a, b = _Block(m * side, n // 2 * side, True, top), _Block(m * side, (n - n // 2) * side, right, top)
    else:
        a, b = _Block(m // 2 * side, n * side, right, True), _Block((m - m // 2) * side, n * side, right, top)
    whole, join = _join(A, B, a, b, horizontal)
    return whole, _Tree(join, first, second)


def _cut(m: int, n: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The halves of m × n blocks across the longer side: that nearer to the sources or sense nodes, and the other."""
    every = slice(None)
    if n >= m:
        return (every, every, slice(n // 2)), (every, every, slice(n // 2, None))
    return (every, slice(m - m // 2, None)), (every, slice(m - m // 2))


def _kept(side: int, right: bool, top: bool) -> Array:
    return np.repeat([True, True, top, right], side).nonzero()[0]


def _sides(a: _Block, b: _Block, horizontal: bool) -> tuple[_Side, _Side, int]:
    """Ports of a block a, of block b to its right or on its top, and how many the whole has.

    The whole has left + bottom of a, bottom of b, top of a, top of b + right; or, stacked, left of b, left of a +
    bottom, top + right of b, right of a.
    """
    if horizontal:
        sizes = [a.m + a.n, b.n, a.n * a.top, b.n * b.top + b.m * b.right]
        shared = slice(a.m + a.n + a.n * a.top, None), slice(b.m)
        from_a, from_b = (0, a.m + a.n), (b.m, b.m + b.n)
        to = np.cumsum([0, *sizes])
        places = [(0, 2), (1, 3)]
    else:
        sizes = [b.m, a.m + a.n, b.n * b.top + b.m * b.right, a.m * a.right]
        shared = slice(a.m + a.n, a.m + 2 * a.n), slice(b.m, b.m + b.n)
        from_a, from_b = (0, a.m + 2 * a.n), (0, b.m + b.n)
        to = np.cumsum([0, *sizes])
        places = [(1, 3), (0, 2)]
    sides = [
        _Side(
            part,
            [(slice(f, f + sizes[p]), slice(to[p], to[p + 1])) for f, p in zip(start, place, strict=True) if sizes[p]],
        )
        for part, start, place in zip(shared, (from_a, from_b), places, strict=True)
    ]
    return sides[0], sides[1], int(to[-1])


def _join(A: Array, B: Array, a: _Block, b: _Block, horizontal: bool) -> tuple[Array, _Join]:
    """The block made of A and, to its right or on its top, B: A's far ends are B's near ends."""
    first, second, ports = _sides(a, b, horizontal)
    resistance, admittance = -A[..., first.shared, first.shared], B[..., second.shared, second.shared]
    loop = resistance @ admittance
    s = loop.shape[-1]
    loop.reshape(*loop.shape[:-2], s * s)[..., :: s + 1] += 1.0
    # 1 + resistance · admittance is well conditioned, and NumPy multiplies batches faster than it substitutes.
    loop = np.linalg.inv(loop)
    voltage = np.empty((*A.shape[:-2], s, ports))
    for old, new in first.moves:
        np.matmul(loop, A[..., first.shared, old], out=voltage[..., new])
    loop = -(loop @ resistance)
    for old, new in second.moves:
        np.matmul(loop, B[..., second.shared, old], out=voltage[..., new])
    current = admittance @ voltage
    for old, new in second.moves:
        current[..., new] += B[..., second.shared, old]
    H = np.empty((*A.shape[:-2], ports, ports))
    for part, side, response in ((A, first, current), (B, second, voltage)):
        for old, new in side.moves:
            np.matmul(part[..., old, side.shared], response, out=H[..., new, :])
            for old_input, new_input in side.moves:
                H[..., new, new_input] += part[..., old, old_input]
    return H, _Join(voltage, current, first, second)


def _close(H: Array, shape: tuple[int, int], row: Array, wires: Wires) -> tuple[Array, Array, Array]:
    """Transfer matrix; every port's input per source voltage; every sense current per output of a port."""
    (rows, columns), (m, n) = shape, row.shape[1:]
    from_bottom = m - 1 - np.arange(rows)
    left, bottom, right = from_bottom, m + np.arange(columns), m + n + from_bottom
    inputs, outputs = np.zeros((len(H), H.shape[-1], rows)), np.zeros((len(H), columns, H.shape[-1]))
    inputs[:, left, np.arange(rows)] = 1.0
    outputs[:, np.arange(columns), bottom] = -1.0
    W = -H[:, bottom[:, None], left]
    if wires.double_ended:
        segments = row[:, from_bottom]
        behind = segments[:, :, columns - 1] + wires.driver * (columns > 1)
        # A row without any resistance: the second source brings no current, whatever is put before it.
        behind[behind + segments.sum(axis=2) == 0] = 1.0
        loop = H[:, right[:, None], right] - behind[:, :, None] * np.eye(rows)
        inputs[:, right] = np.linalg.solve(loop, np.eye(rows) - H[:, right[:, None], left])
        outputs[:, :, right] = np.linalg.solve(loop, H[:, right[:, None], bottom]).mT
        W = W - H[:, bottom[:, None], right] @ inputs[:, right]
    return W.mT, inputs, outputs


def _unjoin(bar: Array, join: _Join) -> tuple[Array, Array]:
    """Gradients with respect to the two joined blocks' matrices, given that, symmetric, of the whole."""
    bars = []
    for side, response in ((join.first, join.current), (join.second, join.voltage)):
        ports = response.shape[-2] + sum(old.stop - old.start for old, _ in side.moves)
        part = np.empty((*bar.shape[:-2], ports, ports))
        inner = response @ bar
        part[..., side.shared, side.shared] = inner @ response.mT
        for old, new in side.moves:
            part[..., side.shared, old] = inner[..., new]
            part[..., old, side.shared] = inner[..., new].mT
            for old_input, new_input in side.moves:
                part[..., old, old_input] = bar[..., new, new_input]
        bars.append(part)
    return bars[0], bars[1]


def _spread(
    bar: Array, levels: list[_Join], tree: _Tree | None, arrays: tuple[Array, Array, Array], right: bool
) -> Array:
    """Gradient with respect to the conductances, given that, symmetric, with respect to whole tiles' matrices."""
    from pfmc.physics import network_leaves  # noqa: PLC0415  imports Numba

    tiles, rows, columns = arrays[0].shape
    side = SIDE << len(levels) // 2
    m, n = rows // side, columns // side
    bars = np.zeros((tiles, m, n, 4 * side, 4 * side))
    _into_halves(bar, tree, bars, right, top=False)
    for horizontal_join, vertical_join in zip(levels[-2::-2], levels[::-2], strict=True):
        lower, upper = _unjoin(bars.reshape(tiles * m, n, *bars.shape[-2:]), vertical_join)
        bars = np.stack([upper, lower], axis=1).reshape(-1, *lower.shape[-2:])
        bars = np.stack(_unjoin(bars, horizontal_join), axis=1)
        m, n = 2 * m, 2 * n
    return np.asarray(network_leaves.gradient(*arrays, bars.reshape(tiles, m, n, *bars.shape[-2:])))


def _into_halves(bar: Array, tree: _Tree | None, bars: Array, right: bool, top: bool) -> None:
    """Write the gradient with respect to each block of `bars` (tiles, m, n, ports, ports) into it."""
    m, n = bars.shape[1:3]
    if tree is None:
        kept = _kept(bars.shape[-1] // 4, right, top)
        bars[:, 0, 0, kept[:, None], kept] = bar
        return
    near, far = _cut(m, n)
    first, second = _unjoin(bar, tree.join)
    _into_halves(first, tree.first, bars[near], right or n >= m, top or n < m)
    _into_halves(second, tree.second, bars[far], right, top)
