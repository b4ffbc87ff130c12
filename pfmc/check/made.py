"""A chip as it is made, not as it is drawn: one model for all chips, and the numbers that differ from chip to chip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.currents import TOGETHER
from pfmc.check.functions import DOMAIN, OPERATOR, Crossbars, told_once
from pfmc.check.lift import add_physics, open_host, save_model
from pfmc.check.made_function import MADE_INPUTS, made_input_names, made_matrix_vector
from pfmc.data import Dataset
from pfmc.frontend.bodies import entered
from pfmc.frontend.building import Names
from pfmc.frontend.opsets import opset_of
from pfmc.frontend.runtime import BATCH, Runtime
from pfmc.frontend.taps import tap
from pfmc.netlist.netlist import Feed
from pfmc.physics.crossbar import IDEAL, effective_matrix
from pfmc.physics.network import Wires
from pfmc.physics.variation import EFFECTS, Chip, TemperatureLaw, Variation, draw_chip, thermal_noise
from pfmc.primitives.variation import DrawnTile, made_wires, readout_gain, temperature_law
from pfmc.technology.kinds import AnyTechnology
from pfmc.technology.schema import Technology

PERIOD = 251  # vectors after which the noise of a reading comes again; a prime, so that it falls on other places
# What of a variation stands beside the devices and the wires: without the rest there is nothing to solve again.
BESIDE: Final = ("converter_gain", "converter_offset", "converter_noise", "noise_bandwidth")
# Which tile, what it computes in siemens, and the conductances of its devices.
Solved: TypeAlias = tuple[int, Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns 2"]]


@dataclass(frozen=True, eq=False)
class MadeCrossbars:
    """What differs from chip to chip in the tiles of one contraction, side by side as in :class:`Crossbars`.

    Attributes:
        microsiemens: what the array computes, gains of converters and read-out included.
        offset, noise: of the current at a column's converter, microamperes; noise is a root mean square.
        gain, added: of the trim, after the converters: a factor, and a number in the model's units.
        mixing: of a trim with matrices: from each reading to each result of a tile.
    """

    microsiemens: Float[np.ndarray, "blocks height columns"]
    offset: Float[np.ndarray, "blocks 1 columns"]
    noise: Float[np.ndarray, "blocks 1 columns"]
    gain: Float[np.ndarray, "blocks 1 columns"]
    added: Float[np.ndarray, "blocks 1 columns"]
    mixing: Float[np.ndarray, "blocks columns columns"] | None = None

    @classmethod
    def drawn(cls, crossbars: Crossbars) -> MadeCrossbars:
        """Without any difference; no devices yet."""
        zeros = np.zeros(crossbars.units_per_code.shape)
        return cls(np.zeros(crossbars.microsiemens.shape), zeros, zeros.copy(), zeros + 1.0, zeros.copy())


@dataclass(frozen=True, eq=False)
class MadeModel:
    """The as-fabricated model whose conductances, offsets and noise are inputs, ready to run as any chip.

    Attributes:
        crossbars: of each contraction, converters only.
        names: of the function's inputs, by contraction.
        mixed: whether a matrix stands behind each tile's converters, not a factor behind each of them.
        batch: samples that are run at a time.
    """

    runtime: Runtime
    crossbars: Mapping[str, Crossbars]
    names: Mapping[str, Mapping[str, str]]
    mixed: bool
    batch: int

    @classmethod
    def of(
        cls,
        host: Path,
        tiles: Sequence[TileRecord],
        technology: AnyTechnology,
        *,
        ideal_converters: bool,
        mixed: bool = False,
        batch: int = BATCH,
    ) -> tuple[MadeModel, Runtime]:
        """The model, and one that gives what each contraction reads, its outputs in the order of the contractions.

        Raises:
            ArtifactError: if the host model cannot be read.
            VerifyError: if tiles and host do not belong together.
        """
        model, calls, crossbars = open_host(host, tiles, technology)
        graph, names = model.graph, Names(model.graph)
        inputs = made_input_names(ideal_converters=ideal_converters)
        found: dict[str, dict[str, str]] = {}
        for number, (name, part) in enumerate(crossbars.items()):
            add_physics(graph, calls[name], part, names, inputs)
            zeros = np.zeros(part.units_per_code.shape, dtype=np.float32)
            added = part.added(zeros)
            for key, values in zip(MADE_INPUTS, (part.microsiemens, zeros, added), strict=True):
                graph.initializer.append(numpy_helper.from_array(values, names.new(f"{name}/{key}")))
                for call in calls[name]:
                    call.input.append(graph.initializer[-1].name)
            found[name] = dict(zip((*inputs, *MADE_INPUTS), calls[name][0].input[1:], strict=True))
            function = made_matrix_vector(
                f"{OPERATOR}{number}", opset_of(model), part, ideal_converters=ideal_converters, mixed=mixed
            )
            model.functions.append(function)
            for call in calls[name]:
                call.op_type = function.name
        for name, chosen in found.items():
            for key in ("units_per_code", *MADE_INPUTS):
                # An initialiser that is an input too may be given at each run.
                shape = [None] if key == "units_offset" and crossbars[name].lanes == 1 else [None] * 3
                graph.input.append(helper.make_tensor_value_info(chosen[key], TensorProto.FLOAT, shape))
        made = cls(_runtime(model), crossbars, found, mixed, batch)
        del graph.output[:]
        copies = _copies_read(graph, names)
        tap(graph, [copies[name] for name in crossbars])
        return made, _runtime(model)

    def run(
        self, chip: Mapping[str, MadeCrossbars], dataset: Dataset, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """All outputs of a chip; the generator draws the noise of its readings."""
        return self.runtime.run(self.given(chip, dataset, rng), self.batch)

    def given(self, chip: Mapping[str, MadeCrossbars], dataset: Dataset, rng: np.random.Generator) -> Dataset:
        """The inputs of a chip: the model's, and the numbers that make it this chip."""
        values: dict[str, np.ndarray] = {}
        for name, made in chip.items():
            keys, crossbars = self.names[name], self.crossbars[name]
            blocks, _, columns = made.noise.shape
            noise = rng.standard_normal((blocks, PERIOD, columns), dtype=np.float32)
            codes = made.microsiemens * (crossbars.volts_per_code / crossbars.microamps_per_code)
            values[keys["codes_per_code"]] = codes.astype(np.float32)
            offset, spread = (each / crossbars.microamps_per_code for each in (made.offset, made.noise))
            values[keys["codes_error"]] = offset.astype(np.float32) + spread.astype(np.float32) * noise
            units = (made.gain * crossbars.units_per_code).astype(np.float32)
            if self.mixed:
                mixing = np.eye(columns) if made.mixing is None else made.mixing
                values[keys["units_per_code"]] = (units.transpose(0, 2, 1) * mixing).astype(np.float32)
            else:
                values[keys["units_per_code"]] = told_once(units)
            values[keys["units_offset"]] = told_once(crossbars.added(made.added).astype(np.float32))
        return Dataset({**dataset.arrays, **values}, None, dataset.source, dataset.shared | values.keys())


