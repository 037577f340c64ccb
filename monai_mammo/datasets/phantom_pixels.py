"""Grey values of a phantom mammogram: fat, fibroglandular tissue, ligaments, muscle, skin, masses, film noise.

A picture, not a simulation of X-ray physics: it is drawn so that a reader recognises what is what. Tone and texture are
set by digital mammograms (CDD-CESM), so that what learned from real breasts is not lost here: scaled as networks see
them, half of a breast's grey values lie below a third and nine tenths below three quarters, and its detail at every
scale from 1 to 16 of 512 pixels is as strong. Geometry comes from `phantom_anatomy`; nothing here knows DICOM.
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from monai_mammo.datasets.phantom_anatomy import Mass, PhantomView

_TILE = 512
_TILE_MM = 0.4  # one sample of a noise tile
# Share of the tissue cone that glandular tissue fills, and its brightness, by ACR density category.
_GLAND = {"a": (0.10, 0.08), "b": (0.34, 0.11), "c": (0.62, 0.13), "d": (0.90, 0.145)}


def draw(scene: PhantomView, rows: int, columns: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one image as of a left breast (chest wall at the left edge).

    Returns:
        float32 (rows, columns), 0 = no exposure difference to air (dark), about 1 = the densest tissue; and one
        boolean mask of the same shape for every mass of the breast, in its order. A mass of which less than a quarter
        is on the detector is left out of the picture and has an empty mask.
    """
    below_skin = _below_skin(scene, rows, columns)
    used = int(np.flatnonzero((below_skin > -2.0).any(axis=0))[-1]) + 1  # air beyond the breast needs no drawing
    x, y = (plane[:, :used].astype(np.float32) for plane in scene.field_grid(rows, columns))
    x, y = (plane.astype(np.float32) for plane in scene.pose.to_anatomy(x, y))
    skin = below_skin[:, :used]
    tissue = _tissue(scene, x, y, skin, rng)
    masks = []
    for mass in scene.breast.masses:
        added, mask = _mass(mass, scene, x, y, rng)
        tissue += added
        masks.append(np.pad(mask & (skin > 0), ((0, 0), (0, columns - used))))
    image = np.zeros((rows, columns), np.float32)
    image[:, :used] = _project(tissue, skin)
    return _detected(_toned(image), rng), masks


