"""Tiles that realise matrices exactly, and the model that is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from pfmc_passes.blocks import Block, blocks

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.lift import as_fabricated, save_model
from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Range
from pfmc.physics.crossbar import IDEAL
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

ANY = Range(-1.0, 1.0)


def exact_tiles(
    node: MatrixVector,
    technology: Technology,
    *,
    rows: int,
    columns: int,
    input_range: Range,
    output_range: Range,
    cut: Iterable[Block] | None = None,
) -> tuple[list[TileRecord], list[TileAsBuilt]]:
    """Tiles whose conductances realise a matrix exactly, one device of each pair open; none where a block is zero."""
    records, built = [], []
    scale = 1e-6
    for down, across in blocks(node.matrix, rows, columns) if cut is None else cut:
        block = node.matrix.block(down, across)
        name = f"{node.name}-{down.start}-{across.start}"
        with np.errstate(divide="ignore"):
            resistance = np.stack([1 / (scale * np.maximum(block, 0)), 1 / (scale * np.maximum(-block, 0))], axis=-1)
        records.append(
            TileRecord(
                name=name,
                node=node.name,
                primitive="crossbar-end",
                row_start=down.start,
                row_stop=down.stop,
                column_start=across.start,
                column_stop=across.stop,
                x=0,
                y=0,
                scale_siemens=scale,
                input_volts=0.2,
                input_bits=10,
                output_bits=10,
                copy_number=0,
                copies=1,
                input_low=input_range.low,
                input_high=input_range.high,
                output_low=output_range.low,
                output_high=output_range.high,
            )
        )
        built.append(TileAsBuilt(name, resistance, IDEAL, resistance.size, length=resistance, width=resistance))
    return records, built


def fabricated_exactly(
    folder: Path,
    model: onnx.ModelProto,
    nodes: Sequence[MatrixVector],
    cuts: Mapping[str, Sequence[Block]] | None = None,
) -> onnx.ModelProto:
    """The as-fabricated model with exact conductances and ideal converters: what the host's calls stand for.

    ``cuts``: the tiles of each contraction; None: 8 x 8.
    """
    save_model(model, folder / "host.onnx")
    technology = load("generic")
    records: list[TileRecord] = []
    built: list[TileAsBuilt] = []
    for node in nodes:
        cut = None if cuts is None else cuts[node.name]
        some = exact_tiles(node, technology, rows=8, columns=8, input_range=ANY, output_range=ANY, cut=cut)
        records += some[0]
        built += some[1]
    result = as_fabricated(folder / "host.onnx", records, built, technology, ideal_converters=True)
    onnx.checker.check_model(result)
    return result
