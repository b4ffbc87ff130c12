"""normalise: MatMul, Gemm and Conv become one operation, matrix × vector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import PassError
from pfmc.ir.graph import Contraction, Conv, Gemm, Graph, MatMul, MatrixVector
from pfmc.ir.weights import Matrix
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Normalise(Pass[Graph, Graph]):
    """Bring every contraction to y = x · matrix + bias.

    A Conv becomes matrix × windows; groups become a block-diagonal matrix.
    """

    name: ClassVar[str] = "normalise"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph

    def run(self, source: Graph, context: Context) -> Graph:
        """Rewrite each contraction; names, values and order stay."""
        return replace(
            source, nodes=tuple(_normal(node) if isinstance(node, Contraction) else node for node in source.nodes)
        )

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction has the one form."""
        for node in result.contractions():
            if not isinstance(node, MatrixVector):
                raise PassError(f"{type(node).__name__} has no matrix form", f"node {node.name}")


def _normal(node: Contraction) -> Contraction:
    if isinstance(node, MatMul):
        return _matrix_vector(node, Matrix(node.weight, transposed=False))
    if isinstance(node, Gemm):
        columns = node.weight.shape[0 if node.transposed else 1]
        gain = None if node.alpha == 1.0 else np.full(columns, node.alpha)
        return _matrix_vector(node, Matrix(node.weight, transposed=node.transposed, gain=gain))
    if isinstance(node, Conv):
        matrix = Matrix(node.weight, transposed=True, groups=node.groups)
        return replace(_matrix_vector(node, matrix), windows=node.windows)
    return node


def _matrix_vector(node: Contraction, matrix: Matrix) -> MatrixVector:
    return MatrixVector(
        node.name, node.input, node.output, node.weight, node.bias, node.replaces, body=node.body, matrix=matrix
    )
