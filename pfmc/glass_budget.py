"""What a block of glass takes: light, receivers and converters by the technology's figures, signal against noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pfmc.budget import provision_of
from pfmc.errors import PassError
from pfmc.layout.glass import GlassLayout
from pfmc.netlist.netlist import Provision, Tile
from pfmc.physics.energy import conversion_energy, settling_time
from pfmc.physics.homodyne import amplitude_noise, passive_gain, photon_energy, power_for_bits
from pfmc.primitives.volume import Performance
from pfmc.sections import Glass, Layer, OpticalEnergy, OpticalJoules, VolumeDetails
from pfmc.technology.glass import GlassTechnology
from pfmc.uses import in_lane, layers, macs_on_tiles

# Joules of a digital multiply-accumulate behind a volume: an 8-bit product (0.2 pJ) and a 32-bit sum (0.1 pJ) in 45 nm
# logic (M. Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9). That the wider codes of the converters take
# no more in today's logic is our assumption; memory and clock are left out.
DIGITAL_MAC: Final = 0.3e-12


def input_amplitude(technology: GlassTechnology) -> float:
    """Of one input at full scale, square root of watts."""
    return math.sqrt(technology.optics.input_power.si)


def read_time(technology: GlassTechnology, output_bits: int) -> float:
    """Seconds of a matrix-vector product: light takes none, modulators and receivers settle."""
    return settling_time(technology.optics.bandwidth.si, output_bits)


def receiver_noise(technology: GlassTechnology) -> float:
    """Of a reading, as an amplitude of the field, square root of watts."""
    optics = technology.optics
    return amplitude_noise(
        optics.responsivity.si, optics.local_oscillator_power.si, optics.receiver_noise.si, optics.bandwidth.si
    )


def details(layout: GlassLayout, vectors: Mapping[str, Sequence[int]], write_s: Sequence[float]) -> list[VolumeDetails]:
    """Of every tile, in the order of the layout.

    Args:
        vectors: matrix-vector products per inference; see :func:`pfmc.uses.vectors_per_inference`.
        write_s: what each takes to write, seconds.
    """
    return [
        _details(layout.technology, placed.tile, written.performance, vectors[placed.tile.node], seconds)
        for (placed, written), seconds in zip(layout.written(), write_s, strict=True)
    ]


def product_energy(
    technology: GlassTechnology, rows: int, columns: int, input_power: float, provision: Provision
) -> dict[str, float]:
    """Joules of one matrix-vector product of one volume, by what takes them.

    Args:
        rows, columns: inputs and outputs that are used.
        input_power: of the light of all inputs together, on average, watts.
        provision: its converters.
    """
    optics, time = technology.optics, read_time(technology, provision.output_bits)
    wall = optics.wall_plug_efficiency.si
    dac = conversion_energy(optics.dac_energy_per_step.si, provision.input_bits)
    adc = conversion_energy(optics.adc_energy_per_step.si, provision.output_bits)
    return {
        "signal_j": input_power * time / wall,
        "local_oscillators_j": columns * optics.local_oscillator_power.si * time / wall,
        "receivers_j": columns * optics.receiver_power.si * time,
        "converters_j": rows * dac + columns * adc,
    }


def photons_by_width(technology: GlassTechnology, output_bits: int, crest: float) -> dict[int, float]:
    """Photons of signal per multiply-accumulate that a reading of so many bits needs, by the width of a layer.

    A square layer of random weights in tiles with the highest gain that is possible (:func:`passive_gain`); an output
    at full scale is 2^bits of the receivers' noise. Within a tile the light falls as the inverse of the width, which is
    what lets optics gain on electronics (M. G. Anderson et al., Optical Transformers, arXiv:2302.10360); beyond a
    tile's size it does not, since every tile's partial sums are read by themselves.

    Args:
        crest: full scale over root mean square, of inputs and outputs.
    """
    noise, time = receiver_noise(technology), read_time(technology, output_bits)
    tile, photon = technology.tile, photon_energy(technology.light.wavelength.si)
    photons, width = {}, 2
    while width < max(tile.rows.value, tile.columns.value):
        width *= 2
        rows, columns = (min(width, int(most.value)) for most in (tile.rows, tile.columns))
        power = power_for_bits(float(output_bits), noise, passive_gain(rows, columns) * math.sqrt(rows))
        photons[width] = power / crest**2 * time / columns / photon
    return photons


def _details(
    technology: GlassTechnology, tile: Tile, performance: Performance, of_node: Sequence[int], write_s: float
) -> VolumeDetails:
    if tile.input_range is None or tile.output_range is None or tile.mean_square is None:
        raise PassError("the tile has no ranges", f"tile {tile.name}", "the pipeline needs the calibrate pass")
    rows, columns, full = len(tile.rows), len(tile.columns), input_amplitude(technology)
    light = float(tile.mean_square.sum()) * (full / tile.input_range.high) ** 2
    output = tile.output_range.high * tile.scale * full / tile.input_range.high
    spent = product_energy(technology, rows, columns, light, provision_of(tile))
    vectors = in_lane(of_node, tile.lane, tile.lanes)
    return VolumeDetails(
        name=tile.name,
        node=tile.node,
        vectors=vectors,
        layers=performance.layers,
        voxels=performance.voxels,
        error=performance.error,
        efficiency=performance.efficiency,
        crosstalk=performance.crosstalk,
        features_ratio=performance.layers * performance.voxels**2 / (rows * columns),
        signal_to_noise=output / receiver_noise(technology),
        write_s=write_s,
        **{name: vectors * joules for name, joules in spent.items()},
    )


def sections(
    layout: GlassLayout, vectors: Mapping[str, Sequence[int]], found: Sequence[VolumeDetails]
) -> dict[str, Any]:
    """The manifest's sections."""
    technology = layout.technology
    tiles = [tile for tile in layout.netlist.tiles if tile.copy == 0 and tile.lane == 0]  # others hold no new weights
    weights = sum(len(tile.rows) * len(tile.columns) for tile in tiles)
    voxel, layer = technology.writing.voxel.si, technology.writing.layer.si
    volume = 1e9 * sum(each.layers * layer * (each.voxels * voxel) ** 2 for each in found)  # mm³
    read_s = {tile.node: read_time(technology, provision_of(tile).output_bits) for tile in layout.netlist.tiles}
    used = layers(vectors, {tile.node: tile.lanes for tile in layout.netlist.tiles}, read_s)
    return {
        "energy": _energy(layout, vectors, found, used),
        "layers": used,
        "glass": Glass(
            thickness_um=layout.thickness / 1000,
            volume_mm3=volume,
            voxels=sum(each.layers * each.voxels**2 for each in found),
            weights_per_mm3=weights / volume,
            worst_error=max(each.error for each in found),
            mean_error=sum(each.error for each in found) / len(found),
            mean_efficiency=sum(each.efficiency for each in found) / len(found),
            worst_crosstalk=max(each.crosstalk for each in found),
            least_signal_to_noise=min(each.signal_to_noise for each in found),
            write_s=sum(each.write_s for each in found),
        ),
    }


