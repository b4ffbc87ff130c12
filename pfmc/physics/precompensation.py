"""Conductances whose effective matrix, with every wire segment counted, is a wanted matrix.

A weight is a pair of devices in neighbouring columns, G+ and G−, described by one signed number d: G+ = G_min +
max(d, 0), G− = G_min + max(−d, 0). The effective matrix D (+ column less − column) is about α · d, with α the
attenuation of the pair's row and columns, each taken alone; so d ← d + (s · target − D) / α, accelerated by Anderson's
mixing (J. ACM 12, 1965), converges in a few solutions of the network. The largest feasible scale s is found on the way:
every step takes the largest at which no d leaves the range. Where the wires load an array lightly, that is known well
enough before the network is solved at all (:func:`feasible_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from pfmc.errors import CapacityError, UsageError
from pfmc.physics.crossbar import effective_matrix
from pfmc.physics.network import Wires, wire_loading

if TYPE_CHECKING:
    from pfmc.physics.attenuation import Ladders

WINDOW = 6  # earlier steps that the mixing looks at
EVALUATIONS = 60  # solutions of the network after which it gives up; 4 to 20 are usual
LEAST_SEGMENT = 1e-9  # Ω, in place of wires without resistance where a conductance is needed
COUPLING = 5e-3  # share of a scale up to which wires are taken alone; twice that at most is lost
SCALE_TOLERANCE = 1e-3  # residual, and last change, of a search for a scale: that is then known to about as much


@dataclass(frozen=True, eq=False)
class Precompensated:
    """Conductances that compensate their wires.

    Attributes:
        conductance: of each pair G+, G− (last axis), siemens.
        effective: their effective matrix, siemens.
        scale: the effective matrix is scale · target; siemens per unit of the target.
        ideal_scale: the largest scale that ideal wires would allow.
        residual: ‖scale · target − D‖ / ‖scale · target‖, Frobenius norms.
        evaluations: how many times the network was solved.
    """

    conductance: Float[np.ndarray, "m n 2"]
    effective: Float[np.ndarray, "m n"]
    scale: float
    ideal_scale: float
    residual: float
    evaluations: int


@dataclass(frozen=True, eq=False)
class PairArray:
    """An array of ``rows`` × ``columns`` pairs whose first rows and columns, the block, carry weights.

    The rest takes part in the network; rows beyond the block are driven at 0 V.

    Attributes:
        wires: segments broadcast to rows × 2 · columns crossings; the columns of + and − alternate.
        unused: conductance of the devices beyond the block, siemens.
    """

    wires: Wires
    rows: int
    columns: int
    unused: float = 0.0

    def whole(self, conductance: Float[np.ndarray, "m n 2"]) -> Float[np.ndarray, "rows columns 2"]:
        """The conductances of all devices, given those of the block."""
        array = np.full((self.rows, self.columns, 2), self.unused)
        array[: conductance.shape[0], : conductance.shape[1]] = conductance
        return array

    def effective(self, conductance: Float[np.ndarray, "m n 2"]) -> Float[np.ndarray, "m n"]:
        """The block's effective matrix, siemens."""
        m, n, _ = conductance.shape
        return effective_matrix(self.whole(conductance), self.wires)[:m, :n]

    def attenuation(self, conductance: Float[np.ndarray, "m n 2"]) -> Float[np.ndarray, "m n 2"]:
        """What the wires of a device's row and column leave of its current, were all other wires ideal."""
        from pfmc.physics.attenuation import attenuation  # noqa: PLC0415  imports Numba

        m, n, _ = conductance.shape
        whole = self.whole(conductance)
        found = attenuation(whole.reshape(self.rows, -1), self.ladders)
        return np.asarray(found.reshape(whole.shape)[:m, :n])

    @cached_property
    def ladders(self) -> Ladders:
        """The wires as compiled loops take them."""
        from pfmc.physics.attenuation import Ladders  # noqa: PLC0415  imports Numba

        wires, shape = self.wires, (self.rows, 2 * self.columns)
        column, row = (np.array(np.broadcast_to(r, shape)) for r in (wires.column_segment, wires.row_segment))
        row = np.ascontiguousarray(row.T)
        column[0] += wires.sense
        back, row_end, back_end = np.empty((0, self.rows)), np.zeros(self.rows), np.zeros(self.rows)
        if wires.double_ended:
            back = np.concatenate([row[-1:] + wires.driver, row[:0:-1]])
            row_end = 1.0 / np.maximum(back[0], LEAST_SEGMENT)
            back_end = 1.0 / np.maximum(row[0] + wires.driver, LEAST_SEGMENT)
        row[0] += wires.driver
        return Ladders(column, row, back, row_end, back_end)


