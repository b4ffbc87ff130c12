"""Matrices on both sides of an attention as one; ONNX Runtime says what they compute together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from exact import fabricated_exactly
from hypothesis import given
from hypothesis import strategies as st
from mapping import computed, imported_as_it_is
from models import FLOAT, saved
from onnx import numpy_helper
from pfmc_passes.absorb import Absorb
from pfmc_passes.collapse import Collapse
from pfmc_passes.condense import Condense
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

import pfmc
from pfmc.check.lift import host_model
from pfmc.ir.graph import Absorbed, Graph
from pfmc.ir.text import render
from pfmc.passmanager import Context
from pfmc.technology.loader import load

CONTEXT = Context(load("sg13g2"), lambda _: iter(()), "made")

# As torch writes them, TorchScript's exporter and the other; an autoencoder's of convolutions; Keras's; an operator.
PLAIN = """
    q = MatMul (x, wq)   q1 = Add (q, bq)   k = MatMul (x, wk)   k1 = Add (k, bk)
    v = MatMul (x, wv)   v1 = Add (v, bv)
    q2 = Reshape (q1, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
    k2 = Reshape (k1, split)   k3 = Transpose <perm = [0, 2, 3, 1]> (k2)
    v2 = Reshape (v1, split)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
    s = MatMul (q3, k3)   t = Div (s, root)   u = Add (t, mask)   p = Softmax <axis = -1> (u)
    m = MatMul (p, v3)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)   m2 = Reshape (m1, joined)
    o = MatMul (m2, wo)   y = Add (o, bo)
"""
GUARDED = """
    q = MatMul (x, wq)   q1 = Add (q, bq)   k = MatMul (x, wk)   k1 = Add (k, bk)
    v = MatMul (x, wv)   v1 = Add (v, bv)
    q2 = Reshape (q1, split)   q3 = Transpose <perm = [0, 2, 1, 3]> (q2)   q4 = Mul (q3, root)
    k2 = Reshape (k1, split)   k3 = Transpose <perm = [0, 2, 1, 3]> (k2)   k5 = Reshape (k3, outer)
    k6 = Transpose <perm = [0, 2, 1]> (k5)   k7 = Reshape (k6, inner)   k4 = Mul (k7, root)
    v2 = Reshape (v1, split)   v3 = Transpose <perm = [0, 2, 1, 3]> (v2)
    s = MatMul (q4, k4)   p = Softmax <axis = -1> (s)   odd = IsNaN (p)   p1 = Where (odd, nothing, p)
    m = MatMul (p1, v3)   m1 = Transpose <perm = [0, 2, 1, 3]> (m)   m2 = Reshape (m1, joined)
    o = MatMul (m2, wo)   y = Add (o, bo)
"""
CONVOLUTIONS = """
    q = Conv (x, wq, bq)   k = Conv (x, wk, bk)   v = Conv (x, wv, bv)
    q2 = Reshape (q, flat)   q3 = Transpose <perm = [0, 2, 1]> (q2)   k2 = Reshape (k, flat)
    s = MatMul (q3, k2)   t = Mul (s, root)   p = Softmax <axis = 2> (t)
    v2 = Reshape (v, flat)   turned = Transpose <perm = [0, 2, 1]> (p)   m = MatMul (v2, turned)
    m2 = Reshape (m, image)   y = Conv (m2, wo, bo)
"""
EINSUM = """
    q = Einsum <equation = "abc,cde->abde"> (x, wq)   q1 = Mul (q, root)
    k = Einsum <equation = "abc,cde->abde"> (x, wk)   v = Einsum <equation = "abc,cde->abde"> (x, wv)
    s = Einsum <equation = "aecd,abcd->acbe"> (k, q1)   p = Softmax <axis = -1> (s)
    m = Einsum <equation = "acbe,aecd->abcd"> (p, v)   o = Einsum <equation = "abcd,cde->abe"> (m, wo)   y = Add (o, bo)
