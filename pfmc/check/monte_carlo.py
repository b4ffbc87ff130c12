"""Chips as made: many of them are drawn from a seed, and each is compared with the original model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pfmc.backend import AsBuilt, Progress, TileAsBuilt, VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.compare import Comparison, compare
from pfmc.check.functions import Crossbars
from pfmc.check.made import ChipMaker, MadeCrossbars, MadeModel, Maker
from pfmc.check.made_glass import GlassMaker, glass_variation
from pfmc.check.trim import Trim, measured_vectors
from pfmc.data import Dataset
from pfmc.frontend.runtime import BATCH
from pfmc.primitives.variation import technology_variation
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.kinds import AnyTechnology

BLAME_SHARE = 50  # one in so many chips is also made with one effect, and with one contraction, at a time
BLAME_SAMPLES = 64  # that those are run on
THREADS = 16  # at most, and so many chips at most are in memory


@dataclass(frozen=True)
class Statistics:
    """Of one number per chip; None where it is no finite number for one of them.

    Attributes:
        mean, sigma: average and standard deviation (n − 1; zero for one chip).
        worst: one chip in twenty is as bad or worse: the 95 % quantile of an error, the 5 % quantile of a merit.
    """

    mean: float | None
    sigma: float | None
    worst: float | None

    @classmethod
    def of(cls, values: Sequence[float | None], *, worst: float) -> Statistics:
        """``worst``: the quantile."""
        numbers = np.array(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            return cls(None, None, None)
        sigma = numbers.std(ddof=1) if len(numbers) > 1 else 0.0
        return cls(float(numbers.mean()), float(sigma), float(np.quantile(numbers, worst)))


@dataclass(frozen=True)
class OutputStatistics:
    """Of one output of the model; see :class:`pfmc.check.compare.OutputComparison`."""

    relative_error: Statistics
    agreement: Statistics


@dataclass(frozen=True)
class Blame:
    """Mean of the largest output's relative error, of chips that differ from the drawing in one thing alone.

    Attributes:
        drawn: of the chip as drawn: what remains where nothing differs.
        effects: by effect, all tiles; the worst first.
        contractions: by contraction, all effects; the worst first.
    """

    drawn: float | None
    effects: dict[str, float | None]
    contractions: dict[str, float | None]


@dataclass(frozen=True)
class MonteCarlo:
    """What made chips compute, against the original model. It takes no part in the verdict.

    Attributes:
        runs: how many chips.
        seed: that they were drawn from: chip k is the same in every run.
        trimmed: whether each chip was trimmed by its own measurement.
        post_matrix: whether the trim was a matrix behind each volume.
        sigma: standard deviation of the relative error over the chips, of the output with the largest mean.
        outputs: output by output.
        accuracy: share of the labels that a chip gets right; None without labels.
        yield_at_tolerance: share of the chips with every output's relative error within the tolerance.
        blame: which effect and which contraction matter.
    """

    runs: int
    seed: int
    trimmed: bool
    sigma: float | None
    outputs: dict[str, OutputStatistics]
    accuracy: Statistics | None
    yield_at_tolerance: float
    blame: Blame
    post_matrix: bool = False


@dataclass(frozen=True, eq=False)
class Fabrication:
    """All that it takes to make chips of a bundle and run them.

    Attributes:
        variation: how much chips differ.
        drawn: what the chip as drawn computes.
        trim: None: chips are used as they are made.
    """

    maker: Maker
    model: MadeModel
    variation: Any
    drawn: Mapping[str, MadeCrossbars]
    trim: Trim | None

    @classmethod
    def of(
        cls,
        technology: AnyTechnology,
        host: Path,
        records: Sequence[TileRecord],
        built: Iterable[AsBuilt],
        calibration: Dataset,
        *,
        seed: int,
        trim: bool,
        post_matrix: bool = False,
        ideal_converters: bool = False,
        ideal_wires: bool = False,
        batch: int = BATCH,
    ) -> Fabrication:
        """Chips whose tiles, all of them in memory, were built so.

        Args:
            host: the host model.
            records, built: of each tile, in the same order.
            calibration: inputs of the model, for the trim.
            seed: chips are drawn from it.
            trim: whether each chip is trimmed by its own measurement.
            post_matrix: whether that is a matrix behind each tile, not a gain behind each column.
            ideal_converters: leave all errors of converters out.
            ideal_wires: leave the resistance of the wires out.
            batch: samples that are run at a time.

        Raises:
            ArtifactError: if the host model cannot be read.
            VerifyError: if tiles and host do not belong together.
        """
        ideal = {"ideal_converters": ideal_converters}
        model, read = MadeModel.of(host, records, technology, **ideal, mixed=post_matrix, batch=batch)
        maker, variation = _maker(technology, model.crossbars, records, built, seed=seed, ideal_wires=ideal_wires)
        drawn = maker.chip(0, maker.still)
        if ideal_converters:
            variation = replace(variation, converter_gain=0.0, converter_offset=0.0, converter_noise=0.0)
        if not trim:
            return cls(maker, model, variation, drawn, None)
        given = model.given(drawn, calibration, maker.generator(0, -2))
        rows = [crossbars.rows for crossbars in model.crossbars.values()]
        vectors = dict(zip(model.crossbars, measured_vectors(read, given, rows, batch), strict=True))
        mixed = records if post_matrix else ()
        return cls(maker, model, variation, drawn, Trim(model.crossbars, drawn, vectors, ideal_converters, mixed))

    def compared(
        self,
        number: int,
        variation: Any,
        dataset: Dataset,
        reference: Mapping[str, np.ndarray],
        node: str | None = None,
    ) -> Comparison:
        """Chip ``number``, all of it or only one contraction as made, against the original model's outputs."""
        return self.judged(number, self.maker.chip(number, variation, node), dataset, reference)

    def judged(
        self, number: int, made: Mapping[str, MadeCrossbars], dataset: Dataset, reference: Mapping[str, np.ndarray]
    ) -> Comparison:
        """Chip ``number``, of which these contractions are as made and the others as drawn, likewise."""
        chip = {**self.drawn, **made}
        rng = self.maker.generator(number, -2)
        if self.trim is not None:
            chip = self.trim.trimmed(chip, rng)
        return compare(reference, self.model.run(chip, dataset, rng), dataset.labels)


