"""The table of devices: a row per device that carries weight, parquet or CSV; written by the tile, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError
from pfmc.layout.layout import PlacedTile
from pfmc.netlist.netlist import Tile
from pfmc.primitives.crossbar import CrossbarTile, Programmed
from pfmc.technology.schema import Technology
from pfmc.units import UNITS

SCHEMA: Final = pa.schema(
    {
        "tile": pa.dictionary(pa.int32(), pa.string()),
        "row": pa.int16(),  # of the tile, as its column
        "column": pa.int16(),
        "polarity": pa.dictionary(pa.int8(), pa.string()),
        "x_um": pa.float64(),  # of the strip's origin on the chip
        "y_um": pa.float64(),
        "layer": pa.dictionary(pa.int8(), pa.string()),
        "wanted_ohm": pa.float64(),
        "drawn_ohm": pa.float64(),
    }
)
ROW_GROUP: Final = 1 << 19  # devices, about
BATCH: Final = 1 << 17  # rows
POLARITIES: Final = ("+", "-")


@dataclass(frozen=True)
class Frame:
    """The chip that a table's devices stand on: its title, and its size in database units."""

    title: str
    width: int
    height: int


class TableWriter:
    """Writes a table of devices: CSV where the path ends so, else parquet, with the frame in its metadata."""

    def __init__(self, path: Path, technology: Technology, frame: Frame) -> None:
        self._technology = technology
        self._tiles: list[str] = []
        self._columns: list[dict[str, np.ndarray]] = []
        self._devices = 0
        self._writer: Any
        if path.suffix.lower() == ".csv":
            self._schema = pa.schema([(f.name, getattr(f.type, "value_type", f.type)) for f in SCHEMA])
            unquoted = pyarrow.csv.WriteOptions(quoting_style="none")
            self._writer = pyarrow.csv.CSVWriter(path, self._schema, write_options=unquoted)
        else:
            text = {"title": frame.title, "width": str(frame.width), "height": str(frame.height)}
            self._schema = SCHEMA.with_metadata(text)
            # Not of wanted_ohm: nearly every device has its own.
            options: dict[str, Any] = {"use_dictionary": [n for n in SCHEMA.names if n != "wanted_ohm"]}
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", **options)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._writer.close()

    def add(
        self,
        placed: PlacedTile,
        wanted: Float[np.ndarray, "rows columns 2"],
        drawn: Float[np.ndarray, "rows columns 2"],
    ) -> None:
        """Add the devices of a tile's block; resistances in ohms."""
        grid, cell = self._technology.grid, self._technology.cell
        row, column, polarity = np.indices(drawn.shape, dtype=np.int16).reshape(3, -1)
        x = placed.x + (2 * column.astype(np.int64) + polarity) * grid.units(cell.strip_pitch)
        y = placed.y + row.astype(np.int64) * grid.units(cell.row_pitch)
        per_unit = grid.database_unit.si / UNITS["um"][1]
        self._columns.append(
            {
                "tile": np.full(drawn.size, len(self._tiles), dtype=np.int32),
                "row": row,
                "column": column,
                "polarity": polarity.astype(np.int8),
                "x_um": np.round(x * per_unit, 6),
                "y_um": np.round(y * per_unit, 6),
                "layer": np.zeros(drawn.size, dtype=np.int8),
                "wanted_ohm": wanted.reshape(-1),
                "drawn_ohm": drawn.reshape(-1),
            }
        )
        self._tiles.append(placed.tile.name)
        self._devices += drawn.size
        if self._devices >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._columns:
            return
        words = {"tile": self._tiles, "polarity": POLARITIES, "layer": [str(self._technology.personalisation_masks[0])]}
        arrays = []
        for name in SCHEMA.names:
            values = np.concatenate([columns[name] for columns in self._columns])
            arrays.append(pa.DictionaryArray.from_arrays(values, words[name]) if name in words else pa.array(values))
        table = pa.Table.from_arrays(arrays, names=SCHEMA.names).cast(self._schema)
        self._writer.write_table(table, 2 * ROW_GROUP)
        self._tiles, self._columns, self._devices = [], [], 0


@dataclass(frozen=True, eq=False)
class TableProgramme:
    """Devices that have the drawn resistances of a table: the way to draw a chip again, or one that was edited."""

    path: Path
    drawn: Mapping[str, Float[np.ndarray, "rows columns 2"]]
    primitive: CrossbarTile

    def devices(self, tile: Tile) -> Programmed:
        """See :class:`pfmc.layout.layout.Programme`; what is wanted is what the table says was drawn.

        Raises:
            ArtifactError: if a resistance is outside what a strip can have.
        """
        primitive, drawn = self.primitive, self.drawn[tile.name]
        shape = primitive.rows, primitive.columns, 2
        lengths = np.full(shape, primitive.length_max, dtype=np.int32)
        wanted = np.full(shape, primitive.resistance(np.array(primitive.length_max)))
        rows, columns, _ = drawn.shape
        wanted[:rows, :columns] = drawn
        try:
            lengths[:rows, :columns] = primitive.nearest_lengths(drawn)
        except ValueError as e:
            raise ArtifactError(str(e), f"{self.path}: tile {tile.name}", "see its column drawn_ohm") from None
        return Programmed(wanted, lengths)


