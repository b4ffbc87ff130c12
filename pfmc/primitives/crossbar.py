"""The crossbar tile: what conductances its cell offers, and which lengths realise a block of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pfmc.physics.resistor import strip_resistance
from pfmc.technology.schema import Technology


@dataclass(frozen=True)
class Programmed:
    """The devices of one tile: last axis G+, G−.

    Attributes:
        wanted: resistance before rounding to the grid, ohms.
        lengths: blocked length of each strip, database units, on the manufacturing grid.
    """

    wanted: Float[np.ndarray, "rows columns 2"]
    lengths: Int[np.ndarray, "rows columns 2"]


@dataclass(frozen=True)
class CrossbarTile:
    """A tile of ``rows`` × ``columns`` weights of one technology; lengths in database units.

    The resistance is affine in the blocked length: R = resistance_at_zero + resistance_slope · length.
    """

    name: str
    rows: int
    columns: int
    step: int
    length_min: int
    length_max: int
    length_unused: int
    resistance_at_zero: float
    resistance_slope: float

    @classmethod
    def of(cls, technology: Technology) -> CrossbarTile:
        """The tile that a technology offers."""
        grid, cell = technology.grid, technology.cell
        body, width = cell.body_length.si, cell.strip_width.si
        blocked = np.array([0.0, body])
        slides = cell.family == "slide"  # the upper contact stands at the block's end, not at the body's
        silicided, contact = (np.zeros(2), blocked) if slides else (body - blocked, np.full(2, body))
        contact = contact + cell.contact_distance.si + cell.contact_height.si / 2
        via = body + cell.via_offset.si + cell.via_size.si / 2
        ends = model_resistance(technology, blocked, silicided, np.full(2, width), np.abs(via - contact))
        return cls(
            name=f"crossbar-{cell.family}",
            rows=int(technology.tile.rows.value),
            columns=int(technology.tile.columns.value),
            step=grid.step,
            length_min=grid.units(cell.length_min),
            length_max=grid.units(cell.length_max),
            length_unused=grid.units(cell.body_length),
            resistance_at_zero=float(ends[0]),
            resistance_slope=float(ends[1] - ends[0]) / grid.units(cell.body_length),
        )

    def resistance(self, lengths: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Resistance of strips with these blocked lengths, ohms."""
        return np.asarray(self.resistance_at_zero + self.resistance_slope * lengths)

    @property
    def conductance_min(self) -> float:
        """Conductance of the longest programmed strip, siemens."""
        return 1.0 / (self.resistance_at_zero + self.resistance_slope * self.length_max)

    @property
    def conductance_max(self) -> float:
        """Conductance of the shortest programmed strip, siemens."""
        return 1.0 / (self.resistance_at_zero + self.resistance_slope * self.length_min)

    def scale(self, largest_weight: float) -> float:
        """Siemens per unit of weight at which the largest weight uses the whole range; 1 for an empty block."""
        return (self.conductance_max - self.conductance_min) / largest_weight if largest_weight > 0 else 1.0

    def program(self, block: Float[np.ndarray, "rows columns"], scale: float) -> Programmed:
        """Lengths of the strip pairs that realise ``scale * block``, the pair rounded jointly on the grid.

        The stronger device is rounded up to the next level, and the weaker one, whose levels are finer in conductance
        (ΔG = G²·ΔR), takes up what that leaves. Positions beyond the block get the longest strip in both polarities: an
        exact zero.

        Args:
            block: weights, at most ``rows`` × ``columns``.
            scale: siemens per unit of weight; ``scale * block`` must fit the range.

        Raises:
            ValueError: if a weight needs more than the range.
        """
        difference = np.abs(block) * scale
        strong = difference + self.conductance_min
        if strong.size and strong.max() > self.conductance_max * (1 + 1e-9):
            raise ValueError(f"a difference of {difference.max():.3g} S is beyond the cell's range")
        strong_length = np.maximum(np.floor(self._exact_length(strong) / self.step + 1e-9) * self.step, self.length_min)
        weak = 1.0 / (self.resistance_at_zero + self.resistance_slope * strong_length) - difference
        weak_length = np.rint(self._exact_length(weak) / self.step) * self.step
        weak_length = np.clip(weak_length, self.length_min, self.length_max)
        positive = block >= 0
        lengths = np.full((self.rows, self.columns, 2), self.length_unused, dtype=np.int32)
        wanted = np.full(lengths.shape, self.resistance(np.array(self.length_unused)))
        r, c = block.shape
        lengths[:r, :c, 0] = np.where(positive, strong_length, weak_length)
        lengths[:r, :c, 1] = np.where(positive, weak_length, strong_length)
        strong_wanted, weak_wanted = 1.0 / strong, 1.0 / self.conductance_min
        wanted[:r, :c, 0] = np.where(positive, strong_wanted, weak_wanted)
        wanted[:r, :c, 1] = np.where(positive, weak_wanted, strong_wanted)
        return Programmed(wanted, lengths)

    def nearest_lengths(self, resistance: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """The lengths on the grid whose resistances are nearest: the way back from a device table.

        Raises:
            ValueError: if a resistance is outside what a strip can have.
        """
        lengths = np.rint((resistance - self.resistance_at_zero) / self.resistance_slope / self.step) * self.step
        programmable = (lengths >= self.length_min) & (lengths <= self.length_max)
        if not np.all(programmable | (lengths == self.length_unused)):
            raise ValueError("a resistance is outside the cell's range")
        return np.asarray(lengths, dtype=np.int32)

    def _exact_length(self, conductance: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        return (1.0 / conductance - self.resistance_at_zero) / self.resistance_slope


def model_resistance(
    technology: Technology,
    blocked_length: Float[np.ndarray, "*n"],
    silicided_length: Float[np.ndarray, "*n"],
    drawn_width: Float[np.ndarray, "*n"],
    pad_length: Float[np.ndarray, "*n"],
) -> Float[np.ndarray, "*n"]:
    """Resistance of strips in a technology, ohms, from row wire to column wire; lengths and widths in metres.

    The contacts are part of the terminals, as in the foundries' models; pad and via to the column wire are added.

    Args:
        silicided_length: between the contacts, less ``cell.contact_distance`` at both ends: the terminals include that.
        pad_length: of metal 1 from the middle of the upper contact to that of the via.
    """
    resistor = technology.resistor
    strip = strip_resistance(
        blocked_length,
        silicided_length,
        sheet_resistance=resistor.sheet_resistance.si,
        silicide_sheet_resistance=resistor.silicide_sheet_resistance.si,
        drawn_width=drawn_width,
        width_reduction=resistor.width_reduction.si,
        terminal_resistance=resistor.terminal_resistance.si,
        terminal_width_reduction=resistor.width_reduction.si if resistor.terminal_width == "electrical" else 0.0,
    )
    pad = technology.wires.metal1_sheet_resistance.si * pad_length / technology.cell.pad_width.si
    return strip + pad + technology.wires.via1_resistance.si
