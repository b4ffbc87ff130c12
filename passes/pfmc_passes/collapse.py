"""collapse: contractions one behind the other, nothing between them, become one where that is smaller."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pfmc.errors import PassError
from pfmc.ir.derived import Dense
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.ir.weights import Matrix
from pfmc.passmanager import Context, Pass
from pfmc_passes.blocks import blocks, tile_size

BEHIND = "*"  # between the names of what is multiplied out


@dataclass(frozen=True)
class Collapse(Pass[Graph, Graph]):
    """Compute (x · A + a) · B + b as x · (A · B) + (a · B + b), in float64, where A · B has no more weights nor tiles.

    Only where nobody else reads what lies between, and neither matrix is used elsewhere, whose tiles would stay. A
    convolution of single positions may stand behind another convolution. Factors of a small rank stay apart. Of a
    longer chain, those neighbours are multiplied out that leave the fewest weights.
    """

    name: ClassVar[str] = "collapse"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "fold"

    def run(self, source: Graph, context: Context) -> Graph:
        """The product stands where the last of its factors stood; it bears their names."""
        sizes = tile_size(context)
        products = [
            _product(factors) for chain in _chains(source) for factors in _smallest(chain, *sizes) if len(factors) > 1
        ]
        last = {product.made_of[-1].name: product for product in products}
        names = {factor.name: product.name for product in products for factor in product.made_of}
        nodes = tuple(last.get(node.name, node) for node in source.nodes if node.name in last or node.name not in names)
        attentions = tuple(attention.renamed(names) for attention in source.attentions)
        return replace(source, nodes=nodes, attentions=attentions)

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction is still there."""
        before, after = ({o.name for n in graph.matrices() for o in n.origins} for graph in (source, result))
        if before != after:
            raise PassError("a contraction was lost", f"pass {self.name}")


def _chains(graph: Graph) -> Iterator[list[MatrixVector]]:
    """Contractions that could be one, as many as there are behind each other."""
    consumers = graph.consumers()
    used = Counter(node.matrix.identity for node in graph.matrices())
    waiting = {node.output: node for node in graph.matrices() if used[node.matrix.identity] == 1}
    behind: dict[str, MatrixVector] = {}
    for node in waiting.values():
        before = waiting.get(node.input)
        alone = consumers[node.input] == [node] and node.input not in graph.outputs
        if before is not None and alone and _joins(before, node):
            behind[before.name] = node
    later = {node.name for node in behind.values()}
    for node in waiting.values():
        if node.name in behind and node.name not in later:
            chain = [node]
            while chain[-1].name in behind:
                chain.append(behind[chain[-1].name])
            yield chain


def _joins(first: MatrixVector, second: MatrixVector) -> bool:
    """Whether the second sees, one by one, the vectors that the first makes."""
    one_form = isinstance(first.matrix, Matrix) and isinstance(second.matrix, Matrix)
    if not one_form or (first.body, first.weight.dtype) != (second.body, second.weight.dtype):
        return False
    if first.windows is None or second.windows is None:
        return first.windows is second.windows
    one_by_one = {*second.windows.kernel, *second.windows.strides} == {1}
    return one_by_one and not any((*second.windows.pads_begin, *second.windows.pads_end))


def _smallest(chain: Sequence[MatrixVector], rows: int, columns: int) -> list[Sequence[MatrixVector]]:
    """The chain cut where the products of its pieces have the fewest weights in all, in as few pieces as that allows.

    A product of several must not need more tiles, of so many rows and columns, than its factors.
    """
    tiles = [sum(1 for _ in blocks(node.matrix, rows, columns)) for node in chain]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # weights, pieces, where the last piece begins
    for stop in range(1, len(chain) + 1):
        found = []
        for start in range(stop):
            height, width = chain[start].matrix.rows, chain[stop - 1].matrix.columns
            several = stop - start > 1
            if several and math.ceil(height / rows) * math.ceil(width / columns) > sum(tiles[start:stop]):
                continue
            weights = height * width if several else chain[start].weight.size
            found.append((best[start][0] + weights, best[start][1] + 1, start))
        best.append(min(found))
    pieces: list[Sequence[MatrixVector]] = []
    stop = len(chain)
    while stop:
        start = best[stop][2]
        pieces.append(chain[start:stop])
        stop = start
    return pieces


def _product(factors: Sequence[MatrixVector]) -> MatrixVector:
    matrices = [factor.matrix.block(range(factor.matrix.rows), range(factor.matrix.columns)) for factor in factors]
    how = " * ".join(str(factor.matrix) for factor in factors)
    return replace(
        factors[-1],
        name=BEHIND.join(factor.name for factor in factors),
        input=factors[0].input,
        bias=_bias(factors, matrices),
        replaces=tuple(name for factor in factors for name in factor.replaces),
        matrix=Dense(reduce(np.matmul, matrices), how),
        windows=factors[0].windows,
        made_of=tuple(factors),
        notes=(f"{len(factors)} contractions as one",),
    )


def _bias(
    factors: Sequence[MatrixVector], matrices: Sequence[Float[np.ndarray, "_ _"]]
) -> Float[np.ndarray, " columns"] | None:
    """What the factors' biases come to behind the last of them."""
    total = None
    for factor, matrix in zip(factors, matrices, strict=True):
        passed = None if total is None else total @ matrix
        present = [each for each in (passed, factor.bias) if each is not None]
        total = np.sum(present, axis=0) if present else None
    return total
