"""Control flow: contractions in the bodies of If, Loop and Scan, against ONNX Runtime on the original model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import fabricated
from models import model, node, saved
from onnx import helper, numpy_helper

import pfmc
from pfmc.data import Dataset
from pfmc.frontend.activations import record, recorder
from pfmc.frontend.bodies import flatten, name_nodes
from pfmc.frontend.counts import count
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.frontend.scans import scans_to_loops
from pfmc.ir.graph import HostNode

# A Loop with an If in it: h starts as x and is multiplied by u in even steps, by v in odd ones.
NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
nested (float[N,4] x, int64 steps) => (float[N,4] y, float[K,N,3] all)
{
  two = Constant <value = int64 {2}> ()
  y, all = Loop (steps, , x) <body = step (int64 i, bool going, float[N,4] h)
      => (bool still, float[N,4] next, float[N,3] seen) {
    still = Identity (going)
    half = Mod (i, two)
    odd = Cast <to = 9> (half)
    z = If (odd) <then_branch = yes () => (float[N,4] z) { z = MatMul (h, v) },
                  else_branch = no () => (float[N,4] z) { z = MatMul (h, u) }>
    next = Tanh (z)
    seen = MatMul (next, w)
  }>
}
"""
# What is multiplied by depends on an input.
BRANCHES = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
branches (float[N,4] x, bool c) => (float[N,3] y)
{
  y = If (c) <then_branch = yes () => (float[N,3] z) { z = MatMul (x, u) },
              else_branch = no () => (float[N,3] z) { z = MatMul (x, v) }>
}
"""


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def parsed(text: str, folder: Path, **constants: np.ndarray) -> Path:
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return saved(made, folder)


def nested(folder: Path, rng: np.random.Generator) -> Path:
    return parsed(NESTED, folder, u=normal(rng, 4, 4), v=normal(rng, 4, 4), w=normal(rng, 4, 3))


def steps(count: int, x: np.ndarray) -> Dataset:
    return Dataset({"x": x, "steps": np.array(count)}, None, "file", frozenset({"steps"}))


def outputs(made: onnx.ModelProto | Path, **inputs: np.ndarray) -> list[np.ndarray]:
    source = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, inputs)]


def imported(path: Path, tmp_path: Path) -> ImportedModel:
    work = tmp_path / "work"
    work.mkdir()
    return import_model(path, work)


def weights(found: ImportedModel) -> dict[str, str]:
    """Names of the contractions by their weights."""
    return {contraction.weight.name: contraction.name for contraction in found.graph.contractions()}


def test_what_is_mapped_in_bodies_within_bodies_computes_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    path = nested(tmp_path, rng)
    found = imported(path, tmp_path)
    assert weights(found).keys() == {"u", "v", "w"}
    made = fabricated(found, tmp_path)
    assert not {"u", "v", "w"} & {tensor.name for tensor in made.graph.initializer}
    inputs = {"x": normal(rng, 2, 4), "steps": np.array(5)}
    for result, expected in zip(outputs(made, **inputs), outputs(path, **inputs), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_every_value_in_a_body_is_seen_each_time_it_is_computed(tmp_path: Path, rng: np.random.Generator) -> None:
    found = imported(nested(tmp_path, rng), tmp_path)
    x = normal(rng, 2, 4)
    reads = {contraction.weight.name: contraction for contraction in found.graph.contractions()}
    names = [reads[name].input for name in "uvw"] + [reads[name].output for name in "uvw"]
    (seen,) = record(found, steps(5, x), list(dict.fromkeys(names)), 64)
    stored = {name: reads[name].weight.map() for name in "uvw"}
    states, results = [x], []
    for step in range(5):
        results.append(states[-1] @ stored["uv"[step % 2]])
        states.append(np.tanh(results[-1]))
    for value, wanted in (
        (reads["u"].input, states[:5]),
        (reads["u"].output, results[::2]),
        (reads["v"].output, results[1::2]),
        (reads["w"].input, states[1:]),
        (reads["w"].output, [state @ stored["w"] for state in states[1:]]),
    ):
        np.testing.assert_allclose(np.array(seen[value]), np.array(wanted), rtol=1e-5, atol=1e-6)
    (joined,) = recorder(found, steps(5, x), 64)([reads["w"].input])
    assert joined[reads["w"].input].shape == (10, 4)


def test_macs_in_a_body_count_as_often_as_it_runs(tmp_path: Path, rng: np.random.Generator) -> None:
    found = imported(nested(tmp_path, rng), tmp_path)
    macs = count(found, steps(5, normal(rng, 1, 4))).macs_by_node
    assert {weight: macs[name] for weight, name in weights(found).items()} == {"u": 3 * 16, "v": 2 * 16, "w": 5 * 12}


def test_a_chip_that_calls_from_a_loop_is_compiled_verified_and_made(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "data.npz", x=normal(rng, 256, 4) * 0.5, steps=np.array(3))
    bundle = pfmc.compile(nested(tmp_path, rng), tmp_path / "out", calibration=tmp_path / "data.npz")
    verdict = bundle.verify(tmp_path / "data.npz", monte_carlo=2, trim=True)
    assert all(output.relative_error < 0.05 for output in verdict.outputs.values() if output.relative_error is not None)
    assert verdict.monte_carlo is not None
    drawn, blame = verdict.outputs["y"].relative_error, verdict.monte_carlo.blame.contractions
    made = verdict.monte_carlo.outputs["y"].relative_error.mean
    assert drawn is not None
    assert made is not None
    assert drawn < made < 0.3
    assert len(blame) == 3


def test_a_branch_that_calibration_never_takes_is_mapped_as_well(tmp_path: Path, rng: np.random.Generator) -> None:
    path = parsed(BRANCHES, tmp_path, u=normal(rng, 4, 3), v=normal(rng, 4, 3))
    np.savez(tmp_path / "data.npz", x=np.clip(normal(rng, 64, 4), -1, 1), c=np.array(True))
    bundle = pfmc.compile(path, tmp_path / "out", calibration=tmp_path / "data.npz")
    np.savez(tmp_path / "other.npz", x=np.clip(normal(rng, 64, 4) / 2, -1, 1), c=np.array(False))
    for data, most in (("data.npz", 0.02), ("other.npz", 0.3)):  # what nobody saw reaches its ranges' ends
        verdict = bundle.verify(tmp_path / data, monte_carlo=1, trim=True)
        assert verdict.outputs["y"].relative_error is not None
        assert verdict.outputs["y"].relative_error < most


@pytest.mark.parametrize("external", [False, True])
def test_a_matrix_of_which_each_branch_has_a_copy_is_built_once(
    external: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    values = normal(rng, 20, 30)
    text = BRANCHES.replace("float[N,4]", "float[N,20]").replace("float[N,3]", "float[N,30]")
    path = parsed(text, tmp_path, u=values, v=values.copy())
    if external:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=0)
    found = imported(path, tmp_path)
    assert [contraction.weight.name for contraction in found.graph.contractions()] == ["u", "u"]
    np.savez(tmp_path / "data.npz", x=normal(rng, 8, 20), c=np.array(True))
    bundle = pfmc.compile(path, tmp_path / "out", calibration=tmp_path / "data.npz")
    assert bundle.manifest.tiles == 1
    assert bundle.manifest.parameters.mapped == values.size


def test_the_branch_of_a_constant_condition_is_no_body(tmp_path: Path, rng: np.random.Generator) -> None:
    path = parsed(BRANCHES, tmp_path, u=normal(rng, 4, 3), v=normal(rng, 4, 3))
    made = onnx.load(path)
    del made.graph.input[1]
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    found = imported(saved(made, tmp_path), tmp_path)
    assert weights(found).keys() == {"u"}
    assert not any(isinstance(node, HostNode) and node.kind == "If" for node in found.graph.nodes)


def test_functions_of_the_model_are_looked_into(tmp_path: Path, rng: np.random.Generator) -> None:
    """Called in the graph and in a body."""
    text = BRANCHES.replace("MatMul (x, u)", "local.twice (x, s)").replace("MatMul (x, v)", "local.twice (x, s)")
    function = """
    <domain: "local", opset_import: ["" : 17]>
    twice (x, s) => (y) { h = MatMul (x, s)
      y = Relu (h) }
    """
    made = onnx.parser.parse_model(text)
    made.functions.append(onnx.parser.parse_function(function))
    made.graph.initializer.append(numpy_helper.from_array(normal(rng, 4, 3), "s"))
    path = saved(made, tmp_path)
    found = imported(path, tmp_path)
    assert [contraction.weight.name for contraction in found.graph.contractions()] == ["s", "s"]
    inputs = {"x": normal(rng, 2, 4), "c": np.array(False)}
    (result,), (expected,) = outputs(fabricated(found, tmp_path), **inputs), outputs(path, **inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_a_scale_in_a_body_stays_there(tmp_path: Path, rng: np.random.Generator) -> None:
    """Folded into the product outside, it would be applied in the other branch too."""
    text = BRANCHES.replace("MatMul (x, u)", "Mul (h, two)").replace("MatMul (x, v)", "Identity (h)")
    text = text.replace("{\n  y = If", "{\n  h = MatMul (x, u)\n  two = Constant <value = float {2}> ()\n  y = If")
    path = parsed(text, tmp_path, u=normal(rng, 4, 3))
    made = fabricated(imported(path, tmp_path), tmp_path)
    for c in (False, True):
        inputs = {"x": normal(rng, 2, 4), "c": np.array(c)}
        np.testing.assert_allclose(outputs(made, **inputs), outputs(path, **inputs), rtol=1e-4, atol=1e-5)


def test_names_that_branches_share_and_constants_that_they_give_are_parted(rng: np.random.Generator) -> None:
    """Both branches call what they make z, one gives a constant of its own, and the node's name is taken."""
    info = [onnx.ValueInfoProto(name="z")]
    yes = helper.make_graph([node("Relu", "x", "z", name="n")], "yes", [], info)
    no = helper.make_graph([], "no", [], info, [numpy_helper.from_array(normal(rng, 2, 3), "z")])
    nodes = [node("If", "c", "y", name="n", then_branch=yes, else_branch=no)]
    made = model(nodes, {"x": [2, 3]}, ["y"], {}, opset=17)
    made.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    inputs = {"x": normal(rng, 2, 3)}
    wanted = [outputs(made, c=np.array(c), **inputs)[0] for c in (False, True)]
    flatten(made.graph)
    name_nodes(made.graph)
    branches = [attribute.g for attribute in made.graph.node[0].attribute]
    names = [n.name for graph in (made.graph, *branches) for n in graph.node]
    values = [value for graph in (made.graph, *branches) for n in graph.node for value in n.output]
    assert len(set(names)) == len(names) == 3
    assert len(set(values)) == 3
    assert not any(branch.initializer for branch in branches)
    np.testing.assert_array_equal([outputs(made, c=np.array(c), **inputs)[0] for c in (False, True)], wanted)


