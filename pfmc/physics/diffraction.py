"""Light in a homogeneous slab: plane waves, Gaussian apertures, overlaps. Scalar, coherent, one direction.

A field is an array (*batch, rows, columns) of complex amplitudes, scaled so that the sum of |field|² times the area of
a pixel is its power in watts (the spectrum of the electric field, times the square root of the cosine of each wave's
angle). In this scaling a lossless piece of glass is unitary and, by reciprocity, symmetric. The grid is periodic: what
leaves on one side comes back on the other, unless it is absorbed or the band limit holds it back.

Every function takes arrays of any library that follows the array API standard (NumPy, torch on any device) and gives
back what it was given, in the same precision. With NumPy the transforms are SciPy's, which keep complex64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from array_api_compat import array_namespace, device, is_numpy_namespace
from jaxtyping import Complex, Float, Num

from pfmc.errors import UsageError


@dataclass(frozen=True)
class Grid:
    """Samples of a plane across the light, and the medium around it.

    Args:
        rows, columns: samples along y and x.
        pixel: distance of two samples, metres, the same along x and y.
        wavelength: in vacuum, metres.
        index: of refraction of the homogeneous medium.

    Raises:
        UsageError: a value is not positive and finite.
    """

    rows: int
    columns: int
    pixel: float
    wavelength: float
    index: float

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "pixel", "wavelength", "index"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}", "grid", "give a positive number")

    @property
    def wavenumber(self) -> float:
        """2π n / λ, radians per metre in the medium."""
        return 2 * math.pi * self.index / self.wavelength

    @property
    def aperture(self) -> float:
        """Largest numerical aperture n·sinθ, along x and y, that the samples carry: λ / (2 · pixel), at most n."""
        return min(self.index, self.wavelength / (2 * self.pixel))


def transform(field: Any, *, overwrite: bool = False) -> Any:
    """Two-dimensional Fourier transform over the last two axes, not normalised; ``overwrite``: may reuse the memory."""
    xp = array_namespace(field)
    return scipy.fft.fft2(field, overwrite_x=overwrite) if is_numpy_namespace(xp) else xp.fft.fftn(field, axes=(-2, -1))


def transform_back(spectrum: Any, *, overwrite: bool = False) -> Any:
    """Inverse of ``transform``."""
    xp = array_namespace(spectrum)
    if is_numpy_namespace(xp):
        return scipy.fft.ifft2(spectrum, overwrite_x=overwrite)
    return xp.fft.ifftn(spectrum, axes=(-2, -1))


def like(values: np.ndarray, field: Any) -> Any:
    """An array in the library, precision and place of a field."""
    return array_namespace(field).asarray(values, dtype=field.dtype, device=device(field))


def cosines(grid: Grid) -> Float[np.ndarray, "rows columns"]:
    """Cosine of the angle between each plane wave and the axis, in the order of the transform; 0 if evanescent."""
    squared = sum(np.square(s) for s in _sines(grid))
    return np.asarray(np.sqrt(np.maximum(0.0, 1.0 - squared)))


def _sines(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Direction sines along y, as a column, and along x, as a row."""
    y, x = (np.fft.fftfreq(n, grid.pixel) * grid.wavelength / grid.index for n in (grid.rows, grid.columns))
    return y[:, None], x[None, :]


def propagate(
    field: Complex[Any, "*batch rows columns"], grid: Grid, distance: float, *, band_limited: bool = True
) -> Complex[Any, "*batch rows columns"]:
    """The field after a homogeneous slab, by the angular spectrum: wave by wave exp(i k_z · distance), k_z = k cosθ.

    Evanescent waves are left out. Waves so steep that they would travel more than half of the grid sideways,
    |tan θ| > width / (2 · distance), are left out too if ``band_limited``: their phase changes by more than π from one
    sample of the spectrum to the next (Matsushima and Shimobaba, Opt. Express 17, 19662, 2009, equation 20).

    Args:
        field: amplitudes; leading axes are fields of their own.
        grid: samples and medium.
        distance: metres; a negative one goes back.
        band_limited: leave out waves that the grid is too narrow for. Without it the slab is unitary for all
            travelling waves, and periodic.

    Raises:
        UsageError: the field does not fit the grid.
    """
    if tuple(field.shape[-2:]) != (grid.rows, grid.columns):
        raise UsageError(
            f"a field of {tuple(field.shape[-2:])} samples", "propagate", f"give {grid.rows, grid.columns}"
        )
    spectrum = transform(field)
    spectrum *= like(slab(grid, distance, band_limited), field)
    return transform_back(spectrum, overwrite=True)


