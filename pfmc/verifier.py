"""The job of verifying: measure what a bundle's files compute, against the original model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pfmc.bundle import Manifest, TileRecord, modified_files, read_manifest, read_tiles
from pfmc.check.compare import compare
from pfmc.check.monte_carlo import Fabrication, MonteCarlo, monte_carlo
from pfmc.check.rebuild import rebuild
from pfmc.check.verify import Verification
from pfmc.data import RANDOM_SAMPLES, Dataset, InputSpec, load_dataset, load_values, scrambled
from pfmc.errors import ArtifactError, DataError, ImportModelError, UsageError, VerifyError
from pfmc.frontend.runtime import BATCH, Runtime
from pfmc.observer import Observer
from pfmc.registry import load_backend
from pfmc.sections import Layer

MEMORY: Final = 2**30  # bytes that the values between two nodes of an as-fabricated model may take
BYTES: Final = 12  # of each number in front of or behind converters: float32, three at a time; measured on convolutions


@dataclass(frozen=True)
class VerifyOptions:
    """What a verify can be told.

    Attributes:
        data: npz file; None: random inputs drawn from ``seed``.
        samples: how many to use at most; None: all of the file.
        tolerance: largest relative error that passes.
        accept_modified: whether files that were changed after the compile may pass.
        ideal_converters: leave rounding and clipping of the converters out: what the masks alone do.
        ideal_wires: leave the resistance of the wires out: what the strips alone do.
        drc: check the files against the technology's design rules.
        lvs: compare the files' connections with what they should be.
        monte_carlo: how many chips to draw from ``seed`` as they are made; None: none.
        trim: whether those are trimmed by their own measurement, on inputs as in calibration.
        post_matrix: whether that gives each volume of glass a small digital matrix, not only each output a gain.
    """

    data: Path | None = None
    samples: int | None = None
    tolerance: float = 0.05
    accept_modified: bool = False
    ideal_converters: bool = False
    ideal_wires: bool = False
    drc: bool = False
    lvs: bool = False
    monte_carlo: int | None = None
    trim: bool = False
    post_matrix: bool = False
    seed: int = 0


def verify_bundle(folder: Path, options: VerifyOptions, observer: Observer) -> Verification:
    """Measure what a bundle's files compute and compare it with the original model.

    Raises:
        PfmcError: if the data do not fit, or the bundle cannot be understood though its files are unchanged.
    """
    trim = "--post-matrix" if options.post_matrix else "--trim"
    if (options.trim or options.post_matrix) and options.monte_carlo is None:
        raise UsageError("only chips as they are made are trimmed", trim, "give --monte-carlo K too")
    manifest = read_manifest(folder)
    if options.post_matrix and manifest.target != "glass":
        raise UsageError("a crossbar has as many columns as rows: its matrix would be the layer", trim, "use --trim")
    observer.stage("hashing the files")
    modified = modified_files(folder, manifest)
    common: dict[str, Any] = {
        "devices": manifest.devices,
        "modified_files": modified,
        "accept_modified": options.accept_modified,
        "tolerance": options.tolerance,
        "wires": "ideal" if options.ideal_wires else "technology",
        "converters": "ideal" if options.ideal_converters else "technology",
    }
    try:
        reference = Runtime(manifest.path_of(folder, "model"))
        dataset = _test_data(folder, manifest, options, reference.inputs)
        common |= _inspected(folder, manifest, options, observer)
        rebuilt = rebuild(
            folder,
            load_backend(manifest.backend),
            manifest.technology,
            observer.stage("reading the files back", manifest.tiles),
            tiles=manifest.path_of(folder, "tiles"),
            host=manifest.path_of(folder, "host"),
            ideal_converters=options.ideal_converters,
            ideal_wires=options.ideal_wires,
        )
        fabricated = rebuilt.runtime()
    except (ArtifactError, ImportModelError, VerifyError) as e:
        if not modified:
            raise
        return Verification.unmeasured(complaints=(str(e),), **common)
    observer.stage("running both models")
    wanted = reference.run(dataset, BATCH)
    batch = together(read_tiles(manifest.path_of(folder, "tiles")), manifest.layers)
    comparison = compare(wanted, fabricated.run(dataset, batch), dataset.labels)
    if options.monte_carlo is not None:
        common["monte_carlo"] = _made_chips(folder, manifest, options, dataset, wanted, observer)
    return Verification.of(
        comparison,
        samples=dataset.samples,
        data=dataset.source,
        devices_read_back=rebuilt.found,
        complaints=rebuilt.complaints,
        **common,
    )


def _made_chips(
    folder: Path,
    manifest: Manifest,
    options: VerifyOptions,
    dataset: Dataset,
    wanted: Mapping[str, np.ndarray],
    observer: Observer,
) -> MonteCarlo:
    """What chips compute that are drawn from the technology's variation."""
    runs = options.monte_carlo or 0
    chips = fabrication(folder, manifest, options, observer)
    progress = observer.stage("making chips", runs)
    return monte_carlo(chips, dataset, wanted, runs=runs, tolerance=options.tolerance, progress=progress)


