"""Which matrices of an attention could be one: those between which heads are only told apart, scaled and mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import onnx
from onnx import helper

from pfmc.frontend.attention_ways import FORBIDDEN, Dataflow
from pfmc.frontend.building import kind_of
from pfmc.ir.attention import Attention
from pfmc.ir.graph import Conv

RESHAPES: Final = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
AS_IT_IS: Final = ("Cast", "Dropout", "Identity")
AFFINE: Final = ("Add", "Div", "Mul", "Sub")
SCORING: Final = (*AS_IT_IS, "Add", "Sub")  # what is the same for all keys drops out behind them
MIXING: Final = (*AS_IT_IS, "Transpose")  # rows sum to one behind them too
EXTRAS: Final = ("softcap", "do_rotary")  # of operators that are an attention: what is not linear

# What an axis of a value counts: entries of all heads, heads, entries of a head, heads of all samples; "": something
# else. The entries of a single head are all.
ALL, HEAD, ENTRY, OUTER = "all", "head", "entry", "outer"
Axes = tuple[str, ...]
FORMS: Final[Mapping[Axes, tuple[Axes, ...]]] = {  # what those next to each other may become in another shape
    (ALL,): ((ALL,), (HEAD, ENTRY)),
    (HEAD, ENTRY): ((ALL,), (HEAD, ENTRY)),
    (HEAD,): ((HEAD,), (OUTER,)),
    (OUTER,): ((HEAD,), (OUTER,)),
    (ENTRY,): ((ENTRY,),),
}


@dataclass(frozen=True)
class Joints:
    """The way of heads through an attention.

    Attributes:
        attention: without what is found out here.
        queries, keys, values: as the products of attention read them.
        mixed: what is mixed.
    """

    flow: Dataflow
    attention: Attention
    queries: str
    keys: str
    values: str
    mixed: str

    def around(
        self, product: onnx.NodeProto, scoring: Sequence[str], mix: onnx.NodeProto, mixing: Sequence[str]
    ) -> Attention:
        """Of products around a Softmax: by name the nodes between the scores and it, and between it and the mix."""
        if not self._whole:
            return self.attention
        query, key = (self._in_front(each, scaled=True) for each in (self.queries, self.keys))
        value = self._in_front(self.values, scaled=False)
        nodes = {node.name: node for node in self.flow.nodes}
        scores = mixed = None
        if query and key:
            queries_first = product.input[0] == self.queries
            scores = _scored(product, *((query[0], key[0]) if queries_first else (key[0], query[0])))
        place = list(mix.input).index(self.values)
        shape = self.flow.shapes.get(mix.input[1 - place], ())
        weights = ("",) * len(shape) if self.attention.heads == 1 else scores
        if value and weights and len(weights) == len(shape) and all(self._mixes_with(nodes[name]) for name in mixing):
            mixed = _mixed(mix, weights, value[0], place)
        linear = query and key and scores and all(self._scores_with(nodes[name]) for name in scoring)
        return replace(
            self.attention,
            scores=frozenset((*query[1], *key[1])) if query and key and linear else None,
            mix=frozenset(value[1]) if value and mixed and self._is_whole_behind(mixed) else None,
        )

    def operator(self, node: onnx.NodeProto) -> Attention:
        """Of an operator that is an attention."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bias = len(node.input) > 3 and node.input[3] and kind_of(node) != "Attention"
        if not self._whole or bias or any(node.output[1:]) or any(attributes.get(name) for name in EXTRAS):
            return self.attention
        ways = [self._in_front(each, scaled=True) for each in (self.queries, self.keys)]
        ways.append(self._in_front(self.values, scaled=False))
        query, key, value = (way if way and self._fits_operator(way[0]) else None for way in ways)
        mixes = value and not self.attention.masked and self._is_whole_behind(value[0])
        return replace(
            self.attention,
            scores=frozenset((*query[1], *key[1])) if query and key else None,
            mix=frozenset(value[1]) if value and mixes else None,
        )

    @property
    def _whole(self) -> bool:
        """Whether each projection makes one thing, as many heads of it as there are queries, and nothing is kept."""
        found = self.attention
        names = found.query, found.key, found.value, found.output
        plain = not (found.cached or found.rotary) and found.heads == found.key_heads
        return plain and all(names) and len(set(names)) == len(names)

    def _scores_with(self, node: onnx.NodeProto) -> bool:
        """Whether what is added to all scores of a query changes no weight behind a node: that masks, or scales."""
        if node.op_type == "Where":
            others = [name for name in node.input[1:] if name in self.flow.constants]
            return bool(others) and bool((self.flow.constants.values(others[0]) <= FORBIDDEN).all())
        return node.op_type in SCORING or self._scaled(node) is not None

    def _scaled(self, node: onnx.NodeProto) -> str | None:
        """What a node multiplies by one number, if it does that."""
        if node.op_type not in ("Mul", "Div"):
            return None
        first, second = node.input
        if self._is_single(second):
            return str(first)
        return str(second) if self._is_single(first) and node.op_type == "Mul" else None

    def _is_single(self, value: str) -> bool:
        constants = self.flow.constants
        shape = constants.shape(value) if value in constants else self.flow.shapes.get(value)
        return shape is not None and all(extent == 1 for extent in shape)

    def _mixes_with(self, node: onnx.NodeProto) -> bool:
        """Whether weights of all keys still sum to one behind a node; of no key, they are no numbers."""
        if node.op_type == "IsNaN" or self.flow.asides(node):
            return not self.attention.masked
        return node.op_type in MIXING

    def _fits_operator(self, axes: Axes) -> bool:
        """Whether an attention of its own reads that as heads: N × T × all, or N × heads × T × entries."""
        one = self.attention.heads == 1
        wanted = [("", "", ALL), ("", HEAD, "", ENTRY)] if not one else [("", "", ENTRY), ("", "", "", ENTRY)]
        return axes in wanted

    def _in_front(self, value: str, *, scaled: bool) -> tuple[Axes, list[str]] | None:
        """What the axes of a value are that a projection makes, and the nodes between that add or multiply constants.

        None: something else is done to it, or it is read elsewhere.

        Args:
            scaled: whether it may be multiplied by a number that is no constant.
        """
        nodes: list[onnx.NodeProto] = []
        affine: list[str] = []
        while True:
            node = self.flow.maker.get(value)
            if node is None or value in self.flow.outputs or len(self._readers(value)) != 1:
                return None
            if node.name in self.flow.contractions:
                break
            nodes.insert(0, node)
            value = node.input[0]
            if node.op_type in AFFINE:
                dynamic = self.flow.dynamic(node)
                if len(dynamic) == 1:
                    value = dynamic[0]
                    affine.append(node.name)
                else:
                    value = self._scaled(node) or ""
                    if not (value and scaled):
                        return None
        rank = len(self.flow.shapes.get(value, ()))
        if not rank:
            return None
        at = 1 if isinstance(self.flow.contractions[node.name], Conv) else rank - 1
        label = ENTRY if self.attention.heads == 1 else ALL
        axes = self._through(nodes, tuple(label if i == at else "" for i in range(rank)), value)
        return None if axes is None else (axes, affine)

    def _is_whole_behind(self, axes: Axes) -> bool:
        """Whether the projection behind what is mixed reads all of it, and nothing else does."""
        value, nodes = self.mixed, list[onnx.NodeProto]()
        while value != self.attention.result:
            (node,) = self._readers(value)  # nothing else stands between
            nodes.append(node)
            value = node.output[0]
        output = self.flow.contractions[self.attention.output]
        found = self._through(nodes, axes, self.mixed)
        if found is None or value in self.flow.outputs or [node.name for node in self._readers(value)] != [output.name]:
            return False
        label = ENTRY if self.attention.heads == 1 else ALL
        return label in found and found.index(label) == (1 if isinstance(output, Conv) else len(found) - 1)

    def _readers(self, value: str) -> list[onnx.NodeProto]:
        return [node for node in self.flow.readers.get(value, ()) if node.op_type != "Shape"]

    def _through(self, nodes: Sequence[onnx.NodeProto], axes: Axes, value: str) -> Axes | None:
        """What the axes of a value are behind nodes; None: they cannot be told apart any more."""
        found: Axes | None = axes
        for node in nodes:
            before, after = (self.flow.shapes.get(name) for name in (value, node.output[0]))
            value = node.output[0]
            if found is None or before is None or after is None:
                return None
            if node.op_type == "Transpose":
                order = next((list(a.ints) for a in node.attribute if a.name == "perm"), range(len(found))[::-1])
                found = tuple(found[i] for i in order)
            elif node.op_type in (*AS_IT_IS, *AFFINE):
                found = found if len(after) == len(found) else None
            elif node.op_type in RESHAPES:
                found = self._reshaped(found, before, after, self._kept(node))
            else:
                return None
        return found

    def _kept(self, node: onnx.NodeProto) -> list[int]:
        """Axes that a Reshape says to leave as they are."""
        if node.op_type != "Reshape" or node.input[1] not in self.flow.constants:
            return []
        if any(a.name == "allowzero" and a.i for a in node.attribute):
            return []
        return [i for i, extent in enumerate(self.flow.constants.values(node.input[1])) if extent == 0]

    def _reshaped(
        self, axes: Axes, before: Sequence[int | None], after: Sequence[int | None], kept: Sequence[int]
    ) -> Axes | None:
        """What the axes of another shape are: those of all heads may be taken apart or together."""
        heads, size = self.attention.heads, self.attention.head_size
        extents = {ALL: heads * size, HEAD: heads, ENTRY: size}
        found = [""] * len(after)
        i = 0
        while i < len(axes):
            stop = i + (2 if axes[i : i + 2] == (HEAD, ENTRY) else 1)
            if axes[i]:
                places = (
                    (start, form)
                    for form in FORMS[axes[i:stop]]
                    for start in range(len(after) - len(form) + 1)
                    if all(extents.get(label, after[j]) == after[j] for j, label in enumerate(form, start))
                    and _fits(axes[i:stop], form, (i, start))
                    and _aligned((i, stop), before, (start, start + len(form)), after, kept, OUTER in (axes[i], *form))
                )
                start, form = next(places, (-1, ()))
                if start < 0:
                    return None
                found[start : start + len(form)] = form
            i = stop
        return tuple(found)


