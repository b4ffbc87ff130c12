"""Chips as made: seeds reproduce, spreads come through as they should, the trim takes out what it can."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import model, node, saved
from threadpoolctl import threadpool_info, threadpool_limits
from typer.testing import CliRunner

import pfmc
from pfmc.bundle import read_tiles
from pfmc.check.monte_carlo import Fabrication, Statistics, monte_carlo
from pfmc.cli import app
from pfmc.data import load_dataset, load_values
from pfmc.errors import UsageError
from pfmc.frontend.runtime import Runtime
from pfmc.physics.crossbar import effective_matrix
from pfmc.physics.variation import Variation

SAMPLES = Path(__file__).parent.parent / "samples"
TEST = SAMPLES / "digits_mlp" / "test.npz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pfmc.Bundle:
    source = SAMPLES / "digits_mlp"
    folder = tmp_path_factory.mktemp("made") / "chip"
    return pfmc.compile(source / "model.onnx", folder, calibration=source / "calibration.npz")


def fabrication(bundle: pfmc.Bundle, *, trim: bool = False, readout: str = "ratiometric", seed: int = 0) -> Fabrication:
    """Chips of a bundle, with another read-out than its technology's if asked."""
    manifest = bundle.manifest
    said = manifest.technology.variation.model_copy(update={"readout": readout})
    inputs = Runtime(manifest.path_of(bundle.path, "model")).inputs
    return Fabrication.of(
        manifest.technology.model_copy(update={"variation": said}),
        manifest.path_of(bundle.path, "host"),
        read_tiles(manifest.path_of(bundle.path, "tiles")),
        bundle.read_back(),
        load_values(manifest.path_of(bundle.path, "input-values"), inputs),
        seed=seed,
        trim=trim,
    )


def errors(made: Fabrication, bundle: pfmc.Bundle, variation: Variation, chips: int = 4) -> np.ndarray:
    """Relative error of each of some chips."""
    reference = Runtime(bundle.manifest.path_of(bundle.path, "model"))
    dataset = load_dataset(TEST, reference.inputs)
    wanted = reference.run(dataset)
    found = [made.compared(number, variation, dataset, wanted) for number in range(chips)]
    return np.array([next(iter(one.outputs.values())).relative_error for one in found])


def test_a_chip_without_differences_is_the_as_fabricated_model(bundle: pfmc.Bundle) -> None:
    """Two roads to one number: the verdict's model with constants, and the made one with inputs and errors of zero."""
    made = fabrication(bundle)
    (drawn,) = bundle.verify(TEST).outputs.values()
    np.testing.assert_allclose(errors(made, bundle, made.maker.still, 2), drawn.relative_error, rtol=1e-3)


def test_the_made_matrix_is_that_of_the_devices_made(bundle: pfmc.Bundle) -> None:
    """Geometry alone gives back the reader's resistances, and their effective matrix stands in the model's units."""
    made = fabrication(bundle)
    for record, built in zip(made.maker.records, bundle.read_back(), strict=True):
        rows, columns = record.row_stop - record.row_start, record.column_stop - record.column_start
        siemens = effective_matrix(1 / built.resistance, built.wires)[:rows, :columns]
        found = made.drawn[record.node].microsiemens[0, :rows, record.column_start : record.column_stop]
        np.testing.assert_allclose(found, 1e6 * siemens, rtol=1e-6, atol=1e-6)


