"""Attention as exporters write it is one operation, and its projections share their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from attention_forms import FORMS, TORCHSCRIPT, Form
from exact import fabricated_exactly
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise

import pfmc
from pfmc.check.lift import host_model
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.ir.graph import Graph
from pfmc.ir.text import render
from pfmc.passmanager import Context
from pfmc.technology.loader import load

CONTEXT = Context(load("generic"), lambda _: iter(()), "made")
SIZES = "heads=4 key-heads=4 head-size=4"
FOUND = {
    "torchscript": f"{SIZES} masked",
    "dynamo": SIZES,
    "tensorflow": SIZES,
    "optimum": f"{SIZES} causal masked cached",
    "rotary": "heads=4 key-heads=2 head-size=4 rotary",
    "standard": "heads=4 key-heads=2 head-size=4 causal",
    "microsoft": f"{SIZES} causal masked cached",
    "quantised": f"{SIZES} masked cached",
    "multi-head": SIZES,
    "grouped": "heads=2 key-heads=1 head-size=8 causal",
}


def imported(form: Form, folder: Path, rng: np.random.Generator) -> ImportedModel:
    (folder / "work").mkdir()
    return import_model(form.saved(folder, rng), folder / "work")


def merged(graph: Graph) -> Graph:
    for step in (Normalise(), Fold(), Merge()):
        graph = step.run(graph, CONTEXT)
        graph.verify()
    return graph


def outputs(model: Path | bytes, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, data)]


@pytest.mark.parametrize("name", FORMS)
def test_it_is_recognised_and_computes_what_it_did(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    form = FORMS[name]
    found = imported(form, tmp_path, rng)
    (attention,) = found.graph.attentions
    (line,) = (line for line in render(found.graph).splitlines() if " = attention @" in line)
    assert f") {FOUND[name]} query=@" in line
    stored = {node.name: node.weight.name for node in found.graph.contractions()}
    named = {role: stored[of] for role, of in attention.projections.items()}
    if "wqkv" in form.weights | form.constants:
        assert named == {"query": "wqkv", "key": "wqkv", "value": "wqkv", "output": "wo"}
    elif name != "tensorflow":  # whose weights get another shape, and so another name
        assert named == {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
    graph = merged(found.graph)
    assert len(graph.matrices()) == 2  # [Wq | Wk | Wv] and Wo
    (attention,) = graph.attentions
    assert attention.query == attention.key == attention.value != attention.output
    host = host_model(found.folded, graph, {node.name for node in graph.matrices()})
    data = form.data(rng)
    fabricated = fabricated_exactly(tmp_path, host, graph.matrices())
    for ours, theirs in zip(
        outputs(fabricated.SerializeToString(), data), outputs(tmp_path / "attention.onnx", data), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_operation_holds_its_contractions(tmp_path: Path, rng: np.random.Generator) -> None:
    text = render(merged(imported(TORCHSCRIPT, tmp_path, rng).graph))
    block = text[text.index("  %y: ?x?x16 = attention") :]
    assert block.splitlines()[1:4] == [
        "    %Div_1/Mul_output: ?x?x16, %k: ?x?x16, %v1: ?x?x16 = matrixvector "
        "@MatMul_1|MatMul_2|MatMul_4 (%x) 16x48 = "
        '[16x16 of "wq" float32[16x16] gain | 16x16 of "wk" float32[16x16] | 16x16 of "wv" float32[16x16]] bias '
        "replaces(MatMul_1, Add_1, Div_1, MatMul_2, MatMul_4, Add_3)",
        '    %y: ?x?x16 = matrixvector @MatMul_6 (%m2) 16x16 of "wo" float32[16x16]',
        "  }",
    ]
    assert "Softmax (" not in text  # the digital nodes between are not told one by one
    assert "host.Cast" in text  # what makes the mask is


DECOYS = {
    "a gate: softmax(x · W) · V": """
        q = MatMul (x, wq)   p = Softmax <axis = -1> (q)   v = MatMul (x, wv)   g = Mul (p, v)   y = MatMul (g, wo)
    """,
    "along another axis": """
        q = MatMul (x, wq)   k = MatMul (x, wk)   v = MatMul (x, wv)   kt = Transpose <perm = [0, 2, 1]> (k)
        s = MatMul (q, kt)   p = Softmax <axis = 1> (s)   m = MatMul (p, v)   y = MatMul (m, wo)
    """,
    "of products with itself": """
        h = MatMul (x, wq)   ht = Transpose <perm = [0, 2, 1]> (h)   s = MatMul (h, ht)   p = Softmax <axis = -1> (s)
        m = MatMul (p, h)   y = MatMul (m, wo)
    """,
    "of what no matrix has made": """
        xt = Transpose <perm = [0, 2, 1]> (x)   s = MatMul (x, xt)   p = Softmax <axis = -1> (s)
        m = MatMul (p, x)   y = MatMul (m, wo)
    """,
}


@pytest.mark.parametrize("name", DECOYS)
def test_a_softmax_between_products_is_not_always_one(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    form = Form(DECOYS[name], TORCHSCRIPT.weights)
    assert imported(form, tmp_path, rng).graph.attentions == ()


def test_a_bundle_says_so_and_its_page_draws_it(tmp_path: Path, rng: np.random.Generator) -> None:
    form = FORMS["rotary"]
    np.savez(tmp_path / "data.npz", **form.data(rng, 40))
    bundle = pfmc.compile(form.saved(tmp_path, rng), tmp_path / "out", calibration=tmp_path / "data.npz")
    (entry,) = bundle.manifest.attentions
    assert (entry.heads, entry.key_heads, entry.head_size, entry.flags) == (4, 2, 4, ("rotary",))
    assert {entry.projections["query"], entry.projections["output"]} == {tile.node for tile in bundle.tiles}
    assert bundle.verify(tmp_path / "data.npz").outputs["y"].cosine > 0.99
    bundle.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 heads of 4, 2 of keys and values, rotary" in page
    assert "query | key | value]<br>16 × 32<br>3 tiles" in page
