"""What a glass technology says: light, writer, limits and errors of diffractive volumes written into a block."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from pfmc.technology.base import Model, Text, wrong
from pfmc.technology.quantities import (
    Angle,
    Bits,
    Count,
    CurrentNoise,
    Energy,
    Frequency,
    Growth,
    Index,
    Length,
    LengthLoss,
    Levels,
    Power,
    Ratio,
    Responsivity,
    Share,
    Speed,
    Spread,
    Steps,
    Time,
)
from pfmc.units import UNITS

TABLE_LIMIT = 256  # entries of the table of powers


class Table(Model):
    """A row of numbers with one unit and one source."""

    values: tuple[float, ...] = Field(min_length=2, max_length=TABLE_LIMIT)
    unit: Text
    source: Text

    def si(self, dimension: str) -> Float[np.ndarray, " n"]:
        """The numbers in SI units.

        Raises:
            PydanticCustomError: if the unit measures something else.
        """
        if UNITS.get(self.unit, ("",))[0] != dimension:
            raise wrong("unit", f"{self.unit!r} does not measure a {dimension}")
        return np.asarray(np.array(self.values) * UNITS[self.unit][1])


class Light(Model):
    """What shines through the block. Grid of single-mode spots at both faces of a volume, centred on its axis."""

    wavelength: Length  # in vacuum
    index: Index  # of the glass before it is written, at that wavelength
    port_pitch: Length  # between neighbouring inputs, and outputs, at the volume's faces
    port_waist: Length  # radius at which a spot's amplitude is 1/e


class Writing(Model):
    """The writer: what index change each power leaves, in which voxels, how fast and how deep.

    Attributes:
        power, index_change: the table, power rising from that which changes nothing: only the branch on which the
            change grows in size.
        levels: how many levels of index can be told apart, evenly spaced from no change to the table's last.
        spread: standard deviation of the Gaussian that blurs a voxel across the light, at ``corrected_depth``.
        aberration: how the spherical aberration of a flat surface widens it away from there: in squares, by this times
            the distance. What the aberration takes from the focus's intensity is so taken from the index change.
    """

    voxel: Length
    layer: Length
    scan_pitch: Length  # along the light: how far apart the passes are that fill a layer
    spread: Length
    aberration: Growth
    corrected_depth: Length  # from the surface, that the objective is corrected for
    power: Table
    index_change: Table
    levels: Levels
    depth_min: Length  # from the surface to the first voxel
    depth_max: Length  # of the last voxel
    speed: Speed  # of the focus along a line
    line_settling: Time  # between lines
    layer_move: Time  # between passes at different depth

    @model_validator(mode="after")
    def _monotonic(self) -> Self:
        power, change = self.power.si("power"), self.index_change.si("count")
        if len(power) != len(change):
            raise wrong("index_change", f"has {len(change)} values where writing.power has {len(power)}")
        if power[0] < 0 or np.any(np.diff(power) <= 0):
            raise wrong("power", "does not rise from value to value")
        if change[0] != 0:
            raise wrong("index_change", "does not begin with no change")
        rising = np.diff(change) * math.copysign(1.0, change[-1])
        if np.any(rising <= 0):
            at = int(np.argmax(rising <= 0))
            raise wrong("index_change", f"is not monotonic at {self.power.values[at + 1]:g} {self.power.unit}")
        passes = self.layer.si / self.scan_pitch.si
        if abs(passes - round(passes)) > 1e-6:
            raise wrong("scan_pitch", "does not divide writing.layer")
        if self.levels.value < 2:
            raise wrong("levels", "is below 2: nothing could be written")
        if self.depth_min.si >= self.depth_max.si:
            raise wrong("depth_min", "is not below writing.depth_max")
        return self

    def level_changes(self) -> Float[np.ndarray, " levels"]:
        """Index change of each level; level 0 is none."""
        return np.asarray(np.linspace(0.0, self.index_change.si("count")[-1], int(self.levels.value)))

    def level_powers(self) -> Float[np.ndarray, " levels"]:
        """Power that writes each level, watts, by linear interpolation of the table; level 0 is not written at all."""
        sign = math.copysign(1.0, self.index_change.values[-1])
        table = sign * self.index_change.si("count")
        powers = np.interp(sign * self.level_changes(), table, self.power.si("power"))
        powers[0] = 0.0
        return np.asarray(powers)


class WritingErrors(Model):
    """How written volumes differ from the drawing; standard deviations."""

    layer_position: Spread  # of a layer, across the light, along each axis
    voxel_position: Spread  # of a voxel, likewise
    index_scale: Ratio  # of a volume's index change, all of it
    index_drift: Ratio  # of a layer's
    index_noise: Ratio  # of a voxel's, of the full range
    loss: LengthLoss  # of power, in the block, by absorption and scatter; the same everywhere


class VolumeSize(Model):
    """How large a tile is: weights and voxels; more layers or voxels are taken where the accuracy needs them."""

    rows: Count
    columns: Count
    voxels: Count  # along each side across the light
    layers: Count
    voxels_max: Count
    layers_max: Count
    relative_error: Share  # of a tile's matrix, after rounding to the levels, that must be reached


class Optics(Model):
    """What stands around the block: modulators at the inputs, balanced homodyne receivers at the outputs."""

    input_power: Power  # of one input at full scale
    local_oscillator_power: Power  # at one output
    responsivity: Responsivity  # of the photodiodes
    receiver_noise: CurrentNoise  # of the amplifier, referred to its input
    bandwidth: Frequency  # of modulator and receiver together
    oscillator_phase: Angle  # standard deviation of the phase between signal and local oscillator
    wall_plug_efficiency: Share  # of the laser
    dac_energy_per_step: Energy  # a conversion takes 2^bits times as much
    adc_energy_per_step: Energy
    receiver_power: Power  # of one
    converter_gain: Ratio  # standard deviations from port to port
    converter_offset: Steps
    converter_noise: Steps


class OpticalConverters(Model):
    """Digital-to-analog at the modulators, analog-to-digital at the receivers."""

    input_bits: Bits
    output_bits: Bits


class Block(Model):
    """How volumes stand beside each other in the block of glass."""

    volume_spacing: Length
    frame_margin: Length  # from the volumes to the block's edge
    behind: Length  # glass behind the last layer


class GlassTechnology(Model):
    """A glass technology: one writer, one glass, one wavelength."""

    name: str = Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.\-/]*$")
    title: Text
    target: Literal["glass"]
    process: Text
    light: Light
    writing: Writing
    errors: WritingErrors
    tile: VolumeSize
    converters: OpticalConverters
    optics: Optics
    block: Block

    @property
    def personalisation_masks(self) -> tuple[str, ...]:
        """What differs from model to model."""
        return ("index",)

    @property
    def personalisation_layers(self) -> tuple[str, ...]:
        """Likewise."""
        return self.personalisation_masks

    @model_validator(mode="after")
    def _fits(self) -> Self:
        tile, light, writing = self.tile, self.light, self.writing
        for most, usual in (("voxels_max", "voxels"), ("layers_max", "layers")):
            if getattr(tile, most).value < getattr(tile, usual).value:
                raise wrong(f"tile.{most}", f"is below tile.{usual}")
        deepest = writing.depth_min.si + tile.layers_max.value * writing.layer.si
        if deepest > writing.depth_max.si * (1 + 1e-9):
            raise wrong("tile.layers_max", f"reaches {deepest * 1e6:.4g} um deep, beyond writing.depth_max")
        side = tile.voxels.value * writing.voxel.si
        for key in ("rows", "columns"):
            across = math.ceil(math.sqrt(getattr(tile, key).value))
            if (across - 1) * light.port_pitch.si + 2 * light.port_waist.si > side:
                raise wrong(f"tile.{key}", f"{getattr(tile, key).value:g} ports do not fit the aperture, tile.voxels")
        return self