def test_tiles_that_share_input_converters_share_their_errors(tmp_path: Path, rng: np.random.Generator) -> None:
    """Two blocks of columns, two of rows, each twice: on the same rows all factors of rows are the same, not else."""
    weights = {"w": rng.standard_normal((100, 80)).astype(np.float32)}
    path = saved(model([node("MatMul", "x w", "y")], {"x": [None, 100]}, ["y"], weights), tmp_path)
    made = fabrication(pfmc.compile(path, tmp_path / "chip", options={"provide.copies": 2}))
    only = replace(made.maker.still, converter_gain=0.01)
    ((name, found),) = made.maker.chip(3, only).items()
    crossbars = made.model.crossbars[name]
    rows: dict[int, list[np.ndarray]] = {}
    for record in made.maker.records:
        at = crossbars.block_of(record), slice(record.row_stop - record.row_start), record.column_start
        factors = found.microsiemens[at] / made.drawn[name].microsiemens[at]
        rows.setdefault(record.row_start, []).append(factors / factors[0])
    for alike in rows.values():
        assert len(alike) == 4
        np.testing.assert_allclose(alike, [alike[0]] * 4, rtol=1e-9)
        assert np.std(alike[0]) == pytest.approx(0.01, rel=0.3)
    assert not np.allclose(rows[0][0][:36], rows[64][0], atol=1e-3)


def test_the_same_seed_gives_the_same_chips(bundle: pfmc.Bundle) -> None:
    first = bundle.verify(TEST, monte_carlo=3, trim=True, seed=5).to_json()
    assert first == bundle.verify(TEST, monte_carlo=3, trim=True, seed=5).to_json()
    other = bundle.verify(TEST, monte_carlo=3, trim=True, seed=6).to_json()
    assert first["monte_carlo"]["sigma"] != other["monte_carlo"]["sigma"]
    assert {key: value for key, value in first.items() if key != "monte_carlo"} == {
        key: value for key, value in other.items() if key != "monte_carlo"
    }


def test_chips_do_not_depend_on_how_many_are_made(bundle: pfmc.Bundle) -> None:
    made = fabrication(bundle)
    many = errors(made, bundle, made.variation, 3)
    again = errors(fabrication(bundle), bundle, made.variation, 2)
    np.testing.assert_array_equal(many[:2], again)
    assert len(set(many)) == 3


def test_the_numbers_are_those_of_the_chips(bundle: pfmc.Bundle) -> None:
    made = fabrication(bundle)
    found = errors(made, bundle, made.variation, 6)
    tolerance = float(np.median(found))
    verdict = bundle.verify(TEST, monte_carlo=6, tolerance=tolerance)
    chips = verdict.monte_carlo
    assert chips is not None
    (output,) = chips.outputs.values()
    assert output.relative_error == Statistics.of(found.tolist(), worst=0.95)
    assert (chips.runs, chips.sigma, chips.yield_at_tolerance) == (6, output.relative_error.sigma, 0.5)
    assert output.relative_error.mean == pytest.approx(found.mean())
    assert output.relative_error.worst == pytest.approx(np.quantile(found, 0.95))
    assert chips.accuracy is not None
    assert chips.accuracy.worst <= chips.accuracy.mean <= 1


