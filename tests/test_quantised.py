"""Quantised operators and weights: tiles compute what ONNX Runtime does, and no weight is unpacked to be mapped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import both, counted
from models import model, node, saved
from numpy.testing import assert_allclose
from onnx import TensorProto, helper

from pfmc.frontend.constants import Constants
from pfmc.frontend.importer import import_model
from pfmc.frontend.operators import operation
from pfmc.frontend.rewriting import rewrite
from pfmc.ir.graph import HostNode

SIZE = st.integers(1, 5)
BYTE = st.sampled_from([np.int8, np.uint8])
BYTES = st.sampled_from([(np.int8, np.int8), (np.uint8, np.int8), (np.uint8, np.uint8)])  # x and w, of those that run


def generator(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32)))


def whole(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def meanings(
    draw: st.DrawFn, rng: np.random.Generator, dtype: type, count: int, *, zero: bool = True
) -> list[np.ndarray]:
    """Scale and zero point, of a tensor or per channel."""
    shape = draw(st.sampled_from([(), (count,)]))
    scale = rng.uniform(0.01, 0.1, shape).astype(np.float32)
    return [scale, whole(rng, dtype, *shape) if zero else np.zeros(shape, dtype)]


def agrees(
    nodes: Sequence[onnx.NodeProto],
    x: np.ndarray,
    folder: Path,
    macs: int,
    constants: dict[str, np.ndarray],
    *,
    opset: int = 18,
    off: float | np.ndarray = 0.0,
) -> None:
    """The node called "it" is mapped, and the model computes the same, or is at most so far off."""
    made = model(nodes, {"x": x.shape}, ["y"], constants, domains=["com.microsoft"], opset=opset)
    made.graph.input[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(x.dtype)
    reference, found, imported = both(made, folder, x=x)
    assert found.dtype == reference.dtype
    exact = reference.astype(np.float64)
    assert np.all(np.abs(found - exact) <= off + (0 if reference.dtype == np.int32 else 2e-4 * (1 + np.abs(exact))))
    (contraction,) = imported.graph.contractions()
    assert contraction.name == "it"
    counts = counted(imported, x=x)
    assert counts.macs_by_node == {"it": macs}
    assert contraction.weight.size <= max(counts.parameters, 1)


@given(st.data())
def test_linear_matmul(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, (m, k, n), kinds = (
        generator(data.draw),
        data.draw(st.tuples(SIZE, SIZE, SIZE)),
        data.draw(BYTES),
    )
    left = data.draw(st.booleans())
    a, b = whole(rng, kinds[0], m, k), whole(rng, kinds[1], k, n)
    x, w = (b, a) if left else (a, b)
    constants = {"w": w}
    constants["xs"], constants["xz"] = (np.float32(0.02), whole(rng, x.dtype.type))
    constants["ws"], constants["wz"] = meanings(data.draw, rng, w.dtype.type, m if left else n)
    if left:
        constants["ws"], constants["wz"] = constants["ws"].reshape(-1)[:1], constants["wz"].reshape(-1)[:1]
    constants |= {"ys": np.float32(0.5), "yz": whole(rng, kinds[0])}
    names = "w ws wz x xs xz ys yz" if left else "x xs xz w ws wz ys yz"
    linear = node("QLinearMatMul", names, "y", name="it")
    agrees(
        [linear],
        x,
        tmp_path_factory.mktemp("m"),
        m * k * n // len(x),
        constants,
        opset=data.draw(st.sampled_from([13, 21])),
        off=1,
    )


@given(st.data())
def test_matmul_integer(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, (m, k, n), kinds = (
        generator(data.draw),
        data.draw(st.tuples(SIZE, SIZE, SIZE)),
        data.draw(BYTES),
    )
    x, w = whole(rng, kinds[0], m, k), whole(rng, kinds[1], k, n)
    constants = {"w": w}
    names = "x w"
    if data.draw(st.booleans()):
        constants |= {"xz": whole(rng, kinds[0]), "wz": meanings(data.draw, rng, kinds[1], n)[1]}
        names += " xz wz"
    agrees([node("MatMulInteger", names, "y", name="it")], x, tmp_path_factory.mktemp("m"), k * n, constants)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[dict[str, object], np.ndarray, np.ndarray, int]:
    """Attributes of a convolution in two dimensions, x, w, and the multiply-accumulates of a sample."""
    rng, kinds = generator(draw), draw(BYTES)
    kernel, strides, pads = ([draw(st.integers(low, 3)) for _ in range(2)] for low in (1, 1, 0))
    groups, height, width = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = whole(rng, kinds[0], 2, groups * height, 5, 6)
    w = whole(rng, kinds[1], groups * width, height, *kernel)
    positions = math.prod((e + 2 * p - k) // s + 1 for e, p, k, s in zip((5, 6), pads, kernel, strides, strict=True))
    attributes = {"strides": strides, "pads": pads * 2, "group": groups, "kernel_shape": kernel}
    return attributes, x, w, positions * w.size


@given(convolutions(), st.data())
def test_linear_conv(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[dict[str, object], np.ndarray, np.ndarray, int],
    data: st.DataObject,
) -> None:
    attributes, x, w, macs = drawn
    rng = generator(data.draw)
    constants = {"w": w, "xs": np.float32(0.02), "xz": whole(rng, x.dtype.type)}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, w.dtype.type, len(w), zero=w.dtype == np.uint8)
    if constants["wz"].size > 1:  # ONNX Runtime wants them alike
        constants["wz"] = np.full_like(constants["wz"], constants["wz"][0])
    constants |= {"ys": np.float32(0.5), "yz": whole(rng, x.dtype.type)}
    names = "x xs xz w ws wz ys yz"
    if data.draw(st.booleans()):
        constants["b"] = rng.integers(-9999, 9999, len(w)).astype(np.int32)
        names += " b"
    conv = node("QLinearConv", names, "y", name="it", **attributes)
    agrees([conv], x, tmp_path_factory.mktemp("m"), macs, constants, opset=data.draw(st.sampled_from([13, 21])), off=1)


def test_linear_conv_with_its_channels_last(rng: np.random.Generator, tmp_path: Path) -> None:
    """As ONNX Runtime writes it when it optimises the layout."""
    constants = {"w": whole(rng, np.int8, 6, 2, 3, 2), "xs": np.float32(0.02), "xz": np.uint8(99)}
    constants |= {"ws": rng.uniform(0.01, 0.1, 6).astype(np.float32), "wz": np.zeros(6, np.int8)}
    constants |= {"ys": np.float32(0.5), "yz": np.uint8(9)}
    names, domain = "x xs xz w ws wz ys yz", "com.microsoft"
    conv = node("QLinearConv", names, "y", name="it", domain=domain, channels_last=1, group=2, pads=[1, 0, 1, 0])
    agrees([conv], whole(rng, np.uint8, 2, 5, 6, 4), tmp_path, 5 * 5 * 6 * 2 * 6, constants, off=1)


@given(convolutions(), st.data())
def test_conv_integer(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[dict[str, object], np.ndarray, np.ndarray, int],
    data: st.DataObject,
) -> None:
    attributes, x, w, macs = drawn
    x, w = x.view(np.uint8), w.view(np.uint8)  # all that ONNX Runtime knows
    rng = generator(data.draw)
    constants = {"w": w, "xz": whole(rng, np.uint8), "wz": whole(rng, np.uint8)}
    conv = node("ConvInteger", "x w xz wz" if data.draw(st.booleans()) else "x w", "y", name="it", **attributes)
    agrees([conv], x, tmp_path_factory.mktemp("m"), macs, constants)


@given(st.data())
def test_quantised_attention(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """com.microsoft QAttention, as onnxruntime.quantization makes it: masked, causal, with a cache, or none of it."""
    rng, (heads, size, tokens, k) = generator(data.draw), data.draw(st.tuples(*[st.integers(1, 3)] * 4))
    kind, columns, earlier = data.draw(BYTE), 3 * heads * size, data.draw(st.integers(0, 2))
    x = whole(rng, np.uint8, 2, tokens, k)  # all that ONNX Runtime knows
    constants = {"w": whole(rng, kind, k, columns), "b": rng.standard_normal(columns).astype(np.float32)}
    constants |= {"xs": np.float32(rng.uniform(0.001, 0.01)), "xz": whole(rng, np.uint8)}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, kind, columns)
    names = ["x", "w", "b", "xs", "ws", "", "xz", "wz"]
    shape = data.draw(st.sampled_from([(), (2, earlier + tokens), (2, tokens, earlier + tokens)]))
    if shape:
        constants["m"] = (rng.random(shape) < 0.6).astype(np.int32)
        names[5] = "m"
    if earlier:
        constants["p"] = rng.standard_normal((2, 2, heads, earlier, size)).astype(np.float32)
        names.append("p")
    ways = {"num_heads": heads, "unidirectional": data.draw(st.integers(0, 1))}
    if data.draw(st.booleans()):
        ways["scale"] = 0.3  # type: ignore[assignment]
    present = "y present" if earlier else "y"
    attention = node("QAttention", " ".join(names), present, name="it", domain="com.microsoft", **ways)
    agrees([attention], x, tmp_path_factory.mktemp("m"), tokens * k * columns, constants)


@given(st.data())
def test_quantised_gemm(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, (m, k, n), kinds = (
        generator(data.draw),
        data.draw(st.tuples(SIZE, SIZE, SIZE)),
        data.draw(BYTES),
    )
    flips = data.draw(st.tuples(st.booleans(), st.booleans()))
    x = whole(rng, kinds[0], *((k, m) if flips[0] else (m, k)))
    constants = {"w": whole(rng, kinds[1], *((n, k) if flips[1] else (k, n)))}
    constants |= {"xs": np.float32(0.02), "xz": whole(rng, kinds[0])}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, kinds[1], n)
    names, off = ["x", "xs", "xz", "w", "ws", "wz", ""], 0
    if data.draw(st.booleans()):
        constants["c"] = rng.integers(-9999, 9999, (n,)).astype(np.int32)
        names[-1] = "c"
    if data.draw(st.booleans()):
        constants |= {"ys": np.float32(0.5), "yz": whole(rng, kinds[0])}
        names, off = [*names, "ys", "yz"], 1
    alpha = data.draw(st.sampled_from([1.0, 0.5]))
    gemm = node(
        "QGemm",
        " ".join(names),
        "y",
        name="it",
        domain="com.microsoft",
        alpha=alpha,
        transA=int(flips[0]),
        transB=int(flips[1]),
    )
    agrees([gemm], x, tmp_path_factory.mktemp("m"), m * k * n // len(x), constants, off=off)


@given(st.data())
def test_matmul_integer_to_float(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, (m, k, n), kinds = (
        generator(data.draw),
        data.draw(st.tuples(SIZE, SIZE, SIZE)),
        data.draw(BYTES),
    )
    x = whole(rng, kinds[0], m, k)
    constants = {"w": whole(rng, kinds[1], k, n), "xs": np.float32(0.02), "xz": whole(rng, kinds[0])}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, kinds[1], n)
    names = "x w xs ws xz wz"
    if data.draw(st.booleans()):
        constants["b"] = rng.standard_normal(n).astype(np.float32)
        names += " b"
    made = node("MatMulIntegerToFloat", names, "y", name="it", domain="com.microsoft")
    agrees([made], x, tmp_path_factory.mktemp("m"), k * n, constants)


@given(st.data())
def test_dynamically_quantised_matmul(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Tiles see x as it is; ONNX Runtime rounds it to a step of its range, which is how far they may be apart."""
    rng, (m, k, n), kind = generator(data.draw), data.draw(st.tuples(SIZE, SIZE, SIZE)), data.draw(BYTE)
    x = rng.standard_normal((m, k)).astype(np.float32)
    constants = {"w": whole(rng, kind, k, n)}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, kind, n)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    column = np.abs((constants["w"].astype(np.float64) - constants["wz"]) * constants["ws"]).sum(axis=0)
    made = node("DynamicQuantizeMatMul", "x w ws wz", "y", name="it", domain="com.microsoft")
    agrees([made], x, tmp_path_factory.mktemp("m"), k * n, constants, off=step * column)


