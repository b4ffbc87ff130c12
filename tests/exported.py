"""Small networks of torch, trained for a moment, as both of its exporters write them and in the forms of quantisers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn
from torch.nn import functional

CLASSES, WIDTH, HEADS, LAYERS, STEPS, FEATURES, SIDE = 8, 16, 2, 2, 16, 8, 16
WIDE: Final = 64  # a narrower network of characters changes 4 % of its decisions where 8 bits round it
TEXT: Final = (
    "a crossbar multiplies by resistors: each row carries a voltage, each column adds up currents, and every weight is "
    "drawn once. what is printed cannot be changed, so it is checked before it is made; the masks are read again, and "
    "what they compute is compared with the network that was trained. "
)
LETTERS: Final = sorted(set(TEXT))


class Block(nn.Module):
    """A layer of a transformer, normalised in front."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.width, self.causal = width, causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.inward(self.first(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, self.width // HEADS)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.outward(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 4, stride=4)
        self.register_buffer("places", 0.5 * torch.randn(SIDE * SIDE // 16, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, causal=False) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class CharacterTransformer(nn.Module):
    """The table of characters is what reads and what scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(LETTERS), WIDE)
        self.register_buffer("places", 0.5 * torch.randn(STEPS, WIDE))
        self.blocks = nn.Sequential(*(Block(WIDE, causal=True) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDE), nn.Linear(WIDE, len(LETTERS), bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.table(x) + self.places)))


class Recurrent(nn.Module):
    """The mean comes first: ONNX Runtime 1.32 crashes when it loads a product right behind a layer of float16."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.layer = kind(FEATURES, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0].mean(dim=1, keepdim=True)).flatten(1)


class Separable(nn.Module):
    """Convolutions that are dilated, and depthwise ones with a pointwise one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).flatten(2).transpose(1, 2)).mean(dim=1)


class Upward(nn.Module):
    """Down by a convolution, up again by a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, WIDTH, 4, stride=4)
        self.up = nn.ConvTranspose2d(WIDTH, FEATURES, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = torch.relu(self.up(torch.relu(self.down(x))))
        return self.head(large.flatten(2).transpose(1, 2)).mean(dim=1)


class Headwise(nn.Module):
    """An einsum by a weight of three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(HEADS, FEATURES, WIDTH) / FEATURES**0.5)
        self.back = nn.Parameter(torch.randn(HEADS, WIDTH, WIDTH) / WIDTH**0.5)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = torch.relu(torch.einsum("ntd,hde->nhte", x, self.weight))
        return self.head(torch.relu(torch.einsum("nhte,hed->ntd", inside, self.back))).mean(dim=1)


class Attentive(nn.Module):
    """An attention of one head, as wide as the picture, its projections convolutions, as autoencoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 4, stride=4)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        batch, channels, height, width = x.shape
        h, flat = self.norm(x), (batch, channels, height * width)
        q, k, v = (layer(h).reshape(flat) for layer in (self.query, self.key, self.value))
        weights = functional.softmax(torch.bmm(q.transpose(1, 2), k) * WIDTH**-0.5, dim=2)
        x = x + self.out(torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape))
        return self.head(functional.silu(x).flatten(2).transpose(1, 2)).mean(dim=1)


@dataclass(frozen=True)
class Small:
    """A network, what it reads (of one sample), and how many multiply-accumulates have no trained operand."""

    made: Callable[[], nn.Module]
    shape: tuple[int, ...]
    unmapped: int = 0


IMAGE, SEQUENCE = (1, SIDE, SIDE), (STEPS, FEATURES)
ATTENDED: Final = LAYERS * 2 * STEPS**2  # scores, and mixes, per channel
SMALL: Final[Mapping[str, Small]] = {
    "vision-transformer": Small(VisionTransformer, IMAGE, ATTENDED * WIDTH),
    "character-transformer": Small(CharacterTransformer, (), ATTENDED * WIDE),
    "lstm": Small(functools.partial(Recurrent, nn.LSTM), SEQUENCE),
    "gru": Small(functools.partial(Recurrent, nn.GRU), SEQUENCE),
    "separable": Small(Separable, IMAGE),
    "transposed": Small(Upward, IMAGE),
    "einsum": Small(Headwise, SEQUENCE),
    "attention-of-one-head": Small(Attentive, IMAGE, 2 * STEPS**2 * WIDTH),
}


