"""From a real matrix to the levels of a written volume: what must be written for light to compute it.

Only the quadrature that homodyne detection reads counts: Re T = gain · W. The index of a voxel is bounded by the
levels that can be written, Δn = middle + half · sin u, and u is the variable. The steps are those of Gauss and Newton
in their dual form, J Jᵀ y = gain · W − Re T, du = Jᵀ y: there are fewer weights than voxels. For many weights conjugate
gradients solve it by products with J and Jᵀ, which are not formed (``pfmc.physics.jacobian``): some 20 of each, as J Jᵀ
is well conditioned where there are voxels enough (20 per weight: eigenvalues from 0.1 to 20 times their mean); a few
hundred are solved for directly. From a random start each step takes the largest gain that moves the voxels by no more
than ``STRIDE``, as long as the light still grows; then the gain stands, and the residual is that of the volume as
finely computed as it was given, while the slopes are those of a coarser one (defect correction). At last voxels are
rounded to levels, and single ones go up or down by one level until the residual is gone (``pfmc.physics.polish``).

There are many volumes of one matrix, and some are disturbed less by the writer's errors than others. Between the rise
and the rest, steps can be taken towards those: down the slope of the mean square of what drawn errors do
(``pfmc.physics.robust``), less the part of it that would change Re T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from array_api_compat import to_device
from jaxtyping import Complex, Float, Int64
from scipy.sparse.linalg import LinearOperator, cg

from pfmc.errors import UsageError
from pfmc.physics.diffraction import gaussian_modes
from pfmc.physics.jacobian import Slopes, jacobian
from pfmc.physics.polish import polish
from pfmc.physics.robust import writing_spread
from pfmc.physics.volume import Volume, transfer_matrix
from pfmc.physics.writing import FAULTLESS, Draw, WritingErrors, as_written, written_volume

STRIDE = 0.3  # radians, root mean square: largest change of u for which slopes still tell what happens; measured
RISES = 8  # steps with a growing gain; twice as many gain a tenth more
CORRECTIONS, POLISHES = 10, 8  # most steps for a gain, most rounds of single voxels
SHARE = 0.92  # of the gain so reached: with all of it the last steps converge slowly, if at all
NEAR = 0.08  # relative error of the coarse model, whose own is 5 %; after it the fine one is asked
RISE_ACCURACY, SETTLE_ACCURACY = 0.05, 0.1  # of a step's effect; what it lacks the next one makes up for
FEW, RIDGE = 640, 1e-4  # weights for which J Jᵀ is formed and solved instead, as quick; over its mean diagonal
PRODUCTS = 60  # most of J Jᵀ for a step; 20 are usual. Fewer than its effect takes make it shorter, as λ would
TOGETHER = 2**25  # slopes that the rounds of single voxels look at together: 134 MB
ROBUST_STRIDE, MOMENTUM = 0.1, 0.8  # radians, falling to 0; of slopes by drawn errors, from step to step; measured
COARSE_KICK = 0.65  # radians
COARSE_RIM = 16e-6  # metres


@dataclass(frozen=True, eq=False)
class Ports:
    """Single-mode apertures at the faces of a volume.

    Args:
        inputs, outputs: centre (y, x) of each, metres from the axis.
        waist: radius at which the amplitude is 1/e of the peak, metres.
    """

    inputs: Float[np.ndarray, "inputs 2"]
    outputs: Float[np.ndarray, "outputs 2"]
    waist: float


@dataclass(frozen=True, eq=False)
class Constructed:
    """What is to be written, and what light does in it.

    Attributes:
        levels: of each voxel, as places in the table.
        transfer: T of these levels.
        gain: amplitude at an output per unit of weight and of amplitude at an input.
        error: ‖Re T / gain − W‖ / ‖W‖ (Frobenius norms).
        efficiency: of one input's power, the part that reaches the outputs; the mean of all inputs.
        crosstalk: root mean square of Re T − gain · W, over the largest |gain · W|.
    """

    levels: Int64[np.ndarray, "layers y x"]
    transfer: Complex[np.ndarray, "outputs inputs"]
    gain: float
    error: float
    efficiency: float
    crosstalk: float


def construct(
    target: Float[np.ndarray, "outputs inputs"],
    ports: Ports,
    volume: Volume,
    table: Float[np.ndarray, " levels"],
    rng: np.random.Generator,
    *,
    wanted: float = 0.01,
    errors: WritingErrors = FAULTLESS,
    robust: int = 0,
    place: Callable[[np.ndarray], Any] = np.asarray,
) -> Constructed:
    """Levels of the voxels for which Re T = gain · target, the gain as high as it comes.

    The caller compares ``error`` with what is wanted: more layers, more voxels across or more levels help where it is
    not reached, or fewer weights.

    Args:
        target: W, real.
        ports: where light goes in and comes out.
        volume: the block, computed so finely that its transfer matrix can be believed to a fraction of ``wanted``.
        table: index change of each level that can be written, rising or falling. Voxels are within its ends; outside
            of them there is no change.
        rng: of the start, of the writer's errors, and of the order in which voxels are visited.
        wanted: relative error; nothing more is done at half of it.
        errors: of the writer.
        robust: steps towards voxels that they disturb less. Of 64 × 10 weights in fused silica 20 make what writing
            changes 14 % smaller and the construction 1.4 times as long, 40 make it 19 % smaller and twice as long.
        place: from NumPy to the library and device that sends the light, in single precision.

    Raises:
        UsageError: the target is zero or does not fit the ports, the table is not monotonic.
    """
    _check(target, ports, table)
    fine = _Model(target, ports, volume, place)
    coarse = _Model(target, ports, _coarser(volume, table, 2), place)
    rough = _Model(target, ports, _coarser(volume, table, math.ceil(volume.voxel / ports.waist)), place)
    ends = float(table[0]), float(table[-1])
    variable, gain = _rise(rough, ends, rng.uniform(-0.5, 0.5, volume.shape))
    if robust:
        variable = _robust(rough, ends, variable, gain, errors, robust, rng)
    variable, gain = _settle(coarse, fine, ends, variable, gain, wanted / 2)
    levels = np.abs(_index(variable, ends)[..., None] - table).argmin(axis=-1).reshape(len(variable), -1)
    return _polished(coarse, fine, table, levels, gain, wanted, rng)


def _check(target: np.ndarray, ports: Ports, table: np.ndarray) -> None:
    expected = (len(ports.outputs), len(ports.inputs))
    if target.shape != expected:
        raise UsageError(f"a matrix of {target.shape}", "target", f"give outputs x inputs, {expected}")
    if not (np.all(np.isfinite(target)) and np.any(target)):
        raise UsageError("the matrix is zero or not finite", "target", "a block of zeros needs no glass")
    steps = np.diff(table)
    if not (len(steps) and (np.all(steps > 0) or np.all(steps < 0))):
        raise UsageError("the index changes are not monotonic", "table", "give them all rising or all falling")


def _coarser(volume: Volume, table: np.ndarray, samples: int) -> Volume:
    """Good enough for slopes, with so many samples per voxel; at 2 a correction makes the error ten times smaller."""
    phase = 2 * math.pi / volume.wavelength * float(np.abs(table).max()) * volume.layer
    steps = min(volume.steps, max(2, math.ceil(phase / COARSE_KICK)))
    return replace(volume, samples=min(volume.samples, samples), steps=steps, padding=min(volume.padding, COARSE_RIM))


@dataclass(frozen=True, eq=False)
class _Model:
    """A target and a volume of one fineness, with its modes."""

    target: np.ndarray
    ports: Ports
    volume: Volume
    place: Callable[[np.ndarray], Any]

    @cached_property
    def modes(self) -> tuple[Any, Any]:
        both = (gaussian_modes(c, self.ports.waist, self.volume.grid) for c in (self.ports.inputs, self.ports.outputs))
        inputs, outputs = (self.place(modes.astype(np.complex64)) for modes in both)
        return inputs, outputs

    def transfer(self, delta_n: np.ndarray) -> np.ndarray:
        written = self.place(delta_n.astype(np.float32))
        return np.asarray(to_device(transfer_matrix(written, *self.modes, self.volume), "cpu"), dtype=complex)

    def slopes(self, delta_n: np.ndarray) -> tuple[np.ndarray, Slopes]:
        """T, and the derivative of Re T by each voxel's index where light is sent."""
        transfer, slopes = jacobian(self.place(delta_n.astype(np.float32)), *self.modes, self.volume)
        return np.asarray(to_device(transfer, "cpu"), dtype=complex), slopes

    def error(self, transfer: np.ndarray, gain: float) -> float:
        """‖Re T / gain − W‖ / ‖W‖."""
        return float(np.linalg.norm(np.real(transfer) / gain - self.target) / np.linalg.norm(self.target))

    def overlap(self, transfer: np.ndarray) -> float:
        """The gain for which the error is least."""
        return float(np.sum(np.real(transfer) * self.target) / np.sum(np.square(self.target)))