def together(tiles: Iterable[TileRecord], layers: Iterable[Layer]) -> int:
    """How many samples of the as-fabricated model are run at a time, so that about ``MEMORY`` is enough.

    Between the converters of a contraction there is a number for each row and column of its tiles, several times over,
    for every window or token.
    """
    sides: Counter[str] = Counter()
    for tile in tiles:
        sides[tile.node] += tile.row_stop - tile.row_start + tile.column_stop - tile.column_start
    numbers = max((layer.uses * sides[layer.node] for layer in layers), default=1)
    return max(1, min(BATCH, MEMORY // (BYTES * max(numbers, 1))))


def fabrication(folder: Path, manifest: Manifest, options: VerifyOptions, observer: Observer) -> Fabrication:
    """Chips of a bundle as they are made, all tiles of them in memory.

    Raises:
        PfmcError: if the bundle cannot be understood.
    """
    technology, records = manifest.technology, read_tiles(manifest.path_of(folder, "tiles"))
    reading = observer.stage("reading the masks again", len(records))
    values = load_values(manifest.path_of(folder, "input-values"), Runtime(manifest.path_of(folder, "model")).inputs)
    return Fabrication.of(
        technology,
        manifest.path_of(folder, "host"),
        records,
        load_backend(manifest.backend).read(folder, technology, records, reading),
        values,
        batch=together(records, manifest.layers),
        seed=options.seed,
        trim=options.trim or options.post_matrix,
        post_matrix=options.post_matrix,
        ideal_converters=options.ideal_converters,
        ideal_wires=options.ideal_wires,
    )


def _inspected(folder: Path, manifest: Manifest, options: VerifyOptions, observer: Observer) -> dict[str, Any]:
    """What the checks of the files find that were asked for."""
    found: dict[str, Any] = {}
    if not (options.drc or options.lvs):
        return found
    backend, technology = load_backend(manifest.backend), manifest.technology
    tiles = read_tiles(manifest.path_of(folder, "tiles"))
    if options.drc:
        progress = observer.stage("checking design rules", len(tiles))
        found["drc"] = backend.check_rules(folder, technology, tiles, progress)
    if options.lvs:
        progress = observer.stage("comparing connections", len(tiles))
        found["lvs"] = backend.check_connectivity(folder, technology, tiles, progress)
    return found


def _test_data(folder: Path, manifest: Manifest, options: VerifyOptions, inputs: Sequence[InputSpec]) -> Dataset:
    """The user's data; else random inputs with the values that each entry had in calibration."""
    if options.data is not None:
        dataset = load_dataset(options.data, inputs)
        return dataset if options.samples is None else dataset.take(options.samples)
    try:
        values = load_values(manifest.path_of(folder, "input-values"), inputs)
    except DataError as e:
        raise ArtifactError(e.what, e.where) from None
    return scrambled(values, options.samples or RANDOM_SAMPLES, np.random.default_rng(options.seed))
