"""Contractions in disguise: ONNX Runtime says what each operator computes, its tiles must compute the same."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import both, counted, imported_as_it_is
from models import model, node
from numpy.testing import assert_allclose

from pfmc.frontend.constants import Constants
from pfmc.frontend.operators import operation
from pfmc.frontend.rewriting import rewrite
from pfmc.ir.graph import HostNode


@dataclass
class Case:
    """A model of one node, called "it", with x dynamic and w constant."""

    made: onnx.ModelProto
    x: np.ndarray
    weights: int
    macs: int  # of one sample


def agrees(case: Case, folder: Path) -> None:
    """Everything is mapped, counted once, and computes the same."""
    reference, found, imported = both(case.made, folder, x=case.x)
    assert found.dtype == reference.dtype
    assert_allclose(found, reference, rtol=2e-4, atol=2e-4)
    (contraction,) = imported.graph.contractions()
    assert contraction.name == "it"
    assert math.prod(contraction.weight.shape) == case.weights
    assert not any(n.reason for n in imported.graph.nodes if isinstance(n, HostNode))
    counts = counted(imported, x=case.x)
    assert counts.macs_by_node == {"it": case.macs}


def case(made: onnx.NodeProto, x: np.ndarray, macs: int, **constants: np.ndarray) -> Case:
    """A case of so many multiply-accumulates for all of x; its first axis counts samples."""
    made.name = "it"
    wrapped = model([made], {"x": x.shape}, ["y"], constants, domains=["com.microsoft"])
    return Case(wrapped, x, constants["w"].size, macs // x.shape[0])


def generator(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32)))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


SIZE = st.integers(1, 4)


@st.composite
def products(draw: st.DrawFn) -> Case:
    """Operands of one to four axes that broadcast, the constant on either side."""
    rng, (m, k, n) = generator(draw), draw(st.tuples(SIZE, SIZE, SIZE))
    batch = draw(st.lists(SIZE, max_size=2))

    def operand(last: tuple[int, int], vector: int) -> np.ndarray:
        if not batch and draw(st.booleans()):
            return normal(rng, vector)
        cut = batch[draw(st.integers(0, len(batch))) :]
        return normal(rng, *(draw(st.sampled_from([1, extent])) for extent in cut), *last)

    left, right = operand((m, k), k), operand((k, n), k)
    x, w = (right, left) if draw(st.booleans()) else (left, right)
    order = "x w" if x is left else "w x"
    return case(node("MatMul", order, "y"), x, np.asarray(left @ right).size * k, w=w)


@given(products())
def test_matmul(tmp_path_factory: pytest.TempPathFactory, drawn: Case) -> None:
    agrees(drawn, tmp_path_factory.mktemp("m"))


@st.composite
def general_products(draw: st.DrawFn, kind: str = "Gemm") -> Case:
    rng, (m, k, n) = generator(draw), draw(st.tuples(SIZE, SIZE, SIZE))
    flips = draw(st.tuples(st.booleans(), st.booleans()))
    a, b = (normal(rng, *(size[::-1] if flip else size)) for size, flip in zip(((m, k), (k, n)), flips, strict=True))
    left = draw(st.booleans())
    x, w = (b, a) if left else (a, b)
    attributes = {"transA": int(flips[0]), "transB": int(flips[1]), "alpha": draw(st.sampled_from([1.0, 0.5, -2.0]))}
    names, constants = ("w x" if left else "x w"), {"w": w}
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(), (1,), (n,), (1, n), (m, 1), (m, n), (1, 1)]))
        constants["c"] = normal(rng, *shape)
        names += " c"
    attributes["beta"] = draw(st.sampled_from([0.0, 1.0, 0.5]))
    made = node(kind, names, "y", **attributes)
    if kind == "FusedGemm":
        made = node(kind, names, "y", **attributes, **draw(activations()), domain="com.microsoft")
    return case(made, x, m * k * n, **constants)


@given(general_products())
def test_gemm(tmp_path_factory: pytest.TempPathFactory, drawn: Case) -> None:
    agrees(drawn, tmp_path_factory.mktemp("m"))


@st.composite
def activations(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["Relu", "Tanh", "Sigmoid", "LeakyRelu"]))
    return {"activation": kind, "activation_alpha": 0.2} if kind == "LeakyRelu" else {"activation": kind}


@given(general_products("FusedGemm"))
def test_fused_gemm(tmp_path_factory: pytest.TempPathFactory, drawn: Case) -> None:
    agrees(drawn, tmp_path_factory.mktemp("m"))


@given(st.data())
def test_fused_matmul(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, (batch, m, k, n) = generator(data.draw), data.draw(st.tuples(SIZE, SIZE, SIZE, SIZE))
    flips = data.draw(st.tuples(st.booleans(), st.booleans()))
    a, b = (
        normal(rng, *([batch] if data.draw(st.booleans()) else []), *(size[::-1] if flip else size))
        for size, flip in zip(((m, k), (k, n)), flips, strict=True)
    )
    left = data.draw(st.booleans())
    x, w = (b, a) if left else (a, b)
    made = node(
        "FusedMatMul",
        "w x" if left else "x w",
        "y",
        domain="com.microsoft",
        transA=int(flips[0]),
        transB=int(flips[1]),
        alpha=data.draw(st.sampled_from([1.0, 0.5])),
    )
    count = batch if max(a.ndim, b.ndim) == 3 else 1
    agrees(case(made, x, count * m * k * n, w=w), tmp_path_factory.mktemp("m"))


@st.composite
def einsums(draw: st.DrawFn) -> Case:
    """Each axis is in some of x, w and the result, in any order; only one of w is never summed alone."""
    kinds = draw(st.lists(st.sampled_from(["xy", "xy", "xw", "xw", "wy", "wy", "xwy", "x"]), max_size=5))
    kinds += ["xy", draw(st.sampled_from(["xw", "wy"]))]
    extents = {label: draw(st.integers(1, 3)) for label in "abcdefg"[: len(kinds)]}
    axes = {
        term: draw(st.permutations([label for label, kind in zip(extents, kinds, strict=True) if term in kind]))
        for term in "xwy"
    }
    rng, order = generator(draw), draw(st.sampled_from(["xw", "wx"]))
    x, w = (normal(rng, *(extents[label] for label in axes[term])) for term in "xw")
    equation = f"{','.join(''.join(axes[term]) for term in order)}->{''.join(axes['y'])}"
    macs = math.prod(extents[label] for label, kind in zip(extents, kinds, strict=True) if kind != "x")
    return case(node("Einsum", " ".join(order), "y", equation=equation), x, macs, w=w)


@given(einsums())
def test_einsum(tmp_path_factory: pytest.TempPathFactory, drawn: Case) -> None:
    agrees(drawn, tmp_path_factory.mktemp("m"))


@pytest.mark.parametrize(
    ("equation", "x", "w", "macs"),
    [
        ("ij,jk", (2, 3), (3, 4), 24),
        ("ij,kj", (2, 3), (4, 3), 24),
        ("...ij,jk->...ik", (2, 5, 2, 3), (3, 4), 240),
        ("...ij, ...jk -> ...ik", (2, 5, 2, 3), (1, 5, 3, 4), 240),
        ("i...,ik...->k...", (2, 5, 3), (2, 4, 5, 1), 120),
        ("...i,i", (2, 3), (3,), 6),
    ],
)
def test_einsum_as_it_is_written(
    equation: str, x: tuple[int, ...], w: tuple[int, ...], macs: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    agrees(case(node("Einsum", "x w", "y", equation=equation), normal(rng, *x), macs, w=normal(rng, *w)), tmp_path)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(axes)]

    kernel, strides, dilations, positions = sizes(1, 3), sizes(1, 3), sizes(1, 2), sizes(2, 4)
    groups = draw(st.integers(1, 2))
    height, width = draw(SIZE), draw(SIZE)
    attributes: dict[str, object] = {"strides": strides, "dilations": dilations, "group": groups}
    attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    pad = draw(st.sampled_from(["none", "explicit", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if pad == "explicit":
        attributes["pads"] = [
            draw(st.integers(0, d * (k - 1) // 2)) for k, d in zip(kernel, dilations, strict=True)
        ] * 2
    elif pad != "none":
        attributes["auto_pad"] = pad
        del attributes["output_padding"]
    rng = generator(draw)
    constants = {"w": normal(rng, groups * height, width, *kernel)}
    if draw(st.booleans()):
        constants["b"] = normal(rng, groups * width)
    x = normal(rng, 2, groups * height, *positions)
    macs = x.size * width * math.prod(kernel)
    return case(node("ConvTranspose", " ".join(["x", *constants]), "y", **attributes), x, macs, **constants)


@given(transposed_convolutions())
def test_conv_transpose(tmp_path_factory: pytest.TempPathFactory, drawn: Case) -> None:
    agrees(drawn, tmp_path_factory.mktemp("m"))


@pytest.mark.parametrize("activation", [{"activation": "Relu"}, {"activation": "Clip", "activation_params": [-0.2, 1]}])
def test_fused_conv(activation: dict[str, object], rng: np.random.Generator, tmp_path: Path) -> None:
    made = node("FusedConv", "x w b", "y", domain="com.microsoft", pads=[1, 0], group=2, **activation)
    constants = {"w": normal(rng, 6, 2, 3), "b": normal(rng, 6)}
    agrees(case(made, normal(rng, 2, 4, 9), 2 * 6 * 8 * 6, **constants), tmp_path)


@pytest.mark.parametrize(
    ("made", "x", "reason"),
    [
        (node("MatMul", "x w3", "y"), None, "how many axes"),
        (node("MatMul", "x w3", "y"), [None, 4, 4], "whether its input has a matrix for each"),
        (node("Einsum", "x w x", "y", equation="ij,jk,kl->il"), [4, 4], "3 operands"),
        (node("Einsum", "x w", "y", equation="ij,kk->ij"), [4, 4], "twice"),
        (node("Einsum", "x w", "y", equation="ij,kl->ijk"), [4, 4], "summed alone"),
        (node("FusedMatMul", "x w3", "y", domain="com.microsoft", transBatchB=1), [3, 4, 4], "batch is transposed"),
        (node("FusedGemm", "x w", "y", domain="com.microsoft", activation="Softmax"), [4, 4], "activation Softmax"),
        (node("Conv", "x w3", "y", domain="com.microsoft.nchwc"), [1, 4, 4], "reordered for one processor"),
    ],
)
def test_what_is_left_says_why(made: onnx.NodeProto, x: list[int | None] | None, reason: str, tmp_path: Path) -> None:
    made.name = "it"
    w = np.ones((4, 4), np.float32)
    wrapped = model([made], {"x": x or []}, ["y"], {"w": w, "w3": np.stack([w, w, w])})
    if x is None:
        wrapped.graph.input[0].type.tensor_type.ClearField("shape")
    constants = Constants(wrapped, tmp_path)
    shapes = {} if x is None else {"x": tuple(x)}
    reasons = rewrite(wrapped.graph, constants, shapes).reasons
    assert list(wrapped.graph.node) == [made]
    found = operation(made, constants, shapes, reasons["it"])
    assert isinstance(found, HostNode)
    assert re.search(reason, found.reason)


def test_what_stands_around_a_contraction_is_called_after_it(rng: np.random.Generator, tmp_path: Path) -> None:
    """And any size will do where the model leaves it open."""
    made = node("Einsum", "x w", "y", equation="bhqd,hde->bhqe")
    made.name = "block/mix"
    wrapped = model([made], {"x": ["b", 2, "q", 3]}, ["y"], {"w": normal(rng, 2, 3, 4)})
    imported = imported_as_it_is(wrapped, tmp_path)
    assert all(n.name.startswith("block/mix") for n in imported.graph.nodes)
    assert [c.name for c in imported.graph.contractions()] == ["block/mix"]
    for size in (1, 5):
        x = normal(rng, 3, 2, size, 3)
        reference, found, _ = both(wrapped, tmp_path, x=x)
        assert_allclose(found, reference, rtol=1e-4, atol=1e-4)
