"""Compiling a part of a model: which contractions are mapped, by patterns of their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from pfmc.errors import UsageError
from pfmc.ir.graph import Contraction, Graph, HostNode, Node

LEFT_OUT: Final = "left out by --only or --except"


@dataclass(frozen=True)
class Selection:
    """Which contractions are mapped; the others stay digital.

    A pattern is one of a shell (``*``, ``?``, ``[…]``), case counts, and ``*`` goes over ``/`` too; it is compared with
    the names that the Graph has (``--print-after normalise``). What an operator was taken apart into has a name that
    begins with the operator's and ``/``: its own name selects all of it.

    Attributes:
        only: patterns of which one must fit; none: all are taken.
        except_: patterns of which none may fit.
    """

    only: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()

    def of(self, graph: Graph, where: str) -> Graph:
        """The graph in which what is not selected is a host node, with that reason.

        Raises:
            UsageError: if a pattern fits no contraction, or nothing is left.
        """
        names = [node.name for node in graph.contractions()]
        for option, patterns in (("--only", self.only), ("--except", self.except_)):
            for pattern in patterns:
                if not any(_fits(name, pattern) for name in names):
                    near = ", ".join(nearest(pattern, names))
                    raise UsageError(f"no contraction has a name like {pattern}", option, f"the nearest names: {near}")
        kept = {
            name for name in names if (not self.only or fits_any(name, self.only)) and not fits_any(name, self.except_)
        }
        if not kept:
            raise UsageError("nothing is left to map", f"{where}: --only, --except", "leave fewer contractions out")
        return replace(graph, nodes=tuple(_digital(node) if _is_out(node, kept) else node for node in graph.nodes))


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}/*")


def fits_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is like one of the patterns."""
    return any(_fits(name, pattern) for pattern in patterns)


def nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Up to three names, the most alike first."""
    return get_close_matches(pattern.strip("*"), names, n=3, cutoff=0.0)


def _is_out(node: Node, kept: Collection[str]) -> bool:
    return isinstance(node, Contraction) and node.name not in kept


def _digital(node: Node) -> HostNode:
    return HostNode(node.name, type(node).__name__, node.inputs, node.outputs, LEFT_OUT)