def _index(variable: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Δn of each voxel."""
    return np.asarray((ends[0] + ends[1]) / 2 + (ends[1] - ends[0]) / 2 * np.sin(variable))


@dataclass(frozen=True, eq=False)
class _Dual:
    """Steps of u, [columns, layers, voxels], and their effects on the weights, [columns, outputs, inputs]."""

    slopes: Slopes  # by the index
    by_variable: Float[np.ndarray, "layers voxels"]  # dΔn / du
    place: Callable[[np.ndarray], Any]

    @classmethod
    def of(cls, model: _Model, variable: np.ndarray, ends: tuple[float, float], slopes: Slopes) -> _Dual:
        by_variable = (ends[1] - ends[0]) / 2 * np.cos(variable).reshape(len(variable), -1)
        return cls(slopes, by_variable.astype(np.float32), model.place)

    def steps(self, effects: np.ndarray, accuracy: float) -> np.ndarray:
        """The shortest step for each of the effects, which it has up to ``accuracy`` of their size."""
        if effects[0].size <= FEW:
            gram = self._gram()
            ridge = RIDGE * np.mean(np.diag(gram)) * np.eye(len(gram))
            exact = scipy.linalg.solve(gram + ridge, effects.reshape(len(effects), -1).T, assume_a="pos")
            return self._backward(exact.T.reshape(effects.shape))
        size = np.linalg.norm(effects, axis=(1, 2), keepdims=True) + np.finfo(float).tiny
        product = LinearOperator(
            (effects.size, effects.size), lambda y: self.effects(self._backward(y.reshape(effects.shape))).reshape(-1)
        )
        solved, _ = cg(product, (effects / size).reshape(-1), rtol=accuracy, maxiter=PRODUCTS)
        return self._backward(size * solved.reshape(effects.shape))

    def effects(self, steps: np.ndarray) -> np.ndarray:
        """J u"""
        index = self.place((self.by_variable * steps).astype(np.float32))
        return np.asarray(to_device(self.slopes.tangent(index), "cpu"), dtype=float)

    def _gram(self) -> np.ndarray:
        """J Jᵀ"""
        total = np.zeros(())
        for layer, scale in enumerate(self.by_variable):
            slopes = self.slopes.layer(layer) * self.place(scale[:, None])
            total = total + np.asarray(to_device(slopes.T @ slopes, "cpu"), dtype=float)
        return np.asarray(total)

    def _backward(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀ y"""
        index = self.slopes.adjoint(self.place(weights.astype(np.float32)))
        return np.asarray(self.by_variable * np.asarray(to_device(index, "cpu"), dtype=float))


def _rise(model: _Model, ends: tuple[float, float], variable: np.ndarray) -> tuple[np.ndarray, float]:
    """From a random start to the wanted matrix, roughly, at a high gain: a step goes as high as ``STRIDE`` allows."""
    for _ in range(RISES):
        transfer, slopes = model.slopes(_index(variable, ends))
        effects = np.stack([model.target, np.real(transfer)])
        up, undo = _Dual.of(model, variable, ends, slopes).steps(effects, RISE_ACCURACY)
        a, b, c = np.mean(up * up), np.mean(up * undo), np.mean(undo * undo) - STRIDE**2
        gain = (b + math.sqrt(max(0.0, b * b - a * c))) / a
        step = gain * up - undo
        step *= min(1.0, STRIDE / np.sqrt(np.mean(step * step)))
        variable = variable + step.reshape(variable.shape)
    return variable, SHARE * model.overlap(model.transfer(_index(variable, ends)))


def _robust(
    model: _Model,
    ends: tuple[float, float],
    variable: np.ndarray,
    gain: float,
    errors: WritingErrors,
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """To where the writer's errors, drawn anew for each step, disturb the matrix less; the gain stays."""
    writer = replace(model, volume=written_volume(model.volume))
    full, slope = float(np.abs(ends).max()), np.zeros(variable.shape)
    for done in range(steps):
        index = _index(variable, ends)
        draw = Draw.of(variable.shape, rng)
        drawn = writer.transfer(as_written(index, model.volume, full, FAULTLESS, draw)[0])
        by_index = sum(
            writing_spread(index, drawn, *writer.modes, model.volume, full, errors, each, model.place)[1]
            for each in (draw, -draw)
        )
        slope = MOMENTUM * slope + by_index * (ends[1] - ends[0]) / 2 * np.cos(variable)
        transfer, slopes = model.slopes(index)
        dual = _Dual.of(model, variable, ends, slopes)
        down = slope.reshape(1, len(slope), -1)
        effects = np.stack([gain * model.target - np.real(transfer), dual.effects(down)[0]])
        exact, disturbing = dual.steps(effects, RISE_ACCURACY)
        free = down[0] - disturbing
        stride = ROBUST_STRIDE * (1 + math.cos(math.pi * done / steps)) / 2
        step = exact - stride / np.sqrt(np.mean(free * free)) * free
        step *= min(1.0, STRIDE / np.sqrt(np.mean(step * step)))
        variable = variable + step.reshape(variable.shape)
    return variable


def _settle(
    coarse: _Model, fine: _Model, ends: tuple[float, float], variable: np.ndarray, gain: float, goal: float
) -> tuple[np.ndarray, float]:
    """Steps until the fine model has the wanted matrix; the gain falls where it stalls."""
    before, near = math.inf, False
    for _ in range(CORRECTIONS):
        written = _index(variable, ends)
        if near:
            transfer = fine.transfer(written)
            error = fine.error(transfer, gain)
            if error <= goal:
                break
            slopes = coarse.slopes(written)[1]
        else:
            transfer, slopes = coarse.slopes(written)
            error = coarse.error(transfer, gain)
        if error > 0.8 * before:
            gain *= 0.85
        near, before = (True, math.inf) if not near and error < NEAR else (near, error)
        dual = _Dual.of(coarse, variable, ends, slopes)
        lacking = (gain * fine.target - np.real(transfer))[None]
        step = dual.steps(lacking, SETTLE_ACCURACY)
        step *= min(1.0, 2 * STRIDE / np.sqrt(np.mean(step * step)))
        variable = variable + step.reshape(variable.shape)
        del slopes, dual  # the largest there is: before the next
    return variable, gain


def _polished(
    coarse: _Model,
    fine: _Model,
    table: np.ndarray,
    levels: np.ndarray,
    gain: float,
    wanted: float,
    rng: np.random.Generator,
) -> Constructed:
    """The best of what rounds of single voxels come to."""
    best: Constructed | None = None
    for _ in range(POLISHES + 1):
        index = table[levels].reshape(fine.volume.shape)
        transfer = fine.transfer(index)
        found = _result(fine, levels, transfer)
        if best and found.error > 0.9 * best.error:
            return min(best, found, key=lambda it: it.error)
        best = found
        if found.error <= wanted / 2:
            break
        slopes = coarse.slopes(index)[1]
        left = (gain * fine.target - np.real(transfer)).reshape(-1)
        goal = 0.08 * wanted * gain * float(np.linalg.norm(fine.target))
        together = max(1, TOGETHER // (levels.shape[1] * left.size))
        for some in np.array_split(rng.permutation(len(levels)), math.ceil(len(levels) / together)):
            dense = np.concatenate([np.asarray(to_device(slopes.layer(int(layer)), "cpu")) for layer in some])
            chosen = levels[some].reshape(-1)
            left = polish(dense, chosen, table, left, goal, rng)
            levels[some] = chosen.reshape(len(some), -1)
            if np.linalg.norm(left) <= goal:
                break
        del slopes
    assert best
    return best


def _result(model: _Model, levels: np.ndarray, transfer: np.ndarray) -> Constructed:
    gain = model.overlap(transfer)
    off = np.real(transfer) - gain * model.target
    return Constructed(
        levels=levels.reshape(model.volume.shape).copy(),
        transfer=transfer,
        gain=gain,
        error=model.error(transfer, gain),
        efficiency=float(np.mean(np.sum(np.square(np.abs(transfer)), axis=0))),
        crosstalk=float(np.sqrt(np.mean(np.square(off))) / np.abs(gain * model.target).max()),
    )
