"""A full-vector solver's word on two small volumes: Meep, run off line; what it found is in ``fdtd_record.json``.

    python tests/fdtd_judge.py export FOLDER                       # in pfmc's environment: files as for Meep
    python3 tests/fdtd_judge.py run FOLDER tests/fdtd_record.json  # where Meep is (Debian: python3-meep python3-h5py)

A run takes one to ten minutes on one core; those that the record has are left out: remove it where something changed.

A sheet of current with the profile of one port, along x or y, radiates in front of the volume; behind it the electric
fields along x and y, at one frequency, are overlapped with the ports' profiles. Grids of 12, 15 and 18 samples per
micrometre, 8.3, 10.3 and 12.4 per wavelength in the glass: the errors of Yee's scheme, of second and fourth order, can
be taken away. Where faces of voxels lie on the grid's nodes, Meep gets the mean of both sides.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

INDEX, WAVELENGTH = 1.45, 1e-6
CONTRASTS = {"none": 0.0, "weak": 5e-3, "strong": 2.5e-2}  # fused silica's, and the largest that pfmc computes with
LEVELS = 6
VOXELS, VOXEL = 12, 0.5e-6
LAYERS, LAYER = 6, 2e-6
WAIST = 0.8e-6
INPUT = (-0.75e-6, 0.5e-6)  # (y, x) of the port
OUTPUTS = ((0.0, 0.0), (-1e-6, -1e-6), (1e-6, -0.75e-6), (0.75e-6, 1.25e-6))
GAP = 0.5e-6  # glass between ports and volume
SIDE, DEPTH, ABSORBER = 10, 16, 1  # of Meep's cell, and its perfectly matched layers, um
SAMPLES = 24  # per um, of the permittivity that Meep gets
RUNS = [  # volume, direction of the current, samples per um
    *itertools.product(CONTRASTS, "x", (12, 15, 18)),
    *itertools.product(("none", "strong"), "y", (12,)),
]


def levels() -> np.ndarray:
    """Of the voxels [z, y, x]: drawn, so that no two axes and directions are alike."""
    return np.random.default_rng(12).integers(0, LEVELS, (LAYERS, VOXELS, VOXELS), dtype=np.uint8)


def export(folder: Path) -> None:
    """Write the volumes as ``pfmc export --format meep`` does."""
    from pfmc_backends.glass_voxels.meep import write_meep
    from pfmc_backends.glass_voxels.volume import WrittenVolume

    from pfmc.physics.volume import Volume

    for name, contrast in CONTRASTS.items():
        table = np.linspace(0.0, contrast, LEVELS)
        volume = WrittenVolume(name, levels(), table, np.linspace(0.0, 0.2, LEVELS), INDEX, VOXEL, LAYER, depth=0.0)
        sharp = Volume(LAYERS, VOXELS, VOXELS, VOXEL, LAYER, WAVELENGTH, INDEX)
        write_meep(volume, folder / f"{name}.h5", sharp)


def permittivity(path: Path) -> np.ndarray:
    """Of Meep's whole cell [x, y, z]: an exported volume, its samples repeated, in the middle of the glass."""
    import h5py

    with h5py.File(path) as file:
        inner, size = file["eps"][...], file["eps"].attrs["size_um"]
    for axis, count in enumerate(np.rint(size * SAMPLES).astype(int) // inner.shape):
        inner = np.repeat(inner, count, axis)
    rims = [((n * SAMPLES - have) // 2,) * 2 for n, have in zip((SIDE, SIDE, DEPTH), inner.shape, strict=True)]
    return np.pad(inner, rims, constant_values=INDEX**2)


def simulate(path: Path, direction: str, resolution: int) -> dict[str, list[list[float]]]:
    """Amplitudes [re, im] of the fields along x and y in each output, in units that only the grid decides."""
    import meep as mp

    mp.verbosity(0)
    z = (LAYERS * LAYER / 2 + GAP) * 1e6
    inner = SIDE - 2 * ABSORBER
    along = {"x": mp.Ex, "y": mp.Ey}

    def profile(y: Any, x: Any, at: tuple[float, float]) -> Any:
        return np.exp(-((y - at[0] * 1e6) ** 2 + (x - at[1] * 1e6) ** 2) / (WAIST * 1e6) ** 2)

    simulation = mp.Simulation(
        cell_size=mp.Vector3(SIDE, SIDE, DEPTH),
        resolution=resolution,
        boundary_layers=[mp.PML(ABSORBER)],
        default_material=permittivity(path),
        eps_averaging=False,
        sources=[
            mp.Source(
                mp.GaussianSource(1e-6 / WAVELENGTH, fwidth=0.4, cutoff=4),
                component=along[direction],
                center=mp.Vector3(0, 0, -z),
                size=mp.Vector3(inner, inner, 0),
                amp_func=lambda p: complex(profile(p.y, p.x, INPUT)),
            )
        ],
    )
    plane = simulation.add_dft_fields(
        list(along.values()), 1e-6 / WAVELENGTH, 0, 1, center=mp.Vector3(0, 0, z), size=mp.Vector3(inner, inner, 0)
    )
    simulation.run(until_after_sources=INDEX * 2 * z + 8)
    x, y, _, weight = simulation.get_array_metadata(dft_cell=plane)
    found = {}
    for name, component in along.items():
        field = simulation.get_dft_array(plane, component, 0) * np.reshape(weight, (len(x), len(y)))
        amplitudes = [np.sum(field * profile(y[None, :], x[:, None], at)) for at in OUTPUTS]
        found[name] = [[float(a.real), float(a.imag)] for a in amplitudes]
    return found


def main(command: str, folder: Path, record: Path | None = None) -> None:
    """See the head of the file."""
    if command == "export" or record is None:
        export(folder)
        return
    import meep as mp

    kept = json.loads(record.read_text()) if record.exists() else {}
    for volume, direction, resolution in RUNS:
        name = f"{volume} {direction} {resolution}"
        if name not in kept.get("runs", {}):
            runs = kept.get("runs", {}) | {name: simulate(folder / f"{volume}.h5", direction, resolution)}
            program = f"Meep {mp.__version__} (Debian 12), Courant factor 0.5, float64"
            kept = {"program": program, "levels": levels().tolist(), "runs": runs}
            record.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
