"""What a contraction computes on a made chip: a function whose matrix and errors are inputs, and as fast as can be."""

from __future__ import annotations

from typing import Final

import onnx

from pfmc.check.functions import FOR_COPIES, LIMITS, PADDED, SUM_IN_A_ROW, Crossbars, function_of

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
_TRIMMED: Final = """
    untrimmed = Reshape (sum, shape)
    y = Add (untrimmed, units_offset)
"""


def made_matrix_vector(name: str, opset: int, crossbars: Crossbars, *, ideal_converters: bool) -> onnx.FunctionProto:
    """The function of this name; what the tiles of this contraction do not need of it is left out.

    Its inputs are x and :func:`made_input_names`, at the end ``MADE_INPUTS``: the matrix from code to code (blocks,
    height, columns), the errors of the codes (blocks, vectors, columns), and what is added behind the converters,
    (columns,) or (1,).
    """
    blocks, height, _ = crossbars.microsiemens.shape
    whole = crossbars.rows * crossbars.copies == blocks * height
    return function_of(
        name,
        opset,
        (*made_input_names(ideal_converters=ideal_converters), *MADE_INPUTS),
        ideal_converters=ideal_converters,
        padded="padded = Identity (vectors)" if whole else PADDED,
        for_copies=FOR_COPIES if crossbars.copies > 1 else "for_copies = Identity (by_block)",
        output_exact=_CODES,
        sum_in_a_row=SUM_IN_A_ROW if blocks > 1 else "sum_in_a_row = Identity (rows_of_partials)",
        result=_TRIMMED,
    )


def made_input_names(*, ideal_converters: bool) -> tuple[str, ...]:
    """Names of the function's inputs between x and ``MADE_INPUTS``: arrays of :class:`Crossbars`."""
    return ("input_step", "units_per_code", *(() if ideal_converters else LIMITS))