def _maker(
    technology: AnyTechnology,
    crossbars: Mapping[str, Crossbars],
    records: Sequence[TileRecord],
    built: Iterable[AsBuilt],
    *,
    seed: int,
    ideal_wires: bool,
) -> tuple[Maker, Any]:
    """Who makes chips of a technology, and how much they differ."""
    if isinstance(technology, GlassTechnology):
        volumes = [volume for volume in built if isinstance(volume, VolumeAsBuilt)]
        maker = GlassMaker.of(technology, crossbars, records, volumes, seed=seed)
        return maker, glass_variation(technology)
    tiles = (tile for tile in built if isinstance(tile, TileAsBuilt))
    chips = ChipMaker.of(technology, crossbars, records, tiles, seed=seed, ideal_wires=ideal_wires)
    return chips, technology_variation(technology)


def monte_carlo(
    fabrication: Fabrication,
    dataset: Dataset,
    reference: Mapping[str, np.ndarray],
    *,
    runs: int,
    tolerance: float,
    progress: Progress,
) -> MonteCarlo:
    """Make chips and compare each of them.

    Args:
        reference: outputs of the original model on the dataset.
        runs: how many chips.
        tolerance: largest relative error that counts for the yield.
        progress: called once for every chip.
    """
    comparisons, blame = _compared(fabrication, dataset, reference, runs, progress)
    outputs = {
        name: OutputStatistics(
            Statistics.of([c.outputs[name].relative_error for c in comparisons], worst=0.95),
            Statistics.of([c.outputs[name].agreement for c in comparisons], worst=0.05),
        )
        for name in reference
    }
    spreads = [output.relative_error for output in outputs.values()]
    accuracies = [c.accuracy["fabricated"] for c in comparisons if c.accuracy is not None]
    within = [error is not None and error <= tolerance for error in map(_largest_error, comparisons)]
    return MonteCarlo(
        runs=runs,
        seed=fabrication.maker.seed,
        trimmed=fabrication.trim is not None,
        post_matrix=fabrication.model.mixed,
        sigma=max(spreads, key=lambda error: np.inf if error.mean is None else error.mean).sigma,
        outputs=outputs,
        accuracy=Statistics.of(accuracies, worst=0.05) if accuracies else None,
        yield_at_tolerance=float(np.mean(within)),
        blame=blame,
    )


def _compared(
    fabrication: Fabrication, dataset: Dataset, reference: Mapping[str, np.ndarray], runs: int, progress: Progress
) -> tuple[list[Comparison], Blame]:
    """Every chip, and what is to blame; see :func:`monte_carlo`."""
    few = dataset.take(BLAME_SAMPLES)
    wanted = {name: values[: few.samples] for name, values in reference.items()}
    numbers = range(-(-runs // BLAME_SHARE))

    def chip(number: int) -> tuple[Comparison, dict[str, float | None]]:
        """All of it; and the error with one contraction at a time as made, where that is to be known."""
        made = fabrication.maker.chip(number, fabrication.variation)
        alone = {name: {name: part} for name, part in made.items() if number in numbers}
        errors = {name: _largest_error(fabrication.judged(number, one, few, wanted)) for name, one in alone.items()}
        return fabrication.judged(number, made, dataset, reference), errors

    def with_effect(variation: Any, number: int) -> float | None:
        return _largest_error(fabrication.compared(number, variation, few, wanted))

    comparisons, by_contraction = [], []
    # One BLAS thread: see compile_model. Each chip has generators of its own: the threads do not matter.
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS)) as pool:
        chips = pool.map(chip, range(runs))
        effects = {
            effect: pool.map(partial(with_effect, variation), numbers)
            for effect, variation in _one_at_a_time(fabrication).items()
        }
        try:
            for comparison, errors in chips:
                comparisons.append(comparison)
                by_contraction.append(errors)
                progress(1)
            blame = Blame(
                drawn=_largest_error(fabrication.judged(0, {}, few, wanted)),
                effects=_worst_first({effect: list(found) for effect, found in effects.items()}),
                contractions=_worst_first(
                    {name: [by_contraction[number][name] for number in numbers] for name in fabrication.drawn}
                ),
            )
        finally:
            pool.shutdown(cancel_futures=True)
    return comparisons, blame


def _one_at_a_time(fabrication: Fabrication) -> dict[str, Any]:
    """By effect, what chips vary in if nothing else does."""
    still, whole = fabrication.maker.still, fabrication.variation
    return {
        effect: replace(still, **{name: getattr(whole, name) for name in names})
        for effect, names in fabrication.maker.effects.items()
    }


def _worst_first(errors: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """The mean of each, the largest first; where one is no number, before all."""
    means = {name: Statistics.of(found, worst=0.95).mean for name, found in errors.items()}
    return dict(sorted(means.items(), key=lambda item: -np.inf if item[1] is None else -item[1]))


def _largest_error(comparison: Comparison) -> float | None:
    errors = [output.relative_error for output in comparison.outputs.values()]
    return None if None in errors else max(error for error in errors if error is not None)
