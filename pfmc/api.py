"""The Python interface: compile, open, verify, export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfmc.backend import AsBuilt
from pfmc.bench import Requirement
from pfmc.bundle import Manifest, TileRecord, read_manifest, read_tiles
from pfmc.check.verify import Verification
from pfmc.driver import (
    CompileOptions,
    compile_model,
    default_technology,
    export_bundle,
)
from pfmc.errors import UsageError
from pfmc.frontend.selection import Selection
from pfmc.observer import Observer, Silent
from pfmc.planning import GlassPlan, Plan, plan_model, plan_parameters
from pfmc.registry import load_backend
from pfmc.report.page import write_report
from pfmc.verifier import VerifyOptions, verify_bundle


@dataclass(frozen=True)
class Bundle:
    """A compiled model on disk.

    Attributes:
        path: the bundle's folder.
        manifest: what manifest.json says.
    """

    path: Path
    manifest: Manifest

    @property
    def tiles(self) -> list[TileRecord]:
        """What each tile holds, where it stands, its scale (siemens per unit of weight) and ranges (model's units)."""
        return read_tiles(self.manifest.path_of(self.path, "tiles"))

    def read_back(self) -> Iterator[AsBuilt]:
        """Every tile's resistances (rows × columns × 2, ohms), measured from the geometry in the masks.

        Raises:
            ArtifactError: if the masks cannot be understood.
        """
        backend = load_backend(self.manifest.backend)
        return backend.read(self.path, self.manifest.technology, self.tiles, lambda _done: None)

    def verify(
        self,
        data: str | Path | None = None,
        *,
        samples: int | None = None,
        tolerance: float = 0.05,
        accept_modified: bool = False,
        ideal_converters: bool = False,
        ideal_wires: bool = False,
        drc: bool = False,
        lvs: bool = False,
        monte_carlo: int | None = None,
        trim: bool = False,
        post_matrix: bool = False,
        seed: int = 0,
        observer: Observer | None = None,
    ) -> Verification:
        """Measure what the masks compute and compare it with the original model.

        Args:
            data: npz file with one array per model input, first axis the samples, and optionally ``labels``; None:
                random inputs drawn from ``seed``.
            samples: use at most this many.
            tolerance: largest relative error, ‖y_fab − y_ref‖₂ / ‖y_ref‖₂, that passes.
            accept_modified: let files pass that were changed after the compile.
            ideal_converters: leave the converters' rounding and clipping out.
            ideal_wires: leave the resistance of the wires out.
            drc: check the files against the technology's design rules, or the writer's limits, too.
            lvs: compare the masks' connections with what they should be too.
            monte_carlo: how many chips to make, each with its own errors, drawn from ``seed``.
            trim: trim each of those by its own measurement.
            post_matrix: in glass, by a small digital matrix behind each volume, not only a gain per output.
            seed: of random inputs and made chips.
            observer: is told about progress.

        Raises:
            DataError: if the data do not fit the model.
            ArtifactError: if the bundle cannot be understood.
        """
        options = VerifyOptions(
            data=None if data is None else Path(data),
            samples=samples,
            tolerance=tolerance,
            accept_modified=accept_modified,
            ideal_converters=ideal_converters,
            ideal_wires=ideal_wires,
            drc=drc,
            lvs=lvs,
            monte_carlo=monte_carlo,
            trim=trim,
            post_matrix=post_matrix,
            seed=seed,
        )
        return verify_bundle(self.path, options, observer or Silent())

    def export(
        self, path: str | Path, format: str, *, tile: str | None = None, devices: str | Path | None = None
    ) -> Path:
        """Write a format that the next tool reads; ``pfmc formats`` lists them.

        Args:
            tile: only this tile.
            devices: draw the masks from this table of devices (CSV or parquet) instead.

        Raises:
            UsageError: unknown format or tile.
            ArtifactError: if the masks or the table cannot be understood, or the file cannot be written.
        """
        target = Path(path)
        export_bundle(self.path, format, target, tile=tile, devices=None if devices is None else Path(devices))
        return target

    def report(self, path: str | Path | None = None, verification: Verification | None = None) -> Path:
        """Write the self-contained HTML page; the default is report.html in the bundle.

        Args:
            verification: a verdict to show; None: the masks are verified with random inputs.
        """
        target = self.path / "report.html" if path is None else Path(path)
        write_report(self.path, target, verification or self.verify())
        return target


def compile(
    model: str | Path,
    output: str | Path,
    *,
    target: str = "crossbar",
    technology: str | Path | None = None,
    calibration: str | Path | None = None,
    only: Sequence[str] = (),
    except_: Sequence[str] = (),
    tables: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    low_rank: float | None = None,
    max_relative_error: float | None = None,
    min_agreement: float | None = None,
    spatial_unroll: int | None = None,
    workers: int | None = None,
    resume: bool = False,
    seed: int = 0,
    observer: Observer | None = None,
) -> Bundle:
    """Compile an ONNX model into a bundle.

    Args:
        model: the ONNX file; its external data, if any, beside it.
        output: the folder to make; it must not exist or be empty.
        target: what to build.
        technology: name of an installed one, or a TOML file; None: the target's default.
        calibration: npz file that sets the converters' ranges; None: random inputs drawn from ``seed``.
        only: map only contractions whose name is like one of these patterns (``*``, ``?``, ``[…]``).
        except_: keep those digital whose name is like one of these.
        tables: build the constant tables of Gather nodes with a name like one of these too: a lookup drives one row.
        options: of passes, as ``{"tile.rows": 32}``.
        low_rank: split matrices in two of a small rank where that is smaller; the relative error of each, at most.
        max_relative_error, min_agreement: choose each contraction's converters, copies and slices of its tiles, and
            the size of tiles and width of wires (unless options of "tile" are given), with the smallest area, so that
            chips as made and trimmed reach it on average, with a standard error to spare, on the calibration data. An
            agreement holds for data like those: samples that the model was trained on say too much.
        spatial_unroll: build the tiles of a contraction that is used for many windows or tokens up to so many times;
            the input vectors are dealt to the sets in turn, which work side by side.
        workers: processes that construct tiles of glass side by side; None: one per core.
        resume: go on with what an interrupted compile into the same folder has finished.
        seed: of random inputs.
        observer: is told about progress.

    Raises:
        PfmcError: a subclass that names what is wrong; nothing is left behind then.
    """
    settings: dict[str, dict[str, str]] = {}
    for key, value in (options or {}).items():
        name, _, option = key.partition(".")
        settings.setdefault(name, {})[option] = str(value)
    compile_options = CompileOptions(
        target=target,
        technology=None if technology is None else str(technology),
        calibration=None if calibration is None else Path(calibration),
        settings=settings,
        selection=Selection(tuple(only), tuple(except_)),
        tables=tuple(tables),
        low_rank=low_rank,
        spatial_unroll=spatial_unroll,
        requirement=Requirement.of(max_relative_error, min_agreement),
        seed=seed,
        workers=workers,
        resume=resume,
    )
    manifest = compile_model(Path(model), Path(output), compile_options, observer or Silent())
    return Bundle(Path(output), manifest)


def plan(
    model: str | Path | None = None,
    *,
    parameters: float | None = None,
    target: str = "crossbar",
    technology: str | Path | None = None,
    spatial_unroll: int | None = None,
) -> Plan | GlassPlan:
    """Say how large it would be, before anything is made: tiles, devices, mm², bytes of masks.

    Args:
        model: the ONNX file; or
        parameters: how many weights.
        target: what would be built.
        technology: name of an installed one, or a TOML file; None: the target's default.
        spatial_unroll: of a model, as :func:`compile` has it.

    Raises:
        PfmcError: if neither or both are given, or the model cannot be read.
    """
    name = default_technology(target) if technology is None else str(technology)
    if model is not None and parameters is None:
        return plan_model(Path(model), name, spatial_unroll or 1)
    if spatial_unroll is not None:
        raise UsageError("only the layers of a model can be unrolled", "--spatial-unroll", "give a model")
    if parameters is not None and model is None:
        return plan_parameters(parameters, name)
    raise UsageError("give a model or a number of parameters, and not both")


def open(path: str | Path) -> Bundle:
    """Open a bundle.

    Raises:
        ArtifactError: if the folder is not one.
    """
    return Bundle(Path(path), read_manifest(Path(path)))
