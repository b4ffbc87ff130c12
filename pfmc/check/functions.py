"""What a mapped contraction computes once it is made, as an ONNX function of standard operators, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx.parser
from jaxtyping import Float, Num
from onnx import numpy_helper

from pfmc.bundle import TileRecord
from pfmc.check.lanes import (
    COPIES_IN_LANES,
    DEALT,
    IN_TURN,
    LANES_ATTRIBUTES,
    OPERATOR_IN_LANES,
    UNTRIMMED,
    lane_count,
    lanes_attributes,
)
from pfmc.errors import VerifyError
from pfmc.netlist.netlist import Range
from pfmc.technology.kinds import AnyTechnology

DOMAIN: Final = "pfmc"
OPERATOR: Final = "MatrixVector"

# Shapes: x is (…, rows). A row block is what the rows of one tile see, T entries of x, the last block padded by zeros;
# B = number of vectors, R = number of row blocks, those of the copies behind each other. All is (R, B, ·) between
# the two converters, so the number of operators does not depend on the number of tiles. What row blocks give is summed
# by a product with ones: ONNX Runtime's ReduceSum along a first axis is slow.
_FUNCTION: Final = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{operator} <{attributes}> ({inputs}) => (y)
{{
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    third = Constant <value_ints = [2]> ()
    fourth = Constant <value_ints = [3]> ()
    last = Constant <value_ints = [-1]> ()

    vectors = Flatten <axis = -1> (x)
    {padded}
    blocks = Constant <value_ints: ints = @blocks> ()
    split = Reshape (padded, blocks)
    by_block = Transpose <perm = [1, 0, 2]> (split)
    {for_copies}

    input_exact = Div (for_copies, input_step)
    {input_converter}
    {output_exact}
    {output_converter}
    partial = {to_units} (output_code, units_per_code)

    summed = Constant <value_ints: ints = @summed> ()
    rows_of_partials = Reshape (partial, summed)
    {sum_in_a_row}
    shape_of_partial = Shape (partial)
    width = Slice (shape_of_partial, third, fourth)
    by_vector = Concat <axis = 0> (last, width)
    {in_order}
    shape_of_x = Shape (x)
    leading = Slice (shape_of_x, first, last)
    shape = Concat <axis = 0> (leading, width)
    {result}
}}
"""
ATTRIBUTES: Final = ("rows", "columns", "padding", "blocks", "copies", "summed", "ones")
IN_ORDER: Final = "sum = Reshape (sum_in_a_row, by_vector)"
PADDED: Final = """
    padding = Constant <value_ints: ints = @padding> ()
    padded = Pad (vectors, padding)
"""
FOR_COPIES: Final = """
    copies = Constant <value_ints: ints = @copies> ()
    for_copies = Tile (by_block, copies)
"""
SUM_IN_A_ROW: Final = """
    shape_of_ones = Constant <value_ints: ints = @ones> ()
    ones = ConstantOfShape <value = float[1] {1}> (shape_of_ones)
    sum_in_a_row = MatMul (ones, rows_of_partials)
"""
ROUND_AND_CLIP: Final = """
    {side}_rounded = Round ({side}_exact)
    {side}_not_below = Max ({side}_rounded, {side}_code_low)
    {side}_code = Min ({side}_not_below, {side}_code_high)
"""
IDEAL_CONVERTER: Final = "{side}_code = Identity ({side}_exact)"
_CURRENT: Final = """
    voltage = Mul (input_code, volts_per_code)
    current = MatMul (voltage, microsiemens)
    output_exact = Div (current, microamps_per_code)
"""
# What a homodyne receiver reads of a field: Re (T · field · exp(−iφ)), φ the phase of its local oscillator.
_LIGHT_CURRENT: Final = """
    voltage = Mul (input_code, volts_per_code)
    in_phase = MatMul (voltage, microsiemens)
    out_of_phase = MatMul (voltage, quadrature)
    from_in_phase = Mul (in_phase, oscillator_cosine)
    from_out_of_phase = Mul (out_of_phase, oscillator_sine)
    current = Add (from_in_phase, from_out_of_phase)
    output_exact = Div (current, microamps_per_code)
"""
_RESULT: Final = "y = Reshape (sum, shape)"
MOST_SHIFT: Final = 64  # binary places that an input may be shifted by: float32 holds both ends
LIMITS: Final = ("input_code_low", "input_code_high", "output_code_low", "output_code_high")


