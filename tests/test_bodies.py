"""Control flow: contractions in the bodies of If, Loop and Scan, against ONNX Runtime on the original model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from models import saved
from onnx import numpy_helper

from pfmc.data import Dataset
from pfmc.frontend.activations import record, recorder
from pfmc.frontend.counts import count
from pfmc.frontend.importer import ImportedModel, import_model

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
EVERY_TIME = {"u": (4, 4), "v": (4, 4), "w": (4, 3)}


def nested(folder: Path, rng: np.random.Generator) -> Path:
    made = onnx.parser.parse_model(NESTED)
    for name, shape in EVERY_TIME.items():
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return saved(made, folder)


def imported(path: Path, tmp_path: Path) -> ImportedModel:
    work = tmp_path / "work"
    work.mkdir()
    return import_model(path, work)


def test_contractions_are_found_in_bodies_within_bodies(tmp_path: Path, rng: np.random.Generator) -> None:
    found = imported(nested(tmp_path, rng), tmp_path)
    weights = {contraction.weight.name for contraction in found.graph.contractions()}
    assert weights == {"u", "v", "w"}
    assert len({contraction.name for contraction in found.graph.contractions()}) == 3


def test_every_value_in_a_body_is_seen_each_time_it_is_computed(tmp_path: Path, rng: np.random.Generator) -> None:
    path = nested(tmp_path, rng)
    found = imported(path, tmp_path)
    x = rng.standard_normal((2, 4)).astype(np.float32)
    data = Dataset({"x": x, "steps": np.array(5)}, None, "file", frozenset({"steps"}))
    reads = {contraction.weight.name: contraction for contraction in found.graph.contractions()}
    names = [reads[name].input for name in "uvw"] + [reads[name].output for name in "uvw"]
    (seen,) = record(found, data, list(dict.fromkeys(names)), 64)
    weights = {name: reads[name].weight.map() for name in "uvw"}
    h, states, results = x, [x], []
    for step in range(5):
        results.append(h @ weights["uv"[step % 2]])
        h = np.tanh(results[-1])
        states.append(h)
    for value, wanted in (
        (reads["u"].input, states[:5]),
        (reads["u"].output, results[::2]),
        (reads["v"].output, results[1::2]),
        (reads["w"].input, states[1:]),
        (reads["w"].output, [state @ weights["w"] for state in states[1:]]),
    ):
        np.testing.assert_allclose(np.array(seen[value]), np.array(wanted), rtol=1e-5, atol=1e-6)
    (joined,) = recorder(found, data, 64)([reads["w"].input])
    assert joined[reads["w"].input].shape == (10, 4)


def test_macs_in_a_body_count_as_often_as_it_runs(tmp_path: Path, rng: np.random.Generator) -> None:
    found = imported(nested(tmp_path, rng), tmp_path)
    x = rng.standard_normal((1, 4)).astype(np.float32)
    data = Dataset({"x": x, "steps": np.array(5)}, None, "file", frozenset({"steps"}))
    macs = count(found, data).macs_by_node
    by_weight = {contraction.weight.name: macs[contraction.name] for contraction in found.graph.contractions()}
    assert by_weight == {"u": 3 * 16, "v": 2 * 16, "w": 5 * 12}