def propagate_adjoint(
    field: Complex[Any, "*batch rows columns"], grid: Grid, distance: float, *, band_limited: bool = True
) -> Complex[Any, "*batch rows columns"]:
    """Adjoint of ``propagate`` (conjugate transpose): ⟨a, propagate(b)⟩ = ⟨propagate_adjoint(a), b⟩. It goes back."""
    return propagate(field, grid, -distance, band_limited=band_limited)


def slab(grid: Grid, distance: float, band_limited: bool = False) -> Complex[np.ndarray, "rows columns"]:
    """Factor of each plane wave, in the order of the transform, for a homogeneous slab; see ``propagate``."""
    cosine = cosines(grid)
    factor = (cosine > 0) * np.exp(1j * grid.wavenumber * distance * cosine)
    if band_limited:
        for sine, count in zip(_sines(grid), (grid.rows, grid.columns), strict=True):
            limit = math.sin(math.atan2(count * grid.pixel, 2 * abs(distance)))
            factor = factor * (np.abs(sine) <= limit)
    return np.asarray(factor)


def spot_centres(rows: int, columns: int, pitch: float) -> Float[np.ndarray, "spots 2"]:
    """Centres (y, x) of rows × columns spots around the axis, metres, row by row; ``pitch`` is their distance."""
    y, x = (pitch * (np.arange(n) - (n - 1) / 2) for n in (rows, columns))
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def gaussian_modes(
    centres: Float[np.ndarray, "modes 2"], waist: float, grid: Grid
) -> Complex[np.ndarray, "modes rows columns"]:
    """Gaussian spots of unit power at their waist, the modes of single-mode apertures.

    amplitude = √(2/π) / waist · exp(−r² / waist²); the half angle of the beam is λ / (π · n · waist).

    Args:
        centres: (y, x) of each, metres from the middle of the grid (between two samples if their number is even).
        waist: radius at which the amplitude is 1/e of the peak, metres.
        grid: samples and medium.

    Raises:
        UsageError: a spot does not fit on the grid, or the samples are too coarse for it.
    """
    y, x = (grid.pixel * (np.arange(n) - (n - 1) / 2) for n in (grid.rows, grid.columns))
    lines = [np.exp(-np.square((axis - centres[:, i, None]) / waist)) for i, axis in enumerate((y, x))]
    modes = math.sqrt(2 / math.pi) / waist * lines[0][:, :, None] * lines[1][:, None, :]
    power = np.square(modes).sum(axis=(1, 2)) * grid.pixel**2
    if not np.allclose(power, 1.0, atol=5e-3) or waist < grid.pixel:
        raise UsageError(
            f"a spot of waist {waist:.3g} m does not fit {grid.rows} x {grid.columns} samples of {grid.pixel:.3g} m",
            "modes",
            "give a larger grid, smaller pixels or spots nearer to the axis",
        )
    return np.asarray(modes / np.sqrt(power)[:, None, None], dtype=complex)


def overlap(
    modes: Complex[Any, "modes rows columns"], fields: Complex[Any, "fields rows columns"], grid: Grid
) -> Complex[Any, "modes fields"]:
    """Amplitude of each field in each mode of unit power: the sum over the plane of conj(mode) · field · pixel²."""
    xp = array_namespace(modes, fields)
    flat = [xp.reshape(a, (a.shape[0], -1)) for a in (modes, fields)]
    return grid.pixel**2 * (xp.conj(flat[0]) @ flat[1].T)


def power(field: Num[Any, "*batch rows columns"], grid: Grid) -> Float[Any, "*batch"]:
    """Power of each field, watts."""
    xp = array_namespace(field)
    return grid.pixel**2 * xp.sum(xp.square(xp.abs(field)), axis=(-2, -1))
