"""factorise: a matrix as the product of two of a small rank, for an error that is asked for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import PassError
from pfmc.ir.beside import Beside
from pfmc.ir.derived import Dense
from pfmc.ir.graph import Graph, MatrixVector, Node
from pfmc.ir.windows import Windows
from pfmc.passmanager import Context, Pass
from pfmc_passes.blocks import blocks, cost, tile_size

LEFT, RIGHT = "/left", "/right"  # behind the name of what is split


@dataclass(frozen=True)
class Factorise(Pass[Graph, Graph]):
    """Compute x · W as (x · L) · R, of the smallest rank that ``error`` allows, where that has fewer weights.

    L · R is the singular value decomposition cut off (the best there is: C. Eckart and G. Young, Psychometrika 1, 211,
    1936), half of each singular value on either side. What lies between goes through converters of its own, and is
    calibrated from x and L. The verdict compares with the model as it was given: what the rank costs is in it.

    Attributes:
        error: of each matrix, ‖L · R - W‖ / ‖W‖ by Frobenius' norm, at most.
    """

    error: float = 0.05

    name: ClassVar[str] = "factorise"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "collapse"

    def __post_init__(self) -> None:
        if not 0 <= self.error < 1:
            raise ValueError("error must be from 0 to below 1")

    def run(self, source: Graph, context: Context) -> Graph:
        """Two contractions stand where one stood; attention's are known by the second."""
        sizes = tile_size(context)
        known: dict[Hashable, _Factors | None] = {}
        nodes: list[Node] = []
        names: dict[str, str] = {}
        for node in source.nodes:
            factors = None
            if isinstance(node, MatrixVector):
                identity = node.matrix.identity
                if identity not in known:
                    known[identity] = self._factors(node, *sizes)
                factors = known[identity]
            if isinstance(node, MatrixVector) and factors is not None:
                pair = _pair(node, factors)
                names[node.name] = pair[1].name
                nodes += pair
            else:
                nodes.append(node)
        attentions = tuple(attention.renamed(names) for attention in source.attentions)
        return replace(source, nodes=tuple(nodes), attentions=attentions)

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction is still there."""
        before, after = ({o.name for n in graph.matrices() for o in n.origins} for graph in (source, result))
        if before != after:
            raise PassError("a contraction was lost", f"pass {self.name}")

    def _factors(self, node: MatrixVector, height: int, width: int) -> _Factors | None:
        """Of a contraction's matrix; None: they would not be smaller."""
        matrix = node.matrix
        if isinstance(matrix, Beside):
            return None
        whole = matrix.block(range(matrix.rows), range(matrix.columns))
        left, values, right = np.linalg.svd(whole, full_matrices=False)
        beyond = np.sqrt(np.cumsum(values[::-1] ** 2))[::-1]  # what is left out where the rank is 0, 1, …
        if not beyond[0] > 0:
            return None
        errors = np.append(beyond, 0.0) / beyond[0]
        rank = max(int(np.argmax(errors <= self.error)), 1)
        tiles = -(-matrix.rows // height) * -(-rank // width) + -(-rank // height) * -(-matrix.columns // width)
        before = cost(blocks(matrix, height, width))
        if tiles > before[0] or rank * (matrix.rows + matrix.columns) >= before[1]:
            return None
        half = np.sqrt(values[:rank])
        return _Factors(
            Dense(left[:, :rank] * half, f"left of {matrix}"),
            Dense(half[:, None] * right[:rank], f"right of {matrix}"),
            float(errors[rank]),
        )


@dataclass(frozen=True, eq=False)
class _Factors:
    left: Dense
    right: Dense
    error: float


def _pair(node: MatrixVector, factors: _Factors) -> tuple[MatrixVector, MatrixVector]:
    """What computes one contraction; a convolution's second factor sees single positions."""
    made_of = node.made_of or (node,)
    between = f"{node.output}{LEFT}"
    left = replace(
        node,
        name=f"{node.name}{LEFT}",
        output=between,
        bias=None,
        replaces=(),
        matrix=factors.left,
        made_of=made_of,
    )
    note = f"rank {factors.left.columns}, error {factors.error:.2%}"
    right = replace(
        node,
        name=f"{node.name}{RIGHT}",
        input=between,
        matrix=factors.right,
        windows=None if node.windows is None else Windows.single(len(node.windows.kernel)),
        made_of=made_of,
        through=left,
        error=factors.error,
        notes=(*node.notes, note),
    )
    return left, right
