"""The SPICE netlist: ngspice, which knows nothing of crossbars, finds the currents of the effective matrix in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import gdstk
import numpy as np
import pytest
from crossbars import layout, records, small
from pfmc_backends.crossbar_gdsii import BACKEND
from pfmc_backends.crossbar_gdsii.emit import MASKS
from pfmc_backends.crossbar_gdsii.read import read_tiles

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError
from pfmc.physics.crossbar import effective_matrix
from pfmc.technology.schema import Technology

ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


def with_wires(technology: Technology, **wires: float) -> Technology:
    """Another driver_resistance, sense_resistance, …, or number of driven ends."""
    changed = {
        name: value if name == "driven_ends" else getattr(technology.wires, name).model_copy(update={"value": value})
        for name, value in wires.items()
    }
    return technology.model_copy(update={"wires": technology.wires.model_copy(update=changed)})


def emitted(technology: Technology, blocks: list[tuple[int, int]], folder: Path) -> list[TileRecord]:
    chip = layout(technology, blocks)
    BACKEND.emit(chip, folder, lambda _done: None)
    return records(chip)


def exported(technology: Technology, tiles: list[TileRecord], folder: Path, tile: str | None = None) -> Path:
    path = folder / "chip.spice"
    BACKEND.export(folder, technology, tiles, "spice", path, tile=tile)
    return path


def built(technology: Technology, tile: TileRecord, folder: Path) -> TileAsBuilt:
    (found,) = read_tiles(folder, technology, [tile], lambda _done: None)
    return found


def simulated(netlist: Path, instance: list[str], subcircuit: str, volts: dict[str, float]) -> dict[str, float]:
    """Currents into the columns of a subcircuit whose ports have the names in ``instance``, columns held at 0 V."""
    columns = [port for port in instance if "col" in port]
    deck = [
        "* one vector",
        f'.include "{netlist}"',
        "X1 " + " ".join(instance),
        f"+ {subcircuit}",
        *(f"V{port} {port} 0 {volts.get(port, 0.0)!r}" for port in instance),
        ".control",
        "set numdgt=15",
        "op",
        *(f"print i(V{column})" for column in columns),
        "quit 0",
        ".endc",
        ".end",
    ]
    path = netlist.with_name("bench.cir")
    path.write_text("\n".join(deck) + "\n")
    return run(path)


def run(path: Path) -> dict[str, float]:
    done = subprocess.run(["ngspice", "-b", path.name], cwd=path.parent, capture_output=True, text=True, check=True)
    printed = re.findall(r"^i\(v(\w+)\) = (\S+)", done.stdout, re.MULTILINE)  # by print
    printed += re.findall(r"^Index\s+v(\w+)#branch\s*\n-+\n0\s+(\S+)", done.stdout, re.MULTILINE)  # by .print
    assert printed, done.stdout + done.stderr
    return {name: float(value) for name, value in printed}


def ports(technology: Technology, prefix: str = "") -> list[str]:
    rows, columns = int(technology.tile.rows.value), int(technology.tile.columns.value)
    return [
        *(f"{prefix}row{i}" for i in range(rows)),
        *(f"{prefix}col{j}{side}" for j in range(columns) for side in "pn"),
    ]


def currents(found: dict[str, float], technology: Technology, prefix: str = "") -> np.ndarray:
    columns = range(int(technology.tile.columns.value))
    return np.array([found[f"{prefix}col{j}p"] - found[f"{prefix}col{j}n"] for j in columns])


def agree(technology: Technology, tile: TileRecord, folder: Path, v: np.ndarray) -> None:
    """The tile's subcircuit and its effective matrix have the same currents."""
    netlist = exported(technology, [tile], folder)
    rows = {f"row{i}": float(x) for i, x in enumerate(v)}
    found = currents(simulated(netlist, ports(technology), tile.name, rows), technology)
    made = built(technology, tile, folder)
    wanted = v @ effective_matrix(1 / made.resistance, made.wires)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


WIRES = {
    "as the technology has them": {},
    "both ends driven": {"driven_ends": 2},
    "no driver nor sense resistance": {"driver_resistance": 0.0, "sense_resistance": 0.0},
    "ideal rows, both ends": {"metal1_sheet_resistance": 0.0, "driver_resistance": 0.0, "driven_ends": 2},
    "ideal columns": {"metal2_sheet_resistance": 0.0, "sense_resistance": 0.0},
    "heavy wires, both ends": {"metal1_sheet_resistance": 50.0, "metal2_sheet_resistance": 80.0, "driven_ends": 2},
}


