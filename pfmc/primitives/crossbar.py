"""The crossbar tile: what conductances its cell offers, and which lengths realise a block of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import CapacityError
from pfmc.physics.network import Wires
from pfmc.physics.precompensation import PairArray, Precompensated, feasible_scale, precompensate, relative_error
from pfmc.physics.resistor import strip_resistance
from pfmc.primitives.wiring import moved_vias, nominal_wires, via_travel
from pfmc.technology.schema import Technology

ROUNDS = 8  # of rounding, solving the network and correcting; 2 to 4 are usual
SETTLING = 12  # rounds of correcting between two solutions of the network


@dataclass(frozen=True)
class Programmed:
    """The devices of one tile: last axis G+, G−.

    Attributes:
        wanted: resistance before rounding to the grid, ohms.
        lengths: blocked length of each strip, database units, on the manufacturing grid.
        residual: ‖scale · block − W_eff‖ / ‖scale · block‖ of these lengths (Frobenius norms); not a number where the
            block is not known.
    """

    wanted: Float[np.ndarray, "rows columns 2"]
    lengths: Int[np.ndarray, "rows columns 2"]
    residual: float = math.nan


@dataclass(frozen=True, eq=False)
class CrossbarTile:
    """A tile of ``rows`` × ``columns`` weights of one technology; lengths in database units.

    The resistance is affine in the blocked length: R = resistance_at_zero + resistance_slope · length.

    Attributes:
        wires: with all vias where those of the longest strips stand.
        via_travel: ohms of column wire that a via moves for every unit of length; zero where it stands still.
    """

    name: str
    rows: int
    columns: int
    step: int
    length_min: int
    length_max: int
    resistance_at_zero: float
    resistance_slope: float
    wires: Wires
    via_travel: float = 0.0

    @classmethod
    def of(cls, technology: Technology) -> CrossbarTile:
        """The tile that a technology offers."""
        grid, cell = technology.grid, technology.cell
        at_zero, slope = _affine_law(technology)
        along_column = technology.wires.metal2_sheet_resistance.si / cell.column_wire_width.si
        return cls(
            name=f"crossbar-{cell.family}",
            rows=int(technology.tile.rows.value),
            columns=int(technology.tile.columns.value),
            step=grid.units(cell.length_min) if cell.family == "taps" else grid.step,
            length_min=grid.units(cell.length_min),
            length_max=grid.units(cell.length_max),
            resistance_at_zero=at_zero,
            resistance_slope=slope * grid.database_unit.si,
            wires=nominal_wires(technology),
            via_travel=via_travel(technology) * grid.database_unit.si * along_column,
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

    def feasible_scale(self, block: Float[np.ndarray, "m n"]) -> float:
        """About the largest siemens per unit of weight with the wires compensated; 1 for an empty block.

        One step of the strongest strip is left for the correction of rounding; see
        :func:`pfmc.physics.precompensation.feasible_scale`.

        Raises:
            CapacityError: if the wires leave next to nothing.
        """
        if not block.any():
            return 1.0
        low, high = self.conductance_min, 1.0 / float(self.resistance(np.array(self.length_min + self.step)))
        return feasible_scale(block, self.pairs, conductance_min=low, conductance_max=high)

    def program(self, block: Float[np.ndarray, "m n"], scale: float, *, compensate: bool) -> Programmed:
        """Lengths of the strip pairs that realise ``scale * block``, each pair rounded jointly on the grid.

        Positions beyond the block get the longest strip in both polarities.

        Args:
            block: weights, at most ``rows`` × ``columns``.
            scale: siemens per unit of weight.
            compensate: realise it as the effective matrix, wires included; otherwise as the difference of conductances.

        Raises:
            CapacityError: if the scale needs more than the range.
        """
        low, high = self.conductance_min, self.conductance_max
        target = scale * block
        if compensate:
            solved = precompensate(
                block, self.pairs, conductance_min=low, conductance_max=high, scale=scale, tolerance=1e-3
            )
            conductance = solved.conductance
            used, residual = self._compensated(target, solved)
        else:
            conductance = low + np.maximum(np.stack([target, -target], axis=-1), 0.0)
            largest = float(np.abs(target).max())
            if largest > (high - low) * (1 + 1e-9):
                fix = f"a scale of at most {scale * (high - low) / largest:.4g} S"
                raise CapacityError(f"a difference of {largest:.3g} S is beyond the cell's range", None, fix)
            used = self._rounded(target)
            residual = relative_error(self.network(used).effective(1.0 / self.resistance(used)), target)
        return Programmed(1.0 / self.pairs.whole(conductance), self._whole(used), residual)

    def remainder(self, block: Float[np.ndarray, "m n"], scale: float, *, compensate: bool) -> Float[np.ndarray, "m n"]:
        """What the grid leaves of a block that is programmed so: the block less what its devices compute, in weights.

        Raises:
            CapacityError: see :meth:`program`.
        """
        m, n = block.shape
        return self.left(block, scale, self.program(block, scale, compensate=compensate).lengths[:m, :n])

    def left(
        self, block: Float[np.ndarray, "m n"], scale: float, lengths: Int[np.ndarray, "m n 2"]
    ) -> Float[np.ndarray, "m n"]:
        """The same for lengths that are known."""
        return np.asarray(block - self.network(lengths).effective(1.0 / self.resistance(lengths)) / scale)

    @cached_property
    def pairs(self) -> PairArray:
        """The tile as a network with its nominal wires: strips that carry no weight have the greatest length."""
        return PairArray(self.wires, self.rows, self.columns, self.conductance_min)

    def network(self, lengths: Int[np.ndarray, "m n 2"]) -> PairArray:
        """The tile as a network whose vias stand where these lengths of its block put them."""
        if not self.via_travel:
            return self.pairs
        travelled = self.via_travel * (self._whole(lengths) - self.length_max)
        return replace(self.pairs, wires=moved_vias(self.wires, travelled.reshape(self.rows, 2 * self.columns)))

    def _whole(self, lengths: Int[np.ndarray, "m n 2"]) -> Int[np.ndarray, "rows columns 2"]:
        """The lengths of all strips, given those of the block."""
        whole = np.full((self.rows, self.columns, 2), self.length_max, dtype=np.int32)
        whole[: lengths.shape[0], : lengths.shape[1]] = lengths
        return whole

    def _compensated(
        self, target: Float[np.ndarray, "m n"], solved: Precompensated
    ) -> tuple[Int[np.ndarray, "m n 2"], float]:
        """Lengths whose effective matrix is as near to the target as the grid allows, and how near that is."""
        lengths = best = self._rounded(_difference(solved.conductance))
        unexplained = solved.effective - _local(self.pairs, solved.conductance)
        least = np.inf
        for _ in range(ROUNDS):
            lengths, expected = self._settled(lengths, target, unexplained)
            array, conductance = self.network(lengths), 1.0 / self.resistance(lengths)
            effective = array.effective(conductance)
            residual = relative_error(effective, target)
            if residual < least:
                best, least = lengths, residual
            if residual < 1.1 * expected or residual > least:
                break
            unexplained = effective - _local(array, conductance)
        return best, least

    def _settled(
        self, lengths: Int[np.ndarray, "m n 2"], target: Float[np.ndarray, "m n"], unexplained: Float[np.ndarray, "m n"]
    ) -> tuple[Int[np.ndarray, "m n 2"], float]:
        """Lengths corrected for what rounding does to the effective matrix, and the relative error to expect.

        The matrix is known for other conductances near by, and changes about as the wires' own attenuation says. Only
        pairs whose error is more than half a step of the weaker strip are rounded again: each change disturbs others.

        Args:
            unexplained: what the attenuation leaves of the known matrix.
        """
        best, least, before = lengths, np.inf, np.inf
        for _ in range(SETTLING):
            conductance = 1.0 / self.resistance(lengths)
            attenuation = self.network(lengths).attenuation(conductance)
            expected = unexplained + _difference(conductance * attenuation)
            error = relative_error(expected, target)
            if error < least:
                best, least = lengths, error
            if abs(error - before) < 0.01 * error:
                break
            before = error
            needed = (target - expected) / attenuation.mean(axis=2)
            step = np.square(conductance.min(axis=2)) * self.resistance_slope * self.step
            wrong = np.abs(needed) > step / 2
            corrected = self._rounded(_difference(conductance) + needed, lengths.min(axis=2))
            lengths = np.where(wrong[..., None], corrected, lengths)
        return best, least

    def _rounded(
        self, difference: Float[np.ndarray, "m n"], before: Int[np.ndarray, "m n"] | None = None
    ) -> Int[np.ndarray, "m n 2"]:
        """Lengths of pairs for differences of conductance, siemens.

        The stronger strip is rounded up to the next level, and the weaker one, whose levels are finer in conductance
        (ΔG = G²·ΔR), takes up what that leaves. A stronger strip that was one step shorter before stays so: its steps
        disturb the neighbours most.
        """
        size = np.abs(difference)
        strong = self._on_grid(np.floor(self._steps(size + self.conductance_min) + 1e-9))
        if before is not None:
            strong = np.where(before == strong - self.step, before, strong)
        rest = 1.0 / self.resistance(strong) - size
        weak = self._on_grid(np.rint(self._steps(np.maximum(rest, self.conductance_min))))
        pair = np.stack([strong, weak], axis=-1)
        return np.where(difference[..., None] >= 0, pair, pair[..., ::-1])

    def nearest_lengths(self, resistance: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """The lengths on the grid whose resistances are nearest: the way back from a device table.

        Raises:
            ValueError: if a resistance is outside what a strip can have.
        """
        lengths = np.rint((resistance - self.resistance_at_zero) / self.resistance_slope / self.step) * self.step
        if not np.all((lengths >= self.length_min) & (lengths <= self.length_max)):
            raise ValueError("a resistance is outside the cell's range")
        return np.asarray(lengths, dtype=np.int32)

    def _steps(self, conductance: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Lengths in steps of the grid, not rounded."""
        return np.asarray((1.0 / conductance - self.resistance_at_zero) / self.resistance_slope / self.step)

    def _on_grid(self, steps: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Whole steps as lengths that a strip can have."""
        return np.asarray(np.clip(steps * self.step, self.length_min, self.length_max), dtype=np.int32)


def _difference(pairs: Float[np.ndarray, "m n 2"]) -> Float[np.ndarray, "m n"]:
    return np.asarray(pairs[..., 0] - pairs[..., 1])


def _local(array: PairArray, conductance: Float[np.ndarray, "m n 2"]) -> Float[np.ndarray, "m n"]:
    """The effective matrix as far as the wires' own attenuation explains it."""
    return _difference(conductance * array.attenuation(conductance))


def _affine_law(technology: Technology) -> tuple[float, float]:
    """Resistance without a blocked length, ohms, and what a metre of it adds: the line through two lengths."""
    cell = technology.cell
    blocked = np.array([0.0, cell.body_length.si])
    silicided, pad = blocked[::-1], np.zeros(2)
    if cell.family == "slide":  # the upper contact stands at the block's end, the via above the body's
        silicided, pad = np.zeros(2), blocked[::-1]
    if cell.window_length is not None:
        blocked = np.array([cell.length_min.si, cell.length_max.si])
        silicided = (bodies(technology, blocked) - 1) * cell.window_length.si
    contact = cell.contact_distance.si + cell.contact_height.si / 2
    pad = np.abs(pad + cell.via_offset.si + cell.via_size.si / 2 - contact)
    width = np.full(2, cell.strip_width.si)
    ohms = model_resistance(technology, blocked, silicided, width, pad, bodies(technology, blocked))
    slope = float((ohms[1] - ohms[0]) / (blocked[1] - blocked[0]))
    return float(ohms[0] - slope * blocked[0]), slope


def bodies(technology: Technology, blocked_length: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """In how many pieces the cell has a blocked length, metres: two beside a window, or a chain of equal ones."""
    cell = technology.cell
    if cell.window_length is not None:
        return np.asarray(np.rint(blocked_length / cell.length_min.si))
    return np.full(np.shape(blocked_length), 1.0 if cell.window_start is None else 2.0)


def model_resistance(
    technology: Technology,
    blocked_length: Float[np.ndarray, "*n"],
    silicided_length: Float[np.ndarray, "*n"],
    drawn_width: Float[np.ndarray, "*n"],
    pad_length: Float[np.ndarray, "*n"],
    bodies: Float[np.ndarray, "*n"] | Int[np.ndarray, "*n"],
) -> Float[np.ndarray, "*n"]:
    """Resistance of strips in a technology, ohms, from row wire to column wire; lengths and widths in metres.

    The contacts are part of the terminals, as in the foundries' models; pad and via to the column wire are added.

    Args:
        silicided_length: between the contacts, less ``cell.contact_distance`` at both ends: the terminals include that.
        pad_length: of metal 1 from the middle of the upper contact to that of the via.
        bodies: how many pieces the blocked length is in.
    """
    resistor = technology.resistor
    reduction = resistor.width_reduction.si if resistor.terminal_width == "electrical" else 0.0
    strip = strip_resistance(
        blocked_length,
        silicided_length,
        sheet_resistance=resistor.sheet_resistance.si,
        silicide_sheet_resistance=resistor.silicide_sheet_resistance.si,
        drawn_width=drawn_width,
        width_reduction=resistor.width_reduction.si,
        terminal_resistance=resistor.terminal_resistance.si,
        terminal_width_reduction=reduction,
    )
    edge = resistor.edge_resistance.si if resistor.edge_resistance else 0.0
    edges = 2 * edge * np.maximum(bodies - 1, 0) / (drawn_width - reduction)
    pad = technology.wires.metal1_sheet_resistance.si * pad_length / technology.cell.pad_width.si
    return np.asarray(strip + edges + pad + technology.wires.via1_resistance.si)
