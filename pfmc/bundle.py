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
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pfmc.errors import ArtifactError
from pfmc.netlist.netlist import Range, Tile
from pfmc.technology.schema import Technology

FORMAT_VERSION: Final = 2


class Part(BaseModel):
    """A section of the manifest; unknown keys are an error, so that a newer bundle is not half understood."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Row = TypeVar("Row", bound=Part)


class FileEntry(Part):
    """A file of the bundle: path relative to the folder, with forward slashes."""

    path: str
    role: str
    bytes: int
    sha256: str


class ModelEntry(Part):
    """The original model: a copy lies in the bundle under ``path``."""

    path: str
    name: str
    sha256: str


class Share(Part):
    """How much of the model's parameters or multiply-accumulates (per sample) became hardware."""

    total: int
    mapped: int


class PassEntry(Part):
    """A pass that was run, with its options."""

    name: str
    options: dict[str, Any]


class Calibration(Part):
    """Where the converters' ranges come from: "file" or "random"."""

    data: str
    samples: int
    seed: int


class ChipSize(Part):
    """The chip's frame."""

    width_um: float
    height_um: float


class Joules(Part):
    """What takes energy, in an inference."""

    resistive_j: float  # heat in strips and wires
    output_stages_j: float  # lost between the supply and the small voltages on the rows
    drivers_j: float
    amplifiers_j: float
    converters_j: float

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of what adds up to the whole."""
        return tuple(Joules.model_fields)


class TileEnergy(Joules):
    """The same of one tile: more columns of tiles.parquet. ``vectors``: matrix-vector products in an inference."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    node: str
    vectors: int


class Energy(Joules):
    """The same of the chip, on the calibration data.

    In ``latency_s`` the host takes no time; ``read_time_s`` is that of the slowest contraction.
    """

    per_inference_j: float
    per_mac_j: float
    latency_s: float
    read_time_s: float


class Area(Part):
    """Silicon: the tiles, what is left of the chip's frame, and what stands around tiles and is not drawn."""

    array_mm2: float
    streets_mm2: float
    periphery_mm2: float
    total_mm2: float


class WireLoad(Part):
    """The heaviest load of one kind of wire on the chip against the limit of electromigration, in amperes.

    ``average_a``: root mean square on the calibration data while the tile is read; ``full_scale_a``: all of the rows at
    full scale at once, in the same tile.
    """

    wire: str
    average_a: float
    full_scale_a: float
    limit_a: float

    @property
    def share(self) -> float:
        """How much of the limit is used."""
        return self.average_a / self.limit_a

    def scaled(self, factor: float) -> WireLoad:
        """The load at another voltage."""
        currents = {"average_a": factor * self.average_a, "full_scale_a": factor * self.full_scale_a}
        return self.model_copy(update=currents)


class SizingEntry(Part):
    """What one contraction got, what it costs, and what it adds to the relative error of the output by prediction.

    ``area_mm2``: of its tiles and what stands around them; ``least_area_mm2``: with the least that is offered.
    """

    node: str
    input_bits: int
    output_bits: int
    copies: int
    area_mm2: float
    least_area_mm2: float
    relative_error: float


class Sizing(Part):
    """What was asked for, and what is reached on the calibration data.

    By ``chips`` chips as made and trimmed on average, or by the chip as drawn, whichever is worse; the agreement is
    less by one standard error.
    """

    asked_relative_error: float | None
    asked_agreement: float | None
    relative_error: float
    agreement: float
    chips: int
    samples: int
    contractions: tuple[SizingEntry, ...]


class Compensation(Part):
    """What compensating the wires costs.

    ``loading``: r·G_max·N, the resistance of a whole wire of the tile against its strongest strip; ``least_share`` and
    ``mean_share``: how much of the scale that ideal wires would allow is left to tiles.
    """

    loading: float
    least_share: float
    mean_share: float


class Manifest(Part):
    """manifest.json."""

    format_version: int
    pfmc_version: str
    model: ModelEntry
    target: str
    backend: str
    technology: Technology
    calibration: Calibration
    passes: tuple[PassEntry, ...]
    parameters: Share
    macs: Share
    tiles: int
    devices: int
    unused_devices: int
    chip: ChipSize
    energy: Energy
    area: Area
    wire_loads: tuple[WireLoad, ...]
    compensation: Compensation
    sizing: Sizing | None = None
    personalisation_layers: tuple[str, ...]
    personalisation_masks: tuple[str, ...]
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TileRecord(Part):
    """A row of tiles.parquet: what the reader and the check need to know of a tile; x and y in database units."""

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
    input_low: float
    input_high: float
    output_low: float
    output_high: float

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
            input_low=tile.input_range.low,
            input_high=tile.input_range.high,
            output_low=tile.output_range.low,
            output_high=tile.output_range.high,
        )

    @property
    def input_range(self) -> Range:
        """Of the entries of the input vector."""
        return Range(self.input_low, self.input_high)

    @property
    def output_range(self) -> Range:
        """Of the partial sums."""
        return Range(self.output_low, self.output_high)


def write_tiles(path: Path, tiles: Sequence[TileRecord], energies: Sequence[TileEnergy]) -> None:
    """Write tiles.parquet: a row per tile, records and energies in the same order."""
    rows = [tile.model_dump() | spent.model_dump() for tile, spent in zip(tiles, energies, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path)


def read_tiles(path: Path) -> list[TileRecord]:
    """Read tiles.parquet.

    Raises:
        ArtifactError: if it is not such a table.
    """
    return _read_rows(path, TileRecord)


def read_energies(path: Path) -> list[TileEnergy]:
    """Read what tiles.parquet says of energy.

    Raises:
        ArtifactError: if it is not such a table.
    """
    return _read_rows(path, TileEnergy)


def _read_rows(path: Path, kind: type[Row]) -> list[Row]:
    try:
        return [kind.model_validate(row) for row in pq.read_table(path).to_pylist()]
    except (OSError, pa.ArrowException, ValidationError) as e:
        raise ArtifactError("the table of tiles cannot be read", str(path), str(e).splitlines()[0]) from None