"""
OPERATOR = """
    q = MatMul (x, wq)   q1 = Add (q, bq)   k = MatMul (x, wk)   k1 = Add (k, bk)
    v = MatMul (x, wv)   v1 = Add (v, bv)
    m = Attention <q_num_heads = HEADS, kv_num_heads = HEADS> (q1, k1, v1)   o = MatMul (m, wo)   y = Add (o, bo)
"""
MICROSOFT = OPERATOR.replace(
    "Attention <q_num_heads = HEADS, kv_num_heads = HEADS>", "com.microsoft.MultiHeadAttention <num_heads = HEADS>"
)
FORMS = {"plain": PLAIN, "guarded": GUARDED, "convolutions": CONVOLUTIONS, "einsum": EINSUM, "operator": OPERATOR}
FORMS["microsoft"] = MICROSOFT
TOKENS, SIDE = 4, 2


def made(
    rng: np.random.Generator, form: str, heads: int, size: int, width: int, out: int, nodes: str = ""
) -> tuple[onnx.ModelProto, np.ndarray]:
    """A model and its input; ``nodes`` instead of those of the form."""
    shape: tuple[int, ...] = (2, TOKENS, width)
    inner = heads * size
    constants = {
        name: rng.standard_normal((rows, columns)) * rows**-0.5
        for name, rows, columns in (
            ("wq", width, inner),
            ("wk", width, inner),
            ("wv", width, inner),
            ("wo", inner, out),
        )
    }
    constants |= {f"b{name}": rng.standard_normal(out if name == "o" else inner) for name in "qkvo"}
    constants |= {"root": np.array(0.5), "nothing": np.array(0.0), "mask": rng.standard_normal((TOKENS, TOKENS))}
    constants |= {"seen": np.tri(TOKENS), "least": np.array(-1e9)}
    if form == "convolutions":
        shape = (2, width, SIDE, SIDE)
        for name in ("wq", "wk", "wv", "wo"):
            constants[name] = constants[name].T[..., None, None]
    elif form == "einsum":
        for name in ("wq", "wk", "wv"):
            constants[name] = constants[name].reshape(width, heads, size)
        constants["wo"] = constants["wo"].reshape(heads, size, out)
    arrays = {name: values.astype(bool if name == "seen" else np.float32) for name, values in constants.items()}
    shapes = {
        "split": [0, 0, heads, size],
        "joined": [0, 0, inner],
        "outer": [-1, TOKENS, size],
        "inner": [-1, heads, size, TOKENS],
        "wrong": [2, TOKENS, inner],
        "flat": [0, inner, -1],
        "image": [0, inner, SIDE, SIDE],
    }
    arrays |= {name: np.array(values) for name, values in shapes.items()}
    kind = f"float[{', '.join(map(str, shape))}]"
    text = (nodes or FORMS[form]).replace("HEADS", str(heads))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> attending ({kind} x) => (float[] y) {{ {text} }}'
    )
    read = {name for node in model.graph.node for name in node.input}
    names = {"q": "Q", "k": "K", "v": "V", "o": "O"} | ({"y": "O"} if form == "convolutions" else {})
    for node in model.graph.node:
        node.name = names.get(node.output[0], "")
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(read & arrays.keys()))
    return model, rng.standard_normal(shape).astype(np.float32)


def absorbed(graph: Graph) -> Graph:
    for step in (Normalise(), Fold(), Absorb(), Collapse(), Merge(), Condense()):
        found = step.run(graph, CONTEXT)
        found.verify()
        step.ensures(graph, found)
        graph = found
    return graph


def agree(model: onnx.ModelProto, folder: Path, x: np.ndarray) -> Graph:
    """The graph of a model whose as-fabricated model computes what it computes."""
    reference = computed(model, {"x": x}, literally=True)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", FLOAT, reference.shape))
    imported = imported_as_it_is(model, folder)
    graph = absorbed(imported.graph)
    host = host_model(imported.folded, graph, {n.name for n in graph.matrices()})
    found = computed(fabricated_exactly(folder, host, graph.matrices()), {"x": x})
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())
    return graph


def drawn(graph: Graph) -> int:
    return sum(n.matrix.rows * n.matrix.columns for n in graph.matrices())


@given(st.data())
def test_two_matrices_of_an_attention_become_one(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, form = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.sampled_from(sorted(FORMS)))
    heads = 1 if form == "convolutions" else data.draw(st.integers(1, 3))
    width, out = data.draw(st.tuples(st.integers(2, 5), st.integers(2, 5)))
    size = data.draw(st.integers(max(width, out), 6))
    model, x = made(rng, form, heads, size, width, out)
    graph = agree(model, tmp_path_factory.mktemp("m"), x)
    assert drawn(graph) == heads * width * (width + out)
    (attention,) = graph.attentions
    assert attention.query == attention.key == attention.value == attention.output


def joined(graph: Graph) -> set[str]:
    """Where two matrices became one."""
    return {"mix" if node.adds else "scores" for node in graph.nodes if isinstance(node, Absorbed)}


BOTH = {"scores", "mix"}
# What is different, of how many heads, and which matrices become one all the same.
APART = {
    "narrow heads": ({}, 2, 3, set()),
    "normalised queries": (
        {"(q1, split)": "(q5, split)", "q2 =": "q5 = LayerNormalization (q1, bk) q2 ="},
        1,
        4,
        {"mix"},
    ),
    "queries read elsewhere": ({"y = Add (o, bo)": "r = Add (o, bo) z = ReduceMax (q1) y = Add (r, z)"}, 1, 4, {"mix"}),
    "queries of something else": ({"q = MatMul (x, wq)": "z = Relu (x) q = MatMul (z, wq)"}, 1, 4, set()),
    "keys of something else": ({"MatMul (x, wk)": "MatMul (z, wk)", "k = ": "z = Relu (x) k = "}, 1, 4, {"mix"}),
    "values of something else": ({"MatMul (x, wv)": "MatMul (z, wv)", "k = ": "z = Relu (x) k = "}, 1, 4, {"scores"}),
    "a matrix used elsewhere": ({"y = Add (o, bo)": "r = Add (o, bo) z = MatMul (r, wk) y = Tanh (z)"}, 1, 4, {"mix"}),
    "scores that are bent": ({"u = Add (t, mask)": "u = Tanh (t)"}, 1, 4, {"mix"}),
    "weights that are lost": ({"m = MatMul (p,": "p1 = Mul (p, mask) m = MatMul (p1,"}, 1, 4, {"scores"}),
    "a guard behind a mask": (
        {"m = MatMul (p,": "odd = IsNaN (p) p1 = Where (odd, nothing, p) m = MatMul (p1,"},
        1,
        4,
        {"scores"},
    ),
    "a mask that lets through": ({"Add (t, mask)": "Where (seen, t, nothing)"}, 1, 4, {"mix"}),
    "a mask that does not": ({"Add (t, mask)": "Where (seen, t, least)"}, 1, 4, BOTH),
    "heads in another order": (
        {"m1 = Transpose <perm = [0, 2, 1, 3]> (m)": "", "m2 = Reshape (m1, joined": "m2 = Reshape (m, wrong"},
        2,
        4,
        {"scores"},
    ),
    "an output read elsewhere": (
        {"y = Add (o, bo)": "r = Add (o, bo) z = ReduceMax (m2) y = Add (r, z)"},
        1,
        4,
        {"scores"},
    ),
    "values that are scaled": ({"(p, v3)": "(p, v4)", "s = Mat": "v4 = Mul (v3, root) s = Mat"}, 1, 4, {"scores"}),
    "values that are Relu's": ({"(v1, split)": "(v5, split)", "k2 =": "v5 = Relu (v1) k2 ="}, 1, 4, set()),
}


@pytest.mark.parametrize("name", APART)
def test_what_must_stay_apart(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    changes, heads, size, expected = APART[name]
    text = PLAIN
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    model, x = made(rng, "plain", heads, size, 4, 4, text)
    assert joined(agree(model, tmp_path, x)) == expected


def test_an_operator_with_a_mask_may_weigh_no_key(tmp_path: Path, rng: np.random.Generator) -> None:
    model, x = made(rng, "operator", 1, 4, 4, 4, OPERATOR.replace("v1)", "v1, mask)"))
    assert joined(agree(model, tmp_path, x)) == {"scores"}


def test_a_product_of_two_that_are_half_empty_is_not_made(tmp_path: Path, rng: np.random.Generator) -> None:
    """Keys and queries of 128 entries, 64 of them zero, take 2 tiles each, and their product 4."""
    model, x = made(rng, "plain", 1, 128, 128, 2)
    for tensor in model.graph.initializer:
        if tensor.name in ("wq", "wk"):
            values = numpy_helper.to_array(tensor).copy()
            values[:, 64:] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert joined(agree(model, tmp_path, x)) == {"mix"}


def test_an_attention_of_one_head_in_text_and_what_it_saves(tmp_path: Path, rng: np.random.Generator) -> None:
    model, x = made(rng, "guarded", 1, 65, 60, 62)
    graph = agree(model, tmp_path, x)
    assert render(graph) == (
        "graph @attending (%x: 2x4x60)\n"
        "  %y: 2x4x62 = attention @Softmax_1 (%x) heads=1 key-heads=1 head-size=65 query=@Q*K|V*O key=@Q*K|V*O "
        "value=@Q*K|V*O output=@Q*K|V*O {\n"
        "    %Mul_2/Mul_output: 2x4x65, %v1: 2x4x65 = matrixvector @Q*K|V*O (%x) 60x122 = "
        '[60x60 of 60x65 = 60x65 of "wq" float32[60x65] gain * transposed 60x65 of "wk" float32[60x65] | '
        '60x62 of 60x65 = 60x65 of "wv" float32[60x65] * 65x62 of "wo" float32[65x62]] '
        "bias replaces(Q, Add_1, Mul_1, Mul_2, V, Add_3) "
        "; keys' matrix in the queries', output's matrix in the values', 8 columns of zeros\n"
        "    %k1: 2x4x65 = absorbed @K (%x) heads=1 each 60 of 65\n"
        "    %y: 2x4x62 = absorbed @O (%m2) heads=1 added 62 of 65\n"
        "  }\n"
        "  return %y\n"
    )
    (saving,) = Tile().run(graph, CONTEXT).savings
    assert (saving.weights, saving.tiles) == (65 * (60 + 60 + 60 + 62) - 60 * (60 + 62), 8 - 2)
    assert saving.how == ("keys' matrix in the queries'", "output's matrix in the values'", "8 columns of zeros")


@pytest.mark.parametrize("target", ["crossbar", pytest.param("glass", marks=pytest.mark.slow)])
def test_a_chip_with_an_attention_of_one_head(tmp_path: Path, rng: np.random.Generator, target: str) -> None:
    """End to end: parameters and MACs are those of all four matrices, tiles those of two."""
    model, x = made(rng, "convolutions", 1, 8, 8, 8)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", FLOAT, x.shape))
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((40, *x.shape[1:])).astype(np.float32))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    path = saved(model, tmp_path)
    bundle = pfmc.compile(path, tmp_path / "out", target=target, calibration=tmp_path / "data.npz")
    manifest = bundle.manifest
    assert (manifest.parameters.mapped, manifest.macs.mapped) == (4 * 8 * 8, 4 * 8 * 8 * SIDE * SIDE)
    assert manifest.savings[0].weights == 2 * 8 * 8
    assert {tile.node for tile in bundle.tiles} == {"Q*K|V*O"}
    assert bundle.verify(tmp_path / "data.npz").passed
    bundle.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "[query | key | value | output]<br>8 × 16" in page
    assert "output<br>" not in page
