"""The jobs of compiling a model into a bundle, and of exporting what lies in one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from pfmc._version import __version__
from pfmc.accounts import Accounts, accounted
from pfmc.backend import Backend, Emission, Progress
from pfmc.bench import Bench, Requirement
from pfmc.bundle import (
    FORMAT_VERSION,
    Manifest,
    file_entry,
    new_bundle,
    new_file,
    read_manifest,
    read_tiles,
    write_manifest,
    write_tiles,
)
from pfmc.check.lift import host_model, save_model
from pfmc.check.rebuild import rebuild
from pfmc.data import RANDOM_SAMPLES, Dataset, load_dataset, save_values, scrambled
from pfmc.errors import ArtifactError, PassError, UsageError
from pfmc.frontend.activations import recorder
from pfmc.frontend.counts import Counts, count, drawn_inputs
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.frontend.runtime import BATCH, Runtime
from pfmc.frontend.selection import Selection
from pfmc.ir.graph import HostNode
from pfmc.layout.glass import AnyLayout
from pfmc.netlist.netlist import Netlist
from pfmc.observer import Observer
from pfmc.passmanager import Context, Pass, render, run_passes, run_pipeline, with_options
from pfmc.registry import backend_for, load_backend, load_pass
from pfmc.sections import AttentionEntry, Calibration, ModelEntry, PassEntry, SavingEntry, Share
from pfmc.tailoring import tailored
from pfmc.technology.kinds import AnyTechnology, crossbars
from pfmc.technology.loader import load as load_technology
from pfmc.technology.schema import Technology
from pfmc.uses import vectors_per_inference

FORMATS: Final = {"onnx": "the as-fabricated model, rebuilt from the files as they are: for any ONNX Runtime"}


@dataclass(frozen=True)
class CompileOptions:
    """What a compile can be told.

    Attributes:
        target: "crossbar" or "glass".
        technology: name or file; None: the target's default.
        calibration: npz file; None: random inputs drawn from ``seed``.
        settings: pass name → option → text.
        add_passes: passes to add to the backend's pipeline, each behind the pass that it names.
        print_after: passes whose result is shown in textual form.
        selection: which contractions are mapped; the others stay digital.
        tables: patterns of names of Gather nodes whose constant tables are mapped too.
        low_rank: error of matrices that may be split into two of a small rank; None: none is.
        spatial_unroll: sets of tiles at most of a contraction with many input vectors; None: as the settings say.
        requirement: an accuracy that converters, tiles and wires are chosen for; None: what the technology says.
        workers: processes that construct tiles side by side; None: one per core that this process may use.
        resume: go on with what an interrupted compile into the same folder has finished.
    """

    target: str = "crossbar"
    technology: str | None = None
    calibration: Path | None = None
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    add_passes: tuple[str, ...] = ()
    print_after: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    tables: tuple[str, ...] = ()
    low_rank: float | None = None
    spatial_unroll: int | None = None
    requirement: Requirement | None = None
    seed: int = 0
    workers: int | None = None
    resume: bool = False


def compile_model(model: Path, output: Path, options: CompileOptions, observer: Observer) -> Manifest:
    """Compile a model into a bundle at ``output``, written whole or not at all.

    Raises:
        PfmcError: naming what is wrong.
    """
    backend = backend_for(options.target)
    technology = load_technology(options.technology or backend.default_technology)
    if technology.target != backend.target:
        raise UsageError(
            f"it is for target {technology.target}, not {backend.target}",
            f"technology {technology.name}",
            f"--target {technology.target}",
        )
    passes = pipeline(backend, options)
    checkpoint = output.parent / f".{output.name}.checkpoint"
    if not options.resume:
        shutil.rmtree(checkpoint, ignore_errors=True)
    # Tiles' matrices are small: BLAS's threads would only wait for each other.
    with new_bundle(output) as folder, threadpool_limits(limits=1, user_api="blas"):
        work = folder / ".work"
        work.mkdir()
        observer.stage("reading the model")
        source = _Source.read(model, work, options)
        context = source.context(technology, checkpoint, observer)
        sizing = None
        if options.requirement is not None:
            context, sizing = source.tailored(options.requirement, passes, context, observer)
        layout = run_pipeline(passes, source.imported.graph, context, after=partial(_passed, options, observer))
        emission, accounts = _emitted(folder, backend, layout, source, observer)
        shutil.rmtree(work)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            pfmc_version=__version__,
            model=ModelEntry(path=_model_name(source.imported), name=source.model.name, sha256=source.imported.sha256),
            target=options.target,
            backend=backend.name,
            calibration=source.calibration(layout.netlist),
            passes=tuple(PassEntry(name=p.name, options=p.options()) for p in passes),
            devices=emission.devices,
            unused_devices=emission.unused_devices,
            on_host={n.name: n.reason for n in source.imported.graph.nodes if isinstance(n, HostNode) and n.reason},
            files=tuple(file_entry(folder, path, role) for path, role in sorted(emission.files)),
            **_sizes(layout, source.counts),
            **accounts.sections,
            sizing=sizing,
        )
        write_manifest(folder, manifest)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return manifest


@dataclass(frozen=True)
class _Source:
    """What is compiled, and with what data.

    Attributes:
        reached: gathers the values that the calibration data had: in a branch that is never taken there are none.
    """

    model: Path
    imported: ImportedModel
    dataset: Dataset
    counts: Counts
    options: CompileOptions
    reached: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, model: Path, work: Path, options: CompileOptions) -> _Source:
        """A model, its calibration data or drawn ones, and what of it is to be mapped."""
        imported = import_model(model, work, options.tables)
        if options.calibration is not None:
            dataset = load_dataset(options.calibration, imported.inputs)
            counts = count(imported, dataset)
        else:
            dataset, counts = drawn_inputs(imported, RANDOM_SAMPLES, options.seed)
        imported = replace(imported, graph=options.selection.of(imported.graph, str(model)))
        return cls(model, imported, dataset, counts, options)

    def context(self, technology: AnyTechnology, checkpoint: Path, observer: Observer) -> Context:
        """For the passes."""
        return Context(
            technology,
            self._activations,
            f"pfmc {self.imported.sha256[:16]}",
            vectors=self.vectors,
            seed=self.options.seed,
            workers=self.options.workers or os.cpu_count() or 1,
            checkpoint=checkpoint,
            stage=observer.stage,
        )

    def vectors(self, netlist: Netlist) -> Mapping[str, Sequence[int]]:
        """Matrix-vector products per inference, by contraction."""
        return vectors_per_inference(netlist, self.counts.macs_by_node)

    def tailored(
        self, requirement: Requirement, passes: Sequence[Pass[Any, Any]], context: Context, observer: Observer
    ) -> tuple[Context, Sizing]:
        """The context with the technology and the provisions that reach an accuracy."""
        names = [step.name for step in passes]
        cut, whole = names.index("tile") + 1, names.index("provide")
        technology, chosen, sizing = tailored(
            crossbars(context.technology, "an accuracy that is asked for", "average volumes, --set provide.copies=2"),
            lambda candidate: self._netlist(passes[:cut], candidate, context),
            lambda candidate: self._bench(self._netlist(passes[:whole], candidate, context), candidate),
            requirement,
            observer,
            sizes="tile" not in self.options.settings,
        )
        return replace(context, technology=technology, provisions=lambda _netlist: chosen), sizing

    def calibration(self, netlist: Netlist) -> Calibration:
        """What the ranges of a netlist rest on."""
        users = netlist.users().items()
        unreached = (name for name, some in users if not any(user.observed in self.reached for user in some))
        return Calibration(
            data=self.dataset.source,
            samples=self.dataset.samples,
            seed=self.options.seed,
            unreached=tuple(unreached),
        )

    def _activations(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        for batch in recorder(self.imported, self.dataset, BATCH)(names):
            self.reached.update(name for name, value in batch.items() if value.size)
            yield batch

    def _netlist(self, passes: Sequence[Pass[Any, Any]], technology: Technology, context: Context) -> Netlist:
        """What the first passes make in a technology."""
        made = run_passes(passes, self.imported.graph, replace(context, technology=technology))
        if not isinstance(made, Netlist):
            raise PassError("it makes no netlist", f"pass {passes[-1].name}")
        return made

    def _bench(self, netlist: Netlist, technology: Technology) -> Bench:
        """Chips of a netlist. Their host model lies nowhere but beside the folded one."""
        host = self.imported.folded.with_name("sized_host.onnx")
        save_model(host_model(self.imported.folded, netlist.graph, netlist.mapped()), host)
        return Bench.of(technology, netlist, host, self.dataset, Runtime(self.model), self.options.seed)


def _passed(options: CompileOptions, observer: Observer, step: Pass[Any, Any], result: Any) -> None:
    """Tell that a pass is done, and show what it made where that was asked for."""
    if step.name in options.print_after:
        observer.show(f"; after {step.name}\n{render(result)}")
    observer.stage(f"{step.name} done")


def _emitted(
    folder: Path, backend: Backend, layout: AnyLayout, source: _Source, observer: Observer
) -> tuple[Emission, Accounts]:
    """Write the files of a bundle and read them back; the emission has all of their names."""
    metered, accounts_of = accounted(layout, source.vectors(layout.netlist))
    emission = backend.emit(metered, folder, observer.stage("writing the files", len(layout.tiles)))
    accounts = accounts_of(emission)
    dataset = source.dataset
    kept = scrambled(dataset, min(RANDOM_SAMPLES, dataset.samples), np.random.default_rng(source.options.seed))
    save_values(folder / "input_values.npz", kept)
    files = [
        *emission.files,
        *_model_files(folder, source.imported),
        *_shared_files(folder, layout, accounts, source.imported),
        ("input_values.npz", "input-values"),
    ]
    progress = observer.stage("reading the files back", len(layout.tiles))
    files += _fabricated_files(folder, backend, layout.technology, emission, progress)
    return replace(emission, files=tuple(files)), accounts


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
    settings = {name: dict(some) for name, some in options.settings.items()}
    add_passes = list(options.add_passes)
    if options.low_rank is not None:
        add_passes += [] if "factorise" in add_passes else ["factorise"]
        settings.setdefault("factorise", {})["error"] = str(options.low_rank)
    if options.spatial_unroll is not None:
        settings.setdefault("unroll", {})["times"] = str(options.spatial_unroll)
    for added in add_passes:
        kind = load_pass(added)
        if kind.after not in names:
            raise UsageError(
                f"it belongs after {kind.after or 'no pass'}, which is not in the pipeline", f"pass {added}"
            )
        names.insert(names.index(kind.after) + 1, added)
    for name in (*settings, *options.print_after):
        if name not in names:
            raise UsageError("no such pass in the pipeline", name, f"passes: {', '.join(names)}")
    return [with_options(load_pass(name), settings.get(name, {})) for name in names]


def _shared_files(
    folder: Path, layout: AnyLayout, accounts: Accounts, imported: ImportedModel
) -> list[tuple[str, str]]:
    """Write what every backend's bundle has: the table of tiles and the host model."""
    write_tiles(folder / "tiles.parquet", accounts.records, accounts.details)
    mapped = layout.netlist.mapped()
    save_model(host_model(imported.folded, layout.netlist.graph, mapped), folder / "host.onnx")
    return [("tiles.parquet", "tiles"), *_saved(folder, "host.onnx", "host")]


