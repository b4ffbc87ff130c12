"""What resistor strips are once they are made: spread, mismatch, faults, temperature and noise.

Sources: local mismatch by the area law (Pelgrom, Duinmaijer, Welbers, IEEE J. Solid-State Circuits 24, 1433, 1989) in
the form of the compact model r3_cmc: the logarithm of the sheet resistance has σ = a / √(L·W), the width b / √L, the
length c / √W. Thermal noise by Nyquist (Phys. Rev. 32, 110, 1928). There is no shot noise here: a resistor much longer
than the distance over which its carriers lose energy to phonons (far below a micrometre at room temperature) has none
beyond thermal noise (Steinbach, Martinis, Devoret, Phys. Rev. Lett. 76, 3806, 1996). Flicker noise is left out: a
reading is short, and an offset that is measured beside it takes the slow part out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

BOLTZMANN = 1.380649e-23  # J/K, exact by the SI's definition
ZERO_CELSIUS = 273.15  # K
SHORTEST = 1e-8  # metres: to a body without length the area law does not apply


@dataclass(frozen=True)
class Strips:
    """Resistor strips as they are drawn: R = sheet · length / width + terminals + metal.

    Attributes:
        sheet: ohms per square of the resistive body.
        length, width: of the body, its electrical width; metres.
        terminals: both ends together, ohms.
        metal: what conducts like metal in series (silicide, pad, via), ohms.
    """

    sheet: float
    length: Float[np.ndarray, "*n"]
    width: Float[np.ndarray, "*n"]
    terminals: Float[np.ndarray, "*n"]
    metal: Float[np.ndarray, "*n"]

    @property
    def resistance(self) -> Float[np.ndarray, "*n"]:
        """Ohms."""
        return np.asarray(self.sheet * self.length / self.width + self.terminals + self.metal)


@dataclass(frozen=True)
class TemperatureLaw:
    """R(T) = R(reference) · (1 + linear · ΔT + quadratic · ΔT²), for each part of a strip; metal is linear.

    Attributes:
        reference: °C.
        body_linear, terminal_linear, metal_linear: 1/K.
        body_quadratic, terminal_quadratic: 1/K².
    """

    reference: float = 27.0
    body_linear: float = 0.0
    body_quadratic: float = 0.0
    terminal_linear: float = 0.0
    terminal_quadratic: float = 0.0
    metal_linear: float = 0.0

    def factors(self, celsius: float) -> tuple[float, float, float]:
        """Of body, terminals and metal."""
        warmer = celsius - self.reference
        body = 1.0 + self.body_linear * warmer + self.body_quadratic * warmer**2
        terminal = 1.0 + self.terminal_linear * warmer + self.terminal_quadratic * warmer**2
        return body, terminal, 1.0 + self.metal_linear * warmer


@dataclass(frozen=True)
class Variation:
    """How much made chips differ; zeros are chips without any difference. σ is a standard deviation.

    Attributes:
        sheet: σ of a chip's sheet resistance, relative.
        gradient: σ of its slope along each axis of the chip, relative per metre.
        width: σ of a chip's line width, metres.
        terminal: σ of a chip's terminal resistance, relative.
        sheet_mismatch: a of the area law, metres; a device of area A has σ = a / √A.
        width_mismatch, length_mismatch: b and c of the area law, m^1.5.
        terminal_mismatch: σ of a device's terminals, relative.
        stuck_open, stuck_short: share of devices that do not conduct, and of those whose body is silicided.
        wire: σ of the resistance of a chip's row wires, and of its column wires, relative.
        temperature_low, temperature_high: between which a chip works, °C, any as likely; ``law.reference`` for none.
        converter_gain: σ of the gain of each row's and each column's converter, relative.
        converter_offset: σ of their offsets, in steps of the converter.
        converter_noise: σ of each reading at a column, in steps, amplifier included.
        noise_bandwidth: equivalent bandwidth of a column's amplifier, hertz, for the devices' thermal noise.
    """

    sheet: float = 0.0
    gradient: float = 0.0
    width: float = 0.0
    terminal: float = 0.0
    sheet_mismatch: float = 0.0
    width_mismatch: float = 0.0
    length_mismatch: float = 0.0
    terminal_mismatch: float = 0.0
    stuck_open: float = 0.0
    stuck_short: float = 0.0
    wire: float = 0.0
    temperature_low: float = 27.0
    temperature_high: float = 27.0
    converter_gain: float = 0.0
    converter_offset: float = 0.0
    converter_noise: float = 0.0
    noise_bandwidth: float = 0.0


EFFECTS: dict[str, tuple[str, ...]] = {
    "sheet resistance": ("sheet",),
    "gradient": ("gradient",),
    "line width": ("width",),
    "terminals": ("terminal",),
    "mismatch": ("sheet_mismatch", "width_mismatch", "length_mismatch", "terminal_mismatch"),
    "stuck devices": ("stuck_open", "stuck_short"),
    "wires": ("wire",),
    "temperature": ("temperature_low", "temperature_high"),
    "converters": ("converter_gain", "converter_offset"),
    "noise": ("converter_noise", "noise_bandwidth"),
}


@dataclass(frozen=True)
class Chip:
    """What the strips and wires of one made chip have in common.

    Attributes:
        sheet, terminal, row_wire, column_wire: factors on the resistances drawn.
        slope_x, slope_y: of the sheet resistance, relative per metre.
        width: added to every line, metres.
        temperature: °C.
    """

    sheet: float
    terminal: float
    row_wire: float
    column_wire: float
    slope_x: float
    slope_y: float
    width: float
    temperature: float


def draw_chip(variation: Variation, rng: np.random.Generator) -> Chip:
    """One chip's common part: normal factors about 1, normal slopes and width, uniform temperature."""
    sheet, terminal, row_wire, column_wire, slope_x, slope_y, width = rng.standard_normal(7)
    return Chip(
        sheet=1.0 + variation.sheet * sheet,
        terminal=1.0 + variation.terminal * terminal,
        row_wire=max(0.0, 1.0 + variation.wire * row_wire),
        column_wire=max(0.0, 1.0 + variation.wire * column_wire),
        slope_x=variation.gradient * slope_x,
        slope_y=variation.gradient * slope_y,
        width=variation.width * width,
        temperature=rng.uniform(variation.temperature_low, variation.temperature_high),
    )


