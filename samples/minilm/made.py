"""Say how far the sentence vectors of chips as they are made are from the original's.

    python -m samples.minilm.made BUNDLE FOLDER/test.npz

Two chips each: with the mismatch of devices alone, with all of the process's errors, and with those and trimmed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pfmc.bundle import read_manifest
from pfmc.check.monte_carlo import Fabrication
from pfmc.data import Dataset, load_dataset
from pfmc.frontend.runtime import Runtime
from pfmc.observer import Silent
from pfmc.verifier import VerifyOptions, fabrication
from samples.minilm.judge import judged, unit

CHIPS = 2
OUTPUT = "sentence"


def show(what: str, chips: Fabrication, variation: Any, dataset: Dataset, original: np.ndarray) -> None:
    """Print a line per chip."""
    for number in range(CHIPS):
        rng = chips.maker.generator(number, -2)
        made = chips.maker.chip(number, variation)
        made = chips.trim.trimmed(made, rng) if chips.trim else made
        found = unit(chips.model.run(made, dataset, rng)[OUTPUT])
        print(f"{what}, chip {number}: {judged(original, found)}", flush=True)


def main() -> None:
    """Make the chips from seed 0."""
    folder, test = map(Path, sys.argv[1:])
    manifest, observer = read_manifest(folder), Silent()
    reference = Runtime(manifest.path_of(folder, "model"))
    dataset = load_dataset(test, reference.inputs)
    original = unit(reference.run(dataset)[OUTPUT])
    chips = fabrication(folder, manifest, VerifyOptions(trim=True), observer)
    untrimmed, still = replace(chips, trim=None), chips.maker.still
    fields = chips.maker.effects["mismatch"]
    mismatch = replace(still, **{name: getattr(chips.variation, name) for name in fields})
    show("mismatch", untrimmed, mismatch, dataset, original)
    show("all errors", untrimmed, chips.variation, dataset, original)
    show("all errors, trimmed", chips, chips.variation, dataset, original)


if __name__ == "__main__":
    main()
