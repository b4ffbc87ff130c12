"""The diffractive volume: where light goes in and out, what its voxels can be, and which of them realise a block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Complex, Float, UInt8

from pfmc.physics.construction import Ports, construct
from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.volume import Volume, check_validity, steps_needed, transfer_matrix
from pfmc.physics.writing import WritingErrors
from pfmc.technology.glass import GlassTechnology

NAME: Final = "diffractive-volume"
# How finely light is computed: by who designs a volume, and on another, finer grid by who judges it.
DESIGN_SAMPLES, DESIGN_STEP, DESIGN_RIM = 2, 2.5e-6, 24e-6  # per voxel (5 differ by 0.05 %); metres; metres
# Light that leaves the voxels sideways comes back from further in a longer volume: with a rim of 24 um the matrix of
# 64 x 64 weights in 1.6 mm was off by 1.0 % (against 32 um, and 48), that of 64 x 10 in 0.8 mm is by 0.01 %.
DESIGN_RIM_PER_LENGTH = 0.02
# The design's grid is off by 0.05 % of the matrix (6 x 3 weights, against 5 samples, steps of 0.8 um, a rim of 80 um).
JUDGE_SAMPLES, JUDGE_STEPS, JUDGE_RIM = 3, 1.5, 8e-6  # per voxel; times as many as a design's; metres more


@dataclass(frozen=True)
class Performance:
    """What a volume was designed to do, and what it does on the design's own grid.

    Attributes:
        gain: amplitude at an output per unit of weight and of amplitude at an input, losses included.
        error: ‖Re T / gain − W‖ / ‖W‖ (Frobenius norms), with the voxels rounded to their levels.
        efficiency: of one input's power, the part that reaches the outputs; the mean of all inputs.
        crosstalk: root mean square of what differs from gain · W over the largest weight's gain.
        layers, voxels: of the volume: along the light, and along each side across it.
    """

    gain: float
    error: float
    efficiency: float
    crosstalk: float
    layers: int
    voxels: int


@dataclass(frozen=True, eq=False)
class Written:
    """The voxels of a volume."""

    levels: UInt8[np.ndarray, "layers y x"]
    performance: Performance


@dataclass(frozen=True)
class DiffractiveVolume:
    """A volume of one technology: square across the light, layers of voxels along it. Lengths in metres.

    Attributes:
        rows, columns: most inputs and outputs.
        voxels, layers: usual size, and the most that there is room for.
        spread: of the writing's blur at ``corrected_depth``.
        aberration: growth of the blur per depth on either side of it, in squares: √(spread² + (aberration · Δz)²).
        depth_min: of the first layer's near face, from the surface.
        table: Δn of each level, from no change on.
        errors: of the writer.
        loss: of power per metre, in nepers: power falls as exp(−loss · length).
    """

    rows: int
    columns: int
    voxels: int
    layers: int
    voxels_max: int
    layers_max: int
    voxel: float
    layer: float
    spread: float
    aberration: float
    corrected_depth: float
    depth_min: float
    wavelength: float
    index: float
    table: tuple[float, ...]
    port_pitch: float
    port_waist: float
    errors: WritingErrors
    loss: float

    @classmethod
    def of(cls, technology: GlassTechnology) -> DiffractiveVolume:
        """The volume that a technology offers.

        Raises:
            UsageError: if the light in it cannot be computed: waves too steep, an index change that is not small.
        """
        light, writing, tile, errors = technology.light, technology.writing, technology.tile, technology.errors
        primitive = cls(
            rows=int(tile.rows.value),
            columns=int(tile.columns.value),
            voxels=int(tile.voxels.value),
            layers=int(tile.layers.value),
            voxels_max=int(tile.voxels_max.value),
            layers_max=int(tile.layers_max.value),
            voxel=writing.voxel.si,
            layer=writing.layer.si,
            spread=writing.spread.si,
            aberration=writing.aberration.si,
            corrected_depth=writing.corrected_depth.si,
            depth_min=writing.depth_min.si,
            wavelength=light.wavelength.si,
            index=light.index.si,
            table=tuple(writing.level_changes().tolist()),
            port_pitch=light.port_pitch.si,
            port_waist=light.port_waist.si,
            errors=WritingErrors(
                errors.layer_position.si,
                errors.voxel_position.si,
                errors.index_scale.si,
                errors.index_drift.si,
                errors.index_noise.si,
            ),
            loss=errors.loss.si * math.log(10) / 10,
        )
        volume = primitive.volume(primitive.layers, primitive.voxels)
        check_validity(volume, abs(primitive.change), primitive.aperture)
        return primitive

    def volume(self, layers: int, voxels: int) -> Volume:
        """A volume of this size, as finely computed as a design needs it."""
        away = self.depth_min + (np.arange(layers) + 0.5) * self.layer - self.corrected_depth
        volume = Volume(
            layers=layers,
            rows=voxels,
            columns=voxels,
            voxel=self.voxel,
            layer=self.layer,
            wavelength=self.wavelength,
            index=self.index,
            spread=tuple(np.hypot(self.spread, self.aberration * away).tolist()),
            samples=DESIGN_SAMPLES,
            steps=math.ceil(self.layer / DESIGN_STEP),
            padding=max(DESIGN_RIM, DESIGN_RIM_PER_LENGTH * layers * self.layer),
        )
        return replace(volume, steps=max(volume.steps, steps_needed(volume, abs(self.change), self.aperture)))

    @property
    def aperture(self) -> float:
        """Largest numerical aperture of the light: spots, and voxels beside each other, of half a wavelength each.

        What the edges of voxels would send further the writing blurs away.
        """
        return self.wavelength * max(1 / (2 * self.voxel), 1 / (math.pi * self.port_waist))

    def ports(self, count: int) -> Float[np.ndarray, "count 2"]:
        """Centres (y, x) of so many inputs, or outputs, from the axis: a grid about as high as wide, row by row."""
        across = self._across(count)
        return spot_centres(-(-count // across), across, self.port_pitch)[:count]

    def transfer_of(
        self, index_change: Float[np.ndarray, "layers y x"], rows: int, columns: int
    ) -> Complex[np.ndarray, "rows columns"]:
        """Amplitude at each output per unit of amplitude at each input, losses included, on the judge's grid."""
        layers, voxels, _ = index_change.shape
        design = self.volume(layers, voxels)
        steps, padding = math.ceil(JUDGE_STEPS * design.steps), design.padding + JUDGE_RIM
        judged = replace(design, samples=JUDGE_SAMPLES, steps=steps, padding=padding)
        return self.light(index_change, judged, rows, columns)

    def light(
        self, index_change: Float[np.ndarray, "layers y x"], volume: Volume, rows: int, columns: int
    ) -> Complex[np.ndarray, "rows columns"]:
        """The same in a volume as finely computed as is said; its voxels may be smaller than the writer's."""
        inputs, outputs = (
            gaussian_modes(self.ports(count), self.port_waist, volume.grid).astype(np.complex64)
            for count in (rows, columns)
        )
        light = transfer_matrix(index_change.astype(np.float32), inputs, outputs, volume)
        return np.asarray(self.lost(volume.layers) * light.T, dtype=np.complex128)

    def construct(
        self, block: Float[np.ndarray, "m n"], rng: np.random.Generator, wanted: float, robust: int = 0
    ) -> Written:
        """Voxels whose light computes a block: the real part of the transfer matrix is gain · block.

        Where a volume does not come to the wanted error, deeper ones and then wider ones are tried.

        Args:
            block: weights, inputs × outputs.
            rng: of the voxels to start from.
            wanted: relative error. The caller looks whether it was reached.
            robust: steps towards voxels that the writer's errors disturb less.
        """
        rows, columns = block.shape
        ports = Ports(self.ports(rows), self.ports(columns), self.port_waist)
        best: Written | None = None
        for layers, voxels in self._sizes(rows, columns):
            found = construct(
                block.T,
                ports,
                self.volume(layers, voxels),
                np.array(self.table),
                rng,
                wanted=wanted,
                errors=self.errors,
                robust=robust,
            )
            lost = self.lost(layers)
            performance = Performance(
                gain=lost * found.gain,
                error=found.error,
                efficiency=lost**2 * found.efficiency,
                crosstalk=found.crosstalk,
                layers=layers,
                voxels=voxels,
            )
            if best is None or found.error < best.performance.error:
                best = Written(found.levels.astype(np.uint8), performance)
            if found.error <= wanted:
                break
        assert best
        return best

    @property
    def change(self) -> float:
        """Δn of the last level: the largest in size."""
        return self.table[-1]

    def lost(self, layers: int) -> float:
        """Of an amplitude, what absorption and scatter leave behind so many layers."""
        return math.exp(-self.loss * layers * self.layer / 2)

    def _sizes(self, rows: int, columns: int) -> Iterator[tuple[int, int]]:
        """Layers and voxels across to try in turn for a block.

        First as many voxels for each weight as a full tile of the usual size has, where the ports leave it at that;
        then the usual size; then half as many layers more each time, up to the most there is room for, and then voxels.
        """
        layers, voxels = self.layers, self.voxels
        margin = voxels * self.voxel - (self._across(self.rows) - 1) * self.port_pitch
        ports = math.ceil(((self._across(max(rows, columns)) - 1) * self.port_pitch + margin) / self.voxel - 1e-9)
        share = math.ceil(voxels * math.sqrt(rows * columns / (self.rows * self.columns)))
        yield layers, min(voxels, max(ports, share))
        if max(ports, share) < voxels:
            yield layers, voxels
        while layers < self.layers_max:
            layers = min(self.layers_max, layers + (layers + 1) // 2)
            yield layers, voxels
        while voxels < self.voxels_max:
            voxels = min(self.voxels_max, voxels + (voxels + 1) // 2)
            yield layers, voxels

    def _across(self, count: int) -> int:
        """Ports in a row of the grid that holds so many."""
        return math.ceil(math.sqrt(count))
