"""The writer's limits on emitted volumes: what the compiler emits keeps them, and each change to the files is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from glasses import small_glass, small_model
from pfmc_backends.glass_voxels import BACKEND, rules, store
from pfmc_backends.glass_voxels.volume import WrittenVolume

import pfmc
from pfmc.api import Bundle
from pfmc.backend import Place, RuleCheck
from pfmc.bundle import read_tiles
from pfmc.errors import UsageError
from pfmc.report.terminal import place_text

SHAPE = (12, 14, 14)
CENTRE = (514.0, 514.0)  # of the first volume: behind the frame's margin and half of 28 um
PITCH = 88.0  # 28 um and 60 um between volumes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("rules")
    return pfmc.compile(small_model(folder), folder / "glass", target="glass", technology=small_glass(folder))


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that a test may change."""
    shutil.copytree(bundle.path, tmp_path / "copy")
    return pfmc.open(tmp_path / "copy")


def checked(bundle: Bundle) -> RuleCheck:
    records = read_tiles(bundle.path / "tiles.parquet")
    return BACKEND.check_rules(bundle.path, bundle.manifest.technology, records, lambda _done: None)


def rewritten(bundle: Bundle, tile: str, change: Callable[[WrittenVolume], WrittenVolume]) -> None:
    path = bundle.path / "volumes" / f"{tile}.zarr"
    volume = store.read(path, SHAPE)
    shutil.rmtree(path)
    store.write(change(volume), path)


def moved(bundle: Bundle, **columns: list[int]) -> None:
    """Other entries in the table of tiles."""
    path = bundle.path / "tiles.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, [values])
    pq.write_table(table, path)


def test_what_is_emitted_keeps_every_limit(bundle: Bundle) -> None:
    verification = bundle.verify(drc=True)
    assert verification.passed and verification.drc == RuleCheck(rules=13, tiles=2, violated=())


def test_a_limit_that_is_broken_fails_the_verdict(copy: Bundle) -> None:
    """Though the light is as it should be."""
    rewritten(copy, "t00000", lambda volume: replace(volume, depth=99e-6))
    verification = copy.verify(drc=True, accept_modified=True)
    assert not verification.passed and verification.drc is not None
    error = verification.outputs["y"].relative_error
    assert error is not None and error < 0.05
    assert [(violated.rule, violated.count) for violated in verification.drc.violated] == [(rules.TOP, 1)]


def levels_at(value: int, place: tuple[int, int, int]) -> np.ndarray:
    """A volume that is written at one place, and once more at the last voxel."""
    levels = np.zeros(SHAPE, np.uint8)
    levels[place] = levels[-1, -1, -1] = value
    return levels


