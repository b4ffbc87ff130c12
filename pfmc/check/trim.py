"""Trim of made chips: a digital gain and offset behind every column's converter, measured on calibration vectors.

Behind a volume of glass a small matrix can stand instead: what a writer's error does is mostly that light of one output
arrives at others, and that can be undone. It takes one digital product for each pair of a tile's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pfmc.bundle import TileRecord
from pfmc.check.functions import Crossbars
from pfmc.check.made import MadeCrossbars
from pfmc.data import Dataset
from pfmc.frontend.activations import entries
from pfmc.frontend.runtime import Runtime

VECTORS = 256  # that each contraction is measured on; two numbers per column are fitted to them, or a matrix per tile
RIDGE = 1e-5  # of a tile's largest mean square: readings that hardly vary say nothing about the matrix


@dataclass(frozen=True, eq=False)
class Trim:
    """How a laboratory trims a chip: it drives each tile with known vectors and fits what comes out to what is wanted.

    Attributes:
        crossbars: of each contraction, converters only.
        drawn: what a chip without any difference computes.
        vectors: that each contraction is measured on, in the model's units.
        ideal_converters: whether rounding and clipping are left out.
        mixed: tiles that get a matrix, not gains.
    """

    crossbars: Mapping[str, Crossbars]
    drawn: Mapping[str, MadeCrossbars]
    vectors: Mapping[str, Float[np.ndarray, "vectors rows"]]
    ideal_converters: bool
    mixed: Sequence[TileRecord] = ()

    def trimmed(self, chip: Mapping[str, MadeCrossbars], rng: np.random.Generator) -> dict[str, MadeCrossbars]:
        """The chip with its trim; the generator draws the noise of the measurement."""
        return {name: self._trimmed(name, made, rng) for name, made in chip.items()}

    def _trimmed(self, name: str, made: MadeCrossbars, rng: np.random.Generator) -> MadeCrossbars:
        """Least squares, wanted ≈ gain · measured + added, where no converter is at its limit."""
        measured, wanted, inside = self._readings(name, made, rng)
        count = np.maximum(inside.sum(axis=1, keepdims=True), 1.0)
        mean_measured = (inside * measured).sum(axis=1, keepdims=True) / count
        mean_wanted = (inside * wanted).sum(axis=1, keepdims=True) / count
        spread = inside * (measured - mean_measured)
        square = np.square(spread).sum(axis=1, keepdims=True)
        product = (spread * (wanted - mean_wanted)).sum(axis=1, keepdims=True)
        gain = np.divide(product, square, out=np.ones_like(square), where=square > 0)
        trimmed = replace(made, gain=gain, added=mean_wanted - gain * mean_measured)
        tiles = [tile for tile in self.mixed if tile.node == name]
        if not tiles:
            return trimmed
        mixing = np.zeros((len(gain), gain.shape[-1], gain.shape[-1]))
        for tile in tiles:
            at, across = self.crossbars[name].block_of(tile), slice(tile.column_start, tile.column_stop)
            all_inside = inside[at, :, across].all(axis=1)
            mixing[at, across, across], trimmed.added[at, 0, across] = _mixing(
                measured[at, all_inside, across], wanted[at, all_inside, across], np.diag(gain[at, 0, across])
            )
        return replace(trimmed, gain=np.ones_like(gain), mixing=mixing)

    def _readings(
        self, name: str, made: MadeCrossbars, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "blocks vectors columns"], ...]:
        """What is measured and what is wanted, in the model's units, and 1 where no converter is at its limit."""
        crossbars = self.crossbars[name]
        blocks, height, _ = made.microsiemens.shape
        x = self.vectors[name]
        split = crossbars.split
        padded = np.zeros((len(x), split * height))
        padded[:, : x.shape[1]] = x
        x = np.tile(padded.reshape(len(x), split, height).transpose(1, 0, 2), (blocks // split, 1, 1))
        codes = self._converted(x / crossbars.input_step, crossbars.input_code_low, crossbars.input_code_high)
        volts = codes * crossbars.volts_per_code
        current = volts @ made.microsiemens + made.offset
        current += made.noise * rng.standard_normal(current.shape)
        low, high = crossbars.output_code_low, crossbars.output_code_high
        codes = self._converted(current / crossbars.microamps_per_code, low, high)
        inside = ((codes > low) & (codes < high)).astype(np.float64)
        units = crossbars.units_per_code / crossbars.microamps_per_code
        return codes * crossbars.units_per_code, volts @ self.drawn[name].microsiemens * units, inside

    def _converted(
        self,
        exact: Float[np.ndarray, "blocks vectors n"],
        low: Float[np.ndarray, "blocks 1 k"],
        high: Float[np.ndarray, "blocks 1 k"],
    ) -> Float[np.ndarray, "blocks vectors n"]:
        return exact if self.ideal_converters else np.clip(np.rint(exact), low, high)


def _mixing(
    measured: Float[np.ndarray, "vectors n"], wanted: Float[np.ndarray, "vectors n"], near: Float[np.ndarray, "n n"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, " n"]]:
    """Matrix M, as near to another as the readings allow, and offset for which wanted ≈ measured · M + offset."""
    count = max(len(measured), 1)
    mean_measured, mean_wanted = measured.sum(axis=0) / count, wanted.sum(axis=0) / count
    spread = measured - mean_measured
    square = spread.T @ spread
    ridge = max(RIDGE * float(square.diagonal().max()), np.finfo(float).tiny)
    lacking = spread.T @ (wanted - mean_wanted) - square @ near
    matrix = near + np.linalg.solve(square + ridge * np.eye(len(square)), lacking)
    return matrix, mean_wanted - mean_measured @ matrix


def measured_vectors(
    read: Runtime, calibration: Dataset, rows: Sequence[int], batch: int
) -> list[Float[np.ndarray, "vectors rows"]]:
    """Vectors that each contraction reads on calibration data, evenly taken from all of them.

    Args:
        read: gives what each contraction reads.
        rows: of each contraction; one in a body may not have been run at all.
        batch: samples that are run at a time.
    """
    found = [[np.zeros((0, each))] for each in rows]
    for _, outputs in read.run_batches(calibration, batch, read.outputs):
        for vectors, name in zip(found, read.outputs, strict=True):
            vectors += [_evenly(values.reshape(-1, values.shape[-1])) for values in entries(outputs[name])]
    return [_evenly(np.concatenate(vectors)).astype(np.float64) for vectors in found]


def _evenly(vectors: Float[np.ndarray, "n rows"]) -> Float[np.ndarray, "m rows"]:
    """At most ``VECTORS`` of them."""
    return vectors[np.linspace(0, len(vectors) - 1, min(VECTORS, len(vectors))).astype(np.int64)]