def _energy(
    layout: GlassLayout, vectors: Mapping[str, Sequence[int]], found: Sequence[VolumeDetails], used: Sequence[Layer]
) -> OpticalEnergy:
    """The sum of tiles, and the time of an inference; see :meth:`pfmc.budget.Metered.sections`."""
    technology = layout.technology
    parts = {name: sum(getattr(tile, name) for tile in found) for name in OpticalJoules.parts()}
    total = sum(parts.values())
    macs = max(1, macs_on_tiles(layout.netlist, vectors))
    light = (parts["signal_j"] + parts["local_oscillators_j"]) * technology.optics.wall_plug_efficiency.si
    photons = technology.optics.wall_plug_efficiency.si / macs / photon_energy(technology.light.wavelength.si)
    bits = [provision_of(tile).output_bits for tile in layout.netlist.tiles]
    needed = sum(
        tile.signal_j * (2.0**count / tile.signal_to_noise) ** 2 for tile, count in zip(found, bits, strict=True)
    )
    mixed = sum(each.vectors * len(tile.columns) ** 2 for tile, each in zip(layout.netlist.tiles, found, strict=True))
    return OpticalEnergy(
        per_inference_j=total,
        per_mac_j=total / macs,
        light_per_mac_j=light / macs,
        photons_per_mac=parts["signal_j"] * photons,
        needed_photons_per_mac=needed * photons,
        latency_s=sum(layer.latency_s for layer in used),
        read_time_s=max(layer.read_s for layer in used),
        post_matrix_macs=mixed,
        post_matrix_j=mixed * DIGITAL_MAC,
        **parts,
    )
