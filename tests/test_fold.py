"""Scales and shifts around a contraction become part of its matrix; ONNX Runtime says what they compute together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import both, folded
from models import model, node
from numpy.testing import assert_allclose

from pfmc.ir.graph import Affine


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@given(st.data())
def test_scales_and_shifts_in_front_and_behind(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One for all or one per channel, of a product or of windows; none stays but where padding would be shifted."""
    rng, conv = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.booleans())
    pad = data.draw(st.integers(0, 1)) if conv else 0
    constants = {"w": normal(rng, 4, 2, 3) if conv else normal(rng, 4, 5)}
    steps = st.lists(st.sampled_from(["Mul", "Div", "Add", "Sub"]), max_size=3)
    front, behind = data.draw(steps), data.draw(steps)
    nodes: list[onnx.NodeProto] = []
    value = "x"
    for i, kind in enumerate([*front, "contraction", *behind]):
        if kind == "contraction":
            nodes.append(
                node("Conv", f"{value} w", f"v{i}", group=2, pads=[pad, pad])
                if conv
                else node("MatMul", f"{value} w", f"v{i}")
            )
        else:
            channels = 4 if conv or i < len(front) else 5
            shape = data.draw(st.sampled_from([(), (channels, 1) if conv else (channels,)]))
            constants[f"c{i}"] = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
            nodes.append(node(kind, f"{value} c{i}", f"v{i}"))
        value = f"v{i}"
    nodes[-1].output[0] = "y"
    x = normal(rng, 2, 4, 6) if conv else normal(rng, 2, 3, 4)
    made = model(nodes, {"x": x.shape}, ["y"], constants)
    reference, found, imported = both(made, tmp_path_factory.mktemp("m"), x=x)
    assert_allclose(found, reference, rtol=1e-3, atol=1e-3)
    left = [n for n in folded(imported.graph).nodes if isinstance(n, Affine)]
    assert len(left) <= (len(front) if pad else 0)


def test_what_others_read_too_stays_in_front(tmp_path: Path, rng: np.random.Generator) -> None:
    """Two contractions take a scale over together; a reader that cannot keeps it for both."""
    constants = {"g": normal(rng, 4), "a": normal(rng, 4, 3), "b": normal(rng, 4, 3)}
    nodes = [node("Mul", "x g", "h"), node("MatMul", "h a", "p"), node("MatMul", "h b", "q"), node("Add", "p q", "y")]
    for extra, affines in (([], 0), ([node("Relu", "h", "other")], 1)):
        made = model([*nodes, *extra], {"x": (2, 4)}, ["y"], constants)
        reference, found, imported = both(made, tmp_path, x=normal(rng, 2, 4))
        assert_allclose(found, reference, rtol=1e-4, atol=1e-4)
        assert sum(isinstance(n, Affine) for n in folded(imported.graph).nodes) == affines
