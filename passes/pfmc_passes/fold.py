"""fold: a constant scale or shift behind a contraction becomes part of its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import PassError
from pfmc.ir.graph import Affine, Graph, MatrixVector, Node
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Fold(Pass[Graph, Graph]):
    """Compute (x · W + b) · g + h as x · (W g) + (b g + h): one step less on the host, the columns better used.

    Only where nobody else reads what lies between, and g and h have one entry, or one per column.
    """

    name: ClassVar[str] = "fold"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "normalise"

    def run(self, source: Graph, context: Context) -> Graph:
        """Fold every Affine that can be folded, chains of them too."""
        consumers = source.consumers()
        nodes: list[Node] = []
        made_at: dict[str, int] = {}  # where in nodes the contraction stands that makes a value
        for node in source.nodes:
            place = made_at.get(node.inputs[0]) if isinstance(node, Affine) else None
            if isinstance(node, Affine) and place is not None:
                contraction = nodes[place]
                alone = len(consumers[node.input]) == 1 and node.input not in source.outputs
                if isinstance(contraction, MatrixVector) and alone and _fits(contraction, node, source):
                    nodes[place] = _folded(contraction, node)
                    made_at[node.output] = place
                    continue
            if isinstance(node, MatrixVector):
                made_at[node.output] = len(nodes)
            nodes.append(node)
        return replace(source, nodes=tuple(nodes))

    def ensures(self, source: Graph, result: Graph) -> None:
        """No contraction may be lost."""
        if len(result.contractions()) != len(source.contractions()):
            raise PassError("a contraction was lost", f"pass {self.name}")


def _fits(contraction: MatrixVector, affine: Affine, graph: Graph) -> bool:
    sizes = {v.size for v in (affine.gain, affine.offset) if v is not None}
    if sizes == {1}:
        return True
    if contraction.windows is not None:
        column_axes = {1, -1 - len(contraction.windows.kernel)}
    else:
        column_axes = {-1, len(graph.shapes.get(contraction.output, ())) - 1 or -1}
    return affine.axis in column_axes and sizes <= {1, contraction.matrix.columns}


def _folded(contraction: MatrixVector, affine: Affine) -> MatrixVector:
    columns = contraction.matrix.columns
    matrix, bias = contraction.matrix, contraction.bias
    if affine.gain is not None:
        gain = np.broadcast_to(affine.gain, columns)
        matrix = replace(matrix, gain=gain if matrix.gain is None else matrix.gain * gain)
        bias = None if bias is None else bias * gain
    if affine.offset is not None:
        bias = np.broadcast_to(affine.offset, columns) + (0.0 if bias is None else bias)
    return replace(
        contraction, output=affine.output, matrix=matrix, bias=bias, replaces=(*contraction.replaces, affine.name)
    )