def _fits(run: Axes, form: Axes, starts: tuple[int, int]) -> bool:
    """Whether heads of all samples come first, and heads by themselves behind the samples, if they were or are one."""
    if OUTER not in (*run, *form):
        return True
    return all(start == (0 if OUTER in labels else 1) for labels, start in zip((run, form), starts, strict=True))


def _aligned(
    here: tuple[int, int],
    before: Sequence[int | None],
    there: tuple[int, int],
    after: Sequence[int | None],
    kept: Sequence[int],
    outer: bool,
) -> bool:
    """Whether some axes of a shape are those of another one, row-major: what stands in front is the same, or behind."""
    rest, other = before[here[1] :], after[there[1] :]
    if None not in (*rest, *other) and math.prod(e or 0 for e in rest) == math.prod(e or 0 for e in other):
        return True
    in_front = (i in kept or (before[i] is not None and before[i] == after[i]) for i in range(here[0]))
    return not outer and here[0] == there[0] and all(in_front)


def _letters(node: onnx.NodeProto, first: int, second: int) -> tuple[str, str, str] | None:
    """A product of values of so many axes, as an Einsum writes it; None: another one."""
    if node.op_type == "MatMul" and min(first, second) >= 2:
        outer = "ABCDEFGH"[: max(first, second) - 2]
        return outer[len(outer) - first + 2 :] + "ij", outer[len(outer) - second + 2 :] + "jk", outer + "ik"
    if node.op_type == "Einsum":
        equation = next(a.s for a in node.attribute if a.name == "equation").decode().replace(" ", "")
        terms, _, result = equation.partition("->")
        parts = terms.split(",")
        if result and "." not in equation and [len(part) for part in parts] == [first, second]:
            return parts[0], parts[1], result
    return None