def read_frame(path: Path) -> Frame:
    """The chip that a parquet table's devices stand on.

    Raises:
        ArtifactError: if it is not a bundle's table of devices.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return Frame(metadata[b"title"].decode(), int(metadata[b"width"]), int(metadata[b"height"]))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        raise ArtifactError(
            "the bundle's table of devices cannot be read", str(path), "compile the model again"
        ) from None


def read_table(
    path: Path, tiles: Sequence[TileRecord], needed: Sequence[str], column: str
) -> dict[str, Float[np.ndarray, "rows columns 2"]]:
    """One resistance of each device from a table whose rows are devices of ``tiles``, none twice, in any order.

    Args:
        needed: names of the tiles whose devices must all be there.
        column: "wanted_ohm" or "drawn_ohm".

    Raises:
        ArtifactError: naming what is wrong with the table.
    """
    places = _Places.of(tiles)
    found = np.full(places.devices, np.nan)
    rows = 0
    try:
        for batch in _batches(path, column):
            if any(values.is_null(nan_is_null=True).true_count for values in batch.columns):
                raise ValueError("a value is missing")
            found[places.index(batch)] = batch[column].to_numpy()
            rows += len(batch)
        if np.count_nonzero(~np.isnan(found)) < rows:
            raise ValueError("a device is given twice")
    except (OSError, pa.ArrowException, ValueError) as e:
        why = (str(e).splitlines() or [type(e).__name__])[0]
        raise ArtifactError(f"the table of devices cannot be read: {why}", str(path)) from None
    by_tile = places.split(found)
    for name in needed:
        missing = int(np.isnan(by_tile[name]).sum())
        if missing:
            raise ArtifactError(f"{missing} of the tile's devices are missing in the table", f"{path}: tile {name}")
    return by_tile


@dataclass(frozen=True, eq=False)
class _Places:
    """Where each device of some tiles' blocks stands in one long array: tile by tile, row-major, + before −."""

    names: list[str]
    rows: Int[np.ndarray, " tiles"]
    columns: Int[np.ndarray, " tiles"]
    starts: Int[np.ndarray, " tiles"]
    devices: int

    @classmethod
    def of(cls, tiles: Sequence[TileRecord]) -> _Places:
        rows = np.array([tile.row_stop - tile.row_start for tile in tiles])
        columns = np.array([tile.column_stop - tile.column_start for tile in tiles])
        ends = np.cumsum(2 * rows * columns)
        return cls([tile.name for tile in tiles], rows, columns, ends - 2 * rows * columns, int(ends[-1]))

    def index(self, batch: pa.RecordBatch) -> Int[np.ndarray, " n"]:
        """Of each row of a table; ValueError if there is no such device."""
        tile = _lookup(batch["tile"], self.names)
        polarity = _lookup(batch["polarity"], POLARITIES)
        row, column = (batch[name].to_numpy() for name in ("row", "column"))
        if np.any((row < 0) | (row >= self.rows[tile]) | (column < 0) | (column >= self.columns[tile])):
            raise ValueError("a device lies outside its tile's block")
        return np.asarray(self.starts[tile] + 2 * (row * self.columns[tile] + column) + polarity)

    def split(self, values: Float[np.ndarray, " devices"]) -> dict[str, Float[np.ndarray, "rows columns 2"]]:
        """The long array tile by tile: views."""
        shapes = zip(self.names, self.starts.tolist(), self.rows.tolist(), self.columns.tolist(), strict=True)
        return {name: values[start : start + 2 * r * c].reshape(r, c, 2) for name, start, r, c in shapes}


def _lookup(words: pa.Array, known: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Positions of words in a list; ValueError for one that is not there."""
    position = {word: i for i, word in enumerate(known)}
    encoded = words.dictionary_encode()
    for word in encoded.dictionary.to_pylist():
        if word not in position:
            raise ValueError(f"{word!r} is none of {known[0]} to {known[-1]}")
    places = np.array([position[word] for word in encoded.dictionary.to_pylist()], dtype=np.int64)
    return np.asarray(places[encoded.indices.to_numpy()])


def _batches(path: Path, column: str) -> Iterator[pa.RecordBatch]:
    """What says which device a row is, and the column asked for, part by part."""
    words, numbers = ("tile", "polarity"), ("row", "column")
    types = dict.fromkeys(words, pa.string()) | dict.fromkeys(numbers, pa.int64()) | {column: pa.float64()}
    if path.suffix.lower() == ".csv":
        options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types))
        batches: Any = pyarrow.csv.open_csv(path, convert_options=options)
    else:
        file = pq.ParquetFile(path)
        absent = [name for name in types if name not in file.schema_arrow.names]
        if absent:
            raise ValueError(f"it has no column {absent[0]}")
        batches = file.iter_batches(batch_size=BATCH, columns=list(types))
    for batch in batches:
        yield batch.select(list(types)).cast(pa.schema(types))