def matrix_vector(
    opset: int, *, ideal_converters: bool, light: bool = False, in_lanes: bool = False
) -> onnx.FunctionProto:
    """The function ``pfmc.MatrixVector`` with the physics inside; its inputs: x and :func:`input_names`.

    Args:
        opset: of the standard operators, at least 13; a model and its functions must agree.
        ideal_converters: leave rounding and clipping out.
        light: whether fields are read, of both quadratures, not currents.
        in_lanes: ``pfmc.MatrixVectorInLanes``, for sets of tiles that take the vectors in turn.
    """
    converter = IDEAL_CONVERTER if ideal_converters else ROUND_AND_CLIP
    return function_of(
        OPERATOR_IN_LANES if in_lanes else OPERATOR,
        opset,
        input_names(ideal_converters=ideal_converters, light=light),
        attributes=", ".join(LANES_ATTRIBUTES if in_lanes else ATTRIBUTES),
        padded=DEALT if in_lanes else PADDED,
        for_copies=COPIES_IN_LANES if in_lanes else FOR_COPIES,
        input_converter=converter.format(side="input"),
        output_converter=converter.format(side="output"),
        output_exact=_LIGHT_CURRENT if light else _CURRENT,
        to_units="Mul",
        sum_in_a_row=SUM_IN_A_ROW,
        in_order=IN_TURN.format(trimmed=UNTRIMMED) if in_lanes else IN_ORDER,
        result=_RESULT,
    )


def function_of(name: str, opset: int, inputs: Sequence[str], **parts: str) -> onnx.FunctionProto:
    """A function with these inputs after x; ``parts``: what stands at the places of its text that have a name."""
    inside = ", ".join(("x", *inputs))
    return onnx.parser.parse_function(
        _FUNCTION.format(domain=DOMAIN, operator=name, opset=opset, inputs=inside, **parts)
    )


def input_names(*, ideal_converters: bool, light: bool = False) -> tuple[str, ...]:
    """Names of the function's inputs after x: arrays of :class:`Crossbars`, of light those of its read-out too."""
    names: tuple[str, ...] = ("input_step", "volts_per_code", "microsiemens", "microamps_per_code", "units_per_code")
    if light:
        names += ("quadrature", "oscillator_cosine", "oscillator_sine")
    return names if ideal_converters else names + LIMITS