def _model_name(imported: ImportedModel) -> str:
    """Where the model lies in the bundle; not where a file of its external data must lie."""
    source = imported.files[0].parent
    data = {path.relative_to(source).as_posix() for path in imported.files[1:]}
    name = "model.onnx"
    while name in data:
        name = f"_{name}"
    return f"model/{name}"


def _model_files(folder: Path, imported: ImportedModel) -> list[tuple[str, str]]:
    """Copy the model and its external data: a bundle can be verified anywhere."""
    source = imported.files[0].parent
    copied = [(_model_name(imported), "model")]
    copied += [(f"model/{path.relative_to(source).as_posix()}", "model-data") for path in imported.files[1:]]
    for (name, _), path in zip(copied, imported.files, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return copied


def _fabricated_files(
    folder: Path, backend: Backend, technology: AnyTechnology, emission: Emission, progress: Progress
) -> list[tuple[str, str]]:
    """Read the files back and write the as-fabricated model.

    Raises:
        ArtifactError: if not every device is found again.
    """
    tiles, host = folder / "tiles.parquet", folder / "host.onnx"
    rebuilt = rebuild(folder, backend, technology, progress, tiles=tiles, host=host)
    if rebuilt.found != emission.devices:
        raise ArtifactError(f"{rebuilt.found} of {emission.devices} devices were read back from the files", str(folder))
    save_model(rebuilt.model, folder / "as_fabricated.onnx")
    return _saved(folder, "as_fabricated.onnx", "as-fabricated")


def _saved(folder: Path, name: str, role: str) -> list[tuple[str, str]]:
    """A model that was saved, and its external data if it needed some."""
    data = f"{name}.data"
    return [(name, role), *([(data, f"{role}-data")] if (folder / data).exists() else [])]


def _sizes(layout: AnyLayout, counts: Counts) -> dict[str, Any]:
    """The manifest's entries that follow from the layout."""
    technology = layout.technology
    nodes = [node for node, _ in layout.netlist.by_node()]
    weights = {origin.weight.name: origin.weight.size for node in nodes for origin in node.origins}
    users = layout.netlist.users().items()
    mapped = {origin.name for _, some in users for user in some for origin in user.origins}
    macs = sum(counts.macs_by_node.get(name, 0) for name in mapped)
    return {
        "technology": technology,
        "personalisation_layers": tuple(map(str, technology.personalisation_layers)),
        "personalisation_masks": tuple(map(str, technology.personalisation_masks)),
        "tiles": len(layout.tiles),
        "parameters": Share(total=counts.parameters, mapped=sum(weights.values())),
        "macs": Share(total=counts.macs, mapped=macs),
        "attentions": tuple(AttentionEntry.of(attention) for attention in layout.netlist.graph.attentions),
        "savings": tuple(SavingEntry.of(saving) for saving in layout.netlist.savings),
        "shared_tiles": {name: tuple(user.name for user in some[1:]) for name, some in users if len(some) > 1},
    }


def export_bundle(
    folder: Path, format: str, path: Path, *, tile: str | None = None, devices: Path | None = None
) -> None:
    """Write one of the formats of the bundle's backend, or of ``FORMATS``.

    Raises:
        PfmcError: unknown format or tile, or files that cannot be understood.
    """
    manifest = read_manifest(folder)
    backend = load_backend(manifest.backend)
    records = read_tiles(manifest.path_of(folder, "tiles"))
    if format not in (formats := FORMATS | dict(backend.formats)):
        raise UsageError("no such format", format, f"formats of {backend.name}: {', '.join(sorted(formats))}")
    if tile is not None and tile not in {record.name for record in records}:
        raise UsageError("no such tile in the bundle", tile, f"tiles: {records[0].name} to {records[-1].name}")
    if not path.parent.is_dir():
        raise UsageError("no such folder", str(path.parent), "make it first")
    try:
        if format == "onnx":
            _export_model(folder, manifest, path, tile or devices)
        else:
            backend.export(folder, manifest.technology, records, format, path, tile=tile, devices=devices)
    except OSError as e:
        raise ArtifactError(f"writing failed: {e.strerror or e}", str(path)) from None


def _export_model(folder: Path, manifest: Manifest, path: Path, part: object) -> None:
    """What the files compute as they are now; ``part``: of what only that is wanted, which a model cannot be of."""
    if part is not None:
        raise UsageError("the as-fabricated model is of the whole bundle", str(part), "leave it out")
    rebuilt = rebuild(
        folder,
        load_backend(manifest.backend),
        manifest.technology,
        lambda _done: None,
        tiles=manifest.path_of(folder, "tiles"),
        host=manifest.path_of(folder, "host"),
    )
    with new_file(path) as partial:
        save_model(rebuilt.model, partial)
