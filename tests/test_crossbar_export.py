"""Masks and device tables for the next tool: what they say, and that a table draws the same masks again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gdstk
import klayout.db as kdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from crossbars import layout, records, small
from pfmc_backends.crossbar_gdsii import BACKEND

from pfmc.errors import ArtifactError, PfmcError, UsageError
from pfmc.layout.layout import Layout
from pfmc.primitives.crossbar import CrossbarTile


@dataclass(frozen=True)
class Chip:
    """An emitted layout."""

    layout: Layout
    folder: Path

    @property
    def masks(self) -> Path:
        return self.folder / "masks" / "chip.gds"

    def export(
        self, path: Path, format: str = "gdsii", *, tile: str | None = None, devices: Path | None = None
    ) -> Path:
        technology = self.layout.technology
        BACKEND.export(self.folder, technology, records(self.layout), format, path, tile=tile, devices=devices)
        return path


@pytest.fixture(scope="module", params=["sg13g2", "gf180mcu"])
def chip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chip:
    """Three tiles, two of them not full."""
    drawn = layout(small(request.param, 4, 3), [(4, 3), (2, 3), (4, 1)])
    folder = tmp_path_factory.mktemp("chip")
    BACKEND.emit(drawn, folder, lambda _done: None)
    return Chip(drawn, folder)


@pytest.fixture
def table(chip: Chip) -> pa.Table:
    """The chip's table of devices, with words as plain text."""
    read = pq.read_table(chip.folder / "devices.parquet")
    plain = [(f.name, getattr(f.type, "value_type", f.type)) for f in read.schema]
    return read.cast(pa.schema(plain))


def regions(path: Path, top: str) -> dict[tuple[int, int], kdb.Region]:
    masks = kdb.Layout()
    masks.read(str(path))
    cell = masks.cell(top)
    return {
        (info.layer, info.datatype): kdb.Region(cell.begin_shapes_rec(masks.layer(info)))
        for info in masks.layer_infos()
    }


def test_the_table_says_where_each_device_is_and_what_it_is_worth(chip: Chip, table: pa.Table) -> None:
    technology = chip.layout.technology
    primitive = CrossbarTile.of(technology)
    rows = iter(table.to_pylist())
    for placed, programmed in chip.layout.programmed():
        drawn = primitive.resistance(programmed.lengths)
        for row, column, side in np.ndindex(len(placed.tile.rows), len(placed.tile.columns), 2):
            found = next(rows)
            strip_pitch, row_pitch = technology.cell.strip_pitch.si, technology.cell.row_pitch.si
            assert (found["tile"], found["row"], found["column"]) == (placed.tile.name, row, column)
            assert found["polarity"] == "+-"[side]
            assert found["x_um"] == pytest.approx(placed.x / 1000 + (2 * column + side) * strip_pitch * 1e6, abs=1e-9)
            assert found["y_um"] == pytest.approx(placed.y / 1000 + row * row_pitch * 1e6, abs=1e-9)
            assert found["layer"] == str(technology.layers.block)
            assert found["wanted_ohm"] == programmed.wanted[row, column, side]
            assert found["drawn_ohm"] == drawn[row, column, side]
    assert next(rows, None) is None


@pytest.mark.parametrize("suffix", ["csv", "parquet", "CSV"])
def test_the_table_read_from_the_masks_is_the_one_that_was_written(chip: Chip, tmp_path: Path, suffix: str) -> None:
    path = chip.export(tmp_path / f"devices.{suffix}", "devices")
    read = pq.read_table(path) if suffix == "parquet" else pyarrow.csv.read_csv(path)
    written = pq.read_table(chip.folder / "devices.parquet")
    assert read.column_names == written.column_names
    for name in written.column_names:
        if name == "drawn_ohm":
            np.testing.assert_allclose(read[name].to_numpy(), written[name].to_numpy(), rtol=1e-9)
        else:
            assert read[name].to_pylist() == written[name].to_pylist()


def test_a_tile_alone_has_its_own_rows(chip: Chip, table: pa.Table, tmp_path: Path) -> None:
    path = chip.export(tmp_path / "devices.csv", "devices", tile="t00001")
    wanted = table.filter(pc.equal(table["tile"], "t00001"))
    assert pyarrow.csv.read_csv(path)["wanted_ohm"].to_pylist() == wanted["wanted_ohm"].to_pylist()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_in_any_order_draws_the_same_masks(
    chip: Chip, table: pa.Table, tmp_path: Path, rng: np.random.Generator, suffix: str
) -> None:
    shuffled = table.take(rng.permutation(len(table))).select(table.column_names[::-1])
    path = tmp_path / f"mine.{suffix}"
    pyarrow.csv.write_csv(shuffled, path) if suffix == "csv" else pq.write_table(shuffled, path)
    assert chip.export(tmp_path / "again.gds", devices=path).read_bytes() == chip.masks.read_bytes()


