"""Weights read where they lie: transposed, reshaped, packed and quantised ones give what NumPy makes of all numbers."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfmc.ir.beside import Beside, pieces
from pfmc.ir.weights import PART, Matrix, Quantisation, Weight


def stored(folder: Path, name: str, values: np.ndarray, bits: int = 0) -> Weight:
    """A weight in a file of its own, behind some other bytes; packed, lowest bits first, if ``bits`` are given."""
    path = folder / f"{name}.bin"
    data = values.tobytes()
    if bits:
        digits = np.unpackbits(values.reshape(-1).astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits]
        data = np.packbits(digits.reshape(-1), bitorder="little").tobytes()
    path.write_bytes(b"before!!" + data)
    return Weight(name, values.shape, values.dtype.name, path, 8)


def everything(weight: Weight) -> np.ndarray:
    return weight.take(np.arange(weight.size)).reshape(weight.shape)


@given(st.data())
def test_a_transposed_and_reshaped_weight(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    weight = stored(tmp_path_factory.mktemp("w"), "w", values)
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(values.ndim)))
            moved = weight.transposed(order)
            if moved is None:  # a reshape joined axes that were transposed: nothing is said of it
                return
            weight, values = moved, values.transpose(order)
        else:
            cut = data.draw(st.integers(0, values.ndim))
            wanted = (math.prod(values.shape[:cut]), math.prod(values.shape[cut:]))
            weight, values = weight.reshaped(wanted), values.reshape(wanted)
    assert weight.shape == values.shape
    np.testing.assert_array_equal(everything(weight), values)


def test_axes_that_a_reshape_joined_cannot_be_told_apart(tmp_path: Path) -> None:
    weight = stored(tmp_path, "w", np.zeros((4, 6), np.float32)).transposed((1, 0))
    assert weight is not None
    assert weight.reshaped((4, 6)).transposed((1, 0)) is None


@given(st.data())
def test_packed_weights(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["int2", "uint2", "int4", "uint4", "float4_e2m1fn"]))
    bits = int(name.lstrip("uintfloa")[0])
    codes = np.random.default_rng(0).integers(0, 2**bits, data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5))))
    weight = stored(tmp_path_factory.mktemp("w"), "w", codes, bits)
    weight = Weight("w", weight.shape, name, weight.path, weight.offset)
    np.testing.assert_array_equal(
        everything(weight), codes.astype(np.uint8).view(getattr(ml_dtypes, name)).astype(np.float64)
    )


@given(st.data())
def test_scales_of_a_tensor_a_channel_or_a_block(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder, rng = tmp_path_factory.mktemp("w"), np.random.default_rng(0)
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    codes = rng.integers(-100, 100, shape).astype(np.int8)
    axis = data.draw(st.integers(0, len(shape) - 1))
    form, block = data.draw(st.sampled_from(["tensor", "channel", "block"])), data.draw(st.integers(1, 6))
    counts = {"tensor": (), "channel": (shape[axis],)}.get(
        form, tuple(-(-extent // block) if i == axis else extent for i, extent in enumerate(shape))
    )
    scale, zero = rng.standard_normal(counts), rng.integers(-9, 9, counts)

    def spread(values: np.ndarray) -> np.ndarray:
        if form == "block":
            return np.repeat(values, block, axis)[tuple(map(slice, shape))]
        return values.reshape([-1 if i == axis else 1 for i in range(len(shape))]) if form == "channel" else values

    meaning = Quantisation(
        stored(folder, "s", scale),
        stored(folder, "z", zero),
        shape[axis],
        math.prod(shape[axis + 1 :]),
        block if form == "block" else 0,
    )
    plain = stored(folder, "w", codes)
    weight = Weight("w", shape, "float32", plain.path, plain.offset, stored="int8", quantisation=meaning)
    np.testing.assert_allclose(everything(weight), (codes - spread(zero).astype(np.float64)) * spread(scale))


@given(st.data())
def test_blocks_that_are_read_together_are_those_read_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In any order, again and again as copies are, some left out, across matrices that stand side by side."""
    folder, rng = tmp_path_factory.mktemp("w"), np.random.default_rng(0)
    parts = [Matrix(stored(folder, f"w{n}", rng.standard_normal((7, n))), transposed=False) for n in (5, 1, 6)]
    whole = Beside(tuple(parts))
    starts = st.tuples(st.integers(0, 6), st.integers(0, 11))
    blocks = []
    for row, column in data.draw(st.lists(starts, max_size=12)):
        blocks.append((range(row, min(row + 3, 7)), range(column, min(column + data.draw(st.integers(1, 4)), 12))))
    for ordered in (blocks, sorted(blocks, key=lambda block: (block[0].start, block[1].start))):
        for block, values in zip(ordered, pieces(whole, ordered), strict=True):
            np.testing.assert_array_equal(values, whole.block(*block))


def test_blocks_side_by_side_are_read_once_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Matrix(stored(tmp_path, "w", np.zeros((4, 2 * PART), np.float32)), transposed=False)
    read: list[range] = []
    block = Matrix.block
    monkeypatch.setattr(
        Matrix, "block", lambda self, rows, columns: (read.append(columns), block(self, rows, columns))[1]
    )
    assert sum(1 for _ in pieces(matrix, [(range(2), range(i, i + 64)) for i in range(0, 2 * PART, 64)])) == 32
    assert read == [range(PART), range(PART, 2 * PART)]
