"""Train a small convolutional network on scikit-learn's handwritten digits and write this folder's files.

    python -m samples.digits_cnn.train

The input ``image`` is float32, batch x 1 x 8 x 8 (NCHW), grey values divided by 16, so 0 to 1. The BatchNorms stay in
the file as nodes of their own, so that a compiler has something to fold.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from samples.digits_mlp.train import digits, train
from samples.exporting import accuracy, compare_with_torch, export

FOLDER = Path(__file__).parent
SEED = 0


def build() -> nn.Module:
    """A plain, a depthwise (stride 2) and a pointwise convolution, a maximum over 2 x 2, and a linear layer."""
    layers = {
        "conv": nn.Conv2d(1, 16, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
        "depthwise": nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False),
        "depthwise_norm": nn.BatchNorm2d(16),
        "depthwise_relu": nn.ReLU(),
        "pointwise": nn.Conv2d(16, 32, 1),
        "pointwise_norm": nn.BatchNorm2d(32),
        "pointwise_relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "output": nn.Linear(128, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def main() -> None:
    """Train, write model.onnx, test.npz and calibration.npz, print the held-out accuracy."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images, labels, held_out, held_out_labels = digits()
    images, held_out = images.reshape(-1, 1, 8, 8), held_out.reshape(-1, 1, 8, 8)
    model = build()
    train(model, torch.from_numpy(images), torch.from_numpy(labels))
    export(model, torch.from_numpy(images[:2]), FOLDER / "model.onnx", "image", "logits")
    compare_with_torch(model, torch.from_numpy(held_out), FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "test.npz", image=held_out, labels=held_out_labels)
    np.savez_compressed(FOLDER / "calibration.npz", image=images[:256])
    print(f"held-out accuracy {accuracy(FOLDER / 'model.onnx', FOLDER / 'test.npz'):.4f}")


if __name__ == "__main__":
    main()
