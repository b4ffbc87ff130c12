"""The bundle on disk: its manifest, its table of tiles, and how it is written whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, ValidationError

from pfmc.errors import ArtifactError
from pfmc.netlist.netlist import Feed, Range, Tile, feed
from pfmc.sections import (
    Area,
    AttentionEntry,
    Calibration,
    ChipSize,
    Compensation,
    Energy,
    FileEntry,
    Glass,
    Layer,
    ModelEntry,
    OpticalEnergy,
    Part,
    PassEntry,
    SavingEntry,
    Share,
    Sizing,
    WireLoad,
)
from pfmc.technology.kinds import AnyTechnology

FORMAT_VERSION: Final = 3

Row = TypeVar("Row", bound=Part)


class Manifest(Part):
    """manifest.json."""

    format_version: int
    pfmc_version: str
    model: ModelEntry
    target: str
    backend: str
    technology: AnyTechnology
    calibration: Calibration
    passes: tuple[PassEntry, ...]
    parameters: Share
    macs: Share
    tiles: int
    devices: int
    unused_devices: int
    chip: ChipSize
    energy: Energy | OpticalEnergy
    layers: tuple[Layer, ...] = ()
    area: Area | None = None
    wire_loads: tuple[WireLoad, ...] = ()
    compensation: Compensation | None = None
    glass: Glass | None = None
    sizing: Sizing | None = None
    personalisation_layers: tuple[str, ...]
    personalisation_masks: tuple[str, ...]
    shared_tiles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    attentions: tuple[AttentionEntry, ...] = ()
    savings: tuple[SavingEntry, ...] = ()
    on_host: dict[str, str]
    files: tuple[FileEntry, ...]

    def path_of(self, folder: Path, role: str) -> Path:
        """The file with a role.

        Raises:
            ArtifactError: if the bundle has none.
        """
        for entry in self.files:
            if entry.role == role:
                return folder / entry.path
        raise ArtifactError(f"the bundle has no file with the role {role}", str(folder / "manifest.json"))


def file_entry(folder: Path, path: str, role: str) -> FileEntry:
    """Hash a file that has been written."""
    full = folder / path
    return FileEntry(path=path, role=role, bytes=full.stat().st_size, sha256=sha256(full))


def sha256(path: Path) -> str:
    """Hash of a file's bytes, as hexadecimal text."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        ArtifactError: if there is none, or it is not a manifest of this version.
    """
    path = folder / "manifest.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            "not a bundle: it has no manifest.json", str(folder), "give a folder made by pfmc compile"
        ) from None
    except OSError as e:
        raise ArtifactError(f"the manifest cannot be read: {e.strerror}", str(path)) from None
    except ValueError:
        raise ArtifactError("the manifest is not JSON", str(path), "compile the model again") from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(f"format version {version} is not {FORMAT_VERSION}", str(path), "compile the model again")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"the manifest is broken: {key}: {first['msg']}", str(path)) from None
    root = folder.resolve()
    for entry in manifest.files:
        if not (root / entry.path).resolve().is_relative_to(root):
            raise ArtifactError("a file of the manifest lies outside the bundle", f"{path}: {entry.path}")
    return manifest


def modified_files(folder: Path, manifest: Manifest) -> list[str]:
    """Paths of files that are not what the manifest says: changed or missing."""
    changed = []
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file() or path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
            changed.append(entry.path)
    return changed


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """A folder to write a bundle in, which becomes ``folder`` when all went well and vanishes when not.

    Raises:
        ArtifactError: if ``folder`` exists and is not empty, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError("the output is a file, not a folder", str(folder), "name a new or empty folder")
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError("the output folder is not empty", str(folder), "name a new or empty folder")
    # Named by the process, so that it is found again even if an interrupt comes before its name is known.
    prefix = f".{folder.name}.{os.getpid()}."
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=folder.parent))
        except OSError as e:
            raise ArtifactError(f"the output folder cannot be made: {e.strerror}", str(folder)) from None
        yield partial
        partial.chmod(0o777 & ~_umask())
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as e:
        raise ArtifactError(f"writing failed: {e.strerror or e}", str(folder)) from e
    finally:
        for left in folder.parent.glob(f"{glob.escape(prefix)}*.partial"):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes ``path`` when all went well and vanishes when not, with what was written beside it.

    Raises:
        OSError: if it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".pfmc-", dir=path.parent) as work:
        partial = Path(work) / path.name
        yield partial
        for made in sorted(Path(work).iterdir(), key=lambda made: made == partial):  # itself last: then all is there
            made.replace(path.parent / made.name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TileRecord(Part):
    """A row of tiles.parquet: what the reader and the check need to know of a tile; x and y in database units.

    ``lane``: of ``lanes`` sets of tiles, to which the input vectors of a call are dealt in turn, the one it is in.
    ``input_shift``: binary exponents that the host divides inputs by, row by row, in front of the converters; none: 0.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    node: str
    primitive: str
    row_start: int
    row_stop: int
    column_start: int
    column_stop: int
    x: int
    y: int
    scale_siemens: float
    scale_share: float = 1.0
    input_volts: float
    input_bits: int
    output_bits: int
    copy_number: int
    copies: int
    slices: int = 1
    lane: int = 0
    lanes: int = 1
    input_low: float
    input_high: float
    input_shift: tuple[int, ...] = ()
    output_low: float
    output_high: float

    @property
    def feed(self) -> Feed:
        """Which input converters it has."""
        return feed(self.node, self.lane, self.row_start)

    @classmethod
    def of(cls, tile: Tile, primitive: str, x: int, y: int, volts: float) -> TileRecord:
        """The record of a placed tile with ranges and scale; ``volts`` is full scale on its rows."""
        if tile.input_range is None or tile.output_range is None:
            raise ArtifactError("the tile has no ranges", f"tile {tile.name}", "the pipeline needs the calibrate pass")
        if tile.provision is None:
            raise ArtifactError(
                "the tile has no converters", f"tile {tile.name}", "the pipeline needs the provide pass"
            )
        return cls(
            name=tile.name,
            node=tile.node,
            primitive=primitive,
            row_start=tile.rows.start,
            row_stop=tile.rows.stop,
            column_start=tile.columns.start,
            column_stop=tile.columns.stop,
            x=x,
            y=y,
            scale_siemens=tile.scale,
            scale_share=tile.scale_share,
            input_volts=volts,
            input_bits=tile.provision.input_bits,
            output_bits=tile.provision.output_bits,
            copy_number=tile.copy,
            copies=tile.provision.copies,
            slices=tile.provision.slices,
            lane=tile.lane,
            lanes=tile.lanes,
            input_low=tile.input_range.low,
            input_high=tile.input_range.high,
            input_shift=() if tile.input_shift is None else tuple(tile.input_shift.tolist()),
            output_low=tile.output_range.low,
            output_high=tile.output_range.high,
        )

    @property
    def input_range(self) -> Range:
        """Of the entries of the input vector, less the shifts."""
        return Range(self.input_low, self.input_high)

    @property
    def output_range(self) -> Range:
        """Of the partial sums."""
        return Range(self.output_low, self.output_high)


def write_tiles(path: Path, tiles: Sequence[TileRecord], details: Sequence[Part]) -> None:
    """Write tiles.parquet: a row per tile, records and what else is known of them in the same order."""
    rows = [tile.model_dump() | more.model_dump() for tile, more in zip(tiles, details, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path)


def read_tiles(path: Path) -> list[TileRecord]:
    """Read tiles.parquet.

    Raises:
        ArtifactError: if it is not such a table.
    """
    return _read_rows(path, TileRecord)


def read_details(path: Path, kind: type[Row]) -> list[Row]:
    """Read what else tiles.parquet says, for example of energy.

    Raises:
        ArtifactError: if it is not such a table.
    """
    return _read_rows(path, kind)


def _read_rows(path: Path, kind: type[Row]) -> list[Row]:
    try:
        return [kind.model_validate(row) for row in pq.read_table(path).to_pylist()]
    except (OSError, pa.ArrowException, ValidationError) as e:
        raise ArtifactError("the table of tiles cannot be read", str(path), str(e).splitlines()[0]) from None
