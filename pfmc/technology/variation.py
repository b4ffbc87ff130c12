"""How made chips differ, as a technology file states it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from pfmc.technology.base import Model, wrong
from pfmc.technology.quantities import (
    AreaLaw,
    EdgeLaw,
    PerKelvin,
    PerSquareKelvin,
    Ratio,
    Slope,
    Spread,
    Steps,
    Temperature,
)


class Variation(Model):
    """How chips differ once they are made; the laws are in pfmc.physics.variation. Spreads are standard deviations.

    A ratiometric read-out feeds its amplifiers back through strips of the same kind, of middle length and large area:
    what changes all strips of a chip alike then drops out. An absolute one has feedback that does not change.
    """

    readout: Literal["ratiometric", "absolute"]
    sheet_resistance: Ratio  # of chips
    sheet_gradient: Slope  # of a chip's slope along each axis
    line_width: Spread
    terminal_resistance: Ratio
    wire_resistance: Ratio  # of metal 1, and of metal 2
    sheet_mismatch: AreaLaw  # of devices: times the root of length times electrical width
    width_mismatch: EdgeLaw  # times the root of the length
    length_mismatch: EdgeLaw  # times the root of the electrical width
    terminal_mismatch: Ratio
    stuck_open: Ratio  # share of devices
    stuck_short: Ratio
    temperature_low: Temperature
    temperature_high: Temperature
    temperature_reference: Temperature  # at which the resistances above hold
    body_tc1: PerKelvin
    body_tc2: PerSquareKelvin
    terminal_tc1: PerKelvin
    terminal_tc2: PerSquareKelvin
    metal_tc1: PerKelvin
    converter_gain: Ratio  # of each row's, one for all tiles that share it, and each column's
    converter_offset: Steps
    converter_noise: Steps  # root mean square at each column, amplifier included

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.temperature_low.si > self.temperature_high.si:
            raise wrong("temperature_low", "is above temperature_high")
        return self
