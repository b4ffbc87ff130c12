"""How long models of up to a hundred million parameters take to be read and mapped, without emission; their memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from measuring import measured, shown
from onnx import helper
from onnx.external_data_helper import set_external_data

from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load

WIDTH = 2048

JOB = """
import json, resource, sys, threading, time
from pathlib import Path
from unittest import mock
import pfmc
class Mapped(Exception): pass
owned = [0]
def watch():
    while True:
        kilobytes = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('RssAnon'))
        owned[0] = max(owned[0], int(kilobytes))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
folder, blocks = Path(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
with mock.patch("pfmc.driver._emitted", side_effect=Mapped):
    try:
        pfmc.compile(folder / "m.onnx", folder / "chip", technology="sg13g2", options={"scale.compensate": COMPENSATE})
    except Mapped:
        pass
    else:
        raise SystemExit("it was not stopped")
seconds = time.perf_counter() - start
"""


def layers(path: Path, count: int) -> None:
    """MatMul and Relu, again and again; weights in a file beside it."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    with path.with_name("m.data").open("wb") as f:
        for i in range(count):
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.raw_data = b"0"  # set_external_data asks for some
            set_external_data(tensor, "m.data", offset=f.tell(), length=4 * WIDTH**2)
            tensor.ClearField("raw_data")
            f.write((rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32).tobytes())
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"a{i}"], name=f"layer{i}"))
            nodes.append(helper.make_node("Relu", [f"a{i}"], [f"x{i + 1}"]))
    ends = [[helper.make_tensor_value_info(f"x{i}", 1, ["batch", WIDTH])] for i in (0, count)]
    graph = helper.make_graph(nodes, "deep", *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize("compensate", ["no", "yes"])
def test_a_model_is_mapped(compensate: str, tmp_path: Path) -> None:
    """101 M weights of sg13g2, its wires ignored or compensated, which the scale must know.

    Loops are compiled for this machine beforehand. Memory is what the process owns; pages of the file of weights come
    and go as the machine likes.
    """
    count = 24
    CrossbarTile.of(load("sg13g2")).feasible_scale(np.ones((1, 1)))
    layers(tmp_path / "m.onnx", count)
    result = measured(
        JOB.replace("COMPENSATE", repr(compensate)), tmp_path, count * WIDTH**2 // 4096, "owned[0] / 1024"
    )
    seconds = count * WIDTH**2 / result["weights_per_second"]
    print(f"\n{seconds:.1f} s:")
    shown(f"pfmc, reading and mapping, {count * WIDTH**2 / 1e6:.0f} M, wires compensated: {compensate}", result)
    assert result["peak_mib"] < 500
