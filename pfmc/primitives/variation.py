"""How the tiles of a technology differ once they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pfmc.physics.network import Wires
from pfmc.physics.variation import (
    Chip,
    Strips,
    TemperatureLaw,
    Variation,
    draw_conductance,
    equivalent_bandwidth,
    mismatch_sigma,
)
from pfmc.primitives.crossbar import bodies
from pfmc.technology.schema import Technology


def technology_variation(technology: Technology) -> Variation:
    """What a technology says, in SI units."""
    said = technology.variation
    return Variation(
        sheet=said.sheet_resistance.si,
        gradient=said.sheet_gradient.si,
        width=said.line_width.si,
        terminal=said.terminal_resistance.si,
        sheet_mismatch=said.sheet_mismatch.si,
        width_mismatch=said.width_mismatch.si,
        length_mismatch=said.length_mismatch.si,
        terminal_mismatch=said.terminal_mismatch.si,
        stuck_open=said.stuck_open.si,
        stuck_short=said.stuck_short.si,
        wire=said.wire_resistance.si,
        temperature_low=said.temperature_low.si,
        temperature_high=said.temperature_high.si,
        converter_gain=said.converter_gain.si,
        converter_offset=said.converter_offset.si,
        converter_noise=said.converter_noise.si,
        noise_bandwidth=equivalent_bandwidth(technology.periphery.amplifier_bandwidth.si),
    )


def temperature_law(technology: Technology) -> TemperatureLaw:
    """What a technology says, in SI units."""
    said = technology.variation
    return TemperatureLaw(
        reference=said.temperature_reference.si,
        body_linear=said.body_tc1.si,
        body_quadratic=said.body_tc2.si,
        terminal_linear=said.terminal_tc1.si,
        terminal_quadratic=said.terminal_tc2.si,
        metal_linear=said.metal_tc1.si,
    )


def drawn_strips(
    technology: Technology,
    length: Float[np.ndarray, "*n"],
    width: Float[np.ndarray, "*n"],
    resistance: Float[np.ndarray, "*n"] | None = None,
) -> Strips:
    """Strips of a technology: blocked length and drawn width in metres, the whole resistance in ohms if it is known.

    Edges of silicide are as terminals, which differ from them by a contact; what the resistance has beyond body and
    terminals is metal; without one there is none.
    """
    resistor = technology.resistor
    electrical = width - resistor.width_reduction.si
    at_terminals = electrical if resistor.terminal_width == "electrical" else width
    edges = 0.0 if resistor.edge_resistance is None else resistor.edge_resistance.si * (bodies(technology, length) - 1)
    strips = Strips(
        resistor.sheet_resistance.si,
        length=length,
        width=electrical,
        terminals=2.0 * (resistor.terminal_resistance.si + edges) / at_terminals,
        metal=np.zeros(np.shape(length)),
    )
    return strips if resistance is None else replace(strips, metal=np.maximum(resistance - strips.resistance, 0.0))


@dataclass(frozen=True, eq=False)
class DrawnTile:
    """A tile as the files have it, ready to be made many times.

    Attributes:
        strips: where no device is, one that stands in for it.
        present: where devices are.
        x, y: of the columns of strips and of the rows, metres from the middle of the chip.
    """

    technology: Technology
    strips: Strips
    present: Float[np.ndarray, "rows columns 2"]
    x: Float[np.ndarray, "columns 2"]
    y: Float[np.ndarray, "rows 1 1"]

    @classmethod
    def of(
        cls,
        technology: Technology,
        resistance: Float[np.ndarray, "rows columns 2"],
        length: Float[np.ndarray, "rows columns 2"],
        width: Float[np.ndarray, "rows columns 2"],
        corner: tuple[float, float],
    ) -> DrawnTile:
        """A tile as :class:`pfmc.backend.TileAsBuilt` has it; its origin is at ``corner``, metres from the middle."""
        cell = technology.cell
        present = np.isfinite(resistance)
        length = np.where(present, length, cell.body_length.si)
        width = np.where(present, width, cell.strip_width.si)
        rows, columns, _ = present.shape
        strips = drawn_strips(technology, length, width, np.where(present, resistance, 0.0))
        x = corner[0] + cell.strip_pitch.si * np.arange(2 * columns).reshape(columns, 2)
        y = corner[1] + cell.row_pitch.si * np.arange(rows).reshape(rows, 1, 1)
        return cls(technology, strips, present.astype(np.float64), x, y)

    def made(
        self, variation: Variation, chip: Chip, law: TemperatureLaw, rng: np.random.Generator
    ) -> Float[np.ndarray, "rows columns 2"]:
        """Conductances of the tile on a made chip, siemens."""
        silicide = self.technology.resistor.silicide_sheet_resistance.si
        made = draw_conductance(self.strips, variation, chip, law, rng, x=self.x, y=self.y, silicide_sheet=silicide)
        return np.asarray(self.present * made)


def made_wires(wires: Wires, chip: Chip, law: TemperatureLaw) -> Wires:
    """The wires of a tile on a made chip; drivers and amplifiers are as before."""
    _, _, metal = law.factors(chip.temperature)
    return replace(
        wires,
        row_segment=wires.row_segment * chip.row_wire * metal,
        column_segment=wires.column_segment * chip.column_wire * metal,
    )


def conductance_mismatch(technology: Technology) -> float:
    """Relative standard deviation of the conductances of strips that are drawn alike, of middling length."""
    return float(mismatch_sigma(_middling(technology), technology_variation(technology))[0])


def _middling(technology: Technology) -> Strips:
    """A strip in the middle of what can be programmed."""
    cell = technology.cell
    length = np.array([(cell.length_min.si * cell.length_max.si) ** 0.5])
    return drawn_strips(technology, length, np.array([cell.strip_width.si]))


def readout_gain(technology: Technology, chip: Chip, law: TemperatureLaw) -> float:
    """Factor on a made chip's currents as its converters see them: that of its feedback strips, or 1."""
    if technology.variation.readout == "absolute":
        return 1.0
    strips = _middling(technology)
    nothing = np.random.default_rng(0)  # a large area has no mismatch
    made = draw_conductance(strips, Variation(), chip, law, nothing, x=np.zeros(1), y=np.zeros(1), silicide_sheet=1.0)
    return float(1.0 / (strips.resistance * made)[0])
