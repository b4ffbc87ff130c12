"""What the next tool in the chain reads: masks of the chip or of one tile, and the devices as the masks have them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import gdstk
import numpy as np

from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError, UsageError
from pfmc.layout.layout import PlacedTile
from pfmc.netlist.netlist import Tile
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii import gdsii, records
from pfmc_backends.crossbar_gdsii.emit import DEVICES, MASKS, TIMESTAMP, draw, library_start
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.read import read_tiles
from pfmc_backends.crossbar_gdsii.spice import write_spice
from pfmc_backends.crossbar_gdsii.table import TableProgramme, TableWriter, read_frame, read_table

FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gdsii": "masks of the chip, or of one tile, as GDSII",
        "oasis": "the same as OASIS: a smaller file",
        "devices": "table of devices with their resistances as read back from the masks: .csv or .parquet",
        "spice": "netlist of the chip, or of one tile, with its wires, as read back from the masks: for ngspice",
    }
)


def export(
    folder: Path,
    technology: Technology,
    tiles: Sequence[TileRecord],
    format: str,
    path: Path,
    *,
    tile: str | None = None,
    devices: Path | None = None,
) -> None:
    """Write ``path`` whole or not at all; see :meth:`pfmc.backend.Backend.export`."""
    chosen = [record for record in tiles if tile in (None, record.name)]
    if not chosen:
        raise UsageError("no such tile in the bundle", tile)
    with tempfile.TemporaryDirectory(prefix=".pfmc-", dir=path.parent) as name:
        work = Path(name)
        partial = work / f"partial{path.suffix.lower()}"
        source = folder if devices is None else work
        if devices is not None:
            _draw_again(folder, technology, tiles, chosen, devices, work)
        if format == "gdsii":
            _write_gdsii(source / MASKS, partial, tile)
        elif format == "oasis":
            _write_oasis(source / MASKS, partial, tile)
        elif format == "devices":
            _write_devices(source, technology, tiles, chosen, devices or folder / DEVICES, partial)
        elif format == "spice":
            write_spice(source, technology, chosen, read_frame(source / DEVICES).title, partial)
        else:
            raise UsageError("no such format", format, f"formats: {', '.join(FORMATS)}")
        partial.replace(path)


def _placed(record: TileRecord) -> PlacedTile:
    rows, columns = range(record.row_start, record.row_stop), range(record.column_start, record.column_stop)
    return PlacedTile(Tile(record.name, record.node, rows, columns), record.x, record.y)


def _draw_again(
    folder: Path,
    technology: Technology,
    tiles: Sequence[TileRecord],
    chosen: Sequence[TileRecord],
    devices: Path,
    work: Path,
) -> None:
    """The chip with its devices from a table instead of the weights."""
    frame = read_frame(folder / DEVICES)
    drawn = read_table(devices, tiles, [record.name for record in chosen], "drawn_ohm")
    programme = TableProgramme(devices, drawn, CrossbarTile.of(technology))
    placed = [_placed(record) for record in chosen]
    programmed = ((place, programme.devices(place.tile)) for place in placed)
    draw(technology, frame, placed, programmed, work, lambda _done: None)


def _write_gdsii(masks: Path, path: Path, tile: str | None) -> None:
    """The masks as they are; of a tile, its structure and those that it needs."""
    if tile is None:
        shutil.copyfile(masks, path)
        return
    file = GdsiiFile(masks)
    with path.open("wb") as output:
        output.write(library_start(file.database_unit))
        for index in _needed(file, tile):
            output.write(records.dated(records.BGNSTR, TIMESTAMP))
            output.write(records.text(records.STRNAME, file.names[index].decode("latin-1")))
            for run in file.runs(index):
                output.write(file.bytes(run.at, run.count * run.size))
            output.write(records.record(records.ENDSTR))
        output.write(records.record(records.ENDLIB))


def _needed(file: GdsiiFile, top: str) -> list[int]:
    """The structures that one is made of, itself included, in the file's order."""
    found: set[int] = set()
    waiting = {top.encode()}
    while waiting:
        name = waiting.pop()
        if name not in file.indices:
            raise ArtifactError("the masks have no structure of this name", f"{file.path}: {gdsii.text(name)}")
        index = file.indices[name]
        if index in found:
            continue
        found.add(index)
        for run in file.runs(index):
            if run.tag in (records.SREF, records.AREF):
                if records.SNAME not in run.fields:
                    raise file.error("a reference without a name", run.at)
                offset, length = run.fields[records.SNAME]
                waiting.update(np.unique(file.column(f"S{length}", run, offset)).tolist())
    return sorted(found)


def _write_oasis(masks: Path, path: Path, tile: str | None) -> None:
    """The masks through gdstk, which holds them in memory: about 200 bytes per device."""
    source = masks
    if tile is not None:
        source = path.with_name("tile.gds")
        _write_gdsii(masks, source, tile)
    try:
        gdstk.read_gds(source).write_oas(path, compression_level=6)
    except (RuntimeError, OSError) as e:
        raise ArtifactError(f"the masks cannot be read: {e}", str(masks)) from None


def _write_devices(
    source: Path,
    technology: Technology,
    tiles: Sequence[TileRecord],
    chosen: Sequence[TileRecord],
    devices: Path,
    path: Path,
) -> None:
    """The table with the resistances that the masks below ``source`` have, beside those wanted as ``devices`` says."""
    if path.suffix not in {".csv", ".parquet"}:
        raise UsageError("a table is .csv or .parquet", f"the file name's end {path.suffix!r}", "name it so")
    frame = read_frame(source / DEVICES)
    wanted = read_table(devices, tiles, [record.name for record in chosen], "wanted_ohm")
    built = read_tiles(source, technology, chosen, lambda _done: None)
    with TableWriter(path, technology, frame) as writer:
        for record, tile in zip(chosen, built, strict=True):
            rows, columns, _ = wanted[record.name].shape
            writer.add(_placed(record), wanted[record.name], tile.resistance[:rows, :columns])