def precompensate(
    target: Float[np.ndarray, "m n"],
    array: PairArray,
    *,
    conductance_min: float,
    conductance_max: float,
    scale: float | None = None,
    tolerance: float = 1e-6,
) -> Precompensated:
    """Conductances of the array's block, within a range, whose effective matrix is ``scale`` times a target.

    ``PairArray(wires, *target.shape)`` is an array without unused positions.

    Args:
        target: real numbers of any unit, at most as many as the array has pairs.
        array: the wires, and what stands beside the block.
        conductance_min, conductance_max: of a device, siemens.
        scale: siemens per unit of the target; None asks for the largest that is feasible.
        tolerance: the relative residual, and relative change of the scale, at which to stop.

    Raises:
        UsageError: an argument is wrong.
        CapacityError: the scale is beyond what the wires leave, or they leave next to nothing.
    """
    goal = np.inf if scale is None else scale
    return _solved(_Problem.of(target, array, conductance_min, conductance_max, goal), goal, tolerance)


def feasible_scale(
    target: Float[np.ndarray, "m n"], array: PairArray, *, conductance_min: float, conductance_max: float
) -> float:
    """A scale that :func:`precompensate` reaches, at most 1 % less than the largest, hardly ever more than 0.5 %.

    Taken alone, wires need no solution of the network. What that leaves out is, of a source on row i and the sense
    node of column l, the current that goes from row i into some column j, from there into another row k, and from that
    into column l:

        Σ_k g_kl γ_kl Σ_j R_k(l, j) g_kj C_j(k, i) g_ij ρ_ij

    with R_k(l, j) the voltage of row k at column l per ampere into it at column j, C likewise of columns, and ρ, γ the
    attenuation by row and column. As Σ_k C(i, k) g_kl γ_kl = 1 − γ_il for column l's own C, loaded by other devices or
    not, and by Cauchy's inequality in the sum over j, it is at most

        G_max (1 − ρ') (1 − γ),

    with the least γ of the array, and ρ' the least attenuation that rows would have were their conductances g² / G_max.
    Divided by the least effective conductance of a pair at the end of its range this is the coupling: by so much of
    itself the scale may be too large or too small. (Paths through more rows are of higher order; tests look for targets
    that break the bound, and find at most half of it on the unsafe side.) Up to `COUPLING` it is taken off the scale,
    together with the last change of the wires' solution; beyond, the network is solved.

    Raises:
        UsageError: an argument is wrong.
        CapacityError: the wires leave next to nothing.
    """
    problem = _Problem.of(target, array, conductance_min, conductance_max, np.inf)
    _, scale, coupling = problem.alone(np.inf)
    if coupling > COUPLING:
        scale, coupling = _solved(problem, np.inf, SCALE_TOLERANCE).scale, 2 * SCALE_TOLERANCE
    return scale * (1 - coupling)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Find signed numbers d, none beyond ± span, with which the pairs' effective matrix is a multiple of the target."""

    array: PairArray
    target: Float[np.ndarray, "m n"]
    low: float
    span: float

    @classmethod
    def of(
        cls,
        target: Float[np.ndarray, "m n"],
        array: PairArray,
        conductance_min: float,
        conductance_max: float,
        goal: float,
    ) -> _Problem:
        """Of arguments that may be wrong; the goal is a scale, infinite where the largest is wanted."""
        m, n = target.shape
        if not (np.isfinite(target).all() and 0 < m <= array.rows and 0 < n <= array.columns):
            raise UsageError(
                "the target is empty, larger than the array or not finite", "target", "give finite numbers"
            )
        if not 0 <= conductance_min < conductance_max < np.inf:
            raise UsageError("the range of conductances is empty or negative", "conductance_min", "give siemens ≥ 0")
        if goal == np.inf and not target.any():
            raise UsageError("a target of zeros has no largest scale", "target", "give a scale")
        span = conductance_max - conductance_min
        return cls(array, np.ascontiguousarray(target, dtype=np.float64), conductance_min, span)

    @property
    def ideal_scale(self) -> float:
        """The largest with ideal wires."""
        largest = float(np.abs(self.target).max())
        return self.span / largest if largest > 0 else np.inf

    def conductance(self, d: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n 2"]:
        """The pairs, siemens."""
        return np.asarray(self.low + np.maximum(np.stack([d, -d], axis=-1), 0.0))

    def alone(self, scale: float) -> tuple[Float[np.ndarray, "m n"], float, float]:
        """Numbers d and the scale, at most the given one, if wires were alone; how far that may be from the largest."""
        from pfmc.physics.attenuation import settled  # noqa: PLC0415  imports Numba

        array = self.array
        devices = np.full((array.rows, 2 * array.columns), array.unused)
        d, s, coupling = settled(self.target, devices, array.ladders, self.low, self.span, scale)
        return d, float(s), float(coupling)


def _solved(problem: _Problem, goal: float, tolerance: float) -> Precompensated:
    """The solution for the largest scale up to ``goal``; if that is finite, it must be reached."""
    target, span, size = problem.target, problem.span, np.abs(problem.target)
    d, s, _ = problem.alone(goal)
    mixing = _Mixing()
    for evaluations in range(1, EVALUATIONS + 1):
        conductance = problem.conductance(d)
        attenuation = problem.array.attenuation(conductance).mean(axis=2)
        D = problem.array.effective(conductance)
        rest = d - D / attenuation
        room = np.full(target.shape, np.inf)
        np.divide((span - np.sign(target) * rest) * attenuation, size, out=room, where=size > 0)
        before, s = s, min(goal, float(room.min()))
        if s < 0:
            break
        residual = relative_error(D, s * target)
        if residual <= tolerance and abs(s - before) <= tolerance * before:
            if s >= goal * (1 - 2 * tolerance):
                s, residual = goal, relative_error(D, goal * target)
            elif goal < np.inf:
                raise _beyond(problem, d, s, goal)
            return Precompensated(conductance, D, s, problem.ideal_scale, residual, evaluations)
        d = mixing.next(d, rest + s * target / attenuation, span)
        d = d * min(1.0, span / (float(np.abs(d).max()) or span))
    where = f"array of {problem.array.rows} x {problem.array.columns} pairs"
    raise CapacityError(
        f"the wires leave next to nothing, {_loading(problem)}", where, "a smaller array or wider wires"
    )


def relative_error(found: Float[np.ndarray, "m n"], wanted: Float[np.ndarray, "m n"]) -> float:
    """‖found − wanted‖ / ‖wanted‖, Frobenius norms; without the denominator if it is zero."""
    return float(np.linalg.norm(found - wanted)) / (float(np.linalg.norm(wanted)) or 1.0)


@dataclass
class _Mixing:
    """Anderson's mixing of the last steps of a fixed-point iteration."""

    points: list[Float[np.ndarray, " k"]] = field(default_factory=list)
    steps: list[Float[np.ndarray, " k"]] = field(default_factory=list)

    def next(
        self, d: Float[np.ndarray, "m n"], mapped: Float[np.ndarray, "m n"], furthest: float
    ) -> Float[np.ndarray, "m n"]:
        """Where to go on from d, which the map takes to ``mapped``: there, if the mix is too far from d."""
        self.points = [*self.points[1 - WINDOW :], d.ravel()]
        self.steps = [*self.steps[1 - WINDOW :], (mapped - d).ravel()]
        if len(self.steps) == 1:
            return mapped
        steps, points = np.diff(self.steps, axis=0), np.diff(self.points, axis=0)
        weights = np.linalg.lstsq(steps.T, self.steps[-1], rcond=1e-10)[0]
        mixed = np.asarray(mapped - (weights @ (points + steps)).reshape(d.shape))
        return mixed if np.isfinite(mixed).all() and np.abs(mixed - d).max() <= furthest else mapped


def _beyond(problem: _Problem, d: Float[np.ndarray, "m n"], largest: float, goal: float) -> CapacityError:
    """The explanation of a scale that is too large: where the range ends first, and what would do."""
    row, column = divmod(int(np.argmax(np.abs(d))), d.shape[1])
    ratio = goal / largest
    what = f"scale {goal:.4g} S is {ratio:.3g} times what the wires leave, {_loading(problem)}"
    fix = f"a scale of at most {largest:.4g} S"
    array, predicted = problem.array, problem.alone(np.inf)[1]
    for percent in range(90, 0, -10):
        row_segment, column_segment = (
            array.wires.row_segment * percent / 100,
            array.wires.column_segment * percent / 100,
        )
        wires = replace(array.wires, row_segment=row_segment, column_segment=column_segment)
        if replace(problem, array=replace(array, wires=wires)).alone(np.inf)[1] >= ratio * predicted:
            # The voltage along a wire falls as its resistance times the current: as the square of its length.
            rows, columns = (max(1, int(n * (percent / 100) ** 0.5)) for n in (array.rows, array.columns))
            fix += f", wires of {percent} % of this resistance, or an array of about {rows} x {columns}"
            break
    return CapacityError(what, f"row {row}, column {column} reaches the range's end", fix)


def _loading(problem: _Problem) -> str:
    array = problem.array
    x = wire_loading(problem.low + problem.span, array.wires, array.rows, 2 * array.columns)
    return f"r·G_max·N = {x:.2g}"