VOLUMES: dict[str, tuple[str, int, Callable[[WrittenVolume], dict[str, Any]], Place]] = {
    "one level stronger than the writer's strongest": (
        rules.INDEX,
        2,
        lambda volume: {
            "index_change": np.append(volume.index_change, 6e-3),
            "power": np.append(volume.power, 0.21),
            "levels": levels_at(64, (3, 2, 13)),
        },
        Place(CENTRE[0] + 13, CENTRE[1] - 9, "t00000", 3, "a change of 0.006, 0 to 0.005 can be written"),
    ),
    "the index the other way": (
        rules.INDEX,
        2,
        lambda volume: {"index_change": -volume.index_change, "levels": levels_at(63, (0, 0, 0))},
        Place(CENTRE[0] - 13, CENTRE[1] - 13, "t00000", 0, "a change of -0.005, 0 to 0.005 can be written"),
    ),
    "levels twice as close as can be told apart": (
        rules.LEVELS,
        2,
        lambda volume: {
            "index_change": np.linspace(0, 5e-3, 127),
            "power": np.interp(np.linspace(0, 5e-3, 127), volume.index_change, volume.power),
            "levels": levels_at(101, (11, 0, 1)),
        },
        Place(
            CENTRE[0] - 11,
            CENTRE[1] - 13,
            "t00000",
            11,
            "a step of 3.968e-05 from the level below, 7.937e-05 can be told apart",
        ),
    ),
    "a power of another level": (
        rules.POWER,
        2,
        lambda volume: {
            "power": np.where(np.arange(64) == 40, volume.power[43], volume.power),
            "levels": levels_at(40, (5, 7, 7)),
        },
        Place(CENTRE[0] + 1, CENTRE[1] + 1, "t00000", 5, "162.8 mW leave a change of 0.003413, not 0.003175"),
    ),
    "a power beyond the branch that was calibrated": (
        rules.POWER,
        2,
        lambda volume: {
            "power": np.where(np.arange(64) == 63, 0.25, volume.power),
            "levels": levels_at(63, (5, 7, 7)),
        },
        Place(
            *(CENTRE[0] + 1, CENTRE[1] + 1, "t00000", 5),
            "250 mW, beyond the 210 mW up to which the change grows",
        ),
    ),
    "voxels narrower than the focus": (
        rules.VOXEL,
        1,
        lambda _volume: {"voxel": 1.9e-6},
        Place(*CENTRE, "t00000", None, "1.9 um, at least 2 um"),
    ),
    "layers shorter than the focus allows": (
        rules.LAYER,
        1,
        lambda _volume: {"layer": 30e-6},
        Place(*CENTRE, "t00000", None, "30 um, at least 40 um"),
    ),
    "layers of four passes and a half": (
        rules.PASSES,
        1,
        lambda _volume: {"layer": 45e-6},
        Place(*CENTRE, "t00000", None, "a layer of 45 um in passes of 10 um"),
    ),
    "nearer to the surface than pulses may be": (
        rules.TOP,
        2,
        lambda _volume: {"depth": 50e-6},
        Place(*CENTRE, "t00000", 0, "50 um below the surface, at least 100 um"),
    ),
    "deeper than the objective reaches": (
        rules.BOTTOM,
        1,
        lambda volume: {"depth": 1.53e-3, "levels": levels_at(63, (0, 0, 0))},
        Place(*CENTRE, "t00000", 11, "2010 um below the surface, at most 2000 um"),
    ),
    "a wider aperture than a tile's": (
        rules.APERTURE,
        1,
        lambda _volume: {"voxel": 2.1e-6},
        Place(*CENTRE, "t00000", None, "29.4 um across, at most 28 um"),
    ),
    "an aperture that its ports do not fit": (
        rules.PORTS,
        1,
        lambda _volume: {"voxel": 1.42e-6},
        Place(*CENTRE, "t00000", None, "19.88 um across, 6 ports take 20 um"),
    ),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_beyond_a_limit_is_found_and_placed(copy: Bundle, name: str) -> None:
    rule, count, change, place = VOLUMES[name]
    rewritten(copy, "t00000", lambda volume: replace(volume, **change(volume)))
    found = {violated.rule: violated for violated in checked(copy).violated}
    assert found[rule].count == count
    assert found[rule].places[0] == place
    # A wider or narrower, longer or deeper volume also stands in another place in the block.
    assert set(found) - {rule} <= {rules.POWER, rules.VOXEL, rules.SPACING, rules.FRAME, rules.BEHIND}


def test_a_level_that_nothing_is_written_with_breaks_no_limit(copy: Bundle) -> None:
    def stronger(volume: WrittenVolume) -> WrittenVolume:
        return replace(volume, index_change=np.append(volume.index_change, 6e-3), power=np.append(volume.power, 0.5))

    rewritten(copy, "t00000", stronger)
    assert checked(copy).clean


@pytest.mark.parametrize(
    ("columns", "rule", "place"),
    [
        pytest.param(
            {"y": [514_000, 601_000]},
            rules.SPACING,
            Place(514.0, 601.0, "t00001", None, "59 um, at least 60 um"),
            id="a micrometre too close",
        ),
        pytest.param(
            {"x": [514_000, 524_000], "y": [514_000, 514_000]},
            rules.SPACING,
            Place(524.0, 514.0, "t00001", None, "0 um, at least 60 um"),
            id="one in the other",
        ),
        pytest.param(
            {"x": [513_000, 514_000]},
            rules.FRAME,
            Place(513.0, 514.0, "t00000", None, "499 um, at least 500 um"),
            id="too near to the block's edge",
        ),
        pytest.param(
            {"y": [514_000, 603_000]},
            rules.FRAME,
            Place(514.0, 603.0, "t00001", None, "499 um, at least 500 um"),
            id="too near to the other edge",
        ),
    ],
)
def test_volumes_that_stand_too_close_are_found(
    copy: Bundle, columns: dict[str, list[int]], rule: str, place: Place
) -> None:
    moved(copy, **columns)
    found = {violated.rule: violated for violated in checked(copy).violated}
    assert found[rule].count == 1 and found[rule].places == (place,)


def test_a_block_that_is_too_thin_is_found(copy: Bundle) -> None:
    manifest = copy.path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["glass"]["thickness_um"] -= 1.0
    manifest.write_text(json.dumps(content))
    (violated,) = checked(pfmc.open(copy.path)).violated
    assert (violated.rule, violated.count) == (rules.BEHIND, 2)
    assert violated.places[1] == Place(CENTRE[0], CENTRE[1] + PITCH, "t00001", None, "199 um, at least 200 um")


def test_few_places_are_told_and_all_are_counted(copy: Bundle) -> None:
    rewritten(copy, "t00001", lambda volume: replace(volume, power=volume.power * np.linspace(1, 0.5, 64)))
    (violated,) = checked(copy).violated
    assert violated.rule == rules.POWER and violated.count > 1000 and len(violated.places) == rules.PLACES
    assert {place.tile for place in violated.places} == {"t00001"}


def test_a_place_is_told_with_its_layer_and_what_is_wrong_there() -> None:
    place = Place(527.0, 505.5, "t00000", 3, "a change of 0.006, 0 to 0.005 can be written")
    assert place_text(place) == "at 527.000,505.500 um t00000, layer 3: a change of 0.006, 0 to 0.005 can be written"
    assert place_text(Place(1.5, 2.0, "")) == "at 1.500,2.000 um"


def test_there_are_no_connections_to_compare(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no connections to compare, technology small, leave --lvs out"):
        bundle.verify(lvs=True)
