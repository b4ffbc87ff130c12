"""What the frontend makes of a model: ONNX Runtime is the judge of every operation."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import model, node, saved, weights_model
from numpy.testing import assert_allclose
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data

from pfmc.data import Dataset, load_dataset, random_dataset
from pfmc.errors import DataError, ImportModelError
from pfmc.frontend.activations import recorder
from pfmc.frontend.constants import Constants
from pfmc.frontend.counts import count, drawn_inputs
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.frontend.operators import operation
from pfmc.frontend.runtime import Runtime
from pfmc.ir.graph import Affine, Contraction, Conv, Gemm, HostNode, MatMul, Node
from pfmc.ir.weights import Matrix

SAMPLES = Path(__file__).parent.parent / "samples"


def computed(operation: Node, x: np.ndarray) -> np.ndarray:
    """What an operation of the Graph says that it computes, in float64."""
    x = x.astype(np.float64)
    if isinstance(operation, Affine):
        shape = [1] * x.ndim
        shape[operation.axis] = -1
        y = x if operation.gain is None else x * operation.gain.reshape(shape)
        return y if operation.offset is None else y + operation.offset.reshape(shape)
    assert isinstance(operation, Contraction)
    transposed = isinstance(operation, Conv) or (isinstance(operation, Gemm) and operation.transposed)
    groups = operation.groups if isinstance(operation, Conv) else 1
    matrix = Matrix(operation.weight, transposed, groups)
    vectors = operation.windows(x) if isinstance(operation, Conv) else x
    y = vectors @ matrix.block(range(matrix.rows), range(matrix.columns))
    y = y * operation.alpha if isinstance(operation, Gemm) else y
    y = y if operation.bias is None else y + operation.bias
    return np.moveaxis(y, -1, 1) if isinstance(operation, Conv) else y


def single(made: onnx.ModelProto, folder: Path) -> Node:
    """The operation that the only node of a model is, without folding."""
    (only,) = onnx.shape_inference.infer_shapes(made).graph.node
    only.name = "it"
    shapes = {v.name: tuple(d.dim_value or None for d in v.type.tensor_type.shape.dim) for v in made.graph.input}
    return operation(only, Constants(made, folder), shapes)


def agrees(made: onnx.ModelProto, x: np.ndarray, folder: Path, kind: type[Node]) -> None:
    """The operation is of a kind, and computes what ONNX Runtime computes."""
    found = single(made, folder)
    assert isinstance(found, kind)
    reference = Runtime(made.SerializeToString()).run(Dataset({"x": x}, None, "random"), 64)["y"]
    assert_allclose(computed(found, x), reference, rtol=1e-4, atol=1e-4)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# Each operation


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (2, 3, 5, 7)])
def test_matmul(shape: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "y")], {"x": shape}, ["y"], {"w": normal(rng, 7, 4)})
    agrees(made, normal(rng, *shape), tmp_path, MatMul)


@pytest.mark.parametrize("c", [None, (), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(c: tuple[int, ...] | None, transposed: int, rng: np.random.Generator, tmp_path: Path) -> None:
    constants = {"w": normal(rng, 4, 7) if transposed else normal(rng, 7, 4)}
    if c is not None:
        constants["c"] = normal(rng, *c)
    gemm = node("Gemm", "x w" if c is None else "x w c", "y", transB=transposed, alpha=0.5, beta=-2.0)
    agrees(model([gemm], {"x": (5, 7)}, ["y"], constants), normal(rng, 5, 7), tmp_path, Gemm)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray]:
    axes = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(axes)]

    kernel, strides, dilations = sizes(1, 3), sizes(1, 3), sizes(1, 2)
    groups = draw(st.integers(1, 3))
    channels, columns = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    attributes: dict[str, object] = {"strides": strides, "dilations": dilations, "group": groups}
    pad = draw(st.sampled_from(["explicit", "VALID", "SAME_UPPER", "SAME_LOWER", "none"]))
    if pad == "explicit":
        attributes["pads"] = sizes(0, 2) + sizes(0, 2)
    elif pad != "none":
        attributes["auto_pad"] = pad
    if pad.startswith("SAME"):  # ONNX Runtime does not know both together
        attributes["dilations"] = [1] * axes
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = normal(
        rng, 2, channels, *(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    )
    constants = {"w": normal(rng, columns, channels // groups, *kernel)}
    if draw(st.booleans()):
        constants["b"] = normal(rng, columns)
    conv = node("Conv", "x w b" if "b" in constants else "x w", "y", **attributes)
    return model([conv], {"x": x.shape}, ["y"], constants), x


@given(convolutions())
def test_conv(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[onnx.ModelProto, np.ndarray]) -> None:
    made, x = drawn
    agrees(made, x, tmp_path_factory.mktemp("conv"), Conv)


def test_same_padding_of_an_open_size(rng: np.random.Generator, tmp_path: Path) -> None:
    """With a stride of one it does not depend on the size; with another it does, and the node stays on the host."""
    shape = [1, 2, None, None]
    for strides in ([1, 1], [2, 1]):
        conv = node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=strides)
        made = model([conv], {"x": shape}, ["y"], {"w": normal(rng, 3, 2, 4, 3)})
        if strides == [1, 1]:
            agrees(made, normal(rng, 1, 2, 6, 5), tmp_path, Conv)
        else:
            found = single(made, tmp_path)
            assert isinstance(found, HostNode)
            assert "spatial size" in found.reason


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", ["x c", "c x"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)])
def test_elementwise(kind: str, order: str, shape: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    constant = normal(rng, *shape) + 3
    made = model([node(kind, order, "y")], {"x": (2, 3, 4, 5)}, ["y"], {"c": constant.astype(np.float32)})
    if (kind, order) == ("Div", "c x"):
        assert isinstance(single(made, tmp_path), HostNode)
    else:
        agrees(made, normal(rng, 2, 3, 4, 5), tmp_path, Affine)


@pytest.mark.parametrize(
    ("x", "constant"),
    [
        ((2, 3), np.ones((1, 2, 3), np.float32)),  # the rank grows
        ((2, 1), np.ones(3, np.float32)),  # an axis grows
        ((2, None), np.ones(3, np.float32)),  # an axis may grow
        ((2, 3), np.ones((2, 3), np.float32)),  # not one axis
        ((2, 3), np.array([1, 0, 1], np.float32)),  # divides by zero
    ],
)
def test_elementwise_operations_that_do_more_are_no_affine(
    x: tuple[int | None, ...], constant: np.ndarray, tmp_path: Path
) -> None:
    assert isinstance(single(model([node("Div", "x c", "y")], {"x": x}, ["y"], {"c": constant}), tmp_path), HostNode)


def test_batch_normalization(rng: np.random.Generator, tmp_path: Path) -> None:
    constants = {name: normal(rng, 3) for name in ("s", "b", "m")} | {"v": np.array([0.1, 2, 1], np.float32)}
    normalization = node("BatchNormalization", "x s b m v", "y", epsilon=1e-2)
    made = model([normalization], {"x": (2, 3, 4)}, ["y"], constants)
    agrees(made, normal(rng, 2, 3, 4), tmp_path, Affine)


def test_float64_weights_stay_what_they_are(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = rng.standard_normal((7, 4))
    made = model([node("MatMul", "x w", "y")], {"x": (None, 7)}, ["y"], {"w": weights}, dtype=onnx.TensorProto.DOUBLE)
    found = imported(made, tmp_path)
    (contraction,) = found.graph.contractions()
    assert contraction.weight.dtype == found.inputs[0].dtype == "float64"
    assert np.array_equal(contraction.weight.map(), weights)


def test_float16_weights_are_mapped_although_onnx_runtime_computes_in_float32(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    weights, bias = normal(rng, 70, 40).astype(np.float16), normal(rng, 40).astype(np.float16)
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    made = model(nodes, {"x": (None, 70)}, ["y"], {"w": weights, "b": bias}, dtype=onnx.TensorProto.FLOAT16)
    found = imported(made, tmp_path)
    (contraction,) = found.graph.contractions()
    assert np.array_equal(contraction.weight.map(), weights.astype(np.float32))
    assert np.array_equal(contraction.bias, bias.astype(np.float64))
    assert found.inputs[0].dtype == "float16"


def test_bfloat16_weights(rng: np.random.Generator, tmp_path: Path) -> None:
    made = weights_model(normal(rng, 7, 4))
    values = numpy_helper.to_array(made.graph.initializer[0]).astype(helper.tensor_dtype_to_np_dtype(16))
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    found = single(made, tmp_path)
    assert isinstance(found, MatMul)
    assert found.weight.dtype == "bfloat16"
    assert np.array_equal(found.weight.map().astype(np.float32), values.astype(np.float32))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("DeformConv", "x w x", "y"), "DeformConv is not mapped"),
        (node("MatMul", "x i", "y"), "type int8"),
        (node("Conv", "x k", "y", pads=[-1, 0]), "negative"),
    ],
)
def test_what_stays_on_the_host_says_why(made: onnx.NodeProto, reason: str, tmp_path: Path) -> None:
    w = np.ones((4, 4), np.float32)
    constants = {"w": w, "i": w.astype(np.int8), "k": np.ones((4, 4, 3), np.float32)}
    made.name = "it"
    found = operation(made, Constants(model([made], {"x": (4, 4)}, ["y"], constants), tmp_path), {"x": (4, 4)})
    assert isinstance(found, HostNode)
    assert reason in found.reason


# Whole models


def imported(made: onnx.ModelProto, folder: Path) -> ImportedModel:
    return import_model(saved(made, folder), folder)


def perceptron(rng: np.random.Generator) -> onnx.ModelProto:
    constants = {"w1": normal(rng, 20, 30), "b1": normal(rng, 30), "w2": normal(rng, 30, 4)}
    nodes = [
        node("MatMul", "x w1", "h"),
        node("Add", "h b1", "hb"),
        node("Relu", "hb", "r"),
        node("MatMul", "r w2", "y"),
    ]
    return model(nodes, {"x": [None, 20]}, ["y"], constants)


def test_nodes_have_the_names_of_the_folded_model(rng: np.random.Generator, tmp_path: Path) -> None:
    found = imported(perceptron(rng), tmp_path)
    folded = onnx.load(found.folded, load_external_data=False)
    assert [n.name for n in found.graph.nodes] == [n.name for n in folded.graph.node]
    assert len({n.name for n in found.graph.nodes}) == len(found.graph.nodes)
    assert found.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert found.files == (tmp_path / "m.onnx",)


def test_a_made_up_name_does_not_meet_a_given_one(rng: np.random.Generator, tmp_path: Path) -> None:
    made = perceptron(rng)
    made.graph.node[2].name = "MatMul_1"
    found = imported(made, tmp_path)
    assert len({n.name for n in found.graph.nodes}) == len(found.graph.nodes)
    assert next(n for n in found.graph.nodes if isinstance(n, HostNode)).name == "MatMul_1"


def test_importing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        import_model(SAMPLES / "language_encoder" / "model.onnx", tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.add(tuple((f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files))
    assert len(digests) == 1


def test_weights_in_constant_nodes_and_computed_ones_are_mapped(rng: np.random.Generator, tmp_path: Path) -> None:
    value = numpy_helper.from_array(normal(rng, 30, 20))
    nodes = [
        helper.make_node("Constant", [], ["stored"], value=value),
        node("Transpose", "stored", "w", perm=[1, 0]),
        node("MatMul", "x w", "h"),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0] * 30),
        node("Add", "h b", "y"),
    ]
    found = imported(model(nodes, {"x": [None, None, 20]}, ["y"]), tmp_path)
    (contraction,) = found.graph.contractions()
    assert np.array_equal(contraction.weight.map(), numpy_helper.to_array(value).T)


def test_batch_normalization_is_folded_into_a_convolution(rng: np.random.Generator, tmp_path: Path) -> None:
    constants = {name: normal(rng, 8) for name in ("s", "b", "m")} | {"v": np.full(8, 2.0, np.float32)}
    nodes = [node("Conv", "x w", "h", pads=[1, 1]), node("BatchNormalization", "h s b m v", "y")]
    made = model(nodes, {"x": [None, 4, 9]}, ["y"], constants | {"w": normal(rng, 8, 4, 3)})
    found = imported(made, tmp_path)
    (conv,) = found.graph.nodes
    x = normal(rng, 2, 4, 9)
    assert_allclose(
        computed(conv, x), Runtime(tmp_path / "m.onnx").run(Dataset({"x": x}, None, "file"))["y"], atol=1e-4
    )


def test_what_a_body_reads_from_outside_counts_as_read(rng: np.random.Generator, tmp_path: Path) -> None:
    """Otherwise a pass would believe that nobody else reads h."""
    info = onnx.ValueInfoProto(name="z")
    bodies = [
        helper.make_graph(
            [node("MatMul", "h inner", "z")],
            "then",
            [],
            [info],
            [numpy_helper.from_array(np.eye(4, dtype=np.float32), "inner")],
        ),
        helper.make_graph([node("Neg", "h", "z")], "else", [], [info]),
    ]
    nodes = [
        node("MatMul", "x w", "h"),
        node("ReduceSum", "h", "s", keepdims=0),
        node("Greater", "s zero", "c"),
        node("If", "c", "y", then_branch=bodies[0], else_branch=bodies[1]),
    ]
    made = model(nodes, {"x": [None, 4]}, ["y"], {"w": normal(rng, 4, 4), "zero": np.zeros((), np.float32)})
    found = imported(made, tmp_path)
    branch = next(n for n in found.graph.nodes if isinstance(n, HostNode) and n.kind == "If")
    assert {"c", "h"} < set(branch.inputs)
    assert "w" not in {value for n in found.graph.nodes for value in n.inputs}


def test_macs_are_those_of_one_sample(rng: np.random.Generator, tmp_path: Path) -> None:
    for batch in (None, 3):
        nodes = [
            node("Conv", "x k", "h", strides=[2, 2], group=2),
            node("ConvTranspose", "h t", "u"),
            node("Einsum", "u e", "y", equation="bchw,cd->bdhw"),
        ]
        constants = {"k": normal(rng, 8, 2, 3, 3), "t": normal(rng, 8, 5, 2, 2), "e": normal(rng, 5, 6)}
        found = imported(model(nodes, {"x": [batch, 4, 9, 9]}, ["y"], constants), tmp_path)
        macs = count(found, random_dataset(found.inputs, 4, rng)).macs
        assert macs == 8 * 16 * (2 * 9) + (8 * 16) * (5 * 4) + 25 * 5 * 6


def test_the_parameters_that_are_mapped_are_never_more_than_all(rng: np.random.Generator, tmp_path: Path) -> None:
    """A weight that the model computes by filling has no parameters, until it is folded."""
    nodes = [node("ConstantOfShape", "s", "w"), node("MatMul", "x w", "y")]
    found = imported(model(nodes, {"x": [None, 20]}, ["y"], {"s": np.array([20, 30])}), tmp_path)
    assert count(found, random_dataset(found.inputs, 2, rng)).parameters == 600


@pytest.mark.parametrize(("sample", "kinds"), [("digits_mlp", [Gemm, Gemm]), ("digits_cnn", [Conv, Conv, Conv, Gemm])])
def test_samples(sample: str, kinds: list[type], tmp_path: Path) -> None:
    found = import_model(SAMPLES / sample / "model.onnx", tmp_path)
    assert [type(n) for n in found.graph.contractions()] == kinds
    data = load_dataset(SAMPLES / sample / "test.npz", found.inputs)
    original, folded = (Runtime(p).run(data) for p in (SAMPLES / sample / "model.onnx", found.folded))
    assert data.labels is not None
    assert (original["logits"].argmax(-1) == data.labels).mean() > 0.95
    assert_allclose(original["logits"], folded["logits"], atol=1e-4)


def test_values_inside_are_those_that_the_operations_see(tmp_path: Path) -> None:
    """Each contraction of a real model, on the values recorded before and behind it."""
    sample = SAMPLES / "digits_cnn"
    found = import_model(sample / "model.onnx", tmp_path)
    data = load_dataset(sample / "calibration.npz", found.inputs).take(10)
    names = [value for n in found.graph.contractions() for value in (*n.inputs, *n.outputs)]
    batches = list(recorder(found, data, 4)(names))
    assert [len(batch["image"]) for batch in batches] == [4, 4, 2]
    for batch in batches:
        for n in found.graph.contractions():
            assert_allclose(computed(n, batch[n.input]), batch[n.output], rtol=1e-4, atol=1e-4)


GROWTH = """
import pathlib, re, sys
from pfmc.frontend.folding import fold
from pfmc.frontend.importer import import_model
def peak():
    return int(re.search("VmHWM:(.*) kB", pathlib.Path("/proc/self/status").read_text())[1])