def _below_skin(scene: PhantomView, rows: int, columns: int) -> np.ndarray:
    """Depth below the skin line in mm at every pixel, from a grid four times as coarse."""
    coarse = (-(-rows // 4), -(-columns // 4))
    grid = scene.pose.to_anatomy(*scene.field_grid(*coarse))
    depth = scene.breast.depth_below_skin(*grid, scene.view).astype(np.float32)
    factors = (rows / coarse[0], columns / coarse[1])
    return zoom(depth, factors, order=1, mode="nearest", grid_mode=True)[:rows, :columns]


def _noise_tile(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Periodic noise with power falling as 1/frequency^(2 slope), zero mean, unit variance, (512, 512)."""
    frequency = np.hypot(fft.fftfreq(_TILE)[:, None], fft.rfftfreq(_TILE)[None, :])
    frequency[0, 0] = np.inf
    spectrum = fft.rfft2(rng.standard_normal((_TILE, _TILE), dtype=np.float32)) * frequency**-slope
    tile = fft.irfft2(spectrum, s=(_TILE, _TILE))
    return (tile / tile.std()).astype(np.float32)


def _sample(tile: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The tile's values at positions in mm, repeated without a seam."""
    return map_coordinates(tile, [down / _TILE_MM, across / _TILE_MM], order=1, mode="grid-wrap")


def _ridges(noise: np.ndarray, width: float) -> np.ndarray:
    """Thin bright lines where the noise crosses zero: what septa and ducts look like in projection."""
    return np.exp(-((noise / width) ** 2))


def _step(value: np.ndarray, softness: float) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(value / softness)


def _tissue(scene: PhantomView, x: np.ndarray, y: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fat, glandular tissue, ligaments and muscle, before thickness and skin."""
    breast = scene.breast
    share, brightness = _GLAND[breast.density]
    clouds, lace = _noise_tile(rng, 1.7), _noise_tile(rng, 1.15)
    cloud, fine = _sample(clouds, x, y), _sample(lace, x, y)
    # Ligaments and ducts run towards the nipple: noise in polar coordinates about it, warped a little.
    dx, dy = breast.nipple_x(scene.view) + 8.0 - x, y
    distance = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx)
    streak = _sample(lace, 0.5 * distance + 3.0 * cloud, 48.0 * angle + 5.0 * cloud)
    thread = _sample(clouds, 0.5 * distance + 2.0 * fine, 55.0 * angle + 5.0 * cloud + 57.0)
    inside = _cone(scene, x, y)
    gland = _step(inside - 1.0 + share + 0.36 * cloud + 0.18 * fine + 0.20 * streak, 0.26)
    gland *= np.clip(1.6 * inside + 0.2, 0, 1)
    deep = np.clip((skin - 2.0) / 9.0, 0, 1)  # the subcutaneous fat stays dark
    tissue = 0.36 + 0.042 * cloud + 0.028 * fine + 0.025 * streak  # fat
    tissue += deep * gland * brightness * (1.0 + 0.34 * fine + 0.31 * streak)
    web = _ridges(thread, 0.07) + 0.5 * _ridges(fine, 0.10)
    tissue += (0.2 + 0.8 * deep) * web * (0.04 + 0.08 * np.clip(inside + 0.5, 0, 1))
    tissue += 0.10 * np.exp(-((distance / 17.0) ** 2))  # ducts gather behind the nipple
    return (tissue + _muscle(scene, x, y, cloud)).astype(np.float32)


def _cone(scene: PhantomView, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How deep inside the glandular cone a point lies: 1 at its centre, 0 on its surface, negative outside."""
    along = x / scene.breast.nipple_x(scene.view)
    if scene.view == "CC":
        half, tilt = scene.breast.half_height, -0.08 * scene.breast.half_height  # more tissue laterally
    else:
        half, tilt = 0.72 * scene.breast.depth, -0.24 * scene.breast.depth  # and towards the axilla
    middle = tilt * (1.0 - along)
    narrow = np.clip(1.0 - 0.55 * along, 0.3, 1.0)
    return 1.0 - ((along - 0.58) / 0.54) ** 2 - ((y - middle) / (0.98 * half * narrow)) ** 2


def _muscle(scene: PhantomView, x: np.ndarray, y: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Pectoral muscle: a bright, faintly striated triangle in MLO, at most a crescent at the chest wall in CC."""
    crescent = -24.0 - 16.0 * (y / scene.breast.half_height) ** 2
    edge = scene.breast.pectoral_edge(y) if scene.view == "MLO" else crescent
    fibres = 0.012 * np.sin((x + 0.42 * y) / 2.1 + 2.0 * cloud)
    return _step(edge - x + 0.7 * cloud, 1.8) * (0.25 + 0.02 * cloud + fibres)


def _mass(
    mass: Mass, scene: PhantomView, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What a mass adds to the tissue, and its mask."""
    added, visible = np.zeros_like(x), np.zeros(x.shape, bool)
    reach = 2.4 * max(mass.half_axes)
    near = (np.abs(x - mass.x) < reach) & (np.abs(y - mass.y[scene.view]) < reach)
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    phases = rng.uniform(0, 2 * np.pi, size=3)  # drawn whether or not the mass is in the field
    if not rows.size:
        return added, visible
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    radius, theta = mass.radius(x[box], y[box], scene.view)
    core = radius < 1.0
    pixel_mm2 = (scene.field_mm[0] / len(x)) ** 2 / np.prod(scene.pose.stretch)
    if core.sum() * pixel_mm2 < 0.25 * np.pi * np.prod(mass.half_axes):
        return added, visible
    softness = {"circumscribed": 0.07, "lobulated": 0.10, "obscured": 0.30, "spiculated": 0.16}[mass.margin]
    body = _step(1.0 - radius, softness) * (1.06 - 0.22 * radius**2)
    if mass.margin == "spiculated":
        rays = sum(np.cos(k * theta + phase) for k, phase in zip((9, 14, 23), phases, strict=True)) / 3.0
        body += 0.55 * np.clip(rays, 0, 1) ** 2 * np.exp(-np.clip(radius - 0.8, 0, None) / 0.45) * (radius > 0.8)
    added[box] = mass.contrast * np.clip(body, 0, None)
    visible[box] = core
    return added, visible


def _project(tissue: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Tissue under the breast's thickness, which falls to nothing over the last centimetres, with the skin line."""
    rim = np.clip(skin / 22.0, 0, 1)
    thickness = np.sqrt(1.0 - (1.0 - rim) ** 2)
    line = 0.10 * np.exp(-(((skin - 1.0) / 0.9) ** 2))
    outside = np.clip(skin / 0.6 + 0.5, 0, 1)  # half a millimetre of unsharpness
    return outside * (tissue * (0.30 + 0.70 * thickness) * np.clip(0.25 + skin / 4.0, 0, 1) + line)


def _toned(image: np.ndarray) -> np.ndarray:
    """As images for presentation come: fat dark, and more of the grey scale for what is dense."""
    return 1.5 * np.clip(image, 0, None) ** 2


def _detected(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scatter, grain and the detector's offset."""
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    grain = gaussian_filter(grain, 0.6)
    image = image + 0.006 + grain * (0.004 + 0.020 * np.sqrt(np.clip(image, 0, None)))
    return np.clip(image / (1.0 + (image / 1.02) ** 4) ** 0.25, 0.0, 1.0)  # a film's shoulder
