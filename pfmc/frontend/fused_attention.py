"""Rules for operators that are an attention with its matrices inside: those become a contraction of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from pfmc.frontend.building import Kept, Place
from pfmc.frontend.quantised import dequantised, weight_is_known

MASKED: Final = -10000.0  # ONNX Runtime's default for what is added to a score that must not count


def _attention(place: Place) -> None:
    if place.input(1) in place.constants and place.input(0) not in place.constants:
        _projected(place, *(place.input(i) for i in range(6)))


def _quantised_attention(place: Place) -> None:
    if place.input(1) in place.constants and place.input(0) not in place.constants:
        x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (place.input(i) for i in range(9))
        x, w = dequantised(place, x, x_scale, x_zero, -1), dequantised(place, w, w_scale, w_zero, -1)
        weight_is_known(place, w)
        _projected(place, x, w, bias, mask, past, "")


def _projected(place: Place, x: str, w: str, bias: str, mask: str, past: str, added: str) -> None:
    """[Wq | Wk | Wv] is one MatMul, the rest is a MultiHeadAttention.

    Raises:
        Kept: if it rotates, writes in place, or its mask is in another form.
    """
    if any(place.attributes.get(name, 0) for name in ("do_rotary", "past_present_share_buffer")):
        raise Kept("it rotates queries and keys, or writes its cache in place")
    masks = _added_to_scores(place, x, place.constants.dtype(w), mask, added)
    y = place.add("MatMul", [x, w], name=place.name)
    y = place.add("Add", [y, bias]) if bias else y
    sizes = place.attributes.get("qkv_hidden_sizes") or [place.constants.shape(w)[1] // 3] * 3
    ends, last = np.cumsum(sizes), place.constant("last", [-1])
    parts = [
        place.add("Slice", [y, place.constant("start", [end - size]), place.constant("end", [end]), last])
        for size, end in zip(sizes, ends, strict=True)
    ]
    halves = [place.constant("half", np.array(i, np.int64)) for i in range(2)] if past else []
    earlier = [place.add("Gather", [past, half], axis=0) for half in halves]
    kept = {key: place.attributes[key] for key in ("num_heads", "scale", "unidirectional") if key in place.attributes}
    mixed = place.add("MultiHeadAttention", [*parts, "", "", masks, *earlier], domain="com.microsoft", **kept)
    if len(place.node.output) > 1 and place.node.output[1]:
        present = [place.names.new(f"{place.name}/present") for _ in range(2)]
        place.nodes[-1].output.extend(present)
        first = place.constant("first", [0])
        place.add("Concat", [place.add("Unsqueeze", [half, first]) for half in present], axis=0)
        place.nodes[-1].output[0] = place.node.output[1]
    place.add("Identity", [mixed])


def _added_to_scores(place: Place, x: str, dtype: str, mask: str, added: str) -> str:
    """A mask of zeros and ones as what is added to the scores, together with what is added anyway; empty: nothing.

    Raises:
        Kept: if it is a mask of lengths, or of a size that is not known.
    """
    if not mask:
        return added
    shape = place.shape(mask)
    if shape is None or len(shape) not in (2, 3):
        raise Kept("its mask is no matrix")
    axes = place.constant("axes", [1, 2] if len(shape) == 2 else [1])
    numbers = place.add("Cast", [place.add("Unsqueeze", [mask, axes])], to=1)
    zero = place.constant("zero", np.array(0, np.float32))
    values = (
        place.constant("kept", np.array(0, dtype)),
        place.constant("masked", np.array(place.attributes.get("mask_filter_value", MASKED), dtype)),
    )
    scores = place.add("Where", [place.add("Greater", [numbers, zero]), *values])
    second = place.constant("second", [1]), place.constant("third", [2])
    queries = place.add("Slice", [place.add("Shape", [x]), *second])
    one = place.constant("one", [1])
    scores = place.add("Expand", [scores, place.add("Concat", [one, one, queries, one], axis=0)])
    return place.add("Add", [scores, added]) if added else scores


RULES: Final[Mapping[str, Callable[[Place], None]]] = {
    "com.microsoft::Attention": _attention,
    "com.microsoft::QAttention": _quantised_attention,
}
