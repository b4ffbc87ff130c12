"""Contractions in disguise: ONNX Runtime says what each operator computes, its tiles must compute the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import both, counted
from models import model, node
from numpy.testing import assert_allclose


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
