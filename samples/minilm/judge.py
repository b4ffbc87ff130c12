"""Say how far the sentence vectors of an as-fabricated model are from the original's.

    python -m samples.minilm.judge FOLDER/model.onnx BUNDLE/as_fabricated.onnx FOLDER/test.npz

The similarity of a pair is the cosine of its two vectors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime

BATCH = 20


def vectors(model: Path, data: dict[str, np.ndarray]) -> np.ndarray:
    """Sentence vectors of length one, sentences x 384."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = len(next(iter(data.values())))
    parts = [
        cast(np.ndarray, session.run(None, {name: array[i : i + BATCH] for name, array in data.items()})[0])
        for i in range(0, count, BATCH)
    ]
    return unit(np.concatenate(parts))


def unit(found: np.ndarray) -> np.ndarray:
    """Each vector with length one."""
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value among all."""
    return values.argsort().argsort()


def judged(before: np.ndarray, after: np.ndarray) -> str:
    """The cosines, sentence by sentence, and how the order of the pairs' similarities is kept."""
    cosines = (before * after).sum(axis=1)
    similarity = [(found[0::2] * found[1::2]).sum(axis=1) for found in (before, after)]
    correlation = np.corrcoef(*map(ranks, similarity))[0, 1]
    return (
        f"cosine to the original: mean {cosines.mean():.4f}, worst {cosines.min():.4f} of {len(cosines)} sentences;"
        f" rank correlation of similarity: {correlation:.4f}, over {len(similarity[0])} pairs"
    )


def main() -> None:
    """Print how far the two models are from each other."""
    original, fabricated, test = map(Path, sys.argv[1:])
    with np.load(test) as arrays:
        data = dict(arrays)
    print(judged(*(vectors(model, data) for model in (original, fabricated))))


if __name__ == "__main__":
    main()
