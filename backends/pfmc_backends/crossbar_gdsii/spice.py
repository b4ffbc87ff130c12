"""A chip as a SPICE netlist: what its masks are, a resistor for every strip and every segment of a wire.

Each tile is a subcircuit whose ports are the ideal sources at its rows and the virtual grounds at its columns: driver
and sense resistances, which the technology gives, are inside; whoever has circuits of his own for them removes the
lines Rdriver_… and Rsense_…. Nodes are called r3_c5p, where row 3 crosses the + wire of column 5, and c5p_r3 there on
the column; where there is no resistance between two, both are the one nearer to the driver or the sense node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError, printable
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii.read import read_tiles

CHIP: Final = "chip"  # the subcircuit that places the tiles
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")  # SPICE does not tell upper from lower case
PER_LINE: Final = 12
EXAMPLE: Final = "*> "  # what the lines of the example begin with


def write_spice(folder: Path, technology: Technology, tiles: Sequence[TileRecord], title: str, path: Path) -> None:
    """Write the tiles of the masks in ``folder``, one after the other, and a subcircuit that places them.

    Args:
        title: names the chip.

    Raises:
        ArtifactError: if the masks cannot be understood, or a tile's name cannot be that of a subcircuit.
    """
    for tile in tiles:
        if not NAME.fullmatch(tile.name) or tile.name == CHIP:
            what = "the tile's name cannot be that of a subcircuit"
            raise ArtifactError(what, f"tile {printable(tile.name)}", "name it like t00000")
    rows, columns = int(technology.tile.rows.value), int(technology.tile.columns.value)
    ports = [f"row{i}" for i in range(rows)], [f"col{j // 2}{'pn'[j % 2]}" for j in range(2 * columns)]
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(line + "\n" for line in _head(technology, title, tiles[0], ports))
        for tile, built in zip(tiles, read_tiles(folder, technology, tiles, lambda _done: None), strict=True):
            file.write("\n".join(_subcircuit(tile, built, ports)) + "\n\n")
        names = [[f"{tile.name}_{port}" for port in (*ports[0], *ports[1])] for tile in tiles]
        file.writelines(line + "\n" for line in _folded(f".subckt {CHIP}", (name for part in names for name in part)))
        for tile, nodes in zip(tiles, names, strict=True):
            file.write(_comment(_block(tile)) + "\n")
            file.writelines(line + "\n" for line in _folded(f"X{tile.name}", (*nodes, tile.name)))
        file.write(f".ends {CHIP}\n")


def _comment(text: str) -> str:
    """A line that no simulator reads: text from a model in it is printable ASCII."""
    return f"* {printable(text, 400)}".encode("ascii", "replace").decode()


def _block(tile: TileRecord) -> str:
    rows, columns = (tile.row_start, tile.row_stop - 1), (tile.column_start, tile.column_stop - 1)
    return f"{tile.name}: rows {rows[0]} to {rows[1]}, columns {columns[0]} to {columns[1]} of node {tile.node}"


def _folded(start: str, words: Sequence[str] | Iterator[str]) -> Iterator[str]:
    """A long statement on several lines."""
    line = [start]
    for word in words:
        if len(line) > PER_LINE:
            yield " ".join(line)
            line = ["+"]
        line.append(word)
    yield " ".join(line)


def _head(technology: Technology, title: str, tile: TileRecord, ports: tuple[list[str], list[str]]) -> Iterator[str]:
    """What the netlist is, and how to use it."""
    yield _comment(f"{title}: resistive crossbars as their masks have them")
    yield _comment(f"technology {technology.name}: {technology.title}; {technology.process}")
    yield _comment("units: ohms; a subcircuit for each tile, and chip, which places them")
    yield _comment("R_r3_c5p is the + strip of row 3 and column 5, Rrow_r3_c5p and Rcol_r3_c5p are the wires before it")
    yield _comment("Rdriver_row3 and Rsense_col5p are what the technology says of driver and sense amplifier")
    yield _comment("ports: the sources at the rows; the virtual grounds at the columns, p for + and n for -")
    yield _comment(
        "a column's current is that of p less that of n; rows and columns that no weight uses are at 0 V too"
    )
    yield _comment("")
    yield _comment("Example: row 0 of a tile at 1 V, the others at 0 V, and the currents of its columns. To run it:")
    yield _comment("sed -n 's/^[*]> //p' THIS_FILE > example.cir, put THIS_FILE's name in, and ngspice -b example.cir")
    example = [
        "* one row driven",
        '.include "THIS_FILE"',
        *_folded("Xtile", [*ports[0], *ports[1], tile.name]),
        *(f"V{row} {row} 0 {float(i == 0)}" for i, row in enumerate(ports[0])),
        *(f"V{column} {column} 0 0" for column in ports[1]),
        ".op",
        *(f".print op i(V{column})" for column in ports[1]),
        ".end",
    ]
    yield from (EXAMPLE + line for line in example)
    yield ""


def _subcircuit(tile: TileRecord, built: TileAsBuilt, ports: tuple[list[str], list[str]]) -> Iterator[str]:
    """The lines of a tile."""
    wires, resistance = built.wires, built.resistance
    (rows, columns, _), strips = resistance.shape, [name[3:] for name in ports[1]]
    row_segment, column_segment = (
        np.broadcast_to(np.asarray(segment, dtype=np.float64), (rows, 2 * columns))
        for segment in (wires.row_segment, wires.column_segment)
    )
    yield _comment(_block(tile))
    yield from _folded(f".subckt {tile.name}", (*ports[0], *ports[1]))
    row_pins, drivers = _pins("driver", ports[0], wires.driver)
    column_pins, senses = _pins("sense", ports[1], wires.sense)
    yield from (*drivers, *senses)
    on_row = [[f"r{i}_c{strip}" for strip in strips] for i in range(rows)]
    on_column = [[f"c{strip}_r{i}" for i in range(rows)] for strip in strips]
    row_nodes = [[pin, *names] for pin, names in zip(row_pins, on_row, strict=True)]
    column_nodes = [[pin, *names] for pin, names in zip(column_pins, on_column, strict=True)]
    row_place, column_place = _places(row_segment), _places(column_segment.T)
    devices = resistance.reshape(rows, -1)
    for i, (values, segments, below) in enumerate(
        zip(devices.tolist(), row_segment.tolist(), column_segment.tolist(), strict=True)
    ):
        row, places = row_nodes[i], row_place[i]
        for j, (value, along, under) in enumerate(zip(values, segments, below, strict=True)):
            name, before = f"r{i}_c{strips[j]}", places[j]
            here, column = places[j + 1], column_place[j]
            if along > 0:
                yield f"Rrow_{name} {row[before]} {row[here]} {along!r}"
            if under > 0:
                yield f"Rcol_{name} {column_nodes[j][column[i]]} {column_nodes[j][column[i + 1]]} {under!r}"
            if np.isfinite(value):
                yield f"R_{name} {row[here]} {column_nodes[j][column[i + 1]]} {value!r}"
            else:
                yield f"* R_{name} does not conduct"
        if wires.double_ended:
            yield from _far_end(ports[0][i], row[places[-1]], segments[-1] + float(wires.driver))
    yield f".ends {tile.name}"


def _pins(what: str, ports: Sequence[str], resistance: float) -> tuple[list[str], list[str]]:
    """The pins of the wires, and the resistors between them and the ports; without resistance a port is a pin."""
    if resistance <= 0:
        return list(ports), []
    pins = [f"{port}_pin" for port in ports]
    return pins, [f"R{what}_{port} {port} {port}_pin {float(resistance)!r}" for port in ports]


def _places(segments: Float[np.ndarray, "wires crossings"]) -> list[list[int]]:
    """Which node of its wire each crossing is at, the pin being number 0 and listed first: the last with resistance."""
    numbered = np.where(segments > 0, np.arange(1, segments.shape[1] + 1), 0)
    reached: Int[np.ndarray, "wires crossings"] = np.maximum.accumulate(numbered, axis=1)
    places: list[list[int]] = np.pad(reached, ((0, 0), (1, 0))).tolist()
    return places


def _far_end(port: str, node: str, resistance: float) -> Iterator[str]:
    """From the last crossing of a row back to its source."""
    if resistance > 0:
        yield f"Rdriver_{port}_far {port} {node} {resistance!r}"
    elif node != port:
        yield f"Vdriver_{port}_far {port} {node} 0"
