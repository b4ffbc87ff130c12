"""The host model and the as-fabricated model, run by ONNX Runtime, against plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from builders import weight
from exact import ANY, exact_tiles, fabricated_exactly
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check import lift
from pfmc.check.lift import as_fabricated, host_model, save_model
from pfmc.errors import ArtifactError, ImportModelError, PassError, VerifyError
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.ir.weights import Matrix
from pfmc.ir.windows import Windows
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology


@pytest.fixture(scope="session")
def technology() -> Technology:
    return load("generic")


def run(model: onnx.ModelProto | Path, **inputs: np.ndarray) -> list[np.ndarray]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, inputs)


def saved(
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    ir_version: int = 8,
) -> Path:
    """A model file as constant folding leaves it."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft.nchwc", 1)]
    model = helper.make_model(graph, opset_imports=imports, producer_name="somebody", ir_version=ir_version)
    onnx.save(model, folder / "folded.onnx")
    return folder / "folded.onnx"


def matrix_vector(
    folder: Path,
    name: str,
    values: np.ndarray,
    *,
    value_names: tuple[str, str],
    bias: np.ndarray | None = None,
    windows: Windows | None = None,
    groups: int = 1,
    replaces: tuple[str, ...] = (),
) -> MatrixVector:
    stored = weight(folder, f"{name}.weight", values)
    matrix = Matrix(stored, transposed=windows is not None, groups=groups)
    return MatrixVector(name, *value_names, stored, bias, replaces or (name,), matrix=matrix, windows=windows)


def graph_of(*nodes: MatrixVector) -> Graph:
    return Graph("model", (nodes[0].input,), (nodes[-1].output,), nodes, {})


