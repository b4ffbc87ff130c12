"""Inputs for a model: from an npz file, or drawn at random."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from pfmc.errors import DataError

MAX_BYTES: Final = 8 * 2**30  # of a data file once unpacked
RANDOM_SAMPLES: Final = 64  # drawn where no data are given
# Of an axis whose length the model leaves open, where inputs are drawn: one after the other, until the model runs.
RANDOM_EXTENTS: Final = (8, 32, 128, 512)
_UNREADABLE: Final = (  # what zipfile and numpy raise on files that are damaged or no archives of arrays
    *(ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError, RecursionError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class InputSpec:
    """An input of a model: numpy name of its type, and its shape with None where an axis is open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def sample_axis(inputs: Sequence[InputSpec]) -> tuple[int | None, frozenset[str]]:
    """How many samples a model takes at a time, None if any number, and the inputs whose first axis they are.

    The other inputs (numbers without axes, or states with a fixed first axis beside inputs with an open one) are the
    same for all samples.
    """
    leads = [spec.shape[0] for spec in inputs if spec.shape]
    lead = None if None in leads else next(iter(leads), None)
    return lead, frozenset(spec.name for spec in inputs if spec.shape and spec.shape[0] == lead)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs by name, first axis the samples.

    Attributes:
        labels: classes, first axis the samples, where they are known.
        source: "file" or "random".
        shared: names of the inputs that are the same for all samples.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    source: Literal["file", "random"]
    shared: frozenset[str] = frozenset()

    @property
    def samples(self) -> int:
        """How many."""
        return min((len(array) for name, array in self.arrays.items() if name not in self.shared), default=1)

    def take(self, count: int) -> Dataset:
        """The first samples."""
        labels = None if self.labels is None else self.labels[:count]
        return Dataset(self._rows(0, count), labels, self.source, self.shared)

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """The inputs in pieces of at most ``size`` samples."""
        for start in range(0, self.samples, size):
            yield self._rows(start, start + size)

    def _rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: array if name in self.shared else array[start:stop] for name, array in self.arrays.items()}


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
    _, sampled = sample_axis(inputs)
    for spec in inputs:
        if spec.name not in arrays:
            raise DataError(f"there is no array for the input {spec.name}", str(path), "give one array per model input")
        _check(path, spec, arrays[spec.name], spec.shape if spec.name not in sampled else (None, *spec.shape[1:]))
    counts = {name: len(arrays[name]) for name in known if name in sampled}
    if labels is not None:
        if labels.ndim == 0 or labels.dtype.kind not in "iu":
            raise DataError("labels are not integers with a first axis of samples", f"{path}: labels")
        counts["labels"] = len(labels)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"the arrays differ in their number of samples: {listed}", str(path))
    if 0 in counts.values():
        raise DataError("there are no samples", str(path))
    return Dataset(arrays, labels, "file", frozenset(known) - sampled)


def random_dataset(
    inputs: Sequence[InputSpec], samples: int, rng: np.random.Generator, extent: int = RANDOM_EXTENTS[0]
) -> Dataset:
    """Inputs that a model accepts, if not ones that mean anything.

    Floating-point inputs are standard normal; integers and truth values are 0 or 1, which is valid where they are
    indices into any table of two entries. Open axes behind the samples have ``extent`` entries, and 1 in inputs that
    are the same for all samples.

    Raises:
        DataError: for an input whose type cannot be drawn.
    """
    _, sampled = sample_axis(inputs)
    arrays = {}
    for spec in inputs:
        if spec.name in sampled:
            shape = (samples, *(extent if size is None else size for size in spec.shape[1:]))
        else:
            shape = tuple(1 if size is None else size for size in spec.shape)
        if np.dtype(spec.dtype).kind == "f":
            arrays[spec.name] = np.asarray(rng.standard_normal(shape), dtype=spec.dtype)
        else:
            arrays[spec.name] = np.asarray(rng.integers(0, 2, shape), dtype=spec.dtype)
    return Dataset(arrays, None, "random", frozenset(spec.name for spec in inputs) - sampled)


def scrambled(dataset: Dataset, samples: int, rng: np.random.Generator) -> Dataset:
    """Random inputs of which each entry takes values that this entry has in ``dataset``, independently of all others.

    They fall into the ranges that converters were calibrated to, and are valid wherever the originals are.
    """
    arrays = {}
    for name, array in dataset.arrays.items():
        if name in dataset.shared:
            arrays[name] = array
        else:
            chosen = rng.integers(0, len(array), (samples, *array.shape[1:]))
            arrays[name] = np.take_along_axis(array, chosen, axis=0)
    return Dataset(arrays, None, "random", dataset.shared)


def save_values(path: Path, dataset: Dataset) -> None:
    """Write the inputs of a dataset by their number: names from a model are no names for the parts of an archive."""
    with path.open("wb") as f:
        np.savez_compressed(f, *dataset.arrays.values())


def load_values(path: Path, inputs: Sequence[InputSpec]) -> Dataset:
    """What :func:`save_values` wrote, for a model with these inputs.

    Raises:
        DataError: if the file does not fit them.
    """
    numbers = [f"arr_{i}" for i in range(len(inputs))]  # as numpy calls them
    stored = load_dataset(path, [replace(spec, name=number) for spec, number in zip(inputs, numbers, strict=True)])
    arrays = {spec.name: stored.arrays[number] for spec, number in zip(inputs, numbers, strict=True)}
    shared = frozenset(spec.name for spec, number in zip(inputs, numbers, strict=True) if number in stored.shared)
    return Dataset(arrays, None, "random", shared)


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
    except OSError as e:
        raise DataError(f"the file cannot be read: {e.strerror or e}", str(path)) from None
    except _UNREADABLE:
        raise DataError("not an npz file, or a damaged one", str(path), "write it with numpy.savez") from None


def _array(path: Path, stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    where = f"{path}: {name}"
    try:
        array = stored[name]
    except OSError as e:
        raise DataError(f"the array cannot be read: {e}", where) from None
    except _UNREADABLE:
        raise DataError("the array is damaged, or holds objects instead of numbers", where) from None
    if not isinstance(array, np.ndarray):  # numpy gives the bytes of what it does not know
        raise DataError("it is not an array", where)
    return array


def _check(path: Path, spec: InputSpec, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    where = f"{path}: {spec.name}"
    if array.dtype != np.dtype(spec.dtype):
        fix = f'convert it with astype("{spec.dtype}")'
        raise DataError(f"the array is {array.dtype}, the model wants {spec.dtype}", where, fix)
    if array.ndim != len(shape) or any(e not in (None, size) for e, size in zip(shape, array.shape, strict=True)):
        raise DataError(f"the array's shape is {_sizes(array.shape)}, the model wants {_sizes(shape)}", where)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("the array holds NaN or infinity", where)


def _sizes(shape: Sequence[int | None]) -> str:
    return "x".join("?" if extent is None else str(extent) for extent in shape) or "that of a single number"
