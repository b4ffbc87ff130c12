"""The crossbar with wire resistance, solved exactly: every wire segment counts, no iteration.

A block of the array is described by a hybrid matrix H. Its inputs are the voltages at the wire ends that lead to a
source or sense node (left, bottom) and the currents drawn at the far wire ends (right, top); its outputs are the
currents into the near ends and the voltages at the far ends. By reciprocity H is symmetric. Two neighbours are joined
by eliminating the voltages and currents that they share, blocks into larger blocks and these into the whole (nested
dissection of a grid: George, SIAM J. Numer. Anal. 10, 1973). Unlike admittances, hybrid matrices stay finite without
wire resistance, and an open wire end is a row and column left out. The steps are planned here, once per shape, and done
in compiled code (`pfmc.physics.network_blocks`).

Ports are in the order left, bottom, top, right; columns count from the left, rows from the *top* (so that a join moves
few runs of ports).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.linalg  # noqa: F401  Numba multiplies with its BLAS: loaded now, a caller's limit on threads holds for it
from jaxtyping import Float

from pfmc.errors import UsageError

Array = np.ndarray


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
    """A block's rows and columns (from, to), and how many of its wire ends on each side are among its ports.

    On the left these are the last rows, at the bottom the first columns; at the top and on the right all or none.
    """

    y0: int
    y1: int
    x0: int
    x1: int
    left: int
    bottom: int
    top: int
    right: int


def transfer_matrix(
    conductance: Float[np.ndarray, "*batch rows columns"], wires: Wires, used: tuple[int, int] | None = None
) -> Float[np.ndarray, "*batch used_rows used_columns"]:
    """Current into column j's sense node per volt on row i, in siemens; all other rows at 0 V.

    With voltages v (rows,) on the drivers the column currents are v @ transfer_matrix(…). Leading axes are tiles of the
    same shape, each solved by itself.

    Args:
        conductance: siemens, ≥ 0; zero is an absent device.
        wires: the resistances around the devices.
        used: how many of the first rows and columns are wanted, if not all. The others count as they do anyway, the
            rows at 0 V, the columns at a virtual ground; what they have to do with each other is not worked out.

    Raises:
        UsageError: a conductance is negative or not finite, the array is empty, or the wires do not fit it.
    """
    from pfmc.physics.network_blocks import reduce  # noqa: PLC0415  imports Numba

    _check(conductance)
    *batch, rows, columns = conductance.shape
    if used is None:
        used = rows, columns
    W = np.empty((*batch, *used))
    out = W.reshape(-1, *used)
    steps = _steps(rows, columns, wires.double_ended, used)
    for tile, cells in enumerate(_tiles(conductance, wires)):
        if wires.double_ended or len(steps) == 1:
            out[tile] = _close(reduce(cells, steps, False)[0][0], cells[1], wires, used)[0]
        else:
            (A, B), _ = reduce(cells, steps[:-1], False)
            out[tile] = _last_join(A, B, rows, columns, used)
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
    from pfmc.physics.network_blocks import reduce  # noqa: PLC0415  imports Numba

    _check(conductance)
    g_bar = np.empty(conductance.shape)
    out, W_bar = (array.reshape(-1, *conductance.shape[-2:]) for array in (g_bar, gradient))
    whole = conductance.shape[-2], conductance.shape[-1]
    steps = _steps(*whole, wires.double_ended, whole)
    for tile, cells in enumerate(_tiles(conductance, wires)):
        (H,), parts = reduce(cells, steps, True)
        _, inputs, outputs = _close(H, cells[1], wires, whole)
        H_bar = outputs.T @ W_bar[tile].T @ inputs.T
        _spread(0.5 * (H_bar + H_bar.T), cells, steps, parts, out[tile, ::-1])
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


def _tiles(conductance: Array, wires: Wires) -> Iterator[Array]:
    """One tile after another: conductances, row and column segments (3, rows, columns), rows counted from the top."""
    rows, columns = conductance.shape[-2:]
    given = [conductance.reshape(-1, rows, columns)]
    for name in ("row_segment", "column_segment"):
        value = np.asarray(getattr(wires, name))
        try:
            given.append(np.broadcast_to(value, conductance.shape).reshape(-1, rows, columns))
        except ValueError:
            what = f"{name} has the shape {value.shape}, the conductances {conductance.shape}"
            raise UsageError(what, "wires", "give shapes that fit") from None
    for tile in zip(*given, strict=True):
        cells = np.empty((3, rows, columns))
        for array, values in zip(cells, tile, strict=True):
            array[::-1] = values
        cells[1, :, 0] += wires.driver
        cells[2, -1] += wires.sense
        yield cells


@lru_cache(maxsize=64)
def _steps(rows: int, columns: int, right: bool, used: tuple[int, int]) -> Array:
    """What `reduce` does one after another for a tile that is open at the top."""
    from pfmc.physics.network_blocks import SIDE  # noqa: PLC0415  imports Numba

    return np.array(list(_nested(_Block(0, rows, 0, columns, *used, 0, rows * right), SIDE)))


def _nested(block: _Block, side: int) -> Iterator[tuple[int, ...]]:
    """The steps for a block: those for its halves across the longer side and their join, or one for a small block."""
    y0, y1, x0, x1, left, bottom, top, right = block
    m, n = y1 - y0, x1 - x0
    if max(m, n) <= side:
        yield 0, *block, *[0] * 8
        return
    horizontal = n >= m
    if horizontal:
        cut, tops = x0 + n // 2, n // 2 * (top > 0)
        a = _Block(y0, y1, x0, cut, left, min(bottom, n // 2), tops, m)
        b = _Block(y0, y1, cut, x1, m, bottom - a.bottom, top - tops, right)
    else:
        cut, rights = y0 + m - m // 2, m // 2 * (right > 0)
        a = _Block(cut, y1, x0, x1, min(left, m // 2), bottom, n, rights)
        b = _Block(y0, cut, x0, x1, left - a.left, n, top, right - rights)
    yield from _nested(a, side)
    yield from _nested(b, side)
    yield 1, min(m, n), left + bottom + top + right, *_runs(a, b, horizontal)


def _runs(a: _Block, b: _Block, horizontal: bool) -> tuple[int, ...]:
    """For a block a and b to its right or on its top: first shared port; from, to and size of two runs of other ports.

    The whole has left + bottom of a, bottom of b, top of a, top of b + right; or, stacked, left of b, left of a +
    bottom, top + right of b, right of a.
    """
    near, rest = a.left + a.bottom, b.top + b.right
    if horizontal:
        first = near + a.top, 0, 0, near, near, near + b.bottom, a.top
        return *first, 0, b.left, near, b.bottom, b.left + b.bottom, near + b.bottom + a.top, rest
    first = near, 0, b.left, near, near + a.top, b.left + near + rest, a.right
    return *first, b.left, 0, 0, b.left, b.left + b.bottom, b.left + near, rest


def _last_join(A: Array, B: Array, rows: int, columns: int, used: tuple[int, int]) -> Array:
    """Transfer matrix of a single-ended tile that is made of A and B: only what leads from left to bottom is joined."""
    if columns >= rows:
        m, n = used[0], min(used[1], columns // 2)
        far, near, bottom = slice(m + n, None), slice(rows), slice(m, m + n)
        loop = np.eye(rows) - A[far, far] @ B[near, near]
        v = np.linalg.solve(loop, A[far, :m])
        W = np.concatenate([A[bottom, :m] + A[bottom, far] @ (B[near, near] @ v), B[rows:, near] @ v])
    else:
        m, n = min(used[0], rows // 2), used[1]
        above = used[0] - m
        far, near, bottom = slice(m + n, None), slice(above, None), slice(m, m + n)
        loop = np.eye(columns) - A[far, far] @ B[near, near]
        v = np.linalg.solve(loop, np.concatenate([A[far, far] @ B[near, :above], A[far, :m]], axis=1))
        i = B[near, near] @ v
        i[:, :above] += B[near, :above]
        W = A[bottom, far] @ i
        W[:, above:] += A[bottom, :m]
    return -W[:, ::-1].T


def _close(H: Array, row: Array, wires: Wires, used: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Transfer matrix; every port's input per source voltage; every sense current per output of a port.

    The ports of H are left, bottom and, if the rows are double-ended, right.
    """
    rows, columns = used
    left, bottom, right = slice(rows), slice(rows, rows + columns), slice(rows + columns, None)
    inputs, outputs = np.zeros((len(H), rows)), np.zeros((columns, len(H)))
    inputs[left] = np.eye(rows)[::-1]
    outputs[:, bottom] = -np.eye(columns)
    W = -H[bottom, left][:, ::-1]
    if wires.double_ended:
        behind = row[:, -1] + wires.driver * (row.shape[1] > 1)
        # A row without any resistance: the second source brings no current, whatever is put before it.
        behind[behind + row.sum(axis=1) == 0] = 1.0
        loop = H[right, right] - np.diag(behind)
        sources = np.eye(len(row))[::-1, :rows]
        inputs[right] = np.linalg.solve(loop, sources - H[right, left] @ inputs[left])
        outputs[:, right] = np.linalg.solve(loop, H[right, bottom]).T
        W = W - H[bottom, right] @ inputs[right]
    return W.T, inputs, outputs


