"""Decoders with a cache, as PyTorch exports them: see samples/decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from exact import fabricated_exactly
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise

from pfmc.check.lift import host_model
from pfmc.frontend.importer import import_model
from pfmc.ir.graph import HostNode
from pfmc.passmanager import Context
from pfmc.technology.loader import load

SAMPLES = Path(__file__).parent.parent / "samples" / "decoders"
CONTEXT = Context(load("generic"), lambda _: iter(()), "made")
WORDS, WIDTH, SIZE, HIDDEN = 61, 32, 8, 48
KEY_HEADS = {"gpt2": 4, "llama": 2}
# By layer: attention and feed-forward; and the table of words at the end.
GPT2 = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] * 2 + [(WIDTH, WORDS)]
LLAMA = [(WIDTH, n) for n in (WIDTH, 16, 16, WIDTH, HIDDEN, HIDDEN)] * 2 + [(HIDDEN, WIDTH)] * 2 + [(WIDTH, WORDS)]
MATRICES = {"gpt2": GPT2, "llama": LLAMA}
FLAGS = {"gpt2": ("causal", "masked", "cached"), "llama": ("causal", "masked", "cached", "rotary")}


def step(name: str, rng: np.random.Generator, past: int, new: int) -> dict[str, np.ndarray]:
    found = {
        "input_ids": rng.integers(0, WORDS, (2, new)),
        "attention_mask": np.ones((2, past + new), np.int64),
    }
    for layer in range(2):
        for what in ("key", "value"):
            shape = 2, KEY_HEADS[name], past, SIZE
            found[f"past.{layer}.{what}"] = rng.standard_normal(shape).astype(np.float32)
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("merge", [False, True])
def test_every_projection_is_mapped_merged_or_not(
    name: str, merge: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    model = SAMPLES / f"{name}.onnx"
    found = import_model(model, tmp_path)
    assert not [node for node in found.graph.nodes if isinstance(node, HostNode) and node.reason]
    assert len(found.graph.attentions) == 2
    for attention in found.graph.attentions:
        assert (attention.heads, attention.key_heads, attention.head_size) == (4, KEY_HEADS[name], SIZE)
        assert attention.flags == FLAGS[name]
        assert attention.projections.keys() == {"query", "key", "value", "output"}
    graph = found.graph
    for each in (Normalise(), Fold(), *([Merge()] if merge else [])):
        graph = each.run(graph, CONTEXT)
        graph.verify()
    sizes = [(part.matrix.rows, part.matrix.columns) for node in graph.matrices() for part in node.members]
    assert sorted(sizes) == sorted(MATRICES[name])
    saved = 6 if merge and name == "llama" else 0  # [Wq | Wk | Wv] and [gate | up] of two layers
    assert len(graph.matrices()) == len(MATRICES[name]) - saved
    host = host_model(found.folded, graph, {node.name for node in graph.matrices()})
    fabricated = ort.InferenceSession(fabricated_exactly(tmp_path, host, graph.matrices()).SerializeToString())
    for past, new in ((5, 3), (7, 1)):
        data = step(name, rng, past, new)
        for ours, theirs in zip(fabricated.run(None, data), ort.InferenceSession(model).run(None, data), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
