"""Input files: what fits the model is read, everything else is one line that names the file and the array."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfmc import data
from pfmc.data import Dataset, InputSpec, load_dataset, load_values, random_dataset, save_values, scrambled
from pfmc.errors import DataError

X = InputSpec("x", "float32", (None, 3))
IDS = InputSpec("ids", "int64", (None, None))


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder / "data.npz"


def test_inputs_and_labels_are_read(tmp_path: Path) -> None:
    x, ids = np.arange(12, dtype=np.float32).reshape(4, 3), np.zeros((4, 7), dtype=np.int64)
    found = load_dataset(npz(tmp_path, x=x, ids=ids, labels=np.arange(4)), [X, IDS])
    assert (found.samples, found.source) == (4, "file")
    assert np.array_equal(found.arrays["x"], x)
    assert found.take(3).labels is not None and found.take(3).labels.tolist() == [0, 1, 2]
    assert [len(batch["ids"]) for batch in found.batches(3)] == [3, 1]


def test_an_input_may_be_called_labels(tmp_path: Path) -> None:
    found = load_dataset(npz(tmp_path, labels=np.zeros((2, 3), np.float32)), [InputSpec("labels", "float32", (2, 3))])
    assert found.labels is None
    assert list(found.arrays) == ["labels"]


GOOD = np.zeros((4, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no array for the input x"),
        ({"x": GOOD, "y": GOOD}, "no input y"),
        ({"x": GOOD.astype(np.float64)}, "float64, the model wants float32"),
        ({"x": GOOD[:, :2]}, "4x2, the model wants ?x3"),
        ({"x": GOOD[0]}, "shape is 3, the model wants ?x3"),
        ({"x": np.float32(1)}, "single number"),
        ({"x": GOOD[:0]}, "no samples"),
        ({"x": GOOD * np.nan}, "NaN or infinity"),
        ({"x": GOOD, "labels": np.arange(3)}, "x 4, labels 3"),
        ({"x": GOOD, "labels": np.zeros(4)}, "labels are not integers"),
        ({"x": GOOD, "labels": np.int64(3)}, "labels are not integers"),
        ({"x": np.array([{}, {}], dtype=object)}, "objects instead of numbers"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = npz(tmp_path, **arrays)
    with pytest.raises(DataError) as error:
        load_dataset(path, [X])
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_inputs_must_have_as_many_samples(tmp_path: Path) -> None:
    path = npz(tmp_path, x=GOOD, ids=np.zeros((5, 2), np.int64))
    with pytest.raises(DataError, match="differ in their number of samples: x 4, ids 5"):
        load_dataset(path, [X, IDS])


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_dataset(tmp_path / "missing.npz", [X])
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(tmp_path, [X])
    for content in (b"", b"PK\x03\x04", b"hello" * 100):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match="not an npz file"):
            load_dataset(tmp_path / "bad.npz", [X])
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x.npy", "not an array")
    with pytest.raises(DataError, match=r"not an array.*: x$"):
        load_dataset(tmp_path / "text.npz", [InputSpec("x", "float32", ())])


def test_a_declared_size_without_bounds_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 3), np.float32))
    monkeypatch.setattr(data, "MAX_BYTES", 10_000)
    with pytest.raises(DataError, match="unpacks to 12,128 bytes, more than 10,000"):
        load_dataset(tmp_path / "bomb.npz", [X])


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"1234")
    with pytest.raises(DataError, match="damaged"):
        load_dataset(tmp_path / "huge.npz", [X])


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), compress=st.booleans())
def test_a_damaged_byte_never_gets_through_as_another_exception(
    place: float, value: int, compress: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.npz"
    (np.savez_compressed if compress else np.savez)(path, x=GOOD)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        load_dataset(path, [X])
    except DataError as e:
        assert "\n" not in str(e)


def test_random_inputs_fit_the_model(rng: np.random.Generator) -> None:
    mask = InputSpec("mask", "bool", (None, 2))
    found = random_dataset([X, IDS, mask, InputSpec("rate", "int64", ())], 5, rng)
    assert {name: array.shape for name, array in found.arrays.items()} == {
        "x": (5, 3),
        "ids": (5, 8),
        "mask": (5, 2),
        "rate": (),
    }
    assert {name: array.dtype.name for name, array in found.arrays.items()} == {
        "x": "float32",
        "ids": "int64",
        "mask": "bool",
        "rate": "int64",
    }
    assert set(np.unique(found.arrays["ids"])) <= {0, 1}
    assert found.samples == 5


def test_random_inputs_follow_the_seed() -> None:
    first, second = (random_dataset([X], 3, np.random.default_rng(7)).arrays["x"] for _ in range(2))
    assert np.array_equal(first, second)


def test_inputs_without_samples_are_the_same_for_all(tmp_path: Path) -> None:
    """A recurrent network's state and a sampling rate, as a voice detector takes them."""
    inputs = [X, InputSpec("state", "float32", (2, None, 4)), InputSpec("rate", "int64", ())]
    arrays = {"x": GOOD, "state": np.zeros((2, 1, 4), np.float32), "rate": np.int64(16000)}
    found = load_dataset(npz(tmp_path, **arrays), inputs)  # type: ignore[arg-type]
    assert found.samples == 4
    for batch in found.take(3).batches(2):
        assert batch["state"].shape == (2, 1, 4)
        assert batch["rate"] == 16000
    with pytest.raises(DataError, match="3x1x4, the model wants 2x"):
        load_dataset(npz(tmp_path, **arrays | {"state": np.zeros((3, 1, 4), np.float32)}), inputs)  # type: ignore[arg-type]


def test_a_model_with_a_fixed_batch_has_the_samples_on_the_first_axis(tmp_path: Path) -> None:
    found = load_dataset(npz(tmp_path, x=GOOD), [InputSpec("x", "float32", (1, 3))])
    assert found.samples == 4


def test_no_inputs_at_all_count_as_one_sample() -> None:
    assert Dataset({}, None, "random").samples == 1


def test_scrambled_entries_take_values_that_they_had(rng: np.random.Generator) -> None:
    """Entry by entry, and not whole samples."""
    array = rng.integers(0, 1000, (20, 3, 5))
    state = np.arange(4.0)
    mixed = scrambled(Dataset({"x": array, "s": state}, None, "file", frozenset({"s"})), 50, rng)
    assert (mixed.samples, mixed.source) == (50, "random")
    assert mixed.arrays["s"] is state
    for place in np.ndindex(3, 5):
        assert set(mixed.arrays["x"][:, *place]) <= set(array[:, *place])
    assert not {tuple(sample.ravel()) for sample in mixed.arrays["x"]} & {tuple(sample.ravel()) for sample in array}


def test_values_come_back_under_their_names(tmp_path: Path, rng: np.random.Generator) -> None:
    """Whatever a model calls its inputs: they are no names of files in the archive."""
    inputs = [InputSpec("../file", "float32", (None, 2)), InputSpec("file", "int64", (None,))]
    arrays = {"../file": rng.random((3, 2), dtype=np.float32), "file": np.arange(3)}
    save_values(tmp_path / "v.npz", Dataset(arrays, None, "file"))
    found = load_values(tmp_path / "v.npz", inputs)
    assert found.source == "random"
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
