"""LSTM, GRU and RNN: the standard nodes that they become, against ONNX Runtime's own operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mapping import fabricated
from models import model, saved
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from pfmc.data import random_dataset
from pfmc.frontend.counts import count
from pfmc.frontend.importer import import_model
from pfmc.frontend.recurrent import GATES, expand_recurrent

ACTIVATIONS = (
    *("Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh"),
    *("Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
)
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}


def outputs(made: onnx.ModelProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, values)]


def recurrent(
    kind: str, values: dict[str, np.ndarray], dynamic: Sequence[str], **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one operator, and what its dynamic inputs get; the others are constants."""
    known = ["x", "w", "r", "b", "lengths", "h", "c", "p"][: 8 if kind == "LSTM" else 6]
    results = ["y", "last_h", "last_c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, [name if name in values else "" for name in known], results, name="rnn", **attributes)
    stored = {name: value for name, value in values.items() if name in known and name not in dynamic}
    made = model([node], {}, results, stored, opset=17)
    for name in dynamic:
        if name in values:
            kind_of = helper.np_dtype_to_tensor_dtype(values[name].dtype)
            made.graph.input.append(helper.make_tensor_value_info(name, kind_of, [None] * values[name].ndim))
    return made, {name: values[name] for name in dynamic if name in values}


@st.composite
def layers(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(GATES)))
    steps, batch, size, hidden = (draw(st.integers(1, most)) for most in (5, 3, 4, 4))
    direction = draw(st.sampled_from(("forward", "reverse", "bidirectional")))
    ways, gates = (2 if direction == "bidirectional" else 1), GATES[kind]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    values = {
        "x": normal(steps, batch, size),
        "w": normal(ways, gates * hidden, size),
        "r": normal(ways, gates * hidden, hidden),
    }
    optional = {
        "b": normal(ways, 2 * gates * hidden),
        "lengths": rng.integers(0, steps + 1, batch).astype(np.int32),
        "h": normal(ways, batch, hidden),
    }
    if kind == "LSTM":
        optional |= {"c": normal(ways, batch, hidden), "p": normal(ways, 3 * hidden)}
    values |= {name: value for name, value in optional.items() if draw(st.booleans())}
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if draw(st.booleans()):
        attributes["clip"] = draw(st.floats(0.25, 2.0))
    if kind == "LSTM":
        attributes["input_forget"] = draw(st.integers(0, 1))
    if kind == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        count = FUNCTIONS[kind] * ways
        attributes["activations"] = draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=count, max_size=count))
        numbers = st.lists(st.floats(0.25, 1.0), max_size=count)
        attributes |= {f"activation_{which}": draw(numbers) for which in ("alpha", "beta")}
    return kind, values, {name: value for name, value in attributes.items() if value != []}