@given(st.data())
def test_a_dynamically_quantised_layer_as_onnx_runtime_writes_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rng, (m, k, n), kind = generator(data.draw), data.draw(st.tuples(SIZE, SIZE, SIZE)), data.draw(BYTE)
    constants = {"w": whole(rng, kind, k, n)}
    constants["ws"], constants["wz"] = meanings(data.draw, rng, kind, n)
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z wz", "i", name="it"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "scale"),
        node("Mul", "f scale", "y"),
    ]
    x = rng.standard_normal((m, k)).astype(np.float32)
    agrees(nodes, x, tmp_path_factory.mktemp("m"), k * n, constants)


STORED = [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4]
STORED += [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2]


@st.composite
def dequantised(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], int]:
    """A DequantizeLinear that makes "d", of a tensor, per channel or per block; its constants, and the type stored."""
    rng, stored = generator(draw), draw(st.sampled_from(STORED))
    dtype = helper.tensor_dtype_to_np_dtype(stored)
    codes = rng.integers(-8, 8, shape) if dtype.name.startswith(("int", "float")) else rng.integers(0, 16, shape)
    constants = {"q": codes.astype(dtype)}
    axis, attributes = draw(st.integers(0, len(shape) - 1)), {}
    form = draw(st.sampled_from(["tensor", "channel", "block"]))
    if form == "tensor":
        scales: tuple[int, ...] = ()
    elif form == "channel":
        scales, attributes = (shape[axis],), {"axis": axis}
    else:
        block = draw(st.integers(1, shape[axis]))
        scales = tuple(-(-extent // block) if i == axis else extent for i, extent in enumerate(shape))
        attributes = {"axis": axis, "block_size": block}
    constants["s"] = rng.uniform(0.1, 1, scales).astype(np.float32)
    names = "q s"
    if draw(st.booleans()):
        constants["z"] = (np.zeros(scales) if "float" in dtype.name else rng.integers(0, 8, scales)).astype(dtype)
        names += " z"
    return [node("DequantizeLinear", names, "d", **attributes)], constants, stored


@given(st.data())
def test_weights_behind_dequantize_linear(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    m, k, n = data.draw(st.tuples(SIZE, SIZE, SIZE))
    form = data.draw(st.sampled_from(["MatMul", "Transpose", "Gemm", "left"]))
    nodes, constants, _ = data.draw(dequantised((n, k) if form != "MatMul" else (k, n)))
    x = np.random.default_rng(0).standard_normal((k, m) if form == "left" else (m, k)).astype(np.float32)
    if form == "Transpose":
        nodes += [node("Transpose", "d", "t", perm=[1, 0]), node("MatMul", "x t", "y", name="it")]
    elif form == "Gemm":
        nodes.append(node("Gemm", "x d", "y", name="it", transB=1))
    else:
        nodes.append(node("MatMul", "d x" if form == "left" else "x d", "y", name="it"))
    agrees(nodes, x, tmp_path_factory.mktemp("m"), m * k * n // len(x), constants, opset=23)


@given(st.data())
def test_a_convolution_behind_dequantize_linear(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Its bias may be quantised too."""
    columns, channels, kernel = data.draw(st.tuples(SIZE, SIZE, st.integers(1, 3)))
    nodes, constants, _ = data.draw(dequantised((columns, channels, kernel)))
    rng = generator(data.draw)
    constants |= {"bq": rng.integers(-99, 99, columns).astype(np.int32), "bs": np.float32(0.01)}
    nodes += [node("DequantizeLinear", "bq bs", "b"), node("Conv", "x d b", "y", name="it")]
    x = rng.standard_normal((2, channels, 5)).astype(np.float32)
    macs = columns * channels * kernel * (6 - kernel)
    agrees(nodes, x, tmp_path_factory.mktemp("m"), macs, constants, opset=23)


@given(st.data())
def test_matmul_of_few_bits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng, bits, block = generator(data.draw), data.draw(st.sampled_from([2, 4, 8])), data.draw(st.sampled_from([16, 32]))
    m, k, n = data.draw(st.tuples(SIZE, st.integers(1, 70), SIZE))
    blocks = -(-k // block)
    constants = {
        "w": whole(rng, np.uint8, n, blocks, block * bits // 8),
        "s": rng.uniform(0.01, 0.1, n * blocks).astype(np.float32),
    }
    names = ["x", "w", "s"]
    kind = data.draw(st.sampled_from(["none", "packed", *(["float"] if bits < 8 else [])]))
    if kind != "none":
        pitch = -(-blocks * bits // 8)
        constants["z"] = whole(rng, np.uint8, n * pitch)
        if kind == "float":
            constants["z"] = rng.uniform(0, 2**bits, n * blocks).astype(np.float32)
        names.append("z")
    if data.draw(st.booleans()):
        constants["b"] = rng.standard_normal(n).astype(np.float32)
        names = [*names, *[""] * (5 - len(names)), "b"]
    made = node(
        "MatMulNBits", " ".join(names), "y", name="it", domain="com.microsoft", K=k, N=n, bits=bits, block_size=block
    )
    agrees([made], rng.standard_normal((m, k)).astype(np.float32), tmp_path_factory.mktemp("m"), k * n, constants)


def test_weights_of_few_bits_are_counted_each_and_never_unpacked(rng: np.random.Generator, tmp_path: Path) -> None:
    rows, columns = 512, 256
    constants = {
        "w": whole(rng, np.uint8, columns, rows // 32, 16),
        "s": np.full(columns * rows // 32, 0.1, np.float32),
    }
    few = node("MatMulNBits", "x w s", "y", domain="com.microsoft", K=rows, N=columns, bits=4, block_size=32)
    found = import_model(
        saved(model([few], {"x": [None, rows]}, ["y"], constants, domains=["com.microsoft"]), tmp_path), tmp_path
    )
    counts = counted(found, x=np.ones((1, rows), np.float32))
    assert (counts.parameters, counts.macs) == (rows * columns, rows * columns)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * rows * columns  # bytes, in float32 it is 4


def test_a_model_quantised_in_an_old_opset_has_scales_per_channel(rng: np.random.Generator, tmp_path: Path) -> None:
    constants = {
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "w": whole(rng, np.int8, 300, 4, 1, 1),
        "ws": rng.uniform(0.01, 0.1, 300).astype(np.float32),
        "wz": np.zeros(300, np.int8),
        "ys": np.float32(0.5),
        "yz": np.uint8(3),
    }
    nodes = [
        node("QuantizeLinear", "x xs xz", "q"),
        node("QLinearConv", "q xs xz w ws wz ys yz", "c"),
        node("DequantizeLinear", "c ys yz", "y"),
    ]
    found = import_model(saved(model(nodes, {"x": [None, 4, 3, 3]}, ["y"], constants, opset=11), tmp_path), tmp_path)
    (contraction,) = found.graph.contractions()
    weight = constants["w"] * constants["ws"].reshape(-1, 1, 1, 1).astype(np.float64)
    assert_allclose(contraction.weight.take(np.arange(weight.size)), weight.reshape(-1))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("QLinearMatMul", "x s z q x z s z", "y"), "not constant"),
        (
            node("MatMulNBits", "f q s z g", "y", domain="com.microsoft", K=4, N=4, bits=8, block_size=16),
            "another order",
        ),
    ],
)
def test_what_is_left_says_why(made: onnx.NodeProto, reason: str, tmp_path: Path) -> None:
    made.name = "it"
    q, k = np.ones((4, 4), np.uint8), np.ones((4, 4, 1), np.uint8)
    constants = {"s": np.float32(1), "z": np.uint8(0), "q": q, "k": k, "g": np.arange(4)}
    wrapped = model([made], {"x": [4, 4], "f": [4, 4]}, ["y"], constants)
    known = Constants(wrapped, tmp_path)
    reasons = rewrite(wrapped.graph, known, {}).reasons
    found = operation(made, known, {}, reasons.get("it", ""))
    assert isinstance(found, HostNode)
    assert reason in found.reason
