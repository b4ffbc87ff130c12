"""The committed samples are what samples/README.md says that they are."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

SAMPLES = Path(__file__).parents[1] / "samples"
NAMES = ("digits_mlp", "digits_cnn", "language_encoder")


def readme_rows() -> dict[str, list[str]]:
    """Cells of the first table's rows, by sample."""
    tables = (SAMPLES / "README.md").read_text(encoding="utf-8").split("\n\n")
    lines = next(text for text in tables if text.startswith("| ")).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def load(sample: str, file: str) -> dict[str, np.ndarray]:
    with np.load(SAMPLES / sample / file, allow_pickle=False) as arrays:
        return dict(arrays)


def session(sample: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(SAMPLES / sample / "model.onnx", providers=["CPUExecutionProvider"])


def test_readme_lists_every_sample() -> None:
    folders = {path.parent.name for path in SAMPLES.glob("*/model.onnx")}
    assert folders == set(NAMES) == set(readme_rows())


@pytest.mark.parametrize("sample", NAMES)
def test_data_has_the_models_inputs(sample: str) -> None:
    inputs = {value.name: value for value in session(sample).get_inputs()}
    test, calibration = load(sample, "test.npz"), load(sample, "calibration.npz")
    assert set(test) == {*inputs, "labels"}
    assert set(calibration) == set(inputs)
    assert test["labels"].dtype == np.int64
    for data in (test, calibration):
        assert len({len(array) for array in data.values()}) == 1
        for name, value in inputs.items():
            assert value.type == {"float32": "tensor(float)", "int64": "tensor(int64)"}[str(data[name].dtype)]
            assert value.shape == ["batch", *data[name].shape[1:]]


@pytest.mark.parametrize("sample", NAMES)
def test_readme_tells_the_measured_figures(sample: str) -> None:
    test = load(sample, "test.npz")
    labels = test.pop("labels")
    (logits,) = session(sample).run(None, test)
    accuracy = np.mean(logits.argmax(axis=-1) == labels)
    size = (SAMPLES / sample / "model.onnx").stat().st_size
    _, _, held_out, written_accuracy, written_size = readme_rows()[sample]
    assert int(held_out) == len(labels)
    # Kernels for other processors round otherwise: one sample may fall on the other side.
    assert float(written_accuracy.removesuffix(" %")) / 100 == pytest.approx(accuracy, abs=1 / len(labels) + 5e-5)
    assert int(written_size.removesuffix(" kB")) == round(size / 1000)
    assert size < 1_000_000


@pytest.mark.parametrize("sample", NAMES)
def test_a_sample_alone_gives_what_it_gives_in_a_batch(sample: str) -> None:
    batch = {name: array[:7] for name, array in load(sample, "test.npz").items() if name != "labels"}
    running = session(sample)
    (together,) = running.run(None, batch)
    for index in range(7):
        (alone,) = running.run(None, {name: array[index : index + 1] for name, array in batch.items()})
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sample", NAMES)
def test_calibration_is_not_taken_from_the_held_out_part(sample: str) -> None:
    test, calibration = load(sample, "test.npz"), load(sample, "calibration.npz")
    for name, array in calibration.items():
        held_out = {row.tobytes() for row in test[name]}
        assert not [row for row in array if row.tobytes() in held_out]