def window_rules() -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Kernel, strides, dilations, pads at both ends, with one entry per spatial axis."""
    limits = ((1, 3), (1, 3), (1, 2), (0, 2), (0, 2))
    sizes = [[st.tuples(*[st.integers(*limit)] * axes) for limit in limits] for axes in (1, 2, 3)]
    return st.one_of(*(st.tuples(*rule).map(list) for rule in sizes))


@given(rule=window_rules(), groups=st.integers(1, 2), with_bias=st.booleans(), seed=st.integers(0, 1000))
def test_a_convolution_by_calls_is_the_convolution(
    tmp_path_factory: pytest.TempPathFactory, rule: list[tuple[int, ...]], groups: int, with_bias: bool, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("convolution")
    rng = np.random.default_rng(seed)
    windows, axes = Windows(*rule), len(rule[0])
    channels, columns = 2 * groups, 3 * groups
    kernel = rng.standard_normal((columns, 2, *windows.kernel)).astype(np.float32)
    bias = rng.standard_normal(columns).astype(np.float32)
    constants = {"w": kernel} | ({"b": bias} if with_bias else {})
    conv = helper.make_node(
        "Conv",
        ["x", *constants],
        ["y"],
        name="conv",
        group=groups,
        strides=windows.strides,
        dilations=windows.dilations,
        pads=[*windows.pads_begin, *windows.pads_end],
    )
    dynamic = ["N", channels, *(f"s{i}" for i in range(axes))]
    folded = saved(folder, [conv], {"x": dynamic}, {"y": ["N", columns, *(f"p{i}" for i in range(axes))]}, constants)
    node = matrix_vector(
        folder,
        "conv",
        kernel,
        value_names=("x", "y"),
        bias=bias.astype(np.float64) if with_bias else None,
        windows=windows,
        groups=groups,
    )
    model = fabricated_exactly(folder, host_model(folded, graph_of(node), {"conv"}), [node])
    for size in (7, 9):  # one model, any size
        x = rng.standard_normal((2, channels, *(size + i for i in range(axes)))).astype(np.float32)
        np.testing.assert_allclose(run(model, x=x)[0], run(folded, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (0, 6)])
def test_a_matrix_product_over_any_leading_axes(
    tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    values = rng.standard_normal((6, 5)).astype(np.float32)
    names = [f"d{i}" for i in range(len(shape) - 1)]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    folded = saved(tmp_path, [node], {"x": [*names, 6]}, {"y": [*names, 5]}, {"w": values})
    mapped = matrix_vector(tmp_path, "fc", values, value_names=("x", "y"))
    model = fabricated_exactly(tmp_path, host_model(folded, graph_of(mapped), {"fc"}), [mapped])
    x = rng.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], x @ values, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Mlp:
    """MatMul, Add, Relu, MatMul: the first three nodes and the last one; the Add is part of the first contraction."""

    folded: Path
    nodes: tuple[MatrixVector, MatrixVector]
    x: np.ndarray


@pytest.fixture
def mlp(tmp_path: Path, rng: np.random.Generator) -> Mlp:
    first, second = rng.standard_normal((20, 11)).astype(np.float32), rng.standard_normal((11, 3)).astype(np.float32)
    bias = rng.standard_normal(11).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="fc1"),
        helper.make_node("Add", ["h", "b1"], ["hb"], name="add"),
        helper.make_node("Relu", ["hb"], ["r"], name="relu", doc_string="kept as it is"),
        helper.make_node("Mul", ["r", "half"], ["r2"], name="half"),
        helper.make_node("MatMul", ["r2", "w2"], ["y"], name="fc2"),
    ]
    constants = {"w1": first, "b1": bias, "w2": second, "half": np.array(0.5, np.float32)}
    folded = saved(tmp_path, nodes, {"x": ["N", 20]}, {"y": ["N", 3]}, constants)
    mapped = (
        matrix_vector(
            tmp_path,
            "fc1",
            first,
            value_names=("x", "hb"),
            bias=bias.astype(np.float64),
            replaces=("fc1", "add"),
        ),
        matrix_vector(tmp_path, "fc2", second, value_names=("r2", "y")),
    )
    return Mlp(folded, mapped, rng.standard_normal((7, 20)).astype(np.float32))


def test_what_is_not_mapped_stays_as_it_is(mlp: Mlp) -> None:
    original = onnx.load(mlp.folded)
    model = host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1", "fc2"})
    assert [(node.domain, node.op_type) for node in model.graph.node] == [
        ("pfmc", "MatrixVector"),
        ("", "Add"),
        ("", "Relu"),
        ("", "Mul"),
        ("pfmc", "MatrixVector"),
    ]
    for name in ("relu", "half"):
        before, after = (next(n for n in m.graph.node if n.name == name) for m in (original, model))
        assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True)
    assert list(model.graph.input) == list(original.graph.input)
    assert list(model.graph.output) == list(original.graph.output)
    assert {tensor.name for tensor in model.graph.initializer} == {"half", "fc1/bias"}
    assert {entry.domain for entry in model.opset_import} == {"", "pfmc"}
    assert model.producer_name == "pfmc"
    onnx.checker.check_model(model)


def test_the_same_input_gives_the_same_bytes(mlp: Mlp, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_model(host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1", "fc2"}), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_contraction_that_is_not_mapped_stays_on_the_host(mlp: Mlp, tmp_path: Path) -> None:
    model = host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1"})
    assert [node.name for node in model.graph.node if node.domain == "pfmc"] == ["fc1"]
    assert {tensor.name for tensor in model.graph.initializer} == {"half", "fc1/bias", "w2"}
    result = fabricated_exactly(tmp_path, model, mlp.nodes[:1])
    np.testing.assert_allclose(run(result, x=mlp.x)[0], run(mlp.folded, x=mlp.x)[0], rtol=1e-4, atol=1e-5)


def test_names_and_constants_inside_an_if_are_minded(mlp: Mlp, tmp_path: Path) -> None:
    """A model may already use the names that this compiler would give; inside an If, constants may be read as well."""
    model = onnx.load(mlp.folded)
    inner = helper.make_graph(
        [helper.make_node("Mul", ["r2", "only_inside"], ["fc1/microsiemens"], name="fc1/Add")],
        "inner",
        [],
        [helper.make_tensor_value_info("fc1/microsiemens", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "fc1/bias"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "only_inside"))
    model.graph.node[4].input[0] = "fc1/MatrixVector_output"
    choice = helper.make_node(
        "If", ["fc1/bias"], ["fc1/MatrixVector_output"], name="fc2/If", then_branch=inner, else_branch=inner
    )
    model.graph.node.insert(4, choice)
    onnx.save(model, mlp.folded)
    nodes = (
        mlp.nodes[0],
        matrix_vector(tmp_path, "fc2", np.ones((11, 3), np.float32), value_names=("fc1/MatrixVector_output", "y")),
    )
    host = host_model(mlp.folded, graph_of(*nodes), {"fc1"})
    result = fabricated_exactly(tmp_path, host, nodes[:1])
    np.testing.assert_allclose(run(result, x=mlp.x)[0], run(mlp.folded, x=mlp.x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_models_of_another_type_keep_it(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    values, bias = rng.standard_normal((12, 4)).astype(dtype), rng.standard_normal(4).astype(dtype)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    folded = saved(tmp_path, [node], {"x": ["N", 12]}, {"y": ["N", 4]}, {"w": values, "b": bias}, dtype=kind)
    mapped = matrix_vector(tmp_path, "fc", values, value_names=("x", "y"), bias=bias.astype(np.float64))
    model = fabricated_exactly(tmp_path, host_model(folded, graph_of(mapped), {"fc"}), [mapped])
    x = rng.standard_normal((5, 12)).astype(dtype)
    y = run(model, x=x)[0]
    assert y.dtype == dtype
    precision = 4e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(y, x @ values + bias, rtol=precision, atol=precision)


def test_bfloat16_is_cast_at_the_call(tmp_path: Path) -> None:
    """ONNX Runtime has no CPU kernels for it, so the graph is looked at instead."""
    values = np.ones((3, 2), ml_dtypes.bfloat16)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    folded = saved(tmp_path, [node], {"x": ["N", 3]}, {"y": ["N", 2]}, {"w": values}, dtype=TensorProto.BFLOAT16)
    mapped = matrix_vector(tmp_path, "fc", values, value_names=("x", "y"))
    model = host_model(folded, graph_of(mapped), {"fc"})
    casts = [node.attribute[0].i for node in model.graph.node if node.op_type == "Cast"]
    assert casts == [TensorProto.FLOAT, TensorProto.BFLOAT16]


def test_an_old_model_is_brought_to_a_newer_opset(tmp_path: Path, rng: np.random.Generator) -> None:
    """Opset 9, its initialisers among the graph's inputs; Unsqueeze and Clip have changed since."""
    kernel, values = (
        rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        rng.standard_normal((4, 5)).astype(np.float32),
    )
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c"], ["r"], name="clip", min=0.0, max=6.0),
        helper.make_node("ReduceMean", ["r"], ["m"], name="mean", axes=[2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m"], ["u"], name="unsqueeze", axes=[1]),
        helper.make_node("MatMul", ["u", "w"], ["y"], name="fc"),
    ]
    inputs = {"x": ["N", 2, 8, 8], "k": kernel.shape, "w": values.shape}
    folded = saved(tmp_path, nodes, inputs, {"y": ["N", 1, 5]}, {"k": kernel, "w": values}, opset=9, ir_version=3)
    windows = Windows((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    mapped = (
        matrix_vector(tmp_path, "conv", kernel, value_names=("x", "c"), windows=windows),
        matrix_vector(tmp_path, "fc", values, value_names=("u", "y")),
    )
    host = host_model(folded, graph_of(*mapped), {"conv", "fc"})
    assert [value.name for value in host.graph.input] == ["x"]
    x = rng.standard_normal((3, 2, 8, 8)).astype(np.float32)
    result = run(fabricated_exactly(tmp_path, host, mapped), x=x)[0]
    np.testing.assert_allclose(result, run(folded, x=x)[0], rtol=1e-4, atol=1e-5)


def test_an_old_model_that_cannot_be_brought_up_is_refused(tmp_path: Path) -> None:
    values = {name: np.ones(4, np.float32) for name in ("scale", "bias", "mean", "variance")}
    node = helper.make_node("BatchNormalization", ["x", *values], ["y"], name="norm", spatial=0)
    folded = saved(tmp_path, [node], {"x": [1, 4]}, {"y": [1, 4]}, values, opset=7)
    with pytest.raises(ImportModelError, match="opset 7"):
        host_model(folded, Graph("model", (), (), (), {}), set())


def test_a_large_model_gets_external_data(mlp: Mlp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1", "fc2"})
    result = fabricated_exactly(tmp_path, host, mlp.nodes)
    embedded = run(result, x=mlp.x)[0]
    (tmp_path / "big.onnx.data").write_bytes(b"left over")
    monkeypatch.setattr(lift, "EMBEDDED_BYTES", 100)
    monkeypatch.setattr(lift, "EXTERNAL_TENSOR_BYTES", 64)
    save_model(result, tmp_path / "big.onnx")
    written = sum(len(t.raw_data) for t in onnx.load(tmp_path / "big.onnx").graph.initializer if len(t.raw_data) >= 64)
    assert (tmp_path / "big.onnx.data").stat().st_size == written > 0
    np.testing.assert_array_equal(run(tmp_path / "big.onnx", x=mlp.x)[0], embedded)
    # A folded model and a host model with external data are read as well.
    save_model(onnx.load(mlp.folded), mlp.folded)
    assert mlp.folded.with_name("folded.onnx.data").exists()
    again = fabricated_exactly(tmp_path, host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1"}), mlp.nodes[:1])
    np.testing.assert_allclose(run(again, x=mlp.x)[0], embedded, rtol=1e-4, atol=1e-5)


def test_a_contraction_must_replace_what_makes_its_output(mlp: Mlp) -> None:
    broken = matrix_vector(mlp.folded.parent, "fc1", np.ones((20, 11), np.float32), value_names=("x", "r"))
    with pytest.raises(PassError, match="fc1"):
        host_model(mlp.folded, graph_of(broken), {"fc1"})


# The converters.


@dataclass(frozen=True)
class Case:
    """A matrix in tiles, with ranges per tile."""

    matrix: np.ndarray
    bias: np.ndarray
    rows: int
    columns: int
    zero: np.ndarray  # blocks that are zero
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rows, columns = draw(st.integers(1, 20)), draw(st.integers(1, 12))
    tile_rows, tile_columns = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    blocks = -(-rows // tile_rows), -(-columns // tile_columns)
    zero = rng.random(blocks) < draw(st.sampled_from([0.0, 0.5]))
    zero[tuple(rng.integers(blocks))] = False
    matrix = rng.standard_normal((rows, columns))
    for row, column in np.argwhere(zero):
        matrix[row * tile_rows : (row + 1) * tile_rows, column * tile_columns : (column + 1) * tile_columns] = 0
    return Case(matrix.astype(np.float32), rng.standard_normal(columns), tile_rows, tile_columns, zero, seed)


def some_tiles(case: Case, node: MatrixVector) -> tuple[list[TileRecord], list[TileAsBuilt]]:
    """Tiles with ranges and scales of their own, inputs of a row block alike, and devices that are not quite right."""
    rng = np.random.default_rng(case.seed)
    records, built = exact_tiles(
        node, load("generic"), rows=case.rows, columns=case.columns, input_range=ANY, output_range=ANY
    )
    inputs = {
        row: (float(rng.choice([-1.0, 0.0])), rng.uniform(0.1, 10)) for row in range(0, len(case.matrix), case.rows)
    }
    changed, devices = [], []
    for record, tile in zip(records, built, strict=True):
        signed, high = inputs[record.row_start]
        reach, output_signed = rng.uniform(0.5, 4.0) * high, float(rng.choice([-1.0, 0.0]))
        scale = rng.uniform(0.1, 10)
        update = {
            "input_low": signed * high,
            "input_high": high,
            "output_low": output_signed * reach,
            "output_high": reach,
            "scale_siemens": record.scale_siemens * scale,
        }
        changed.append(record.model_copy(update=update))
        resistance = tile.resistance / scale * rng.uniform(0.9, 1.1, tile.resistance.shape)
        devices.append(replace(tile, resistance=resistance))
    return changed, devices


def plain_physics(
    x: np.ndarray, records: Sequence[TileRecord], built: Sequence[TileAsBuilt], technology: Technology, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same physics tile by tile in float64, and which results hang on a rounding that is too close to call."""
    converters = technology.converters
    volts = converters.input_voltage.si
    total, unsure = np.zeros((len(x), columns)), np.zeros((len(x), columns), dtype=bool)
    for record, tile in zip(records, built, strict=True):
        low, high = record.input_range.codes(int(converters.input_bits.value))
        code = np.clip(np.rint(x[:, record.row_start : record.row_stop] / (record.input_high / high)), low, high)
        current = (code * volts / high) @ (1 / tile.resistance[..., 0] - 1 / tile.resistance[..., 1])
        low, high = record.output_range.codes(int(converters.output_bits.value))
        full = record.output_high * record.scale_siemens * volts / record.input_high
        exact = current / (full / high)
        here = slice(record.column_start, record.column_stop)
        unsure[:, here] |= np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-2
        total[:, here] += np.clip(np.rint(exact), low, high) * (record.output_high / high)
    return total, unsure


@given(case=cases(), batch=st.integers(1, 5))
def test_the_function_computes_the_physics_of_the_tiles(
    tmp_path_factory: pytest.TempPathFactory, technology: Technology, case: Case, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("physics")
    rows, columns = case.matrix.shape
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")
    constants = {"w": case.matrix, "b": case.bias.astype(np.float32)}
    folded = saved(folder, [node], {"x": ["N", rows]}, {"y": ["N", columns]}, constants)
    mapped = matrix_vector(folder, "fc", case.matrix, value_names=("x", "y"), bias=case.bias)
    save_model(host_model(folded, graph_of(mapped), {"fc"}), folder / "host.onnx")
    records, built = some_tiles(case, mapped)
    rng = np.random.default_rng(case.seed + 1)
    # Beyond the ranges too, and not halfway between two input codes.
    x = np.zeros((batch, rows))
    for record in records:
        step = record.input_high / record.input_range.codes(int(technology.converters.input_bits.value))[1]
        shape = batch, record.row_stop - record.row_start
        codes = np.rint(rng.uniform(-1.3, 1.3, shape) * record.input_high / step) + rng.uniform(-0.4, 0.4, shape)
        x[:, record.row_start : record.row_stop] = codes * step
    model = as_fabricated(folder / "host.onnx", records, iter(built[::-1]), technology)
    onnx.checker.check_model(model, full_check=True)
    wanted, unsure = plain_physics(x.astype(np.float32).astype(np.float64), records, built, technology, columns)
    found = run(model, x=x.astype(np.float32))[0] - case.bias
    np.testing.assert_allclose(found[~unsure], wanted[~unsure], rtol=1e-4, atol=1e-4)


def test_rows_of_zero_blocks_before_the_only_tile(tmp_path: Path, rng: np.random.Generator) -> None:
    """The last block alone is left, and it is not a whole one."""
    values = np.zeros((70, 3), np.float32)
    values[64:] = rng.standard_normal((6, 3))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    folded = saved(tmp_path, [node], {"x": ["N", 70]}, {"y": ["N", 3]}, {"w": values})
    mapped = matrix_vector(tmp_path, "fc", values, value_names=("x", "y"))
    model = fabricated_exactly(tmp_path, host_model(folded, graph_of(mapped), {"fc"}), [mapped])
    x = rng.standard_normal((4, 70)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], x @ values, rtol=1e-4, atol=1e-5)


# What does not belong together.


@pytest.fixture
def chip(mlp: Mlp, technology: Technology) -> tuple[Path, list[TileRecord], list[TileAsBuilt]]:
    host = mlp.folded.with_name("host.onnx")
    save_model(host_model(mlp.folded, graph_of(*mlp.nodes), {"fc1", "fc2"}), host)
    both = [exact_tiles(n, technology, rows=8, columns=8, input_range=ANY, output_range=ANY) for n in mlp.nodes]
    return host, both[0][0] + both[1][0], both[0][1] + both[1][1]


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"input_low": 0.0}, "driven differently"),
        ({"row_start": 3}, "no block"),
        ({"column_stop": 12}, "not inside"),
        ({"output_high": 0.0, "output_low": 0.0}, "not a positive number"),
        ({"scale_siemens": float("nan")}, "not a positive number"),
        ({"node": "fc3"}, "fc3"),
    ],
)
def test_tiles_that_cannot_be_are_refused(
    chip: tuple[Path, list[TileRecord], list[TileAsBuilt]],
    technology: Technology,
    update: dict[str, object],
    words: str,
) -> None:
    host, records, built = chip
    records[1] = records[1].model_copy(update=update)
    with pytest.raises(VerifyError, match=words):
        as_fabricated(host, records, built, technology)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda built: built[1:], "was not read back"),
        (lambda built: [*built, built[0]], "came twice"),
        (lambda built: [replace(built[0], resistance=built[0].resistance[:-1]), *built[1:]], "devices hold no"),
        (lambda built: [replace(built[0], resistance=built[0].resistance * 0), *built[1:]], "not a positive number"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_devices_that_are_not_the_tiles_are_refused(
    chip: tuple[Path, list[TileRecord], list[TileAsBuilt]], technology: Technology, change: object, words: str
) -> None:
    host, records, built = chip
    with pytest.raises(VerifyError, match=words):
        as_fabricated(host, records, change(built), technology)  # type: ignore[operator]


def test_a_host_model_that_is_none_is_refused(tmp_path: Path, technology: Technology) -> None:
    (tmp_path / "host.onnx").write_bytes(b"\xff not a model")
    for name in ("host.onnx", "missing.onnx"):
        with pytest.raises(ArtifactError, match=name):
            as_fabricated(tmp_path / name, [], [], technology)
