"""Inputs for a model: from an npz file, or drawn at random."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from pfmc.errors import DataError

MAX_BYTES: Final = 8 * 2**30  # of a data file once unpacked
RANDOM_EXTENT: Final = 8  # of an axis whose length the model leaves open, where inputs are drawn


@dataclass(frozen=True)
class InputSpec:
    """An input of a model: numpy name of its type, and its shape with None where an axis is open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs by name, first axis the samples.

    Attributes:
        labels: classes, first axis the samples, where they are known.
        source: "file" or "random".
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    source: Literal["file", "random"]

    @property
    def samples(self) -> int:
        """How many."""
        return min(len(array) for array in self.arrays.values())

    def take(self, count: int) -> Dataset:
        """The first samples."""
        arrays = {name: array[:count] for name, array in self.arrays.items()}
        return Dataset(arrays, None if self.labels is None else self.labels[:count], self.source)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """The inputs in pieces of at most ``size`` samples."""
        for start in range(0, self.samples, size):
            yield {name: array[start : start + size] for name, array in self.arrays.items()}


def load_dataset(path: Path, inputs: Sequence[InputSpec]) -> Dataset:
    """Read one array per input, and ``labels`` if there are any, from an npz file.

    Raises:
        DataError: naming the file and the array that does not fit.
    """
    arrays = _arrays(path)
    labels = arrays.pop("labels", None) if all(spec.name != "labels" for spec in inputs) else None
    known = [spec.name for spec in inputs]
    for name in arrays:
        if name not in known:
            raise DataError(f"the model has no input {name}", str(path), f"its inputs: {', '.join(known)}")
    for spec in inputs:
        if spec.name not in arrays:
            raise DataError(f"there is no array for the input {spec.name}", str(path), "one array per model input")
        _check(path, spec, arrays[spec.name])
    counts = {name: len(array) for name, array in arrays.items()}
    if labels is not None:
        if labels.ndim == 0 or labels.dtype.kind not in "iu":
            raise DataError("labels are not integers with a first axis of samples", f"{path}: labels")
        counts["labels"] = len(labels)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"the arrays differ in their number of samples: {listed}", str(path))
    if 0 in counts.values():
        raise DataError("there are no samples", str(path))
    return Dataset(arrays, labels, "file")


def random_dataset(inputs: Sequence[InputSpec], samples: int, rng: np.random.Generator) -> Dataset:
    """Inputs that a model accepts, if not ones that mean anything.

    Floating-point inputs are standard normal; integers and truth values are 0 or 1, which is valid where they are
    indices into any table of two entries. Open axes but the first have 8 entries.

    Raises:
        DataError: for an input whose type cannot be drawn.
    """
    arrays = {}
    for spec in inputs:
        if not spec.shape:
            raise DataError("an input without a first axis of samples cannot be drawn", spec.name, "give data")
        rest = tuple(RANDOM_EXTENT if extent is None else extent for extent in spec.shape[1:])
        shape = (max(samples, spec.shape[0] or 0), *rest)
        kind = np.dtype(spec.dtype).kind
        if kind == "f":
            arrays[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif kind in "iub":
            arrays[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
        else:
            raise DataError(f"inputs of type {spec.dtype} cannot be drawn", spec.name, "give data")
    return Dataset(arrays, None, "random")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file whose declared size is bounded before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        if declared > MAX_BYTES:
            raise DataError(f"it unpacks to {declared:,} bytes, more than {MAX_BYTES:,}", str(path))
        with np.load(path, allow_pickle=False) as stored:
            return {name: _array(path, stored, name) for name in stored.files}
    except FileNotFoundError:
        raise DataError("no such file", str(path)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise DataError(
            f"not an npz file: {str(e).splitlines()[0] if str(e) else 'cannot be read'}", str(path)
        ) from None


def _array(path: Path, stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return stored[name]
    except ValueError:
        raise DataError("the array holds objects, not numbers", f"{path}: {name}") from None


def _check(path: Path, spec: InputSpec, array: np.ndarray) -> None:
    where = f"{path}: {spec.name}"
    if array.dtype != np.dtype(spec.dtype):
        raise DataError(f"the array is {array.dtype}, the model wants {spec.dtype}", where)
    wanted = "x".join("?" if extent is None else str(extent) for extent in (None, *spec.shape[1:]))
    found = "x".join(map(str, array.shape))
    fits = array.ndim == len(spec.shape) and all(
        extent in (None, size) for extent, size in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if array.ndim == 0 or not fits:
        raise DataError(f"the array's shape is {found or 'that of a single number'}, the model wants {wanted}", where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("the array holds NaN or infinity", where)
