"""What the page of a bundle shows of attention: tiles in front, scores and mixing between, tiles behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pfmc.bundle import Manifest, TileRecord
from pfmc.sections import AttentionEntry

BETWEEN = "softmax(Q · Kᵀ) · V"


@dataclass(frozen=True)
class Step:
    """A box: what is computed, and on how many tiles; none: on the host."""

    lines: tuple[str, ...]
    tiles: int = 0


@dataclass(frozen=True)
class AttentionPicture:
    """Boxes from left to right."""

    name: str
    text: str
    steps: tuple[Step, ...]


def attention_pictures(manifest: Manifest, tiles: Sequence[TileRecord]) -> list[AttentionPicture]:
    """The attentions of a model, in its order."""
    return [AttentionPicture(entry.name, _text(entry), tuple(_steps(entry, tiles))) for entry in manifest.attentions]


def _text(entry: AttentionEntry) -> str:
    heads = f"{entry.heads} heads of {entry.head_size}"
    if entry.key_heads != entry.heads:
        heads += f", {entry.key_heads} of keys and values"
    return ", ".join((heads, *entry.flags))


def _steps(entry: AttentionEntry, tiles: Sequence[TileRecord]) -> Iterator[Step]:
    """Those that stand side by side in one box, or are one, as the output's may be with the values'."""
    front: dict[str, list[str]] = {}
    for role, node in entry.projections.items():
        if role != "output" or node in front:
            front.setdefault(node, []).append(role)
    for node, roles in front.items():
        yield _on_tiles(node, f"[{' | '.join(roles)}]", tiles)
    yield Step((BETWEEN, f"{entry.heads} heads, on the host"))
    output = entry.projections.get("output")
    if output is not None and output not in front:
        yield _on_tiles(output, "output", tiles)


def _on_tiles(node: str, what: str, tiles: Sequence[TileRecord]) -> Step:
    mine = [tile for tile in tiles if tile.node == node]
    if not mine:
        return Step((what, "on the host, or on another contraction's tiles"))
    rows, columns = max(tile.row_stop for tile in mine), max(tile.column_stop for tile in mine)
    return Step((what, f"{rows} × {columns}"), len(mine))
