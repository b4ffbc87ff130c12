"""Train a multilayer perceptron (64-64-10) on scikit-learn's handwritten digits and write this folder's files.

    python -m samples.digits_mlp.train

The input ``image`` is float32, batch x 64: an 8 x 8 image row by row, grey values divided by 16, so 0 to 1.
The images: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0; scikit-learn carries its test set.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from samples.exporting import accuracy, compare_with_torch, export

FOLDER = Path(__file__).parent
SEED = 0
EPOCHS = 60
BATCH = 32


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels of the training part, then of the held-out quarter; every class has its share in both."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    held_in, held_out, labels_in, labels_out = train_test_split(
        images, labels.astype(np.int64), test_size=0.25, stratify=labels, random_state=SEED
    )
    return held_in, labels_in, held_out, labels_out


def build() -> nn.Module:
    """64 inputs, 64 hidden units, 10 classes."""
    layers = {"hidden": nn.Linear(64, 64), "activation": nn.ReLU(), "output": nn.Linear(64, 10)}
    return nn.Sequential(OrderedDict(layers))


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Minimise the cross entropy with Adam; the number of epochs is fixed."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimiser.step()
        schedule.step()


def main() -> None:
    """Train, write model.onnx, test.npz and calibration.npz, print the held-out accuracy."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images, labels, held_out, held_out_labels = digits()
    model = build()
    train(model, torch.from_numpy(images), torch.from_numpy(labels))
    export(model, torch.from_numpy(images[:2]), FOLDER / "model.onnx", "image", "logits")
    compare_with_torch(model, torch.from_numpy(held_out), FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "test.npz", image=held_out, labels=held_out_labels)
    np.savez_compressed(FOLDER / "calibration.npz", image=images[:256])
    print(f"held-out accuracy {accuracy(FOLDER / 'model.onnx', FOLDER / 'test.npz'):.4f}")


if __name__ == "__main__":
    main()
