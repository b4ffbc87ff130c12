"""What a contraction computes on a made chip: a function whose matrix and errors are inputs, and as fast as can be."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from pfmc.check.functions import (
    ATTRIBUTES,
    FOR_COPIES,
    IDEAL_CONVERTER,
    IN_ORDER,
    LIMITS,
    PADDED,
    ROUND_AND_CLIP,
    SUM_IN_A_ROW,
    Crossbars,
    function_of,
)
from pfmc.check.lanes import COPIES_IN_LANES, DEALT, IN_TURN, LANES_ATTRIBUTES, TRIMMED

MADE_INPUTS: Final = ("codes_per_code", "codes_error", "units_offset")  # the last ones of the function

# Volts, conductances and amperes are one matrix, for speed; the errors are those of one current per vector,
# row block and column, from the start again where they run out.
_CODES: Final = """
    without_error = MatMul (input_code, codes_per_code)
    shape_of_codes = Shape (without_error)
    vector_count = Slice (shape_of_codes, second, third)
    shape_of_errors = Shape (codes_error)
    period = Slice (shape_of_errors, second, third)
    whole_periods = Div (vector_count, period)
    periods = Add (whole_periods, second)
    repeats = Concat <axis = 0> (second, periods, second)
    repeated = Tile (codes_error, repeats)
    error = Slice (repeated, first, vector_count, second)
    output_exact = Add (without_error, error)
"""
_CLIPPED: Final = """
    {side}_rounded = Round ({side}_exact)
    {side}_low = Constant <value_float = {low:.1f}> ()
    {side}_high = Constant <value_float = {high:.1f}> ()
    {side}_code = Clip ({side}_rounded, {side}_low, {side}_high)
"""
_RESULT: Final = "y = Reshape (sum, shape)"
_TRIMMED: Final = """
    untrimmed = Reshape (sum, shape)
    y = Add (untrimmed, units_offset)
"""


def made_matrix_vector(
    name: str, opset: int, crossbars: Crossbars, *, ideal_converters: bool, mixed: bool
) -> onnx.FunctionProto:
    """The function of this name; what the tiles of this contraction do not need of it is left out.

    Its inputs are x and :func:`made_input_names`, at the end ``MADE_INPUTS``: the matrix from code to code (blocks,
    height, columns), the errors of the codes (blocks, vectors, columns), and what is added behind the converters,
    (columns,) or (1,), in lanes (lanes, 1, columns or 1). ``mixed``: units per code are a matrix from codes to results,
    (blocks, columns, columns).
    """
    _, height, _ = crossbars.microsiemens.shape
    whole, in_lanes = crossbars.rows == crossbars.split * height, crossbars.lanes > 1
    copied, several = crossbars.copies > 1, crossbars.copies * crossbars.split > 1
    padded = "padded = Identity (vectors)" if whole else PADDED
    copies = COPIES_IN_LANES if in_lanes else FOR_COPIES
    return function_of(
        name,
        opset,
        (*made_input_names(ideal_converters=ideal_converters), *MADE_INPUTS),
        attributes=", ".join(LANES_ATTRIBUTES if in_lanes else ATTRIBUTES),
        padded=DEALT if in_lanes else padded,
        for_copies=copies if copied else "for_copies = Identity (by_block)",
        input_converter=_converter("input", crossbars, ideal_converters=ideal_converters),
        output_converter=_converter("output", crossbars, ideal_converters=ideal_converters),
        output_exact=_CODES,
        to_units="MatMul" if mixed else "Mul",
        sum_in_a_row=SUM_IN_A_ROW if several else "sum_in_a_row = Identity (rows_of_partials)",
        in_order=IN_TURN.format(trimmed=TRIMMED) if in_lanes else IN_ORDER,
        result=_RESULT if in_lanes else _TRIMMED,
    )


def _converter(side: str, crossbars: Crossbars, *, ideal_converters: bool) -> str:
    """Rounds and clips, in one step where all limits are the same."""
    if ideal_converters:
        return IDEAL_CONVERTER.format(side=side)
    low, high = (np.unique(getattr(crossbars, f"{side}_code_{end}")) for end in ("low", "high"))
    if low.size == high.size == 1:
        return _CLIPPED.format(side=side, low=low[0], high=high[0])
    return ROUND_AND_CLIP.format(side=side)


def made_input_names(*, ideal_converters: bool) -> tuple[str, ...]:
    """Names of the function's inputs between x and ``MADE_INPUTS``: arrays of :class:`Crossbars`."""
    return ("input_step", "units_per_code", *(() if ideal_converters else LIMITS))