@st.composite
def scans(draw: st.DrawFn) -> tuple[list[int], dict[str, Any]]:
    """Extents of the two inputs that are read entry by entry, and attributes."""
    length = draw(st.integers(1, 4))
    axes = [draw(st.integers(0, 2)), draw(st.integers(-2, 1))]
    directions = st.lists(st.integers(0, 1), min_size=2, max_size=2)
    given = {"scan_input_directions": draw(directions), "scan_output_directions": draw(directions)}
    return [length, axes[0], axes[1]], {
        **{name: values for name, values in given.items() if draw(st.booleans())},
        "scan_input_axes": axes,
        "scan_output_axes": [draw(st.integers(0, 2)), draw(st.integers(-2, 1))],
    }


@given(scans())
def test_a_scan_as_a_loop_computes_the_same(case: tuple[list[int], dict[str, Any]]) -> None:
    (length, *axes), attributes = case
    rng = np.random.default_rng(length)
    body = onnx.parser.parse_graph("""
        step (float[2,3] state, float[2,3] a, float[3] b) => (float[2,3] next, float[2,3] c, float[3] d) {
          sum = Add (state, a)
          next = Mul (sum, b)
          c = Tanh (next)
          d = Neg (b)
        }""")
    shapes = {"state": [2, 3], "a": [2, 3], "b": [3]}
    for name, axis in zip("ab", axes, strict=True):
        shapes[name].insert(axis if axis >= 0 else axis + len(shapes[name]) + 1, length)
    scan = helper.make_node(
        "Scan", ["state", "a", "b"], ["last", "c", "d"], name="scan", body=body, num_scan_inputs=2, **attributes
    )
    made = model([scan], shapes, ["last", "c", "d"], opset=17)
    inputs = {name: normal(rng, *shape) for name, shape in shapes.items()}
    wanted = outputs(made, **inputs)
    flatten(made.graph)
    assert scans_to_loops(made.graph)
    for result, expected in zip(outputs(made, **inputs), wanted, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-6)
