"""Operations and the Graph that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import PassError
from pfmc.ir.arrangement import Arrangement
from pfmc.ir.attention import Attention
from pfmc.ir.beside import AnyMatrix
from pfmc.ir.weights import Weight
from pfmc.ir.windows import Windows


@dataclass(frozen=True)
class HostNode:
    """A node of the model that stays digital, opaque: only its place in the graph is known.

    ``reason`` says, for a node that multiplies by a trained constant, why it was not mapped.
    """

    name: str
    kind: str  # "domain::Type", or "Type" in the standard domain
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str = ""


class OneToOne:
    """What reads one value and makes one."""

    input: str
    output: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values read."""
        return (self.input,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values made."""
        return (self.output,)


@dataclass(frozen=True, eq=False)
class Affine(OneToOne):
    """y = gain · x + offset along one axis: a constant Mul or Add, or a BatchNormalization.

    It stays on the host unless a pass folds it into a contraction. ``axis`` counts from the front or, negative,
    from the back, as the model had it; gain and offset have one entry, or one per channel.
    """

    name: str
    input: str
    output: str
    gain: Float[np.ndarray, " channels"] | None
    offset: Float[np.ndarray, " channels"] | None
    axis: int


@dataclass(frozen=True, eq=False)
class Contraction(OneToOne):
    """Linear in its one dynamic input, whose other operand is a trained constant.

    Attributes:
        name: of the node in the model; unique.
        bias: one number per output column, added after the product, or None.
        replaces: names of the model's nodes that this operation stands for.
        body: of an If or a Loop that it stands in, by the number; 0: none.
    """

    name: str
    input: str
    output: str
    weight: Weight
    bias: Float[np.ndarray, " columns"] | None
    replaces: tuple[str, ...]
    body: int = field(default=0, kw_only=True)


@dataclass(frozen=True, eq=False)
class MatMul(Contraction):
    """y = x · weight over the last axis of x; weight is inputs × outputs."""


@dataclass(frozen=True, eq=False)
class Gemm(Contraction):
    """y = alpha · x · weight + bias, x a matrix; weight is outputs × inputs if ``transposed``."""

    alpha: float = 1.0
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Conv(Contraction):
    """Convolution of an N × C × spatial tensor; weight is outputs × (C / groups) × kernel."""

    windows: Windows = field(kw_only=True)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class MatrixVector(Contraction):
    """The form that is mapped: y = x · matrix + bias over the last axis, or over each window of x.

    Attributes:
        shares: name of the contraction on whose tiles it is computed, one after the other; empty: on its own.
        parts: the contractions of the same input that it was made of, their matrices side by side; empty: it is the
            model's. Weight, bias and output are those of the first.
        made_of: the model's contractions whose weights its matrix was computed from, one behind the other; empty: it
            is one of them.
        through: the contraction that makes its input, where that is no value of the model; it makes nothing else.
        error: of the product of both matrices against the model's, relative, by Frobenius' norm; 0: there is none.
        arranged: how the vectors of the matrix that is drawn differ from the model's; None: they do not.
        notes: what was done to make it smaller, in words.
        input_shift: binary exponents; each input is divided by that power of two in front of its converter, and the
            rows of the matrix are as many times as large.
    """

    matrix: AnyMatrix = field(kw_only=True)
    windows: Windows | None = None
    shares: str = ""
    parts: tuple[MatrixVector, ...] = ()
    made_of: tuple[MatrixVector, ...] = ()
    through: MatrixVector | None = None
    error: float = 0.0
    arranged: Arrangement | None = None
    notes: tuple[str, ...] = ()
    input_shift: Int[np.ndarray, " rows"] | None = None

    @property
    def members(self) -> tuple[MatrixVector, ...]:
        """The contractions that stand side by side in it."""
        return self.parts or (self,)

    @property
    def origins(self) -> tuple[MatrixVector, ...]:
        """The model's contractions that it stands for; all of them take as many vectors."""
        return tuple(origin for member in self.members for origin in (member.made_of or (member,)))

    @property
    def observed(self) -> str:
        """The value of the model that its input follows from."""
        return self.input if self.through is None else self.through.input

    @property
    def entries(self) -> int:
        """How many entries the model's vector has."""
        return self.matrix.rows if self.arranged is None else self.arranged.inputs

    @property
    def spans(self) -> tuple[range, ...]:
        """Which of the model's outputs each member makes, one behind the other."""
        sizes = [part.matrix.columns for part in self.parts]
        if not sizes:
            sizes = [self.matrix.columns if self.arranged is None else len(self.arranged.columns)]
        ends = np.cumsum(sizes).tolist()
        return tuple(map(range, [0, *ends[:-1]], ends))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values made."""
        return tuple(part.output for part in self.members)


@dataclass(frozen=True, eq=False)
class Absorbed(OneToOne):
    """What the host does where a contraction stood whose matrix went into that on the other side of an attention.

    Attributes:
        name: of the contraction.
        replaces: names of the model's nodes that it stands for.
        into: what the other contraction makes; where that has no tiles, the model's nodes stay.
        heads, size: of the attention.
        width: entries of x, or of y if ``adds``; at most the size of a head.
        adds: y is the sum of the heads of x, of each as many entries as y has; otherwise each head of y is x and zeros.
        positions: axes behind that of the entries, which is then the second; 0: it is the last.
        dtype: of the values.
    """

    name: str
    input: str
    output: str
    replaces: tuple[str, ...]
    into: str
    heads: int
    size: int
    width: int
    adds: bool
    positions: int
    dtype: str


Node: TypeAlias = HostNode | Affine | Contraction | Absorbed


@dataclass(frozen=True, eq=False)
class Graph:
    """A model: nodes in topological order; values are known by name.

    The nodes in the bodies of an If or a Loop stand before it, and it reads what its bodies give; what a body is given
    is made by no node.

    Attributes:
        shapes: shape of each value where it is known; an unknown axis is None.
        attentions: which of the nodes are an attention, in order.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int | None, ...]]
    attentions: tuple[Attention, ...] = ()

    def contractions(self) -> tuple[Contraction, ...]:
        """The contractions, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Contraction))

    def matrices(self) -> tuple[MatrixVector, ...]:
        """The contractions in the form that is mapped, in order."""
        return tuple(node for node in self.nodes if isinstance(node, MatrixVector))

    def consumers(self) -> dict[str, list[Node]]:
        """Who reads each value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                found.setdefault(value, []).append(node)
        return found

    def topology(self) -> nx.MultiDiGraph:
        """Nodes by name, an edge for each value that passes between two."""
        graph = nx.MultiDiGraph()
        maker = {value: node.name for node in self.nodes for value in node.outputs}
        graph.add_nodes_from(node.name for node in self.nodes)
        for node in self.nodes:
            graph.add_edges_from((maker[v], node.name, {"value": v}) for v in node.inputs if v in maker)
        return graph

    def verify(self) -> None:
        """Check that names are unique, values made once and before they are read.

        Raises:
            PassError: naming the node.
        """
        names: set[str] = set()
        made: set[str] = set()
        all_made = {value for node in self.nodes for value in node.outputs if value}
        for node in self.nodes:
            if node.name in names:
                raise PassError("two nodes have the same name", f"node {node.name}")
            names.add(node.name)
            for value in node.inputs:
                if value in all_made and value not in made:
                    raise PassError(f"value {value} is read before it is made", f"node {node.name}")
            for value in node.outputs:
                if value and value in made:
                    raise PassError(f"value {value} is made twice", f"node {node.name}")
                made.add(value)