def examples(name: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and what is right: pieces of a text and their next letters, or noisy pictures of eight things."""
    if not SMALL[name].shape:
        codes = np.array([LETTERS.index(letter) for letter in TEXT])
        pieces = codes[(rng.integers(len(codes), size=count)[:, None] + np.arange(STEPS + 1)) % len(codes)]
        return pieces[:, :-1], pieces[:, 1:]
    things = np.random.default_rng(0).standard_normal((CLASSES, *SMALL[name].shape))
    labels = rng.integers(CLASSES, size=count)
    return (things[labels] + 0.4 * rng.standard_normal((count, *SMALL[name].shape))).astype(np.float32), labels


@functools.cache
def trained(name: str) -> nn.Module:
    """A network that has learnt its task well enough to be sure of most of what it says."""
    torch.manual_seed(0)
    rng, model = np.random.default_rng(1), SMALL[name].made()
    steps = 150 if SMALL[name].shape else 800
    optimiser = torch.optim.Adam(
        model.parameters(), 5e-3 if SMALL[name].shape else 2e-3
    )  # a wide one's steps are smaller
    for _ in range(steps):
        x, y = (torch.from_numpy(values) for values in examples(name, 64, rng))
        scores = model(x)
        loss = functional.cross_entropy(scores.flatten(0, -2), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def weights(name: str) -> int:
    """Numbers that contractions multiply by: vectors are biases and gains."""
    return sum(values.numel() for values in trained(name).parameters() if values.ndim > 1)


def export(name: str, path: Path, *, dynamo: bool) -> None:
    """Write an ONNX file, by torch.export or by tracing; its first axis is free."""
    x = torch.from_numpy(examples(name, 2, np.random.default_rng(2))[0])
    if dynamo:
        program = torch.onnx.export(
            trained(name),
            (x,),
            dynamo=True,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=18,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch gave no program")
        program.save(str(path))
    else:
        axes = {"x": {0: "batch"}, "y": {0: "batch"}}
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(trained(name), (x,), str(path), dynamo=False, dynamic_axes=axes, opset_version=17, **names)


class Reader(CalibrationDataReader):
    """Gives a quantiser the same samples in pieces."""

    def __init__(self, name: str) -> None:
        x, _ = examples(name, 64, np.random.default_rng(3))
        self.pieces: Iterator[dict[str, np.ndarray]] = iter([{"x": part} for part in np.split(x, 8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.pieces, None)


def _static(kind: QuantFormat, name: str, path: Path, to: Path) -> None:
    """All but attention's Softmax and the Add of its mask: no scale reaches from scores to minus infinity."""
    nodes = onnx.load(path).graph.node
    scores = {value for node in nodes if node.op_type == "Softmax" for value in node.input}
    floating = [node.name for node in nodes if node.op_type == "Softmax" or node.output[0] in scores]
    options = {"per_channel": True, "weight_type": QuantType.QInt8, "nodes_to_exclude": floating}
    with np.errstate(invalid="ignore"):  # it looks for a scale of the mask too, and does not use it
        quantize_static(path, to, Reader(name), quant_format=kind, **options)


def _dynamic(_: str, path: Path, to: Path) -> None:
    quantize_dynamic(path, to, weight_type=QuantType.QUInt8)  # ONNX Runtime has no other ConvInteger


def _few_bits(_: str, path: Path, to: Path) -> None:
    quantiser = MatMulNBitsQuantizer(onnx.load(path), block_size=16, is_symmetric=True)
    quantiser.process()
    quantiser.model.save_model_to_file(str(to))


def _float16(_: str, path: Path, to: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), to)


def _as_it_is(_: str, path: Path, to: Path) -> None:
    to.write_bytes(path.read_bytes())


FORMATS: Final[Mapping[str, Callable[[str, Path, Path], None]]] = {
    "float32": _as_it_is,
    "QDQ": functools.partial(_static, QuantFormat.QDQ),
    "QOperator": functools.partial(_static, QuantFormat.QOperator),
    "dynamic": _dynamic,
    "4-bit": _few_bits,
    "float16": _float16,
}
# What tells that a file has a form.
MARKS: Final = {
    "float32": b"",
    "QDQ": b"DequantizeLinear",
    "QOperator": b"QLinearMatMul",
    "dynamic": b"MatMulInteger",
    "4-bit": b"MatMulNBits",
    "float16": b"graph_output_cast",
}