def _scored(product: onnx.NodeProto, first: Axes, second: Axes) -> Axes | None:
    """The axes of scores; None: they are not products of queries with keys, head by head."""
    letters = _letters(product, len(first), len(second))
    if letters is None:
        return None
    named = [dict(zip(axes, term, strict=True)) for axes, term in zip((first, second), letters[:2], strict=True)]
    result = letters[2]
    if any(ENTRY not in each for each in named) or named[0][ENTRY] != named[1][ENTRY] or named[0][ENTRY] in result:
        return None
    heads = [each.get(HEAD) for each in named]
    if heads[0] != heads[1] or (heads[0] is not None and heads[0] not in result):
        return None
    return tuple(HEAD if letter == heads[0] else "" for letter in result)


def _mixed(mix: onnx.NodeProto, scores: Axes, value: Axes, place: int) -> Axes | None:
    """The axes of what is mixed of values, which are the mix's input at ``place``; None: heads are mixed too."""
    ranks = len(scores), len(value)
    letters = _letters(mix, *(ranks if place else ranks[::-1]))
    if letters is None:
        return None
    values, weights, result = letters[place], letters[1 - place], letters[2]
    named = dict(zip(value, values, strict=True))
    keys = weights[-1 if place else -2]
    if ENTRY not in named or named[ENTRY] in weights or named[ENTRY] not in result or keys in result:
        return None
    if HEAD in named and (
        HEAD not in scores or weights[scores.index(HEAD)] != named[HEAD] or named[HEAD] not in result
    ):
        return None
    return tuple(next((label for label, own in named.items() if label and own == letter), "") for letter in result)
