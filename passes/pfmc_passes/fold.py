"""fold: a constant scale or shift beside a contraction becomes part of its weights and bias."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pfmc.errors import PassError
from pfmc.ir.graph import Affine, Graph, MatrixVector, Node
from pfmc.ir.weights import Matrix
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Fold(Pass[Graph, Graph]):
    """Compute (x · W + b) · g + h as x · (W g) + (b g + h), and (x · g + h) · W + b as x · (g W) + (h · W + b).

    It is a step less on the host, and the columns are better used. Only where nobody else reads what lies between, and
    g and h have one entry, or one per column or row. Where a window reaches over the edge, it sees zeros, not h.

    Attributes:
        front: fold what stands in front too; the range of the inputs is then that without g.
    """

    front: bool = True

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
                alone = len(consumers[node.input]) == 1 and node.input not in source.outputs
                folded = _in_front(nodes[place], node, source) if alone else None
                if folded is not None:
                    nodes[place] = folded
                    made_at[node.output] = place
                    continue
            if isinstance(node, MatrixVector):
                made_at[node.output] = len(nodes)
            nodes.append(node)
        behind = replace(source, nodes=tuple(nodes))
        return _folded_in_front(behind) if self.front else behind

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


def _in_front(contraction: Node, affine: Affine, graph: Graph) -> MatrixVector | None:
    """A contraction that does what stands behind it too, or None."""
    if not (isinstance(contraction, MatrixVector) and _fits(contraction, affine, graph)):
        return None
    matrix, bias = contraction.matrix, contraction.bias
    if not isinstance(matrix, Matrix):
        return None
    columns = matrix.columns
    if affine.gain is not None:
        gain = np.broadcast_to(affine.gain, columns)
        matrix = replace(matrix, gain=gain if matrix.gain is None else matrix.gain * gain)
        bias = None if bias is None else bias * gain
    if affine.offset is not None:
        bias = np.broadcast_to(affine.offset, columns) + (0.0 if bias is None else bias)
    return replace(
        contraction, output=affine.output, matrix=matrix, bias=bias, replaces=(*contraction.replaces, affine.name)
    )


def _folded_in_front(graph: Graph) -> Graph:
    """Fold what stands in front of contractions, the last of a chain first. The host drops what nobody reads."""
    nodes = list(graph.nodes)
    for affine in reversed([node for node in nodes if isinstance(node, Affine)]):
        if affine.output in graph.outputs:
            continue
        places = [i for i, node in enumerate(nodes) if affine.output in node.inputs]
        folded = [_behind(nodes[i], affine, graph) for i in places]
        if places and None not in folded:
            for i, node in zip(places, folded, strict=True):
                if node is not None:
                    nodes[i] = node
            nodes.remove(affine)
    return replace(graph, nodes=tuple(nodes))


def _behind(node: Node, affine: Affine, graph: Graph) -> MatrixVector | None:
    """A contraction that does what stands in front of it too, or None."""
    if not (isinstance(node, MatrixVector) and isinstance(node.matrix, Matrix)):
        return None
    shape = graph.shapes.get(affine.input)
    sizes = {v.size for v in (affine.gain, affine.offset) if v is not None}
    windows, taps = node.windows, 1
    if windows is not None:
        taps = math.prod(windows.kernel)
        if affine.offset is not None and (any(windows.pads_begin) or any(windows.pads_end)):
            return None
    axes = {-1, len(shape or ()) - 1} if windows is None else {1, -1 - len(windows.kernel)}
    if sizes != {1} and not (shape is not None and affine.axis in axes and sizes <= {1, node.matrix.rows // taps}):
        return None
    matrix, bias = node.matrix, node.bias
    if affine.offset is not None:
        shift = matrix.through(_per_row(affine.offset, taps, matrix.rows))
        bias = shift if bias is None else bias + shift
    if affine.gain is not None:
        gain = _per_row(affine.gain, taps, matrix.rows)
        return replace(node, input=affine.input, matrix=matrix.rows_times(gain), bias=bias)
    return replace(node, input=affine.input, bias=bias)


def _per_row(values: Float[np.ndarray, " channels"], taps: int, rows: int) -> Float[np.ndarray, " rows"]:
    """One number per channel, or for all, as one per row: each channel has ``taps`` of them."""
    return np.broadcast_to(values if values.size == 1 else np.repeat(values, taps), rows)
