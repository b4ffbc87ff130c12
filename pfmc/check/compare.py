"""How far the outputs of the as-fabricated model are from those of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from pfmc.errors import DataError, VerifyError


@dataclass(frozen=True)
class OutputComparison:
    """One output of the model.

    Attributes:
        relative_error: ‖y_fab − y_ref‖₂ / ‖y_ref‖₂ over all samples. None where it is no finite number: NaN or infinity
            in either output, different shapes, or a reference of zeros only that was not met. None never passes.
        cosine: of the angle between both outputs, taken as one vector over all samples; None where relative_error is.
        agreement: share of positions (all axes but the last: samples, and whatever else there is) with the same argmax
            over the last axis; share of equal entries for outputs with one axis or not of floating-point type.
    """

    relative_error: float | None
    cosine: float | None
    agreement: float


@dataclass(frozen=True)
class Comparison:
    """Each output by name; and where labels are known, the share of them that each model gets right.

    ``accuracy`` has the keys "reference" and "fabricated".
    """

    outputs: dict[str, OutputComparison]
    accuracy: dict[str, float] | None


def compare(
    reference: Mapping[str, np.ndarray], fabricated: Mapping[str, np.ndarray], labels: np.ndarray | None
) -> Comparison:
    """Compare the outputs of both models on the same samples.

    Args:
        reference: of the original model, by name, first axis the samples.
        fabricated: likewise.
        labels: classes, one per sample or per position of the first output that fits: its shape less the last axis, or
            all of it where the output is the class itself.

    Raises:
        VerifyError: if the models have different outputs.
        DataError: if the labels fit no output.
    """
    if reference.keys() != fabricated.keys():
        odd = min(reference.keys() ^ fabricated.keys())
        raise VerifyError("only one of the two models has this output", f"output {odd}")
    outputs = {name: _compare(reference[name], fabricated[name]) for name in reference}
    return Comparison(outputs, None if labels is None else _accuracy(reference, fabricated, labels))


def _compare(reference: np.ndarray, fabricated: np.ndarray) -> OutputComparison:
    if reference.shape != fabricated.shape:
        return OutputComparison(None, None, 0.0)
    agreement = _share(_decisions(reference) == _decisions(fabricated))
    if reference.dtype.kind in "OSU":  # text: as if each were a unit vector of its own
        return OutputComparison(float(np.sqrt(2 * (1 - agreement))), agreement, agreement)
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (reference, fabricated))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return OutputComparison(None, None, agreement)
    if np.array_equal(a, b):
        return OutputComparison(0.0, 1.0, agreement)
    scale = max(np.abs(a).max(), np.abs(b).max())  # squares of large numbers would overflow
    a, b = a / scale, b / scale
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    if length_a == 0:
        return OutputComparison(None, None, agreement)
    cosine = float(a @ b / (length_a * length_b)) if length_b else 0.0
    return OutputComparison(float(np.linalg.norm(b - a) / length_a), cosine, agreement)


def _has_classes(output: np.ndarray) -> bool:
    """Whether an output's last axis holds a number per class; else it is the decision itself."""
    return output.ndim > 1 and output.dtype.kind == "f" and output.shape[-1] > 0


def _decisions(output: Shaped[np.ndarray, "*n"]) -> Shaped[np.ndarray, "*m"]:
    """What each position decides for: the class, or the value itself; NaN, which equals nothing, where one is NaN."""
    if not _has_classes(output):
        return output
    return np.where(np.isnan(output).any(axis=-1), np.nan, output.argmax(axis=-1))


def _share(true: np.ndarray) -> float:
    return float(true.mean()) if true.size else 1.0


def _accuracy(
    reference: Mapping[str, np.ndarray], fabricated: Mapping[str, np.ndarray], labels: np.ndarray
) -> dict[str, float]:
    for name, output in reference.items():
        if _fits(output, labels):
            models = (("reference", output), ("fabricated", fabricated[name]))
            return {model: _share(_decisions(y) == labels) if y.shape == output.shape else 0.0 for model, y in models}
    raise DataError(
        f"labels of shape {labels.shape} fit no output", "labels", "give one class per sample, or leave them out"
    )


def _fits(output: np.ndarray, labels: np.ndarray) -> bool:
    if _has_classes(output):
        return labels.shape == output.shape[:-1] and labels.max(initial=0) < output.shape[-1]
    return labels.shape == output.shape
