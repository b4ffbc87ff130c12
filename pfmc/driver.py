"""The jobs: compile a model into a bundle, verify what a bundle's files compute, export them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from pfmc._version import __version__
from pfmc.backend import Backend, TileAsBuilt
from pfmc.bundle import (
    FORMAT_VERSION,
    Calibration,
    ChipSize,
    Manifest,
    ModelEntry,
    PassEntry,
    Share,
    TileRecord,
    file_entry,
    modified_files,
    new_bundle,
    read_manifest,
    read_tiles,
    write_manifest,
    write_tiles,
)
from pfmc.check.compare import compare
from pfmc.check.lift import as_fabricated, host_model, save_model
from pfmc.check.verify import Verification
from pfmc.data import Dataset, InputSpec, load_dataset, random_dataset
from pfmc.errors import ArtifactError, ImportModelError, UsageError, VerifyError
from pfmc.frontend.activations import recorder
from pfmc.frontend.counts import Counts, count
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.frontend.runtime import Runtime
from pfmc.ir.graph import HostNode
from pfmc.layout.layout import Layout
from pfmc.passmanager import Context, Pass, render, run_pipeline, with_options
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.registry import backend_for, load_backend, load_pass
from pfmc.technology.loader import load as load_technology

RANDOM_SAMPLES: Final = 64  # drawn where no data are given
BATCH: Final = 64


class Observer(Protocol):
    """Who watches a job: the command line, or nobody."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """A new stage begins; the result is called with how many of ``total`` are done since the last call."""
        ...

    def show(self, text: str) -> None:
        """Text that the user asked for."""
        ...


class Silent:
    """Nobody watches."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """See :class:`Observer`."""
        return lambda _done: None

    def show(self, text: str) -> None:
        """See :class:`Observer`."""


@dataclass(frozen=True)
class CompileOptions:
    """What a compile can be told.

    Attributes:
        target: "crossbar".
        technology: name or file; None: the target's default.
        calibration: npz file; None: random inputs drawn from ``seed``.
        settings: pass name → option → text.
        add_passes: passes to add to the backend's pipeline, each behind the pass that it names.
        print_after: passes whose result is shown in textual form.
    """

    target: str = "crossbar"
    technology: str | None = None
    calibration: Path | None = None
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    add_passes: tuple[str, ...] = ()
    print_after: tuple[str, ...] = ()
    seed: int = 0


def compile_model(model: Path, output: Path, options: CompileOptions, observer: Observer) -> Manifest:
    """Compile a model into a bundle at ``output``, written whole or not at all.

    Raises:
        PfmcError: naming what is wrong.
    """
    backend = backend_for(options.target)
    technology = load_technology(options.technology or backend.default_technology)
    passes = pipeline(backend, options)
    with new_bundle(output) as folder:
        work = folder / ".work"
        work.mkdir()
        observer.stage("reading the model")
        imported = import_model(model, work)
        dataset = _dataset(options.calibration, imported.inputs, options.seed)
        counts = count(imported, dataset)
        activations = recorder(imported, dataset, BATCH)
        context = Context(technology, activations, title=f"pfmc {imported.sha256[:16]}")

        def after(step: Pass[Any, Any], result: Any) -> None:
            if step.name in options.print_after:
                observer.show(f"; after {step.name}\n{render(result)}")
            observer.stage(f"{step.name} done")

        layout = run_pipeline(passes, imported.graph, context, after=after)
        emission = backend.emit(layout, folder, observer.stage("drawing masks", len(layout.tiles)))
        records = _write_shared_files(folder, layout, imported)
        entries = [*emission.files, ("tiles.parquet", "tiles"), *_model_files(folder, imported)]
        progress = observer.stage("reading the masks back", len(records))
        built, found = _counted(backend.read(folder, technology, records, progress))
        fabricated = as_fabricated(folder / "host.onnx", records, built, technology)
        save_model(fabricated, folder / "as_fabricated.onnx")
        if found() != emission.devices:
            raise ArtifactError(f"{found()} of {emission.devices} devices were read back from the masks", str(output))
        entries += _saved(folder, "host.onnx", "host") + _saved(folder, "as_fabricated.onnx", "as-fabricated")
        shutil.rmtree(work)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            pfmc_version=__version__,
            model=ModelEntry(path="model/model.onnx", name=model.name, sha256=imported.sha256),
            target=options.target,
            backend=backend.name,
            technology=technology,
            calibration=Calibration(data=dataset.source, samples=dataset.samples, seed=options.seed),
            passes=tuple(PassEntry(name=p.name, options=p.options()) for p in passes),
            tiles=len(layout.tiles),
            devices=emission.devices,
            unused_devices=emission.unused_devices,
            chip=_chip_size(layout),
            personalisation_layers=tuple(map(str, technology.personalisation_layers)),
            personalisation_masks=tuple(map(str, technology.personalisation_masks)),
            on_host={n.name: n.reason for n in imported.graph.nodes if isinstance(n, HostNode) and n.reason},
            files=tuple(file_entry(folder, path, role) for path, role in sorted(entries)),
            **_shares(layout, counts),
        )
        write_manifest(folder, manifest)
    return manifest


def default_technology(target: str) -> str:
    """Name of the technology that a target uses if none is named.

    Raises:
        UsageError: unknown target.
    """
    return backend_for(target).default_technology


def pipeline(backend: Backend, options: CompileOptions) -> list[Pass[Any, Any]]:
    """The passes of a compile with their options.

    Raises:
        UsageError: unknown pass or option, or a setting for a pass that is not in the pipeline.
    """
    names = list(backend.pipeline)
    for added in options.add_passes:
        kind = load_pass(added)
        if kind.after not in names:
            raise UsageError(
                f"it belongs after {kind.after or 'no pass'}, which is not in the pipeline", f"pass {added}"
            )
        names.insert(names.index(kind.after) + 1, added)
    for name in (*options.settings, *options.print_after):
        if name not in names:
            raise UsageError("no such pass in the pipeline", name, f"passes: {', '.join(names)}")
    return [with_options(load_pass(name), dict(options.settings.get(name, {}))) for name in names]


def _dataset(path: Path | None, inputs: Sequence[InputSpec], seed: int, samples: int = RANDOM_SAMPLES) -> Dataset:
    if path is not None:
        return load_dataset(path, inputs)
    return random_dataset(inputs, samples, np.random.default_rng(seed))


def _write_shared_files(folder: Path, layout: Layout, imported: ImportedModel) -> list[TileRecord]:
    primitive = CrossbarTile.of(layout.technology).name
    records = [TileRecord.of(placed.tile, primitive, placed.x, placed.y) for placed in layout.tiles]
    write_tiles(folder / "tiles.parquet", records)
    mapped = {tile.node for tile in layout.netlist.tiles}
    save_model(host_model(imported.folded, layout.netlist.graph, mapped), folder / "host.onnx")
    return records


def _model_files(folder: Path, imported: ImportedModel) -> list[tuple[str, str]]:
    """Copy the model and its external data: a bundle can be verified anywhere."""
    source = imported.files[0].parent
    copied = [("model/model.onnx", "model")]
    copied += [(f"model/{path.relative_to(source).as_posix()}", "model-data") for path in imported.files[1:]]
    for (name, _), path in zip(copied, imported.files, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return copied


def _saved(folder: Path, name: str, role: str) -> list[tuple[str, str]]:
    """A model that was saved, and its external data if it needed some."""
    data = f"{name}.data"
    return [(name, role), *([(data, f"{role}-data")] if (folder / data).exists() else [])]


def _counted(built: Iterable[TileAsBuilt]) -> tuple[Iterable[TileAsBuilt], Callable[[], int]]:
    """Pass tiles on and add up what was found in them."""
    total = 0

    def passing() -> Iterable[TileAsBuilt]:
        nonlocal total
        for tile in built:
            total += tile.found
            yield tile

    return passing(), lambda: total


def _chip_size(layout: Layout) -> ChipSize:
    to_micrometres = layout.technology.grid.database_unit.si * 1e6
    return ChipSize(
        width_um=round(layout.width * to_micrometres, 6), height_um=round(layout.height * to_micrometres, 6)
    )


def _shares(layout: Layout, counts: Counts) -> dict[str, Share]:
    nodes = [node for node, _ in layout.netlist.by_node()]
    weights = {node.weight.name: int(np.prod(node.weight.shape, dtype=np.int64)) for node in nodes}
    macs = sum(counts.macs_by_node.get(node.name, 0) for node in nodes)
    return {
        "parameters": Share(total=counts.parameters, mapped=sum(weights.values())),
        "macs": Share(total=counts.macs, mapped=macs),
    }


@dataclass(frozen=True)
class VerifyOptions:
    """What a verify can be told.

    Attributes:
        data: npz file; None: random inputs drawn from ``seed``.
        samples: how many to use at most; None: all of the file.
        tolerance: largest relative error that passes.
        accept_modified: whether files that were changed after the compile may pass.
        ideal_converters: leave rounding and clipping of the converters out: what the masks alone do.
    """

    data: Path | None = None
    samples: int | None = None
    tolerance: float = 0.05
    accept_modified: bool = False
    ideal_converters: bool = False
    seed: int = 0


def verify_bundle(folder: Path, options: VerifyOptions, observer: Observer) -> Verification:
    """Measure what a bundle's files compute and compare it with the original model.

    Raises:
        PfmcError: if the data do not fit, or the bundle cannot be understood though its files are unchanged.
    """
    manifest = read_manifest(folder)
    observer.stage("hashing the files")
    modified = modified_files(folder, manifest)
    common: dict[str, Any] = {
        "devices": manifest.devices,
        "modified_files": modified,
        "accept_modified": options.accept_modified,
        "tolerance": options.tolerance,
        "converters": "ideal" if options.ideal_converters else "technology",
    }
    try:
        reference = Runtime(manifest.path_of(folder, "model"))
        dataset = _dataset(options.data, reference.inputs, options.seed, options.samples or RANDOM_SAMPLES)
        if options.samples is not None:
            dataset = dataset.take(options.samples)
        fabricated, found, complaints = rebuild(folder, manifest, observer, options.ideal_converters)
    except (ArtifactError, ImportModelError, VerifyError) as e:
        if not modified:
            raise
        return Verification.unmeasured(complaints=(str(e),), **common)
    observer.stage("running both models")
    comparison = compare(reference.run(dataset, BATCH), fabricated.run(dataset, BATCH), dataset.labels)
    return Verification.of(
        comparison,
        samples=dataset.samples,
        data=dataset.source,
        devices_read_back=found,
        complaints=complaints,
        **common,
    )


def rebuild(
    folder: Path, manifest: Manifest, observer: Observer, ideal_converters: bool = False
) -> tuple[Runtime, int, tuple[str, ...]]:
    """The as-fabricated model, from the masks as they are now.

    Returns:
        The model ready to run, the number of devices found in the masks, and what the reader complained about.
    """
    backend = load_backend(manifest.backend)
    records = read_tiles(manifest.path_of(folder, "tiles"))
    progress = observer.stage("reading the masks back", len(records))
    complaints: list[str] = []
    found = 0

    def watched() -> Iterable[TileAsBuilt]:
        nonlocal found
        for tile in backend.read(folder, manifest.technology, records, progress):
            found += tile.found
            complaints.extend(tile.complaints)
            yield tile

    host = manifest.path_of(folder, "host")
    model = as_fabricated(host, records, watched(), manifest.technology, ideal_converters=ideal_converters)
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        path = Path(work) / "as_fabricated.onnx"
        save_model(model, path)
        return Runtime(path), found, tuple(complaints)


def export_bundle(
    folder: Path, format: str, path: Path, *, tile: str | None = None, devices: Path | None = None
) -> None:
    """Write one of the formats of the bundle's backend, or "onnx": the as-fabricated model.

    Raises:
        PfmcError: unknown format or tile, or files that cannot be understood.
    """
    manifest = read_manifest(folder)
    backend = load_backend(manifest.backend)
    records = read_tiles(manifest.path_of(folder, "tiles"))
    if format not in backend.formats:
        raise UsageError("no such format", format, f"formats of {backend.name}: {', '.join(sorted(backend.formats))}")
    if tile is not None and tile not in {record.name for record in records}:
        raise UsageError("no such tile in the bundle", tile, f"tiles: {records[0].name} to {records[-1].name}")
    if not path.parent.is_dir():
        raise UsageError("no such folder", str(path.parent), "make it first")
    try:
        backend.export(folder, manifest.technology, records, format, path, tile=tile, devices=devices)
    except OSError as e:
        raise ArtifactError(f"writing failed: {e.strerror or e}", str(path)) from None
