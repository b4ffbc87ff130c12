"""Glass technologies: what a level is, and what a wrong file is told."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from pfmc.errors import TechnologyError, UsageError
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.kinds import crossbars, glass
from pfmc.technology.loader import load

GLASSES = ("fused-silica", "fused-silica/large", "high-contrast-glass", "physical-limit", "two-photon-polymer")


def text_of(name: str) -> str:
    return (files("pfmc.technology.library") / f"{name}.toml").read_text()


def changed(tmp_path: Path, key: str, value: str) -> Path:
    """Fused silica with the value, or values, of one entry replaced."""
    text, count = re.subn(
        rf"^({key} = {{ values? = )(\[[^\]]*\]|[^,]+)", rf"\g<1>{value}", text_of("fused-silica"), count=1, flags=re.M
    )
    assert count == 1
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def refusal(path: Path) -> str:
    with pytest.raises((TechnologyError, UsageError)) as caught:
        DiffractiveVolume.of(glass(load(str(path)), "this"))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", GLASSES)
def test_levels_rise_evenly_and_their_powers_are_within_the_table(name: str) -> None:
    technology = load(name)
    assert isinstance(technology, GlassTechnology)
    changes, powers = technology.writing.level_changes(), technology.writing.level_powers()
    assert changes[0] == 0 and len(changes) == technology.writing.levels.value
    np.testing.assert_allclose(np.diff(changes), changes[1], rtol=1e-9)
    assert powers[0] == 0 and np.all(np.diff(powers) > 0)
    table = technology.writing.power.si("power")
    assert powers[-1] == pytest.approx(table[-1])
    assert np.interp(powers[1:], table, technology.writing.index_change.si("count")) == pytest.approx(changes[1:])


@pytest.mark.parametrize("name", GLASSES)
def test_all_ports_stand_within_the_aperture(name: str) -> None:
    volume = DiffractiveVolume.of(glass(load(name), "this"))
    for count in (1, 2, volume.columns, volume.rows):
        ports = volume.ports(count)
        assert ports.shape == (count, 2)
        assert np.abs(ports).max() + volume.port_waist <= volume.voxels * volume.voxel / 2
        assert len(np.unique(ports.round(12), axis=0)) == count


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "index_change",
            "[0, 1e-3, 3e-3, 2e-3, 4e-3, 5e-3, 6e-3]",
            "is not monotonic at 125 mW, .*writing.index_change",
        ),
        ("index_change", "[0, 1e-3, 2e-3]", "has 3 values where writing.power has 7"),
        ("index_change", "[1e-4, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]", "does not begin with no change"),
        ("power", "[0, 80, 80, 125, 150, 180, 210]", "does not rise from value to value, .*writing.power"),
        ("levels", "1", "levels"),
        ("scan_pitch", "7", "does not divide writing.layer"),
        ("rows", "225", "ports do not fit the aperture"),
        ("layers_max", "60", "beyond writing.depth_max"),
        ("voxels_max", "16", "is below tile.voxels"),
        ("relative_error", "0.0", "0.0 % is out of range, more than 0 and at most 100 %"),
        ("index", "0.5", "out of range"),
        ("port_waist", "0.1", "numerical aperture"),
        ("voxel", "0.3", "ports do not fit the aperture"),
        ("index_change", "[0, 1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2]", "index change of 0.06"),
    ],
)
def test_a_wrong_entry_is_told_in_one_line(tmp_path: Path, key: str, value: str, said: str) -> None:
    assert re.search(said, refusal(changed(tmp_path, key, value)))


def test_a_unit_of_another_dimension_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        text_of("fused-silica").replace('unit = "mW", source = "assumption: every', 'unit = "um", source = "a')
    )
    assert "does not measure a power" in refusal(path)


def test_what_is_for_one_target_refuses_the_other() -> None:
    silica, silicon = load("fused-silica"), load("sg13g2")
    assert glass(silica, "this") is silica and crossbars(silicon, "this") is silicon
    with pytest.raises(UsageError, match="masks is for crossbars, technology fused-silica of target glass"):
        crossbars(silica, "masks")
    with pytest.raises(UsageError, match="voxels is for glass"):
        glass(silicon, "voxels")


def test_the_focus_is_wider_away_from_the_depth_it_is_corrected_for(tmp_path: Path) -> None:
    """Twenty layers of 40 um from 100 um down, corrected in their middle: 380 um off at 4 um/mm."""
    path = changed(tmp_path, "aberration", "4.0")
    spreads = DiffractiveVolume.of(glass(load(str(path)), "this")).volume(20, 32).spreads
    assert spreads[0] == pytest.approx(np.hypot(1e-6, 4e-3 * 380e-6)) == spreads[-1]
    assert spreads[9] == pytest.approx(np.hypot(1e-6, 4e-3 * 20e-6)) == spreads.min()
