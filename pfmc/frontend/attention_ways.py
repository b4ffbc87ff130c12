"""How values flow through a model: back from a product of attention to the contractions that it is fed by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx

from pfmc.frontend.building import graphs_of, kind_of
from pfmc.frontend.constants import Constants
from pfmc.ir.graph import Contraction

ALL_INPUTS: Final = ("Add", "Concat", "Div", "Max", "Mul", "ScatterElements", "ScatterND", "Sub", "TensorScatter")
FIRST_INPUT: Final = (
    *("Cast", "Expand", "Flatten", "Identity", "Neg", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    *("Pow", "Reciprocal", "ReduceMean", "Sqrt"),  # of a normalisation of queries and keys
    "RotaryEmbedding",
)
SPLITS: Final = ("Gather", "Slice", "Split")
APPENDS: Final = ("Concat", "ScatterElements", "ScatterND", "TensorScatter")
COMPARISONS: Final = ("GreaterOrEqual", "LessOrEqual")
FORBIDDEN: Final = -1e4  # what is added to a score that must not count is below


@dataclass(frozen=True)
class Way:
    """The way back from a value.

    Attributes:
        contractions: names of those that the value is made from.
        members: names of the nodes behind those.
        splits: whether only a part of what they make may be used.
        cached: whether inputs of the model are appended to.
        rotary: whether something is rotated by angles.
        scale: the product of all single numbers that it is multiplied by.
    """

    contractions: frozenset[str]
    members: frozenset[str]
    splits: bool
    cached: bool
    rotary: bool
    scale: float


class Dataflow:
    """Who makes and who reads each value of a model, whose contractions are known."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: Constants,
        shapes: Mapping[str, tuple[int | None, ...]],
        contractions: Mapping[str, Contraction],
    ) -> None:
        self.constants, self.shapes, self.contractions = constants, shapes, contractions
        self.nodes = [node for part in graphs_of(graph) for node in part.node]
        self.maker = {value: node for node in self.nodes for value in node.output if value}
        self.outputs = {value.name for value in graph.output}
        self._inputs = {value.name for value in graph.input}

    @cached_property
    def readers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """The nodes that read a value."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for value in dict.fromkeys(node.input):
                found[value].append(node)
        return found

    def dynamic(self, node: onnx.NodeProto) -> list[str]:
        """Inputs that are no constants."""
        return [name for name in node.input if name and name not in self.constants]

    def factor(self, node: onnx.NodeProto) -> float:
        """The single number that a node multiplies by, or 1."""
        if node.op_type not in ("Mul", "Div"):
            return 1.0
        for i, name in enumerate(node.input):
            if name in self.constants and np.prod(self.constants.shape(name), dtype=int) == 1:
                number = float(self.constants.values(name).reshape(()))
                return number if node.op_type == "Mul" else (1.0 / number if i == 1 and number else 1.0)
        return 1.0

    def asides(self, node: onnx.NodeProto) -> list[str]:
        """Nodes that only look at what a Where may replace: whether it is a number."""
        looks = [self.maker.get(name) for name in node.input[:1] if node.op_type == "Where"]
        return [look.name for look in looks if look is not None and look.op_type == "IsNaN"]

    def packed(self, operators: Container[str]) -> set[str]:
        """Operators that are given queries, keys and values as one."""
        return {node.name for node in self.nodes if kind_of(node) in operators and not any(node.input[1:2])}

    def way(self, value: str) -> Way:
        """The way back from a value."""
        contractions, members, kinds, appended = set[str](), set[str](), set[str](), set[str]()
        scale = 1.0
        fed = dict[str, bool]()

        def is_fed(name: str) -> bool:
            """Whether a contraction makes it, or an input of the model that is kept from call to call."""
            nonlocal scale
            if name in fed:
                return fed[name]
            fed[name] = False
            node = self.maker.get(name)
            if node is None:
                return False
            if node.name in self.contractions:
                contractions.add(node.name)
                fed[name] = True
                return True
            kinds.add(node.op_type)
            if node.op_type in ALL_INPUTS:
                follow = self.dynamic(node)
            elif node.op_type in (*FIRST_INPUT, *SPLITS):
                follow = list(node.input[:1])
            else:
                return False
            found = [is_fed(each) for each in follow]
            fed[name] = any(found)
            if fed[name]:
                members.add(node.name)
                scale *= self.factor(node)
            if node.op_type in APPENDS and any(self._is_kept(each) for each in follow):
                appended.add(name)
            return fed[name]

        is_fed(value)
        rotary = bool(kinds & {"RotaryEmbedding", "Cos", "Sin"} or {"Neg", "Concat"} <= kinds)
        splits = not kinds.isdisjoint(SPLITS)
        cached = bool(appended) or self._is_kept(value)
        return Way(frozenset(contractions), frozenset(members), splits, cached, rotary, scale)

    def _is_kept(self, value: str) -> bool:
        """Whether a value is an input of the model, perhaps rearranged."""
        while value not in self._inputs:
            node = self.maker.get(value)
            if node is None or node.op_type not in (*FIRST_INPUT, *SPLITS, "Concat"):
                return False
            value = next(iter(self.dynamic(node)), "")
        return True

    def is_causal(self, mask: str) -> bool:
        """Whether a mask leaves out what is later: ranges of positions are compared, or its numbers are a triangle."""
        waiting, seen = [mask], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.maker.get(name)
            if name in self.constants:
                if self._is_triangular(name):
                    return True
            elif node is not None and (
                node.op_type == "Trilu" or (node.op_type in COMPARISONS and len(self.dynamic(node)) == 2)
            ):
                return True
            elif node is not None and node.op_type != "Shape" and node.name not in self.contractions:
                waiting.extend(node.input)
        return False

    def _is_triangular(self, name: str) -> bool:
        """Whether by a constant each position sees all earlier and no later ones; the last query is at the last key."""
        shape = self.constants.shape(name)
        if len(shape) < 2 or not 2 <= shape[-2] <= shape[-1]:
            return False
        numbers = self.constants.values(name).reshape(-1, *shape[-2:])[0]
        boolean = self.constants.dtype(name) in ("bool", "uint8")
        allowed = numbers != 0 if boolean or numbers.min() >= 0 else numbers > FORBIDDEN
        return bool(np.array_equal(allowed, np.tri(shape[-2], shape[-1], shape[-1] - shape[-2], dtype=bool)))