before = peak()
fold(sys.argv[1], sys.argv[2] + "/here.onnx")
import_model(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_model_is_imported_in_little_memory(tmp_path: Path) -> None:
    """64 MB of weights in external data: neither folding nor the importer holds them."""
    matrices, size = 16, 1000
    names = [f"w{i}" for i in range(matrices)]
    nodes = [node("MatMul", f"x{i} w{i}", f"x{i + 1}") for i in range(matrices)]
    made = model(nodes, {"x0": [None, size]}, [f"x{matrices}"], dict.fromkeys(names, np.ones((size, 0), np.float32)))
    with (tmp_path / "w.bin").open("wb") as f:
        for tensor in made.graph.initializer:
            tensor.dims[:] = [size, size]
            set_external_data(tensor, "w.bin", offset=f.tell(), length=4 * size * size)
            tensor.ClearField("raw_data")
            f.write(np.full(size * size, 0.5, np.float32).tobytes())
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-c", GROWTH, saved(made, tmp_path), tmp_path / "work"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(printed) < 40_000  # kB


# Running models


def test_outputs_have_the_samples_first_even_where_the_model_has_them_elsewhere(rng: np.random.Generator) -> None:
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node("ReduceMean", "x", "mean", keepdims=0)]
    runtime = Runtime(model(nodes, {"x": [None, 5, 3]}, ["t", "mean"]).SerializeToString())
    x = normal(rng, 4, 5, 3)
    found = runtime.run(Dataset({"x": x}, None, "file"), 3)
    assert_allclose(found["t"], x[:, :, None])
    assert_allclose(found["mean"], x.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_model_with_a_fixed_batch_runs_any_number_of_samples(batch: int, rng: np.random.Generator) -> None:
    runtime = Runtime(model([node("Neg", "x", "y")], {"x": [batch, 2]}, ["y"]).SerializeToString())
    x = normal(rng, 7, 2)
    assert np.array_equal(runtime.run(Dataset({"x": x}, None, "file"))["y"], -x)


def test_a_model_that_only_says_it_takes_any_number_is_run_one_by_one(rng: np.random.Generator) -> None:
    nodes = [node("Reshape", "x s", "r"), node("MatMul", "r w", "y")]
    constants = {"s": np.array([1, 6]), "w": normal(rng, 6, 2)}
    runtime = Runtime(model(nodes, {"x": ["n", 2, 3]}, ["y"], constants).SerializeToString())
    x = normal(rng, 7, 2, 3)
    found = runtime.run(Dataset({"x": x}, None, "file"), 4)["y"]
    assert_allclose(found, x.reshape(7, 6) @ constants["w"], rtol=1e-5, atol=1e-6)


def test_outputs_whose_shape_depends_on_the_sample_cannot_be_compared(rng: np.random.Generator) -> None:
    runtime = Runtime(model([node("NonZero", "x", "y")], {"x": [None, 4]}, ["y"]).SerializeToString())
    x = np.tril(np.ones((4, 4), np.float32))
    with pytest.raises(DataError, match="shape depends on the sample"):
        runtime.run(Dataset({"x": x}, None, "file"))


def test_a_model_that_fails_on_the_data_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    runtime = Runtime(
        model([node("Gather", "w x", "y")], {"x": [None, 1]}, ["y"], {"w": np.eye(3)}, dtype=7).SerializeToString()
    )
    with pytest.raises(DataError, match=r"cannot run it on these inputs.*out of data bounds") as error:
        runtime.run(Dataset({"x": np.full((2, 1), 9)}, None, "file"))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_cannot_be_loaded_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportModelError, match="cannot load it"):
        Runtime(b"nothing")
    with pytest.raises(ImportModelError, match=r"seq\(tensor"):
        info = helper.make_tensor_sequence_value_info("x", 1, None)
        made = model([node("SequenceLength", "x", "y")], {}, ["y"])
        made.graph.input.append(info)
        Runtime(made.SerializeToString())
    assert capfd.readouterr() == ("", "")


def test_random_inputs_are_as_long_as_the_model_needs(rng: np.random.Generator, tmp_path: Path) -> None:
    """A kernel of 100 entries does not fit on 8 or 32; where no length will do, an error says what is wrong."""
    conv = model([node("Conv", "x w", "y")], {"x": [None, 1, None]}, ["y"], {"w": normal(rng, 2, 1, 100)})
    dataset, counts = drawn_inputs(imported(conv, tmp_path), 3, 0)
    assert dataset.arrays["x"].shape == (3, 1, 128)
    assert counts.macs == 29 * 2 * 100
    (other := tmp_path / "other").mkdir()
    impossible = model([node("MatMul", "x w", "y")], {"x": [None, None]}, ["y"], {"w": normal(rng, 100, 2)})
    with pytest.raises(DataError, match="cannot run it"):
        drawn_inputs(imported(impossible, other), 3, 0)