def _copies_read(graph: GraphProto, names: Names) -> dict[str, str]:
    """Copy what each call reads, beside it; gives the copies' names by that of the call."""
    found: dict[str, str] = {}
    for part, node in list(entered(graph)):
        if node.domain == DOMAIN:
            found[node.name] = names.new(f"{node.name}/read")
            part.node.append(helper.make_node("Identity", [node.input[0]], [found[node.name]]))
    return found


def _runtime(model: ModelProto) -> Runtime:
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        path = Path(work) / "made.onnx"
        save_model(model, path)
        return Runtime(path, threads=1)  # for chips run beside each other


class Maker(Protocol):
    """Makes chips, or blocks of glass, each with errors of its own.

    Attributes:
        seed: chip number k is always the same, whatever else is made.
        effects: names of what can be off, and the fields of a variation that belong to each.
    """

    @property
    def seed(self) -> int: ...  # noqa: D102

    @property
    def effects(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: D102

    @property
    def still(self) -> Any:
        """The variation in which nothing differs."""
        ...

    def generator(self, chip: int, part: int) -> np.random.Generator:
        """The generator of a part of a chip: that of tile ``part``, or of what is no tile where it is negative."""
        ...

    def chip(self, number: int, variation: Any, node: str | None = None) -> dict[str, MadeCrossbars]:
        """What chip ``number`` computes, by contraction; only the one of name ``node`` where there is one."""
        ...


@dataclass(frozen=True, eq=False)
class ChipMaker:
    """Makes chips: draws what differs, and solves the network of every tile.

    Attributes:
        crossbars: of each contraction, converters only.
        records, tiles, wires: of every tile, in the order of the table; tiles whose wires are the same object are
            solved together.
        law: what temperature does.
        seed: chip number k is always the same, whatever else is made.
    """

    technology: Technology
    crossbars: Mapping[str, Crossbars]
    records: Sequence[TileRecord]
    tiles: Sequence[DrawnTile]
    wires: Sequence[Wires]
    law: TemperatureLaw
    seed: int

    @property
    def effects(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`Maker`."""
        return EFFECTS

    @classmethod
    def of(
        cls,
        technology: Technology,
        crossbars: Mapping[str, Crossbars],
        records: Sequence[TileRecord],
        built: Iterable[TileAsBuilt],
        *,
        seed: int,
        ideal_wires: bool,
    ) -> ChipMaker:
        """The maker of a chip whose tiles the files have so; the middle of all tiles is the middle of the chip."""
        cell, size, unit = technology.cell, technology.tile, technology.grid.database_unit.si
        extent = 2 * size.columns.value * cell.strip_pitch.si, size.rows.value * cell.row_pitch.si
        corners = np.array([(record.x, record.y) for record in records]) * unit
        middle = (corners.min(axis=0) + corners.max(axis=0) + extent) / 2
        tiles, wires = [], []
        for (x, y), tile in zip((corners - middle).tolist(), built, strict=True):
            tiles.append(DrawnTile.of(technology, tile.resistance, tile.length, tile.width, (x, y)))
            wires.append(IDEAL if ideal_wires else tile.wires)
        return cls(technology, crossbars, records, tiles, wires, temperature_law(technology), seed)

    def generator(self, chip: int, part: int) -> np.random.Generator:
        """The generator of a part of a chip: that of tile ``part``, or of what is no tile where it is negative."""
        return np.random.default_rng([self.seed, chip, part + 2])

    @property
    def still(self) -> Variation:
        """No difference."""
        return Variation(temperature_low=self.law.reference, temperature_high=self.law.reference)

    def chip(self, number: int, variation: Variation, node: str | None = None) -> dict[str, MadeCrossbars]:
        """What chip ``number`` computes, by contraction; only the one of name ``node`` where there is one.

        A tile of a chip is the same whether the others are made or not, and what differs is drawn from the same numbers
        whatever the spreads are.
        """
        common = draw_chip(variation, self.generator(number, -1))
        parts = [part for part, record in enumerate(self.records) if node in (None, record.node)]
        names = {self.records[part].node for part in parts}
        made = {name: MadeCrossbars.drawn(self.crossbars[name]) for name in sorted(names)}
        gain = readout_gain(self.technology, common, self.law)
        if replace(variation, **dict.fromkeys(BESIDE, 0.0)) == self.still:
            solved: Iterable[Solved] = (self._drawn[part] for part in parts)
        else:
            solved = self._solved(parts, number, variation, common)
        for part, siemens, devices in solved:
            self._place(made, part, gain * siemens, devices, gain, variation, common.temperature, number)
        return made

    @cached_property
    def _first(self) -> Mapping[Feed, int]:
        """The first of the tiles that share input converters."""
        return {record.feed: part for part, record in reversed(list(enumerate(self.records)))}

    @cached_property
    def _drawn(self) -> list[Solved]:
        """Every tile with devices and wires as they are drawn."""
        still = self.still
        return list(self._solved(range(len(self.tiles)), 0, still, draw_chip(still, self.generator(0, -1))))

    def _solved(self, parts: Sequence[int], number: int, variation: Variation, common: Chip) -> Iterator[Solved]:
        """Draw the devices of some tiles of a chip, and solve the tiles."""
        wires = {id(drawn): made_wires(drawn, common, self.law) for drawn in self.wires}
        for together in self._alike(parts):
            conductance = np.stack(
                [self.tiles[part].made(variation, common, self.law, self.generator(number, part)) for part in together]
            )
            drawn = self.wires[together[0]]
            used = self._used(together[0])
            siemens = effective_matrix(conductance, IDEAL if drawn is IDEAL else wires[id(drawn)], used)
            yield from zip(together, siemens, conductance, strict=True)

    def _place(
        self,
        made: Mapping[str, MadeCrossbars],
        part: int,
        siemens: Float[np.ndarray, "rows columns"],
        conductance: Float[np.ndarray, "rows columns 2"],
        readout: float,
        variation: Variation,
        celsius: float,
        number: int,
    ) -> None:
        """Put a made tile, `siemens` with `readout`, among its neighbours, with the errors of its converters.

        Those of the rows are the same for all tiles that share them: drawn where the first of them draws its own.
        """
        tile = self.records[part]
        crossbars, target = self.crossbars[tile.node], made[tile.node]
        rows, columns = siemens.shape
        at, across = crossbars.block_of(tile), slice(tile.column_start, tile.column_stop)
        first = self._first[tile.feed]
        rng = self.generator(number, part + len(self.tiles))
        of_rows = rng if first == part else self.generator(number, first + len(self.tiles))
        row_gain, row_offset = of_rows.standard_normal((2, rows))
        column_gain, column_offset = rng.standard_normal((2, columns))
        gain = 1.0 + variation.converter_gain * column_gain
        used = 1e6 * siemens * gain
        volts = variation.converter_offset * row_offset * float(crossbars.volts_per_code[at, 0, 0])
        step = crossbars.microamps_per_code[at, 0, across]
        thermal = thermal_noise(conductance[:, :columns].sum(axis=(0, 2)), celsius, variation.noise_bandwidth)
        target.microsiemens[at, :rows, across] = used * (1.0 + variation.converter_gain * row_gain[:, None])
        target.offset[at, 0, across] = volts @ used + variation.converter_offset * column_offset * step
        target.noise[at, 0, across] = np.hypot(1e6 * readout * thermal * gain, variation.converter_noise * step)

    def _used(self, part: int) -> tuple[int, int]:
        """Rows and columns of a tile that hold a part of a matrix."""
        tile = self.records[part]
        return tile.row_stop - tile.row_start, tile.column_stop - tile.column_start

    def _alike(self, parts: Sequence[int]) -> Iterator[list[int]]:
        """Parts whose tiles can be solved together: neighbours with the same wires and use, a bounded number."""
        for _, group in groupby(parts, key=lambda part: (id(self.wires[part]), self._used(part))):
            while together := list(islice(group, TOGETHER)):
                yield together
