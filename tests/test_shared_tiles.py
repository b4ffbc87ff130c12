"""Contractions by the same matrix are computed on the same tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import model, node, saved

import pfmc


@pytest.fixture
def twice(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A layer applied twice, then another by its transposed matrix."""
    nodes = [
        node("MatMul", "x w", "a", name="first"),
        node("Relu", "a", "r"),
        node("MatMul", "r w", "b", name="second"),
        node("Gemm", "b w", "y", name="back", transB=1),
    ]
    return saved(
        model(nodes, {"x": [None, 20]}, ["y"], {"w": rng.standard_normal((20, 20)).astype(np.float32)}), tmp_path
    )


def test_a_matrix_used_twice_is_placed_once(twice: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.standard_normal((64, 20)).astype(np.float32))
    shared = pfmc.compile(twice, tmp_path / "shared", technology="generic", calibration=data)
    assert shared.manifest.shared_tiles == {"first": ("second",)}
    assert shared.manifest.tiles == 2
    assert (shared.manifest.macs.mapped, shared.manifest.macs.total) == (1200, 1200)
    assert shared.manifest.parameters.mapped == 400
    own = pfmc.compile(twice, tmp_path / "own", technology="generic", calibration=data, options={"tile.share": False})
    assert own.manifest.shared_tiles == {}
    assert own.manifest.tiles == 3
    for bundle in (shared, own):
        verified = bundle.verify(data, monte_carlo=2)
        assert verified.outputs["y"].relative_error < 0.05
        assert verified.monte_carlo is not None
        assert verified.monte_carlo.outputs["y"].relative_error.mean < 0.1
