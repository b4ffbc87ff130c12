"""Volumes that are written more than once and averaged: errors of their writing are independent, their size adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from glasses import small_glass, small_model

import pfmc
from pfmc.errors import UsageError


def test_four_volumes_of_each_block_halve_the_writers_errors_and_add_no_weights(tmp_path: Path) -> None:
    technology, model, errors, densities = small_glass(tmp_path), small_model(tmp_path), [], []
    for copies in (1, 4):
        bundle = pfmc.compile(
            model,
            tmp_path / f"glass{copies}",
            target="glass",
            technology=technology,
            options={"provide.copies": copies},
        )
        found = bundle.verify(monte_carlo=6, ideal_converters=True).monte_carlo
        assert found is not None and bundle.manifest.glass is not None
        errors.append(found.outputs["y"].relative_error.mean)
        densities.append(bundle.manifest.glass.weights_per_mm3)
        assert bundle.manifest.tiles == 2 * copies
    single, averaged = errors
    assert single is not None and averaged == pytest.approx(single / 2, rel=0.25)
    assert densities[1] == pytest.approx(densities[0] / 4)


def test_an_accuracy_is_not_chosen_for_glass_but_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is for crossbars, technology small of target glass, average volumes"):
        pfmc.compile(
            small_model(tmp_path), tmp_path / "x", target="glass", technology=small_glass(tmp_path), min_agreement=0.9
        )
    assert not (tmp_path / "x").exists()