def _part_gradient(bar: Array, response: Array, runs: Array) -> Array:
    """Gradient with respect to a part's matrix, given that, symmetric, of the whole, per shared end's response."""
    shared = slice(runs[0], runs[0] + len(response))
    moves = _moves(runs)
    ports = len(response) + runs[3] + runs[6]
    part = np.empty((ports, ports))
    inner = response @ bar
    part[shared, shared] = inner @ response.T
    for old, new, _ in moves:
        part[shared, old] = inner[:, new]
        part[old, shared] = inner[:, new].T
        for old_input, new_input, _ in moves:
            part[old, old_input] = bar[new, new_input]
    return part


def _moves(runs: Array) -> list[tuple[slice, slice, slice]]:
    """Where the ports of a part are that a join leaves: in the part, in the whole, among themselves."""
    _, f, t, size, f2, t2, size2 = runs.tolist()
    return [
        (slice(f, f + size), slice(t, t + size), slice(size)),
        (slice(f2, f2 + size2), slice(t2, t2 + size2), slice(size, None)),
    ]


def _spread(bar: Array, cells: Array, steps: Array, parts: list[Array], g_bar: Array) -> None:
    """Write the gradient with respect to the conductances, given that, symmetric, of the whole tile's matrix."""
    from pfmc.physics.network_blocks import block_gradient, eliminate  # noqa: PLC0415  imports Numba

    bars = [bar]
    for step in steps[::-1]:
        whole = bars.pop()
        if step[0] == 0:
            block_gradient(cells, step[1:9], whole, g_bar)
            continue
        B, A, first, second = parts.pop(), parts.pop(), step[3:10], step[10:]
        _, inputs_b, Y, v_a, v_b, i_a = eliminate(A, B, step[1], first, second)
        voltage, current = np.empty((2, len(Y), len(whole)))
        for runs, v, i in ((first, v_a, i_a), (second, v_b, inputs_b + Y @ v_b)):
            for _, new, own in _moves(runs):
                voltage[:, new], current[:, new] = v[:, own], i[:, own]
        bars += _part_gradient(whole, current, first), _part_gradient(whole, voltage, second)
