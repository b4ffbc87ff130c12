"""merge: contractions of the same input stand side by side on the same rows, and share their input converters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pfmc.errors import PassError
from pfmc.ir.beside import Beside, parts_of
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.passmanager import Context, Pass

JOINT = "|"  # between the names of what is merged


@dataclass(frozen=True)
class Merge(Pass[Graph, Graph]):
    """Make one contraction of those that read the same input, as attention's query, key and value do: [Wq | Wk | Wv].

    A row of the matrix is converted and driven once for all of them, and their products are taken at the same time.
    Columns of different contractions stay on tiles of their own, which have their own scales and output ranges.
    """

    name: ClassVar[str] = "merge"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "fold"

    def run(self, source: Graph, context: Context) -> Graph:
        """The merged contraction stands where the first of them stood; it bears their names."""
        first, later = dict[str, MatrixVector](), set[str]()
        names: dict[str, str] = {}
        for members in _groups(source):
            merged = _merged(members)
            first[members[0].name] = merged
            later |= {member.name for member in members[1:]}
            names |= {member.name: merged.name for member in members}
        nodes = tuple(first.get(node.name, node) for node in source.nodes if node.name not in later)
        attentions = tuple(attention.renamed(names) for attention in source.attentions)
        return replace(source, nodes=nodes, attentions=attentions)

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction is still there."""
        if {m.name for n in result.matrices() for m in n.members} != {
            m.name for n in source.matrices() for m in n.members
        }:
            raise PassError("a contraction was lost", f"pass {self.name}")


def _groups(graph: Graph) -> list[list[MatrixVector]]:
    """Contractions to merge, in order.

    Those whose matrix occurs elsewhere too, beside other ones, are left alone: they share its tiles.
    """
    by_input: dict[Hashable, list[MatrixVector]] = defaultdict(list)
    for node in graph.matrices():
        by_input[node.input, node.windows, node.matrix.rows, node.weight.dtype, node.body].append(node)
    beside: dict[Hashable, set[Hashable]] = defaultdict(set)
    for members in by_input.values():
        identities = tuple(member.matrix.identity for member in members)
        for identity in identities:
            beside[identity].add(identities)
    return [
        members
        for members in by_input.values()
        if len(members) > 1
        and len({member.matrix.identity for member in members}) == len(members)
        and all(len(beside[member.matrix.identity]) == 1 for member in members)
    ]


def _merged(members: Sequence[MatrixVector]) -> MatrixVector:
    return replace(
        members[0],
        name=JOINT.join(member.name for member in members),
        replaces=tuple(name for member in members for name in member.replaces),
        matrix=Beside(tuple(part for member in members for part in parts_of(member.matrix))),
        parts=tuple(part for member in members for part in member.members),
        made_of=(),
        notes=tuple(note for member in members for note in member.notes),
    )