def gradient_factor(
    chip: Chip, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*m"]
) -> Float[np.ndarray, "*broadcast"]:
    """Of the sheet resistance at places x, y, metres from the middle of the chip; never below a hundredth."""
    return np.asarray(np.maximum(1.0 + chip.slope_x * x + chip.slope_y * y, 0.01))


def draw_mismatch(strips: Strips, variation: Variation, rng: np.random.Generator) -> Strips:
    """Strips with local mismatch by the area law; all else as drawn."""
    if not any(
        (variation.sheet_mismatch, variation.width_mismatch, variation.length_mismatch, variation.terminal_mismatch)
    ):
        return strips
    length, width = np.maximum(strips.length, SHORTEST), strips.width
    sheet, across, along, ends = rng.standard_normal((4, *length.shape))
    factor = np.exp(variation.sheet_mismatch / np.sqrt(length * width) * sheet)
    made_width = width + variation.width_mismatch / np.sqrt(length) * across
    made_length = strips.length + variation.length_mismatch / np.sqrt(width) * along
    return Strips(
        strips.sheet,
        length=np.maximum(made_length, 0.0) * factor,
        width=np.maximum(made_width, 0.1 * width),
        terminals=strips.terminals * np.exp(variation.terminal_mismatch * ends),
        metal=strips.metal,
    )


def mismatch_sigma(strips: Strips, variation: Variation) -> Float[np.ndarray, "*n"]:
    """Relative σ of the resistances that :func:`draw_mismatch` gives, to first order."""
    length, width = np.maximum(strips.length, SHORTEST), strips.width
    sheet = np.square(variation.sheet_mismatch) / (length * width)
    across = np.square(variation.width_mismatch / width) / length
    along = np.square(variation.length_mismatch / length) / width
    body = strips.sheet * length / width * np.sqrt(sheet + across + along)
    return np.asarray(np.hypot(body, variation.terminal_mismatch * strips.terminals) / strips.resistance)


def draw_faults(
    shape: tuple[int, ...], variation: Variation, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "*n"], Bool[np.ndarray, "*n"]]:
    """Which devices are open, and which are short; an open one is not short."""
    lot = rng.random(shape)
    is_open = lot < variation.stuck_open
    return is_open, ~is_open & (lot < variation.stuck_open + variation.stuck_short)


def draw_conductance(
    strips: Strips,
    variation: Variation,
    chip: Chip,
    law: TemperatureLaw,
    rng: np.random.Generator,
    *,
    x: Float[np.ndarray, "*nx"],
    y: Float[np.ndarray, "*ny"],
    silicide_sheet: float,
) -> Float[np.ndarray, "*n"]:
    """Conductances of the strips of a made chip, siemens: from geometry, with everything but noise.

    Args:
        x, y: places on the chip, metres from its middle, broadcast to the strips.
        silicide_sheet: ohms per square of a body that the block does not cover: a short.
    """
    is_open, is_short = draw_faults(strips.length.shape, variation, rng)
    made = draw_mismatch(strips, variation, rng)
    made = replace(made, sheet=made.sheet * chip.sheet)
    body, terminal, metal = law.factors(chip.temperature)
    widened = np.maximum(made.width + chip.width, 0.1 * strips.width)
    squares = made.length / widened
    resistive = made.sheet * body * gradient_factor(chip, x, y) * squares
    resistance = (
        np.where(is_short, silicide_sheet * metal * squares, resistive)
        + made.terminals * (chip.terminal * terminal) * (made.width / widened)
        + made.metal * metal
    )
    return np.asarray(np.where(is_open, 0.0, 1.0 / resistance))


def thermal_noise(conductance: Float[np.ndarray, "*n"], celsius: float, bandwidth: float) -> Float[np.ndarray, "*n"]:
    """Root mean square of a current through resistors to grounds and virtual grounds, amperes: √(4kT · G · Δf).

    Args:
        conductance: the sum of what leads to the column, siemens.
        bandwidth: equivalent noise bandwidth, hertz: π/2 times the corner of an amplifier with one pole.
    """
    return np.asarray(np.sqrt(4.0 * BOLTZMANN * (celsius + ZERO_CELSIUS) * bandwidth * conductance))


def equivalent_bandwidth(corner: float) -> float:
    """Noise bandwidth of a single pole at ``corner``, hertz."""
    return math.pi / 2.0 * corner
