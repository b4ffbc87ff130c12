"""construct: the voxels of every tile, several at a time in processes of their own."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from typing import ClassVar

import numpy as np

from pfmc.errors import CapacityError, PassError
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.passmanager import Context, Pass
from pfmc.primitives.volume import DiffractiveVolume, Performance
from pfmc.primitives.volume_store import VolumeStore
from pfmc.technology.kinds import glass


@dataclass(frozen=True)
class Construct(Pass[Netlist, Netlist]):
    """Find voxels whose light computes each block; a block that is too much for one volume is split by columns.

    ``robust`` steps, 40 say, move the voxels of each to where the writer's errors, drawn as the technology has them,
    disturb the matrix less: a fifth for 64 x 10 weights in fused silica, in twice the time.
    """

    robust: int = 0

    name: ClassVar[str] = "construct"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.robust < 0:
            raise ValueError("robust must not be below 0")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Every tile gets its gain; tiles are numbered again.

        Raises:
            CapacityError: if even a single column cannot be realised.
        """
        technology = glass(context.technology, "pass construct")
        primitive = DiffractiveVolume.of(technology)
        store = VolumeStore.of(context.checkpoint, technology, context.seed)
        wanted = technology.tile.relative_error.si
        progress = context.stage("constructing volumes", len(source.tiles))
        waiting, built = list(source.tiles), list[Tile]()
        # Spawned, not forked: a process that is forked beside threads of a library can hang.
        with ProcessPoolExecutor(context.workers, get_context("spawn"), _ignore_interrupts) as pool:
            try:
                while waiting:
                    jobs = [
                        pool.submit(store.performance, source.block(t), primitive, wanted, self.robust) for t in waiting
                    ]
                    too_much: list[Tile] = []
                    for tile, job in zip(waiting, jobs, strict=True):
                        found = job.result()
                        if found.error <= wanted:
                            built.append(replace(tile, scale=found.gain, robust=self.robust))
                            progress(1)
                        else:
                            too_much += _halves(tile, found)
                    waiting = too_much
            except BrokenProcessPool:
                what = "a process that constructs volumes was ended from outside"
                raise PassError(what, "pass construct", "fewer --workers need less memory; --resume goes on") from None
            except BaseException:
                for child in active_children():  # whoever leaves does not wait for volumes to be finished
                    child.terminate()
                raise
        order = {node.name: i for i, (node, _) in enumerate(source.by_node())}
        built.sort(key=lambda tile: (order[tile.node], tile.rows.start, tile.columns.start))
        return replace(source, tiles=tuple(replace(tile, name=f"t{i:05d}") for i, tile in enumerate(built)))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has a gain that is a number."""
        for tile in result.tiles:
            if not (np.isfinite(tile.scale) and tile.scale > 0):
                raise PassError(f"the gain is {tile.scale}", f"tile {tile.name} of node {tile.node}")


def _ignore_interrupts() -> None:
    """In a process of the pool: Ctrl-C reaches all, and the one that began it all decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _halves(tile: Tile, found: Performance) -> list[Tile]:
    """A tile's columns on two tiles.

    Raises:
        CapacityError: if there is only one.
    """
    start, stop = tile.columns.start, tile.columns.stop
    if stop - start == 1:
        raise CapacityError(
            f"{len(tile.rows)} x 1 weights come to an error of {found.error:.2%} only, in {found.layers} layers of"
            f" {found.voxels} x {found.voxels} voxels",
            f"tile {tile.name} of node {tile.node}",
            "fewer rows (tile.rows), more index levels, or more layers and voxels in the technology",
        )
    middle = (start + stop + 1) // 2
    return [replace(tile, columns=range(start, middle)), replace(tile, columns=range(middle, stop))]