@given(layers())
@settings(max_examples=150, deadline=None)
def test_the_standard_nodes_compute_what_the_operator_does(
    layer: tuple[str, dict[str, np.ndarray], dict[str, Any]],
) -> None:
    kind, values, attributes = layer
    made, given = recurrent(kind, values, ("x", "lengths", "h", "c"), **attributes)
    wanted = outputs(made, given)
    assume(all(np.isfinite(expected).all() for expected in wanted))  # its Softplus overflows where there is no need to
    assert expand_recurrent(made.graph)
    assert not {node.op_type for node in made.graph.node} & GATES.keys()
    for found, expected in zip(outputs(made, given), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("kind", sorted(GATES))
def test_quantised_matrices_are_mapped(kind: str, axis: int | None, tmp_path: Path, rng: np.random.Generator) -> None:
    """One scale, or one for each position of an axis: what the LSTM of a QDQ model has before it."""
    gates, size, hidden = GATES[kind], 5, 3
    stored: dict[str, np.ndarray] = {}
    nodes = []
    for name, extent in (("w", size), ("r", hidden)):
        shape = (2, gates * hidden, extent)
        scales = () if axis is None else (shape[axis],)
        stored[f"{name}_q"] = rng.integers(-127, 127, shape).astype(np.int8)
        stored[f"{name}_scale"] = np.asarray(rng.uniform(0.002, 0.008, scales), np.float32)
        stored[f"{name}_zero"] = np.asarray(rng.integers(-5, 5, scales), np.int8)
        inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=1 if axis is None else axis))
    attributes = {"hidden_size": hidden, "direction": "bidirectional"}
    nodes.append(helper.make_node(kind, ["x", "w", "r"], ["y"], name="rnn", **attributes))
    path = saved(model(nodes, {"x": [None, None, size]}, ["y"], stored, opset=17), tmp_path)
    x = {"x": rng.standard_normal((4, 2, size)).astype(np.float32)}
    (wanted,) = outputs(onnx.load(path), x)
    found = import_model(path, tmp_path)
    assert sum(c.weight.size for c in found.graph.contractions()) == stored["w_q"].size + stored["r_q"].size
    np.testing.assert_allclose(outputs(fabricated(found, tmp_path), x)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_dynamically_quantised_lstm_is_mapped(tmp_path: Path, rng: np.random.Generator) -> None:
    """Only that its inputs are rounded to 8 bits on the way is gone: the chip's converters do that."""
    constants = {
        "w": rng.standard_normal((2, 16, 5)).astype(np.float32),
        "r": rng.standard_normal((2, 16, 4)).astype(np.float32),
    }
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="rnn", hidden_size=4, direction="bidirectional")
    path = saved(model([lstm], {"x": [None, None, 5]}, ["y"], constants, opset=17), tmp_path)
    quantize_dynamic(path, tmp_path / "q.onnx", op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8)
    quantised = onnx.load(tmp_path / "q.onnx")
    assert {node.op_type for node in quantised.graph.node} == {"DynamicQuantizeLSTM"}
    x = {"x": rng.standard_normal((4, 2, 5)).astype(np.float32)}
    (wanted,), (unquantised,) = outputs(quantised, x), outputs(onnx.load(path), x)
    (work := tmp_path / "work").mkdir()
    found = import_model(tmp_path / "q.onnx", work)
    assert len(found.graph.contractions()) == 3
    (result,) = outputs(fabricated(found, work), x)
    assert np.linalg.norm(result - wanted) < np.linalg.norm(unquantised - wanted)


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("opset", [9, 14])
def test_both_matrices_are_mapped(kind: str, opset: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """The input's for all steps and both directions at once, the state's in the body of a Loop."""
    gates, size, hidden = GATES[kind], 5, 3
    constants = {
        "w": rng.standard_normal((2, gates * hidden, size)).astype(np.float32),
        "r": rng.standard_normal((2, gates * hidden, hidden)).astype(np.float32),
        "b": rng.standard_normal((2, 2 * gates * hidden)).astype(np.float32),
    }
    node = helper.make_node(
        kind, ["x", "w", "r", "b"], ["y"], name="rnn", hidden_size=hidden, direction="bidirectional"
    )
    path = saved(model([node], {"x": [7, 1, size]}, ["y"], constants, opset=opset), tmp_path)
    found = import_model(path, tmp_path)
    contractions = found.graph.contractions()
    assert sum(math.prod(c.weight.shape) for c in contractions) == constants["w"].size + constants["r"].size
    macs = count(found, random_dataset(found.inputs, 1, rng)).macs_by_node
    assert sum(macs[c.name] for c in contractions) == 2 * gates * hidden * (size + hidden)  # a step is a sample
    assert sum(1 for c in contractions if c.weight.shape == (size, 2 * gates * hidden)) == 1


@pytest.mark.parametrize("starts", [False, True], ids=["from zero", "from a constant"])
@pytest.mark.parametrize("kind", sorted(GATES))
def test_a_layer_of_a_fixed_size_has_the_parameters_of_its_node(
    kind: str, starts: bool, rng: np.random.Generator, tmp_path: Path
) -> None:
    """The zeros that it begins with, folded to a constant, are none; a state that was trained is one."""
    gates, values = GATES[kind], {}
    shapes = {"w": (1, gates * 2, 4), "r": (1, gates * 2, 2), "b": (1, gates * 4), "h": (1, 3, 2)}
    for name, shape in shapes.items():
        if name != "h" or starts:
            values[name] = rng.standard_normal(shape).astype(np.float32)
    made, _ = recurrent(kind, values | {"x": np.zeros((2, 3, 4), np.float32)}, ["x"], hidden_size=2)
    for axis, extent in zip(made.graph.input[0].type.tensor_type.shape.dim, (2, 3, 4), strict=True):
        axis.dim_value = extent
    found = import_model(saved(made, tmp_path), tmp_path)
    counts = count(found, random_dataset(found.inputs, 2, rng))
    assert counts.parameters == sum(array.size for array in values.values())
