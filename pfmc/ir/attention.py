"""Attention as one operation: which nodes of a Graph it consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Attention:
    """softmax(Q · Kᵀ / sqrt(head size) + mask) · V for several heads, and the matrices in front of it and behind.

    Attributes:
        name: of the node that makes the softmax, or that is an attention by itself.
        heads: of the queries.
        key_heads: of keys and values; fewer than heads: each serves several (grouped queries; 1: multi-query).
        head_size: numbers of a query, and of a key.
        causal: whether no position sees a later one.
        masked: whether something is added to the scores, or some are replaced.
        cached: whether keys and values of earlier calls are kept.
        rotary: whether queries and keys are rotated by their positions.
        query: name of the contraction that makes the queries, and likewise; one contraction may make all; empty: none.
        members: names of the digital nodes between those.
        result: the value that is mixed from V, as the contraction behind it reads it.
        scores: names of nodes that add or multiply constants between the matrices of queries and of keys, each of its
            own, and their product, where else they only come apart into heads, and nobody else reads them; the scores
            are masked and scaled. None: something else happens.
        mix: likewise between the values' matrix and the output's, where weights of all keys sum to one.
    """

    name: str
    heads: int
    key_heads: int
    head_size: int
    causal: bool
    masked: bool
    cached: bool
    rotary: bool
    query: str
    key: str
    value: str
    output: str
    members: frozenset[str]
    result: str
    scores: frozenset[str] | None = None
    mix: frozenset[str] | None = None

    @property
    def projections(self) -> dict[str, str]:
        """Names of its contractions, by what they make."""
        return {role: name for role in ("query", "key", "value", "output") if (name := getattr(self, role))}

    @property
    def flags(self) -> tuple[str, ...]:
        """What holds of it, in words."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is True)

    def renamed(self, names: Mapping[str, str]) -> Attention:
        """The same with other names of contractions."""
        query, key, value, output = (names.get(name, name) for name in (self.query, self.key, self.value, self.output))
        return replace(self, query=query, key=key, value=value, output=output)
