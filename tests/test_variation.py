"""The statistics of made strips are those of the formulas, and ngspice's where it draws them too."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pfmc.physics.variation import (
    EFFECTS,
    Chip,
    Strips,
    TemperatureLaw,
    Variation,
    draw_chip,
    draw_conductance,
    draw_faults,
    draw_mismatch,
    equivalent_bandwidth,
    gradient_factor,
    mismatch_sigma,
    thermal_noise,
)
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.primitives.variation import drawn_strips, readout_gain, technology_variation, temperature_law
from pfmc.technology.loader import load

NUMBER = 20_000
DRAWN = Chip(1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 27.0)
STILL = Variation()
STATIC = TemperatureLaw()


def alike(number: int, length: float = 2e-6, width: float = 0.5e-6, terminals: float = 0.0) -> Strips:
    """Many strips of one size; 1 kΩ per square."""
    size = np.ones(number)
    return Strips(1000.0, length * size, width * size, terminals * size, 0.0 * size)


def made(
    strips: Strips, variation: Variation = STILL, chip: Chip = DRAWN, law: TemperatureLaw = STATIC, seed: int = 0
) -> np.ndarray:
    """Conductances of strips in the middle of a chip."""
    middle = np.zeros(strips.length.shape)
    return draw_conductance(
        strips, variation, chip, law, np.random.default_rng(seed), x=middle, y=middle, silicide_sheet=5.0
    )


def has_sigma(values: np.ndarray, sigma: float) -> bool:
    """Within four standard errors of a standard deviation, and as much for second order."""
    return abs(float(values.std(ddof=1)) - sigma) < sigma * (4 / np.sqrt(2 * len(values)) + sigma**2)


def test_without_variation_strips_are_as_drawn() -> None:
    strips = Strips(1000.0, np.array([1e-6, 5e-6]), np.array([0.5e-6, 1e-6]), np.array([300.0, 0]), np.array([7.0, 9]))
    np.testing.assert_allclose(made(strips), 1 / np.array([2307.0, 5009.0]), rtol=1e-14)
    np.testing.assert_allclose(made(strips), 1 / strips.resistance, rtol=1e-14)


@pytest.mark.parametrize(
    ("variation", "sigma"),
    [
        (Variation(sheet_mismatch=0.05e-6), 0.05),  # 5 % · µm on 1 µm²
        (Variation(width_mismatch=0.01e-9), 0.01 / np.sqrt(2) / 0.5),  # 0.01 µm^1.5 / √(2 µm), of 0.5 µm
        (Variation(length_mismatch=0.01e-9), 0.01 / np.sqrt(0.5) / 2),
    ],
)
def test_mismatch_follows_the_area_law(variation: Variation, sigma: float) -> None:
    strips = alike(NUMBER)
    factor = draw_mismatch(strips, variation, np.random.default_rng(1)).resistance / strips.resistance
    assert has_sigma(np.log(factor), sigma)
    assert abs(np.log(factor).mean()) < 4 * sigma / np.sqrt(NUMBER) + sigma**2
    np.testing.assert_allclose(mismatch_sigma(strips, variation), sigma)


def test_a_strip_of_four_times_the_area_has_half_the_mismatch() -> None:
    variation = Variation(sheet_mismatch=0.03e-6)
    small = made(alike(NUMBER), variation)
    large = made(alike(NUMBER, length=4e-6, width=1e-6), variation)
    assert small.std() / small.mean() / (large.std() / large.mean()) == pytest.approx(2.0, rel=0.03)


def test_terminals_do_not_take_part_in_the_mismatch_of_the_body() -> None:
    variation = Variation(sheet_mismatch=0.05e-6)
    assert has_sigma(np.log(made(alike(NUMBER, terminals=4000.0), variation)), 0.025)
    ends = Variation(terminal_mismatch=0.1)
    assert has_sigma(np.log(made(alike(NUMBER, terminals=4000.0), ends)), 0.05)


@pytest.mark.parametrize(
    ("name", "entry", "nominal"),
    [
        ("sheet", "sheet", 1.0),
        ("terminal", "terminal", 1.0),
        ("wire", "row_wire", 1.0),
        ("wire", "column_wire", 1.0),
        ("gradient", "slope_x", 0.0),
        ("gradient", "slope_y", 0.0),
        ("width", "width", 0.0),
    ],
)
def test_chips_differ_as_much_as_is_said(name: str, entry: str, nominal: float) -> None:
    rng = np.random.default_rng(2)
    drawn = np.array([getattr(draw_chip(replace(STILL, **{name: 0.05}), rng), entry) for _ in range(4000)])
    assert has_sigma(drawn, 0.05)
    assert abs(drawn.mean() - nominal) < 4 * 0.05 / np.sqrt(4000)


def test_temperatures_are_uniform() -> None:
    rng = np.random.default_rng(3)
    variation = Variation(temperature_low=0.0, temperature_high=70.0)
    drawn = np.array([draw_chip(variation, rng).temperature for _ in range(4000)])
    assert 0 <= drawn.min() < 0.2
    assert 69.8 < drawn.max() <= 70
    assert has_sigma((drawn - 35) / 70, np.sqrt(1 / 12))


def test_line_width_by_hand() -> None:
    """10 nm more on 500 nm: the body and the terminals conduct 2 % more."""
    strips = alike(1, terminals=1000.0)
    assert made(strips, chip=replace(DRAWN, width=10e-9)) * strips.resistance == pytest.approx(1.02)


def test_the_gradient_is_linear_across_the_chip() -> None:
    chip = replace(DRAWN, slope_x=2.0, slope_y=-1.0)  # 0.2 %/mm and −0.1 %/mm
    x, y = np.array([-5e-3, 0.0, 5e-3]), np.array([[0.0], [5e-3]])
    expected = [[0.99, 1.0, 1.01], [0.985, 0.995, 1.005]]
    np.testing.assert_allclose(gradient_factor(chip, x, y), expected)


def test_temperature_by_hand() -> None:
    """rhigh from 27 °C to 127 °C: 1 − 0.23 + 0.021."""
    law = TemperatureLaw(27.0, -2300e-6, 2.1e-6, -950e-6, 0.0, 3400e-6)
    np.testing.assert_allclose(law.factors(127.0), (0.791, 0.905, 1.34))
    strips = Strips(1000.0, np.array([1e-6]), np.array([1e-6]), np.array([100.0]), np.array([10.0]))
    assert 1 / made(strips, chip=replace(DRAWN, temperature=127.0), law=law) == pytest.approx(791 + 90.5 + 13.4)
    assert temperature_law(load("sg13g2")).factors(127.0)[0] == pytest.approx(0.791)


def test_stuck_devices() -> None:
    """Open ones do not conduct; short ones have lost their block."""
    variation = Variation(stuck_open=0.02, stuck_short=0.01)
    is_open, is_short = draw_faults((NUMBER,), variation, np.random.default_rng(0))
    assert not (is_open & is_short).any()
    conductance = made(alike(NUMBER, terminals=50.0), variation)
    for share, found in ((0.02, conductance == 0), (0.01, np.isclose(conductance, 1 / 70.0))):
        assert abs(found.mean() - share) < 4 * np.sqrt(share / NUMBER)
    np.testing.assert_allclose(conductance[~is_open & ~is_short], 1 / 4050.0)


def test_thermal_noise_by_hand() -> None:
    """1 kΩ at 26.85 °C over 1 MHz: 4.07 nA; by the way of the kT/C noise the bandwidth is π/2 of the corner."""
    assert float(thermal_noise(np.array(1e-3), 26.85, 1e6)) == pytest.approx(4.07e-9, rel=1e-3)
    resistance, capacitance = 1e3, 1e-12
    bandwidth = equivalent_bandwidth(1 / (2 * np.pi * resistance * capacitance))
    voltage = resistance * float(thermal_noise(np.array(1 / resistance), 26.85, bandwidth))
    assert voltage == pytest.approx(np.sqrt(1.380649e-23 * 300 / capacitance))


def test_a_body_without_length_can_be_made() -> None:
    variation = technology_variation(load("sg13g2"))
    assert np.isfinite(made(alike(100, length=0.0, terminals=100.0), variation)).all()


def test_every_spread_belongs_to_one_effect() -> None:
    names = [name for effect in EFFECTS.values() for name in effect]
    assert sorted(names) == sorted(Variation.__dataclass_fields__)


@pytest.mark.parametrize("name", ["sg13g2", "sg13g2/rppd", "gf180mcu", "generic"])
def test_feedback_by_strips_takes_out_what_all_strips_share(name: str) -> None:
    """Global sheet resistance, line width and temperature: less than a third of them is left, at either end."""
    technology = load(name)
    tile, law = CrossbarTile.of(technology), temperature_law(technology)
    lengths = np.array([tile.length_min, tile.length_max])
    width = np.full(2, technology.cell.strip_width.si)
    strips = drawn_strips(technology, lengths * technology.grid.database_unit.si, width, tile.resistance(lengths))
    variation = technology_variation(technology)
    variation = replace(STILL, sheet=variation.sheet, width=variation.width, temperature_low=0.0, temperature_high=70.0)
    rng = np.random.default_rng(5)
    absolute, ratio = [], []
    for _ in range(300):
        chip = draw_chip(variation, rng)
        absolute.append(made(strips, chip=chip, law=law) * strips.resistance)
        ratio.append(absolute[-1] * readout_gain(technology, chip, law))
    assert np.std(ratio) < 0.3 * np.std(absolute)
    fixed = technology.model_copy(update={"variation": technology.variation.model_copy(update={"readout": "absolute"})})
    assert readout_gain(fixed, chip, law) == 1.0


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
def test_ngspice_draws_as_wide_a_spread(tmp_path: Path) -> None:
    """A thousand strips with the foundry's own expression of mismatch, drawn by ngspice's generator.

    r3_cmc itself needs a compiler for Verilog-A; its law for sheet, width and length is written out here.
    """
    number, length, width = 1000, 2.0, 0.46
    draw = "agauss(0,1,1)"
    sheet = f"1360*exp(0.05*{draw}/sqrt({length * width}))"
    law = f"{sheet}*({length}+0.01*{draw}/sqrt({width}))/({width}+0.01*{draw}/sqrt({length}))"
    lines = ["mismatch", "v1 a 0 1"]
    lines += [f"r{k} a b{k} r='{law}'\nv{k + 2} b{k} 0 0" for k in range(number)]
    shown = " ".join(f"i(v{k + 2})" for k in range(number))
    lines += [".control", "op", f"print {shown}", ".endc", ".end"]
    (tmp_path / ".spiceinit").write_text("setseed 7\n")
    (tmp_path / "mismatch.cir").write_text("\n".join(lines))
    run = subprocess.run(
        ["ngspice", "-b", "mismatch.cir"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    found = [float(text) for text in re.findall(r"^i\(v\d+\) = (\S+)", run.stdout, re.MULTILINE)]
    assert len(found) == number, run.stdout[-500:] + run.stderr[-500:]
    variation = Variation(sheet_mismatch=0.05e-6, width_mismatch=0.01e-9, length_mismatch=0.01e-9)
    ours = made(alike(NUMBER, length * 1e-6, width * 1e-6), variation)
    assert np.std(np.log(found)) == pytest.approx(np.std(np.log(ours)), rel=4 / np.sqrt(2 * number))
    assert np.mean(np.log(found)) == pytest.approx(np.log(width / (1360 * length)), abs=0.01)
