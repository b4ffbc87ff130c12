"""A small digital matrix behind each volume: it undoes that light of one output arrives at others, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glasses import small_glass, small_model

import pfmc
from pfmc.api import Bundle
from pfmc.bundle import read_tiles
from pfmc.check.monte_carlo import Fabrication
from pfmc.data import load_values
from pfmc.errors import UsageError
from pfmc.frontend.runtime import Runtime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("glass")
    return pfmc.compile(small_model(folder), folder / "glass", target="glass", technology=small_glass(folder))


def fabrication(bundle: Bundle) -> Fabrication:
    manifest = bundle.manifest
    inputs = Runtime(manifest.path_of(bundle.path, "model")).inputs
    return Fabrication.of(
        manifest.technology,
        manifest.path_of(bundle.path, "host"),
        read_tiles(manifest.path_of(bundle.path, "tiles")),
        bundle.read_back(),
        load_values(manifest.path_of(bundle.path, "input-values"), inputs),
        seed=0,
        trim=True,
        post_matrix=True,
        ideal_converters=True,
    )


def test_outputs_of_a_tile_that_are_mixed_are_parted_again(bundle: Bundle) -> None:
    """Two tiles of three and two outputs: the matrix is the inverse of each one's mixing, zero between tiles."""
    made, rng = fabrication(bundle), np.random.default_rng(1)
    mixing = np.zeros((5, 5))
    for part in (slice(0, 3), slice(3, 5)):
        width = part.stop - part.start
        mixing[part, part] = np.eye(width) + 0.1 * rng.normal(size=(width, width))
    ((name, drawn),) = made.drawn.items()
    scale = made.model.crossbars[name].units_per_code / made.model.crossbars[name].microamps_per_code  # per tile
    mixed = replace(drawn, microsiemens=drawn.microsiemens * scale @ mixing / scale, offset=0.01 / scale)
    assert made.trim is not None
    found = made.trim.trimmed({name: mixed}, rng)[name]
    assert found.mixing is not None
    np.testing.assert_allclose(found.mixing[0], np.linalg.inv(mixing), atol=1e-3)
    np.testing.assert_allclose(found.added[0, 0], -0.01 * np.ones(5) @ np.linalg.inv(mixing), atol=1e-4)


def test_a_block_without_errors_is_left_as_it_is(bundle: Bundle) -> None:
    made = fabrication(bundle)
    assert made.trim is not None
    ((_, found),) = made.trim.trimmed(made.drawn, np.random.default_rng(0)).items()
    np.testing.assert_allclose(np.asarray(found.mixing), np.eye(5)[None], atol=1e-9)
    np.testing.assert_allclose(found.added, 0.0, atol=1e-9)


def test_readings_that_never_vary_leave_the_matrix_alone(bundle: Bundle) -> None:
    made = fabrication(bundle)
    assert made.trim is not None
    ((name, vectors),) = made.trim.vectors.items()
    still = replace(made.trim, vectors={name: np.zeros_like(vectors)})
    found = still.trimmed(made.drawn, np.random.default_rng(0))[name]
    np.testing.assert_array_equal(np.asarray(found.mixing), np.eye(5)[None])


def test_a_matrix_leaves_less_of_the_writers_errors_than_gains_do(bundle: Bundle) -> None:
    """Inputs are independent here: most of the errors are no mixing of two or three outputs. Images leave far less."""
    options = {"monte_carlo": 4, "ideal_converters": True}
    errors = []
    for trim in ({}, {"trim": True}, {"post_matrix": True}):
        found = bundle.verify(**options, **trim).monte_carlo  # type: ignore[arg-type]
        assert found is not None and found.post_matrix == ("post_matrix" in trim) and found.trimmed == bool(trim)
        errors.append(found.outputs["y"].relative_error.mean)
    untrimmed, gains, matrix = errors
    assert untrimmed is not None and gains is not None and matrix is not None
    assert matrix < 0.95 * gains < 0.95 * untrimmed


def test_only_blocks_of_glass_as_they_are_made_have_one(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--post-matrix, give --monte-carlo"):
        bundle.verify(post_matrix=True)
    chip = pfmc.compile(small_model(tmp_path), tmp_path / "chip")
    with pytest.raises(UsageError, match="its matrix would be the layer"):
        chip.verify(monte_carlo=1, post_matrix=True)
