"""The job of verifying: measure what a bundle's files compute, against the original model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfmc.backend import TileAsBuilt
from pfmc.bundle import Manifest, modified_files, read_manifest, read_tiles
from pfmc.check.compare import compare
from pfmc.check.lift import as_fabricated, save_model
from pfmc.check.verify import Verification
from pfmc.data import RANDOM_SAMPLES, Dataset, InputSpec, load_dataset, load_values, scrambled
from pfmc.errors import ArtifactError, DataError, ImportModelError, VerifyError
from pfmc.frontend.runtime import BATCH, Runtime
from pfmc.observer import Observer
from pfmc.registry import load_backend


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
        dataset = _test_data(folder, manifest, options, reference.inputs)
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