def test_the_number_of_threads_does_not_matter(bundle: pfmc.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    several = bundle.verify(TEST, monte_carlo=4, samples=64).monte_carlo
    monkeypatch.setattr("pfmc.check.monte_carlo.THREADS", 1)
    assert bundle.verify(TEST, monte_carlo=4, samples=64).monte_carlo == several


def test_chips_are_made_with_one_blas_thread(bundle: pfmc.Bundle) -> None:
    """With two the small products of a tile wait for each other, five times as long."""
    reference = Runtime(bundle.manifest.path_of(bundle.path, "model"))
    dataset = load_dataset(TEST, reference.inputs).take(8)
    threads: set[int] = set()

    def progress(_done: int) -> None:
        threads.update(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")

    with threadpool_limits(limits=2, user_api="blas"):
        monte_carlo(fabrication(bundle), dataset, reference.run(dataset), runs=1, tolerance=0.1, progress=progress)
    assert threads == {1}


def test_the_verdict_is_that_of_the_drawing(bundle: pfmc.Bundle) -> None:
    verdict = bundle.verify(TEST, monte_carlo=2, tolerance=0.01)
    assert verdict.passed
    assert verdict.monte_carlo is not None
    assert verdict.monte_carlo.yield_at_tolerance == 0.0


def test_mismatch_costs_what_independent_errors_of_weights_cost(bundle: pfmc.Bundle) -> None:
    """The error of the output is that of the weights to first order: pairs of strips that each miss by their sigma."""
    made = fabrication(bundle)
    alone = replace(made.maker.still, sheet_mismatch=made.variation.sheet_mismatch)
    half = replace(alone, sheet_mismatch=alone.sheet_mismatch / 2)
    whole = errors(made, bundle, alone, 12).mean()
    assert 0.02 < whole < 0.07
    assert errors(made, bundle, half, 12).mean() == pytest.approx(whole / 2, rel=0.1)


def test_blame_names_temperature_and_mismatch(bundle: pfmc.Bundle) -> None:
    """Warm metal resists more and these strips less, so that wires are no longer what was compensated."""
    chips = bundle.verify(TEST, monte_carlo=4).monte_carlo
    assert chips is not None
    effects, contractions = chips.blame.effects, chips.blame.contractions
    assert list(effects)[:2] == ["temperature", "mismatch"]
    assert list(effects.values()) == sorted(effects.values(), reverse=True)
    assert set(contractions) == {tile.node for tile in bundle.tiles}
    assert all(error > chips.blame.drawn for error in contractions.values())


ALONE: Mapping[str, dict[str, float]] = {
    "mismatch": {"sheet_mismatch": 1e-7},
    "wires": {"wire": 0.3},
    "converters": {"converter_offset": 5.0},
    "noise": {"converter_noise": 5.0},
    "stuck devices": {"stuck_open": 0.01},
}


@pytest.mark.parametrize("effect", ALONE)
def test_blame_points_to_the_only_effect(bundle: pfmc.Bundle, effect: str) -> None:
    made = fabrication(bundle)
    reference = Runtime(bundle.manifest.path_of(bundle.path, "model"))
    dataset = load_dataset(TEST, reference.inputs).take(64)
    alone = replace(made, variation=replace(made.maker.still, **ALONE[effect]))
    found = monte_carlo(
        alone, dataset, reference.run(dataset), runs=2, tolerance=0.1, progress=lambda _done: None
    ).blame
    first, *others = found.effects
    assert first == effect
    assert found.effects[first] > 1.5 * found.drawn
    assert {found.effects[other] for other in others} == {found.drawn}


def test_independent_copies_divide_the_error_of_mismatch_by_the_root_of_their_number(bundle: pfmc.Bundle) -> None:
    made = fabrication(bundle)
    manifest = bundle.manifest
    inputs = Runtime(manifest.path_of(bundle.path, "model")).inputs
    alone = replace(made.maker.still, sheet_mismatch=made.variation.sheet_mismatch)
    tiles = list(zip(read_tiles(manifest.path_of(bundle.path, "tiles")), bundle.read_back(), strict=True))
    four = Fabrication.of(
        manifest.technology,
        manifest.path_of(bundle.path, "host"),
        [record.model_copy(update={"copies": 4, "copy_number": copy}) for record, _ in tiles for copy in range(4)],
        [built for _, built in tiles for _ in range(4)],
        load_values(manifest.path_of(bundle.path, "input-values"), inputs),
        seed=0,
        trim=False,
    )
    drawn = errors(made, bundle, made.maker.still, 1)[0]
    single, averaged = (np.sqrt(np.mean(errors(one, bundle, alone, 8) ** 2) - drawn**2) for one in (made, four))
    assert averaged == pytest.approx(single / 2, rel=0.15)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_saturated_readings_have_no_part_in_the_trim(bundle: pfmc.Bundle, share: float) -> None:
    """Weak columns whose offset puts a part of the readings at the converters' limit: their gain is right anyway."""
    made = fabrication(bundle, trim=True)
    assert made.trim is not None
    for name, drawn in made.drawn.items():
        full = made.maker.crossbars[name].output_code_high * made.maker.crossbars[name].microamps_per_code
        weak = replace(drawn, microsiemens=0.8 * drawn.microsiemens, offset=share * full)
        (trimmed,) = made.trim.trimmed({name: weak}, np.random.default_rng(0)).values()
        np.testing.assert_allclose(trimmed.gain, 1.25, rtol=0.03)


def test_a_column_that_is_always_saturated_is_left_as_it_is(bundle: pfmc.Bundle) -> None:
    made = fabrication(bundle, trim=True)
    assert made.trim is not None
    for name, drawn in made.drawn.items():
        full = made.maker.crossbars[name].output_code_high * made.maker.crossbars[name].microamps_per_code
        (trimmed,) = made.trim.trimmed({name: replace(drawn, offset=3 * full)}, np.random.default_rng(0)).values()
        np.testing.assert_array_equal(trimmed.gain, 1.0)
        np.testing.assert_array_equal(trimmed.added, 0.0)


GLOBAL: Mapping[str, dict[str, float]] = {
    "sheet resistance": {"sheet": 0.08},
    "gradient": {"gradient": 50.0},
    "converters": {"converter_gain": 0.03, "converter_offset": 3.0},
    "temperature": {"temperature_low": 60.0, "temperature_high": 70.0},
}


@pytest.mark.parametrize("effect", GLOBAL)
def test_the_trim_takes_out_what_is_the_same_for_a_column(bundle: pfmc.Bundle, effect: str) -> None:
    """Gains of rows differ too, and so does a slope along a column's rows: no gain of columns takes those out."""
    made, trimmed = (fabrication(bundle, trim=trim, readout="absolute") for trim in (False, True))
    variation = replace(made.maker.still, **GLOBAL[effect])
    before, after = (errors(one, bundle, variation).mean() for one in (made, trimmed))
    assert before > 0.01
    assert after < before * (0.6 if effect in {"converters", "gradient"} else 0.25), (before, after)


def test_the_trim_does_not_undo_mismatch(bundle: pfmc.Bundle) -> None:
    made, trimmed = (fabrication(bundle, trim=trim) for trim in (False, True))
    variation = replace(made.maker.still, sheet_mismatch=made.variation.sheet_mismatch)
    before, after = (errors(one, bundle, variation).mean() for one in (made, trimmed))
    assert before / 2 < after < before


def test_noise_is_different_from_vector_to_vector(bundle: pfmc.Bundle) -> None:
    """Ten steps of noise in 10-bit converters, and none in chips without."""
    made = fabrication(bundle)
    quiet, loud = (replace(made.maker.still, converter_noise=noise) for noise in (0.0, 10.0))
    data = load_dataset(TEST, Runtime(bundle.manifest.path_of(bundle.path, "model")).inputs)
    same = replace(data, arrays={name: np.repeat(array[:1], 64, axis=0) for name, array in data.arrays.items()})
    for variation, spread in ((quiet, False), (loud, True)):
        (output,) = made.model.run(made.maker.chip(0, variation), same, np.random.default_rng(0)).values()
        assert (np.ptp(output, axis=0) > 0).all() == spread


def test_statistics_of_what_is_no_number() -> None:
    assert Statistics.of([0.1, None], worst=0.95) == Statistics(None, None, None)
    assert Statistics.of([0.1], worst=0.95) == Statistics(0.1, 0.0, 0.1)


def test_trim_needs_chips(bundle: pfmc.Bundle) -> None:
    with pytest.raises(UsageError, match="--monte-carlo"):
        bundle.verify(TEST, trim=True)


def test_the_command_line(bundle: pfmc.Bundle) -> None:
    arguments = ["verify", str(bundle.path), "--data", str(TEST), "--samples", "100", "--monte-carlo", "2"]
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    printed = json.loads(as_json.stdout)["monte_carlo"]
    assert {"runs", "sigma"} <= printed.keys()
    expected = bundle.verify(TEST, samples=100, monte_carlo=2).monte_carlo
    assert expected is not None
    assert printed == json.loads(json.dumps(dataclasses.asdict(expected)))
    shown = CliRunner().invoke(app, arguments).stdout
    assert "yield" in shown
    assert "mismatch" in shown
