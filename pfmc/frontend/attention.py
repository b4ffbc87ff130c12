"""Attention in the forms that exporters write it: as operators of its own, or as products around a Softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnx
from onnx import helper

from pfmc.frontend.attention_joints import Joints
from pfmc.frontend.attention_ways import Dataflow, Way
from pfmc.frontend.building import kind_of
from pfmc.ir.attention import Attention
from pfmc.ir.graph import Contraction, Conv, Gemm

# Operators that are an attention: how they call their heads and those of keys, and where a mask and a cache would be.
OPERATORS: Final[Mapping[str, tuple[str, str, tuple[int, ...], int]]] = {
    "Attention": ("q_num_heads", "kv_num_heads", (3,), 4),
    "com.microsoft::MultiHeadAttention": ("num_heads", "num_heads", (4, 5), 6),
    "com.microsoft::GroupQueryAttention": ("num_heads", "kv_num_heads", (10,), 3),
}
PRODUCTS: Final = ("MatMul", "Einsum", "com.microsoft::FusedMatMul")
ON_THE_WAY: Final = ("Cast", "Clip", "Dropout", "Expand", "Identity", "Max", "Min", "Reshape", "Tanh")
BEHIND: Final = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose")


def recognised(flow: Dataflow) -> tuple[Attention, ...]:
    """The attentions of a model, in its order: those whose queries come from a contraction."""
    found = []
    for node in flow.nodes:
        if node.op_type == "Softmax":
            found.append(_around(flow, node))
        elif kind_of(node) in OPERATORS:
            found.append(_operator(flow, node))
    return tuple(attention for attention in found if attention is not None)


def _around(flow: Dataflow, softmax: onnx.NodeProto) -> Attention | None:
    """softmax(Q · Kᵀ) · V, in standard operators, or None: something else that has a Softmax."""
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    rank = len(flow.shapes.get(softmax.output[0], ()))
    scores, mixing = _scores(flow, softmax.input[0]), _mixing(flow, softmax.output[0])
    if axis not in (-1, rank - 1) or scores is None or mixing is None:
        return None
    product, masks, scale, between = scores
    mix, values, behind = mixing
    queries, keys = _queries_and_keys(product)
    ways = [flow.way(value) for value in (queries, keys, values)]
    for way in ways[:2]:
        scale *= way.scale
    shapes = [flow.shapes.get(value) or (None,) for value in (queries, values)]
    size = next((shape[-1] for shape in shapes if shape[-1]), None) or round(scale**-2)
    members = {product.name, mix.name, softmax.name, *between, *behind}
    found = _attention(
        flow,
        softmax.name,
        ways,
        mix.output[0],
        members,
        size=size,
        causal=any(flow.is_causal(mask) for mask in masks),
        masked=bool(masks),
    )
    if found is None:
        return None
    return Joints(flow, found, queries, keys, values, mix.output[0]).around(product, between, mix, behind)


def _queries_and_keys(product: onnx.NodeProto) -> tuple[str, str]:
    """The operands of scores, whose last axis are the keys."""
    first, second = product.input[:2]
    if product.op_type == "Einsum":
        equation = next(a.s for a in product.attribute if a.name == "equation").decode().replace(" ", "")
        terms, _, result = equation.partition("->")
        if result and result[-1] in terms.partition(",")[0]:
            return second, first
    return first, second


def _scores(flow: Dataflow, value: str) -> tuple[onnx.NodeProto, tuple[str, ...], float, tuple[str, ...]] | None:
    """The product of queries and keys that a value is, what masks it, what scales it, and the nodes between."""
    node = flow.maker.get(value)
    if node is None or node.name in flow.contractions:
        return None
    if kind_of(node) in PRODUCTS:
        alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
        return (node, (), alpha, ()) if len(flow.dynamic(node)) == 2 else None
    if node.op_type in ON_THE_WAY:
        ways = node.input[:1]
    elif node.op_type in ("Add", "Sub", "Mul", "Div", "Where"):
        ways = [name for name in flow.dynamic(node) if node.op_type != "Where" or name != node.input[0]]
    else:
        return None
    for name in ways:
        found = _scores(flow, name)
        if found is not None:
            product, masks, scale, between = found
            added = () if node.op_type in (*ON_THE_WAY, "Mul", "Div") else (v for v in node.input if v != name)
            return product, (*masks, *added), scale * flow.factor(node), (*between, node.name)
    return None


def _mixing(flow: Dataflow, value: str) -> tuple[onnx.NodeProto, str, tuple[str, ...]] | None:
    """The product of what the Softmax makes and the values, these, and the nodes between."""
    for node in flow.readers.get(value, ()):
        if kind_of(node) in PRODUCTS and node.input[0] == value and len(flow.dynamic(node)) == 2:
            return node, node.input[1], ()
        if _is_transpose(node):
            for product in flow.readers.get(node.output[0], ()):
                values, weights = (*product.input, "")[:2]
                if product.op_type == "MatMul" and weights == node.output[0] and values not in flow.constants:
                    return product, values, (node.name,)
        if node.op_type in (*ON_THE_WAY, "IsNaN", "Mul", "Where"):
            found = _mixing(flow, node.output[0])
            if found is not None:
                return found[0], found[1], (node.name, *found[2], *flow.asides(node))
    return None


def _is_transpose(node: onnx.NodeProto) -> bool:
    """Whether the last two axes change places, and nothing else."""
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    last = len(order)
    return node.op_type == "Transpose" and order == [*range(last - 2), last - 1, last - 2]


def _operator(flow: Dataflow, node: onnx.NodeProto) -> Attention | None:
    """An operator that is an attention; without keys of its own, its queries are all three, side by side."""
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    query_heads, key_heads, masks, past = OPERATORS[kind_of(node)]
    given = [node.input[i] if i < len(node.input) and node.input[i] else node.input[0] for i in range(3)]
    shape = [flow.shapes.get(value) or () for value in given[:2]]
    four = [found[1] if len(found) == 4 else None for found in shape]
    heads = attributes.get(query_heads) or four[0]
    if heads is None:
        return None
    is_grouped = node.op_type == "GroupQueryAttention"
    found = _attention(
        flow,
        node.name,
        [flow.way(value) for value in given],
        node.output[0],
        {node.name},
        heads=heads,
        key_heads=attributes.get(key_heads) or four[1] or heads,
        causal=bool(is_grouped or attributes.get("is_causal") or attributes.get("unidirectional")),
        masked=any(i < len(node.input) and node.input[i] for i in masks),
        cached=past < len(node.input) and bool(node.input[past]),
        rotary=bool(attributes.get("do_rotary")),
    )
    return None if found is None else Joints(flow, found, given[0], given[1], given[2], node.output[0]).operator(node)


def _attention(
    flow: Dataflow,
    name: str,
    ways: Sequence[Way],
    mixed: str,
    members: set[str],
    *,
    size: int = 0,
    heads: int = 0,
    key_heads: int = 0,
    causal: bool,
    masked: bool,
    cached: bool = False,
    rotary: bool = False,
) -> Attention | None:
    """Put together what was found; None if it does not fit together."""
    query, key, value = ways
    if len(query.contractions) != 1 or not all(way.contractions or way.cached for way in (key, value)):
        return None
    q, k, v = (next(iter(sorted(way.contractions)), "") for way in ways)
    if name not in members or (q == k and not (query.splits and key.splits) and name not in flow.packed(OPERATORS)):
        return None
    result, behind = _result(flow, mixed)
    output = next((node.name for node in flow.readers.get(result, ()) if node.name in flow.contractions), "")
    columns = {each: _columns(flow.contractions[each]) for each in (q, k, v) if each}
    parts = [q, k, v].count(q)
    if not size:
        size = columns[q] // (heads if parts == 1 else heads + (parts - 1) * key_heads)
    if not heads and parts == 1:
        heads = columns[q] // size
    elif not heads:
        heads = _rows(flow.contractions[output]) // size if output else columns[q] // (parts * size)
    if not key_heads:
        key_heads = heads
        if parts > 1:
            key_heads = (columns[q] // size - heads) // (parts - 1)
        elif k:
            key_heads = columns[k] // size // (2 if k == v else 1)
    if not (size > 0 and heads > 0 and key_heads > 0 and heads % key_heads == 0):
        return None
    return Attention(
        name,
        heads,
        key_heads,
        size,
        causal,
        masked,
        cached or key.cached or value.cached,
        rotary or query.rotary,
        q,
        k,
        v,
        output,
        frozenset(members.union(behind, *(way.members for way in ways))),
        result,
    )


def _result(flow: Dataflow, value: str) -> tuple[str, list[str]]:
    """What is mixed, as what reads it does, and the nodes that only rearrange it."""
    between: list[str] = []
    while True:
        readers = [node for node in flow.readers.get(value, ()) if node.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type not in BEHIND or value in flow.outputs:
            return value, between
        between.append(readers[0].name)
        value = readers[0].output[0]


def _columns(contraction: Contraction) -> int:
    first = isinstance(contraction, Conv) or (isinstance(contraction, Gemm) and contraction.transposed)
    return contraction.weight.shape[0 if first else -1]


def _rows(contraction: Contraction) -> int:
    return contraction.weight.size // _columns(contraction)