@dataclass(frozen=True, eq=False)
class Crossbars:
    """The tiles of one contraction, side by side. Where no tile is, everything is zero but the divisors.

    Conductances and currents are in microsiemens and microamperes: near 1, as float32 likes it. In glass, amplitudes
    of fields stand for voltages and currents, in √W and √W · 1e-6, and transfer matrices for conductances.

    Attributes:
        name: of the contraction.
        rows: of its matrix.
        copies: tiles of each block, copies and a second slice; each has row blocks of its own.
        lanes: sets of tiles that take the vectors in turn, with row blocks of their own behind each other.
        quadrature: in glass, the imaginary part of what ``microsiemens`` is the real part of.
    """

    name: str
    rows: int
    copies: int
    lanes: int
    input_step: Float[np.ndarray, "blocks 1 height"]
    input_code_low: Float[np.ndarray, "blocks 1 1"]
    input_code_high: Float[np.ndarray, "blocks 1 1"]
    volts_per_code: Float[np.ndarray, "blocks 1 1"]
    microsiemens: Float[np.ndarray, "blocks height columns"]
    microamps_per_code: Float[np.ndarray, "blocks 1 columns"]
    output_code_low: Float[np.ndarray, "blocks 1 columns"]
    output_code_high: Float[np.ndarray, "blocks 1 columns"]
    units_per_code: Float[np.ndarray, "blocks 1 columns"]
    quadrature: Float[np.ndarray, "blocks height columns"] | None = None

    @classmethod
    def of(
        cls, name: str, rows: int, columns: int, tiles: Sequence[TileRecord], technology: AnyTechnology
    ) -> Crossbars:
        """The converters of the tiles of one contraction; no devices yet.

        Raises:
            VerifyError: if the tiles do not fit the matrix or each other.
        """
        height = _block_height(name, rows, columns, tiles)
        copies = _copies(name, tiles)
        lanes = lane_count(name, tiles)
        blocks = lanes * copies * -(-rows // height)

        def per_block(value: float) -> Float[np.ndarray, "blocks 1 1"]:
            return np.full((blocks, 1, 1), value, dtype=np.float32)

        def per_column(value: float) -> Float[np.ndarray, "blocks 1 columns"]:
            return np.full((blocks, 1, columns), value, dtype=np.float32)

        crossbars = cls(
            name=name,
            rows=rows,
            copies=copies,
            lanes=lanes,
            input_step=np.ones((blocks, 1, height), dtype=np.float32),
            input_code_low=per_block(0),
            input_code_high=per_block(0),
            volts_per_code=per_block(0),
            microsiemens=np.zeros((blocks, height, columns), dtype=np.float32),
            microamps_per_code=per_column(1),
            output_code_low=per_column(0),
            output_code_high=per_column(0),
            units_per_code=per_column(0),
            quadrature=np.zeros((blocks, height, columns), np.float32) if technology.target == "glass" else None,
        )
        inputs: dict[int, TileRecord] = {}
        for tile in tiles:
            neighbour = inputs.setdefault(tile.row_start, tile)
            if _drive(neighbour) != _drive(tile):
                where = f"tiles {neighbour.name} and {tile.name} of node {name}"
                raise VerifyError("tiles that share their inputs are driven differently", where)
            crossbars._set_converters(tile)
        return crossbars

    def _set_converters(self, tile: TileRecord) -> None:
        """Full scale of the output converter is the current at which the partial sum reaches its range."""
        full_input, full_output, volts = tile.input_high, tile.output_high, tile.input_volts
        full_microamps = 1e6 * full_output * tile.scale_siemens * volts / full_input
        at = self.block_of(tile)
        low, high = tile.input_range.codes(tile.input_bits)
        self.input_code_low[at], self.input_code_high[at] = low, high
        self.input_step[at], self.volts_per_code[at] = full_input / high, volts / high
        if tile.input_shift:
            self.input_step[at, 0, : len(tile.input_shift)] *= np.exp2(tile.input_shift, dtype=np.float32)
        columns = at, 0, slice(tile.column_start, tile.column_stop)
        low, high = tile.output_range.codes(tile.output_bits)
        self.output_code_low[columns], self.output_code_high[columns] = low, high
        self.microamps_per_code[columns], self.units_per_code[columns] = (
            full_microamps / high,
            full_output / high / (tile.copies if tile.copy_number < tile.copies else 1),
        )

    def block_of(self, tile: TileRecord) -> int:
        """Which row block a tile is in."""
        height = self.microsiemens.shape[1]
        return int((tile.lane * self.copies + tile.copy_number) * self.split + tile.row_start // height)

    @property
    def split(self) -> int:
        """Row blocks that one vector is split into."""
        return len(self.microsiemens) // (self.lanes * self.copies)

    def place(self, tile: TileRecord, matrix: Num[np.ndarray, "rows columns"]) -> None:
        """Put in what a tile computes: its effective matrix in siemens, whole, or its transfer matrix."""
        rows, columns = tile.row_stop - tile.row_start, tile.column_stop - tile.column_start
        at, across = self.block_of(tile), slice(tile.column_start, tile.column_stop)
        self.microsiemens[at, :rows, across] = 1e6 * np.real(matrix[:rows, :columns])
        if self.quadrature is not None:
            self.quadrature[at, :rows, across] = 1e6 * np.imag(matrix[:rows, :columns])

    def added(self, values: Float[np.ndarray, "blocks 1 columns"]) -> Float[np.ndarray, "*lanes columns"]:
        """What numbers that are added behind the converters of each block come to: of every lane, if there are some."""
        by_lane: Float[np.ndarray, "lanes 1 columns"] = values.reshape(self.lanes, -1, 1, values.shape[2]).sum(axis=1)
        return by_lane if self.lanes > 1 else by_lane[0, 0]

    @property
    def oscillator_cosine(self) -> Float[np.ndarray, "1 1 1"]:
        """Of the phase of the local oscillators: none, as drawn."""
        return np.ones((1, 1, 1), np.float32)

    @property
    def oscillator_sine(self) -> Float[np.ndarray, "1 1 1"]:
        """Likewise."""
        return np.zeros((1, 1, 1), np.float32)

    def attributes(self) -> dict[str, list[int]]:
        """Attributes of the call: how x is padded and split."""
        blocks, height, _ = self.microsiemens.shape
        padding = [0, 0, 0, self.split * height - self.rows]
        if self.lanes > 1:
            return {"padding": padding, **lanes_attributes(self.lanes, self.copies, self.split, height)}
        return {
            "padding": padding,
            "blocks": [-1, self.split, height],
            "copies": [self.copies, 1, 1],
            "summed": [blocks, -1],
            "ones": [1, blocks],
        }

    def tensors(self, names: Iterable[str]) -> Iterator[onnx.TensorProto]:
        """Arrays of these names, each called "contraction/name"."""
        for name in names:
            values = getattr(self, name)
            whole = name in {"microsiemens", "quadrature"}
            yield numpy_helper.from_array(values if whole else told_once(values), f"{self.name}/{name}")


def told_once(values: Float[np.ndarray, "*n columns"]) -> Float[np.ndarray, "*n k"]:
    """Numbers that are the same in all columns as one column: ONNX Runtime is several times as fast with those."""
    same = np.array_equal(values, np.broadcast_to(values[..., :1], values.shape))
    return np.ascontiguousarray(values[..., :1]) if same else values


def _drive(tile: TileRecord) -> tuple[Range, float, int, tuple[int, ...]]:
    """What tiles beside each other have in common."""
    return tile.input_range, tile.input_volts, tile.input_bits, tile.input_shift


def _copies(name: str, tiles: Sequence[TileRecord]) -> int:
    """How many tiles share each block: copies, and a second slice.

    Raises:
        VerifyError: if that is not the same for all, or a bit, copy or slice cannot be.
    """
    copies, slices = tiles[0].copies, tiles[0].slices
    together = copies + slices - 1
    for tile in tiles:
        bits = min(tile.input_bits, tile.output_bits), max(tile.input_bits, tile.output_bits)
        same = (tile.copies, tile.slices) == (copies, slices) and slices in {1, 2}
        if not same or not 0 <= tile.copy_number < together or not 2 <= bits[0] <= bits[1] <= 24:
            raise VerifyError("its bits, copies or slices cannot be", f"tile {tile.name} of node {name}")
    return together


def _block_height(name: str, rows: int, columns: int, tiles: Sequence[TileRecord]) -> int:
    """Rows per block: every tile starts at a multiple of it and is no higher.

    Raises:
        VerifyError: if there is none, or a tile cannot be.
    """
    height = math.gcd(*(tile.row_start for tile in tiles)) or rows
    for tile in tiles:
        where = f"tile {tile.name} of node {name}"
        inside = 0 <= tile.row_start < tile.row_stop <= rows and 0 <= tile.column_start < tile.column_stop <= columns
        if not inside:
            raise VerifyError(f"the tile is not inside the matrix of {rows} x {columns}", where)
        if tile.row_stop - tile.row_start > height:
            raise VerifyError(f"its rows {tile.row_start} to {tile.row_stop} are no block of {height}", where)
        numbers = (tile.scale_siemens, tile.input_volts, tile.input_high, tile.output_high)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise VerifyError("its scale, voltage or a range is not a positive number", where)
        shifts = len(tile.input_shift) in {0, tile.row_stop - tile.row_start}
        if not shifts or any(abs(shift) > MOST_SHIFT for shift in tile.input_shift):
            raise VerifyError("the shifts of its inputs cannot be", where)
    return height
