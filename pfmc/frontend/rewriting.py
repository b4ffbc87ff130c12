"""Operators that are a contraction and something around it, as the standard operators that they consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import onnx

from pfmc.frontend import contractions, fused_attention, quantised
from pfmc.frontend.building import Kept, Names, Place, Shapes, graphs_of, kind_of
from pfmc.frontend.constants import Constants

Rule = Callable[[Place], None]
RULES: Final[Mapping[str, Rule]] = {
    **contractions.RULES,
    **fused_attention.RULES,
    **quantised.RULES,
}


@dataclass(frozen=True)
class Rewritten:
    """What rewriting has to say.

    Attributes:
        reasons: why a node was left as it is, by its name.
        helpers: names of nodes and initialisers that only rearrange, though their operator could multiply.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)


def rewrite(
    graph: onnx.GraphProto, constants: Constants, shapes: Shapes, more: Mapping[str, Rule] | None = None
) -> Rewritten:
    """Rewrite what can be, in place, in the graphs inside too: their names are unique, and they have no constants.

    The contraction has the name of the node that it was; names of what stands around it begin with that name. Weights
    stay as they are stored: what is made of them is learnt by ``constants``.

    Args:
        graph: of opset 13 at least.
        shapes: of values; those of new ones are added.
        more: rules for other operators.
    """
    names, result, rules = Names(graph), Rewritten(), {**RULES, **(more or {})}

    def expanded(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        constants.learn(node)
        rule = rules.get(kind_of(node))
        if rule is None or node.name in result.helpers:
            return [node]
        place = Place.of(node, names, constants, shapes)
        try:
            rule(place)
        except Kept as kept:
            result.reasons[node.name] = str(kept)
            return [node]
        if not place.nodes:
            return [node]
        place.nodes[-1].output[0] = node.output[0]
        graph.initializer.extend(place.initializers)
        result.helpers.update(place.helpers)
        return [made for part in place.nodes for made in expanded(part)]

    for part in graphs_of(graph):
        nodes = [made for node in part.node for made in expanded(node)]
        del part.node[:]
        part.node.extend(nodes)
    return result
