"""absorb: two matrices of an attention, its heads between them, become one where that is smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import PassError
from pfmc.ir.attention import Attention
from pfmc.ir.derived import Dense
from pfmc.ir.graph import Absorbed, Affine, Graph, MatrixVector, Node
from pfmc.passmanager import Context, Pass
from pfmc_passes.blocks import blocks, cost, tile_size
from pfmc_passes.collapse import BEHIND


@dataclass(frozen=True)
class Absorb(Pass[Graph, Graph]):
    """Multiply out W_Q · W_Kᵀ and W_V · W_O of an attention, head by head, where that has fewer weights and tiles.

    Scores are (x W_Q + b_Q) · (x W_K + b_K)ᵀ = (x W_Q W_Kᵀ + b_Q W_Kᵀ) · xᵀ, and what is the same for all keys, which
    the softmax does not see. Its weights sum to one, so the output is A (x W_V W_O) + b_V W_O + b_O, summed over heads.
    (The weights that attention really has; N. Elhage et al., A Mathematical Framework for Transformer Circuits, 2021.)

    Only of heads at least as wide as x and the output, such as a single one: the host's values keep their shapes then.
    It gives every head x for a key, and adds the heads up where the output's matrix stood. Queries, keys and values are
    of the same x, and no matrix is used elsewhere.
    """

    name: ClassVar[str] = "absorb"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "fold"

    def run(self, source: Graph, context: Context) -> Graph:
        """The product stands where the matrix of queries or of values stood; it bears the names of both."""
        sizes = tile_size(context)
        used = Counter(node.matrix.identity for node in source.matrices())
        projections = {node.name: node for node in source.matrices() if used[node.matrix.identity] == 1}
        stands, names, left = dict[str, Node](), dict[str, str](), set[str]()
        for attention in source.attentions:
            for first, second, adds in _pairs(attention, source.nodes):
                if first not in projections or second not in projections:
                    continue
                pair = projections[first], projections[second]
                product = _product(attention, *pair, projections.get(attention.query), adds=adds)
                if product is not None and _is_smaller(product, pair, sizes):
                    stands |= {first: product, second: _left(attention, product, pair[1], adds=adds)}
                    names |= {first: product.name, second: product.name}
                    left.add(second)
        nodes = tuple(stands.get(node.name, node) for node in source.nodes)
        attentions = tuple(
            replace(attention.renamed(names), members=attention.members.union({*attention.projections.values()} & left))
            for attention in source.attentions
        )
        return replace(source, nodes=nodes, attentions=attentions)

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction is still there."""
        before, after = ({o.name for n in graph.matrices() for o in n.origins} for graph in (source, result))
        if before != after:
            raise PassError("a contraction was lost", f"pass {self.name}")


def _pairs(attention: Attention, nodes: Collection[Node]) -> list[tuple[str, str, bool]]:
    """Names of the contractions that could be one, and whether heads are added up behind them."""
    found = {node.name: node for node in nodes}
    pairs = []
    if attention.scores is not None and _is_clear(attention.scores, found, scaled=True):
        pairs.append((attention.query, attention.key, False))
    if attention.mix is not None and _is_clear(attention.mix, found, scaled=False):
        pairs.append((attention.value, attention.output, True))
    return pairs


def _is_clear(constants: Collection[str], nodes: Mapping[str, Node], *, scaled: bool) -> bool:
    """Whether constants that were added or multiplied are in the matrices now, but for one number where that may be."""
    left = [nodes[name] for name in constants if name in nodes]
    gains = [node.gain for node in left if isinstance(node, Affine) and node.offset is None and node.gain is not None]
    return not left or (scaled and len(gains) == len(left) and all(gain.size == 1 for gain in gains))


def _is_smaller(product: MatrixVector, pair: tuple[MatrixVector, MatrixVector], sizes: tuple[int, int]) -> bool:
    tiles, weights = cost(blocks(product.matrix, *sizes))
    before = [cost(blocks(each.matrix, *sizes)) for each in pair]
    return tiles <= sum(each[0] for each in before) and weights < sum(each[1] for each in before)


def _product(
    attention: Attention, first: MatrixVector, second: MatrixVector, query: MatrixVector | None, *, adds: bool
) -> MatrixVector | None:
    """Both as one; None: they do not fit together."""
    heads, size = attention.heads, attention.head_size
    width = second.matrix.columns if adds else second.matrix.rows
    inner = first.matrix.columns, second.matrix.rows if adds else second.matrix.columns
    same = query is not None and first.input == query.input and (adds or second.input == query.input)
    alike = first.weight.dtype == second.weight.dtype and first.body == second.body == 0
    if not (same and alike and _sees_vectors(second) and inner == (heads * size,) * 2 and width <= size):
        return None
    left, right = (each.matrix.block(range(each.matrix.rows), range(each.matrix.columns)) for each in (first, second))
    bias = np.zeros(heads * size) if first.bias is None else first.bias
    rows = np.vstack([left, bias])
    parts = []
    for head in range(heads):
        entries = slice(head * size, (head + 1) * size)
        other = right[entries] if adds else right[:, entries].T
        parts.append(np.pad(rows[:, entries] @ other, [(0, 0), (0, size - width)]))
    made = np.hstack(parts)
    shift = made[-1]
    if adds and second.bias is not None:
        shift[:width] += second.bias  # of the first head: they are added up
    how = f"{first.matrix} {'*' if adds else '* transposed'} {second.matrix}"
    return replace(
        first,
        name=f"{first.name}{BEHIND}{second.name}",
        bias=shift if shift.any() else None,
        matrix=Dense(made[:-1].copy(), how),
        made_of=(*first.origins, *second.origins),
        notes=(
            *first.notes,
            *second.notes,
            "output's matrix in the values'" if adds else "keys' matrix in the queries'",
        ),
    )


def _sees_vectors(node: MatrixVector) -> bool:
    """Whether it sees each vector once, by itself."""
    if node.windows is None:
        return True
    one_by_one = {*node.windows.kernel, *node.windows.strides} == {1}
    return one_by_one and not any((*node.windows.pads_begin, *node.windows.pads_end))


def _left(attention: Attention, product: MatrixVector, node: MatrixVector, *, adds: bool) -> Absorbed:
    """What stays of the one that is absorbed."""
    return Absorbed(
        name=node.name,
        input=node.input,
        output=node.output,
        replaces=node.replaces,
        into=product.output,
        heads=attention.heads,
        size=attention.head_size,
        width=node.matrix.columns if adds else node.matrix.rows,
        adds=adds,
        positions=0 if node.windows is None else len(node.windows.kernel),
        dtype=node.weight.dtype,
    )
