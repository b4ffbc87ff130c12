"""The onnx package's own backend tests; backend_table.py runs all of them and writes docs/backend_tests.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from backend_cases import IDEAL_TOLERANCE, constant_cases, node_cases, runs
from backend_table import PAGE, all_cases, outcomes
from mapping import both, computed, fabricated, imported_as_it_is
from onnx import helper, numpy_helper

from pfmc.errors import ImportModelError
from pfmc.frontend.importer import import_model

NODES = node_cases()
CONSTANT = {case.name: case for case in constant_cases(NODES)}
# A few of each kind for the whole way, through the masks; the last two are refused.
THROUGH_MASKS = (
    "test_basic_conv_with_padding, W constant",
    "test_einsum_batch_matmul, x constant",
    "test_gru_with_initial_bias, W and R and B constant",
    "test_qlinearconv, w constant",
    "test_basic_deform_conv_with_padding, W constant",
    "test_abs",
)


def documented() -> set[str]:
    """What compiles, by the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split("`")[1] for line in lines if line.startswith("| `")}


def test_the_package_has_as_many_contractions_as_ever() -> None:
    assert len(CONSTANT) > 90


@pytest.mark.parametrize("name", CONSTANT)
def test_exact_tiles_compute_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    """And what is refused is refused by the page too."""
    case = CONSTANT[name]
    if not runs(case):
        assert name not in documented()
        return
    try:
        imported = imported_as_it_is(case.model, tmp_path)
    except ImportModelError as refused:
        assert "\n" not in str(refused)
        assert name not in documented()
        return
    reference = np.asarray(computed(case.model, case.inputs, literally=True), np.float64)
    found = np.asarray(computed(fabricated(imported, tmp_path), case.inputs), np.float64)
    assert np.linalg.norm(found - reference) <= IDEAL_TOLERANCE * np.linalg.norm(reference)
    assert name in documented()


def test_the_page_is_what_the_script_finds() -> None:
    cases = [case for case in (*NODES, *CONSTANT.values()) if case.name in THROUGH_MASKS]
    assert len(cases) == len(THROUGH_MASKS)
    found = {case.name: each for case, each in outcomes(cases)}
    assert {name for name, each in found.items() if each.kind == "compiles"} == documented() & set(THROUGH_MASKS)
    assert {found[name].kind for name in THROUGH_MASKS[-2:]} == {"refused"}


@pytest.mark.slow
def test_the_page_is_what_the_script_finds_of_all_cases() -> None:
    found = {case.name: each for case, each in outcomes(all_cases())}
    assert not {name: each.reason for name, each in found.items() if each.kind == "failed"}
    assert {name for name, each in found.items() if each.kind == "compiles"} == documented()


def test_the_value_of_an_old_pad_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    """test_operator_pad: onnx's converter leaves an attribute that the newer operator does not have."""
    weight = numpy_helper.from_array(rng.standard_normal((6, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Pad", ["x"], ["h"], mode="constant", pads=[0, 1, 0, 1], value=1.5),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, 1, [2, size])] for name, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "padded", *ends, [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=onnx.IR_VERSION_2019_1_22)
    reference, found, imported = both(made, tmp_path, x=rng.standard_normal((2, 4)).astype(np.float32))
    assert imported.graph.contractions()
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


def test_a_constant_that_is_listed_as_an_input_is_none(tmp_path: Path) -> None:
    """As in the light models, of IR 3: the shape of a weight goes when the weight is folded, and its input with it."""
    shape = numpy_helper.from_array(np.array([4, 3]), "shape")
    value = numpy_helper.from_array(np.array([0.02], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("shape", 7, [2]), helper.make_tensor_value_info("x", 1, [2, 4])]
    graph = helper.make_graph(nodes, "old", inputs, [helper.make_tensor_value_info("y", 1, [2, 3])], [shape])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3), path)
    imported = import_model(path, tmp_path)
    assert [spec.name for spec in imported.inputs] == ["x"]
    assert [node.weight.shape for node in imported.graph.contractions()] == [(4, 3)]