def test_the_table_read_from_the_masks_draws_the_same_masks(chip: Chip, tmp_path: Path) -> None:
    path = chip.export(tmp_path / "devices.parquet", "devices")
    assert chip.export(tmp_path / "again.gds", devices=path).read_bytes() == chip.masks.read_bytes()


def test_an_edited_table_draws_another_chip(chip: Chip, table: pa.Table, tmp_path: Path) -> None:
    """A device with the resistance of its neighbour: it alone changes."""
    drawn = table["drawn_ohm"].to_numpy().copy()
    drawn[7] = drawn[8]
    pq.write_table(table.set_column(8, "drawn_ohm", pa.array(drawn)), tmp_path / "mine.parquet")
    measured = chip.export(tmp_path / "measured.parquet", "devices", devices=tmp_path / "mine.parquet")
    np.testing.assert_allclose(pq.read_table(measured)["drawn_ohm"].to_numpy(), drawn, rtol=1e-9)


def test_a_tile_is_drawn_again_from_its_own_rows(chip: Chip, table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table.filter(pc.equal(table["tile"], "t00002")), tmp_path / "mine.parquet")
    again = chip.export(tmp_path / "again.gds", tile="t00002", devices=tmp_path / "mine.parquet")
    assert again.read_bytes() == chip.export(tmp_path / "tile.gds", tile="t00002").read_bytes()


BAD_TABLES = {
    "is none of t00000 to t00002": lambda t: t.set_column(0, "tile", pa.array(["t9", *t["tile"].to_pylist()[1:]])),
    "'<b>' is none of + to -": lambda t: t.set_column(3, "polarity", pa.array(["<b>"] * len(t))),
    "given twice": lambda t: pa.concat_tables([t, t.slice(5, 1)]),
    "1 of the tile's devices are missing": lambda t: t.slice(1),
    "24 of the tile's devices are missing": lambda t: t.slice(0, 0),
    "outside its tile's block": lambda t: t.set_column(1, "row", pa.array([-1] * len(t))),
    "a value is missing": lambda t: t.set_column(8, "drawn_ohm", pa.array([float("nan")] * len(t))),
    "outside the cell's range": lambda t: t.set_column(8, "drawn_ohm", pa.array([1.0] * len(t))),
    "drawn_ohm": lambda t: t.drop_columns(["drawn_ohm"]),
    "x": lambda t: t.set_column(1, "row", pa.array(["x"] * len(t))),
}


@pytest.mark.parametrize("complaint", BAD_TABLES)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_bad_table_is_refused_in_one_line_that_names_it(
    chip: Chip, table: pa.Table, tmp_path: Path, suffix: str, complaint: str
) -> None:
    path, target = tmp_path / f"mine.{suffix}", tmp_path / "again.gds"
    bad = BAD_TABLES[complaint](table)
    pyarrow.csv.write_csv(bad, path) if suffix == "csv" else pq.write_table(bad, path)
    with pytest.raises(ArtifactError) as caught:
        chip.export(target, devices=path)
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00nonsense\n\n\n,,,", b"PAR1 and then nothing PAR1"])
def test_a_file_that_is_no_table_is_refused(chip: Chip, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="mine"):
        chip.export(tmp_path / "again.gds", devices=path)


def test_the_whole_chip_is_copied(chip: Chip, tmp_path: Path) -> None:
    (tmp_path / "chip.gds").write_bytes(b"of yesterday")
    assert chip.export(tmp_path / "chip.gds").read_bytes() == chip.masks.read_bytes()


@pytest.mark.parametrize("format", ["gdsii", "oasis"])
@pytest.mark.parametrize("tile", [None, "t00001"])
def test_other_tools_read_the_same_shapes_from_every_format(
    chip: Chip, tmp_path: Path, format: str, tile: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = chip.export(tmp_path / "masks", format, tile=tile)
    library = gdstk.read_oas(path) if format == "oasis" else gdstk.read_gds(path)
    (top,) = library.top_level()
    assert capfd.readouterr() == ("", "")
    assert top.name == (tile or "chip")
    found, wanted = regions(path, top.name), regions(chip.masks, top.name)
    for layer, region in wanted.items():
        assert (region ^ found.get(layer, kdb.Region())).is_empty()
    assert set(found) <= set(wanted)


def test_formats_and_names_that_are_not_there_are_refused(chip: Chip, tmp_path: Path) -> None:
    for options in ({"format": "dxf"}, {"tile": "t9"}, {"format": "devices"}):
        with pytest.raises(UsageError):
            chip.export(tmp_path / "x.txt", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_masks_that_are_none_are_refused(chip: Chip, tmp_path: Path) -> None:
    broken = Chip(chip.layout, tmp_path / "bundle")
    (broken.folder / "masks").mkdir(parents=True)
    for content in (b"", b"no masks", chip.masks.read_bytes()[:999]):
        broken.masks.write_bytes(content)
        for format, tile in (("gdsii", "t00000"), ("oasis", None), ("devices", None)):
            with pytest.raises(PfmcError):
                broken.export(tmp_path / "x.csv", format, tile=tile)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
