"""A part of a model becomes hardware, the rest stays digital."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pfmc
from pfmc.errors import UsageError
from pfmc.frontend.selection import LEFT_OUT
from pfmc.report.terminal import show_manifest


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three layers: one by a name with a path, one without a name, one that consists of two contractions."""
    weights = {
        "w1": rng.standard_normal((6, 5)),
        "w2": rng.standard_normal((5, 4)),
        "w": rng.standard_normal((1, 3, 4)),
        "r": rng.standard_normal((1, 3, 3)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="/enc/fc[0]"),
        helper.make_node("MatMul", ["a", "w2"], ["b"]),
        helper.make_node("RNN", ["b", "w", "r"], ["y"], name="rnn", hidden_size=3),
    ]
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("x", 1, [4, 2, 6])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def mapped(bundle: pfmc.Bundle) -> set[str]:
    return {tile.node for tile in bundle.tiles}


def test_only_what_fits_a_pattern_is_built(model: Path, tmp_path: Path) -> None:
    bundle = pfmc.compile(model, tmp_path / "out", technology="generic", only=["/enc/*", "rnn"])
    assert len(mapped(bundle)) == 3
    assert bundle.manifest.on_host == {"MatMul_1": LEFT_OUT}
    assert bundle.manifest.parameters.mapped == 6 * 5 + 3 * 4 + 3 * 3
    assert bundle.manifest.macs.mapped < bundle.manifest.macs.total
    assert bundle.verify(ideal_converters=True, tolerance=0.01).passed


def test_what_fits_except_stays_digital_though_only_has_it(model: Path, tmp_path: Path) -> None:
    bundle = pfmc.compile(model, tmp_path / "out", technology="generic", only=["*"], except_=["rnn", "MatMul_?"])
    assert mapped(bundle) == {"/enc/fc[0]"}
    assert set(bundle.manifest.on_host.values()) == {LEFT_OUT}
    kept = onnx.load(tmp_path / "out" / "host.onnx")
    assert kept.graph.node[-1].output[0] == "y"


def test_a_part_computes_what_the_whole_does_where_it_is_digital(model: Path, tmp_path: Path) -> None:
    """An error of the part left out cannot show: with one exact layer the error is that of this layer's strips."""
    whole = pfmc.compile(model, tmp_path / "whole", technology="generic").verify().outputs["y"]
    part = pfmc.compile(model, tmp_path / "part", technology="generic", only=["/enc/*"]).verify().outputs["y"]
    assert whole.relative_error is not None
    assert part.relative_error is not None
    assert 0 < part.relative_error < whole.relative_error


def test_a_pattern_that_fits_nothing_is_named_with_the_nearest_names(model: Path, tmp_path: Path) -> None:
    for chosen in ({"only": ["MatMull_1"]}, {"except_": ["MatMull_1"]}):
        with pytest.raises(UsageError, match=r"no contraction has a name like MatMull_1.*nearest names: MatMul_1"):
            pfmc.compile(model, tmp_path / "out", technology="generic", **chosen)
    assert not (tmp_path / "out").exists()


def test_something_must_be_left(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pfmc", "compile", str(model), "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, "--only", "rnn", "--except", "*"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("pfmc: error: nothing is left to map")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("taken", [[True], [False, True]])
def test_a_branch_that_calibration_never_took_is_named(
    taken: list[bool], tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two branches, by a truth value of the data."""
    branches = {}
    for key in ("then_branch", "else_branch"):
        values = rng.standard_normal((4, 3)).astype(np.float32)
        branches[key] = helper.make_graph(
            [
                helper.make_node("Neg", ["x"], [f"h_{key}"]),  # what is made outside is seen, taken or not
                helper.make_node("MatMul", [f"h_{key}", f"w_{key}"], [f"y_{key}"], name=key),
            ],
            key,
            [],
            [helper.make_tensor_value_info(f"y_{key}", 1, None)],
            [numpy_helper.from_array(values, f"w_{key}")],
        )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], name="if", **branches)],
        "branches",
        [helper.make_tensor_value_info("c", 9, [1]), helper.make_tensor_value_info("x", 1, [1, 4])],
        [helper.make_tensor_value_info("y", 1, [1, 3])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    data = {"c": np.array(taken), "x": rng.standard_normal((len(taken), 4)).astype(np.float32)}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **data)
    manifest = pfmc.compile(path, tmp_path / "out", technology="generic", calibration=tmp_path / "data.npz").manifest
    show_manifest(manifest, tmp_path / "out")
    printed = capsys.readouterr().out
    if False in taken:
        assert manifest.calibration.unreached == ()
        assert "not calibrated" not in printed
    else:
        assert manifest.calibration.unreached == ("else_branch",)
        assert "else_branch: the data never ran them" in printed