@ngspice
@pytest.mark.parametrize("wires", WIRES)
def test_ngspice_finds_the_currents_of_the_effective_matrix(
    wires: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    technology = with_wires(small("sg13g2", 4, 3), **WIRES[wires])
    (tile,) = emitted(technology, [(3, 2)], tmp_path)
    agree(technology, tile, tmp_path, rng.uniform(-0.2, 0.2, 4))


@ngspice
@pytest.mark.parametrize("size", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_a_full_tile(size: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """ngspice solves 64 rows and columns forty times as slowly as 32."""
    technology = small("sg13g2", size, size)
    (tile,) = emitted(technology, [(size, size)], tmp_path)
    agree(technology, tile, tmp_path, rng.uniform(-0.2, 0.2, size))


@ngspice
def test_the_chip_places_every_tile(tmp_path: Path, rng: np.random.Generator) -> None:
    technology = small("gf180mcu", 4, 3)
    tiles = emitted(technology, [(4, 3), (2, 3)], tmp_path)
    netlist = exported(technology, tiles, tmp_path)
    v = rng.uniform(-0.2, 0.2, (2, 4))
    volts = {f"{tile.name}_row{i}": float(v[t, i]) for t, tile in enumerate(tiles) for i in range(4)}
    instance = [port for tile in tiles for port in ports(technology, f"{tile.name}_")]
    found = simulated(netlist, instance, "chip", volts)
    for tile, vector in zip(tiles, v, strict=True):
        made = built(technology, tile, tmp_path)
        wanted = vector @ effective_matrix(1 / made.resistance, made.wires)
        got = currents(found, technology, f"{tile.name}_")
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


@ngspice
def test_the_netlist_follows_the_masks(tmp_path: Path, rng: np.random.Generator) -> None:
    """A strip whose block was redrawn by hand: the netlist has what it is now."""
    technology = small("sg13g2", 4, 3)
    (tile,) = emitted(technology, [(4, 3)], tmp_path)
    before = built(technology, tile, tmp_path).resistance
    masks = gdstk.read_gds(tmp_path / MASKS)
    cells = {reference.origin: reference for reference in masks["t00000"].references if reference.cell_name != "array"}
    x, y = (pitch * 1e6 for pitch in (technology.cell.strip_pitch.si, technology.cell.row_pitch.si))
    reference = next(r for origin, r in cells.items() if np.allclose(origin, (3 * x, 2 * y)))
    masks["t00000"].remove(reference)
    low = technology.cell.length_min.si * 1e6
    masks["t00000"].add(
        gdstk.rectangle((3 * x - 0.45, 2 * y), (3 * x + 0.45, 2 * y + low), *technology.layers.block.key)
    )
    masks.write_gds(tmp_path / MASKS)
    after = built(technology, tile, tmp_path).resistance
    assert np.argwhere(before != after).tolist() == [[2, 1, 1]]
    assert f"R_r2_c1n r2_c1n c1n_r2 {float(after[2, 1, 1])!r}\n" in exported(technology, [tile], tmp_path).read_text()
    agree(technology, tile, tmp_path, rng.uniform(-0.2, 0.2, 4))


@ngspice
def test_a_strip_that_is_missing_is_left_out_and_said(tmp_path: Path, rng: np.random.Generator) -> None:
    """The lattice of strips has lost its last row."""
    technology = small("sg13g2", 3, 2)
    (tile,) = emitted(technology, [(3, 2)], tmp_path)
    masks = gdstk.read_gds(tmp_path / MASKS)
    (lattice,) = masks["array"].references
    lattice.repetition = gdstk.Repetition(columns=4, rows=2, spacing=(lattice.repetition.spacing))
    masks.write_gds(tmp_path / MASKS)
    text = exported(technology, [tile], tmp_path).read_text()
    assert "\n* R_r2_c0p does not conduct\n" in text
    assert "\nR_r2_c" not in text
    agree(technology, tile, tmp_path, rng.uniform(-0.2, 0.2, 3))


@ngspice
def test_the_example_at_the_head_runs(tmp_path: Path) -> None:
    """As its own words tell a reader to run it."""
    technology = small("sg13g2", 4, 3)
    tiles = emitted(technology, [(2, 3), (4, 1)], tmp_path)
    netlist = exported(technology, tiles, tmp_path)
    command = "sed -n 's/^[*]> //p' THIS_FILE"
    assert command in netlist.read_text()
    example = subprocess.run(
        command.replace("THIS_FILE", netlist.name), shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.replace("THIS_FILE", netlist.name)
    (tmp_path / "example.cir").write_text(example)
    made = built(technology, tiles[0], tmp_path)
    wanted = effective_matrix(1 / made.resistance, made.wires)[0]
    np.testing.assert_allclose(currents(run(tmp_path / "example.cir"), technology), wanted, rtol=1e-6)


def test_a_tile_alone_is_the_chip_without_the_others(tmp_path: Path) -> None:
    technology = small("sg13g2", 4, 3)
    tiles = emitted(technology, [(2, 3), (4, 1)], tmp_path)
    whole = exported(technology, tiles, tmp_path).read_text()
    alone = exported(technology, tiles, tmp_path, tile="t00001").read_text()
    body = re.compile(r"^\.subckt t00001 .*^\.ends t00001\n", re.DOTALL | re.MULTILINE)
    assert body.findall(whole) == body.findall(alone) != []
    assert "t00000" not in alone
    assert exported(technology, tiles, tmp_path, tile="t00001").read_text() == alone


def test_what_a_model_calls_its_nodes_stays_a_comment(tmp_path: Path) -> None:
    technology = small("sg13g2", 2, 2)
    tiles = emitted(technology, [(2, 2)], tmp_path)
    plain = exported(technology, tiles, tmp_path).read_text()
    node = "fc\nR_evil row0 0 1\r.control\x85shell rm\u2028* größe $ ; end"
    lines = exported(technology, [tiles[0].model_copy(update={"node": node})], tmp_path).read_bytes().split(b"\n")
    assert [line.decode() for line in lines if not line.startswith(b"*")] == [
        line for line in plain.split("\n") if not line.startswith("*")
    ]
    assert sum(b"R_evil" in line for line in lines) == 2
    assert all(32 <= byte < 127 for line in lines for byte in line)


@pytest.mark.parametrize("name", ["chip", "T00000", "t0 row0", "t0\n.control", ""])
def test_a_name_that_is_no_subcircuit_is_refused(name: str, tmp_path: Path) -> None:
    technology = small("sg13g2", 2, 2)
    tiles = emitted(technology, [(2, 2)], tmp_path)
    with pytest.raises(ArtifactError, match="subcircuit") as caught:
        exported(technology, [tiles[0].model_copy(update={"name": name})], tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "chip.spice").exists()
