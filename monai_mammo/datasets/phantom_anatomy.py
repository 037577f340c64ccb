"""Shape of a phantom breast in the two standard views, how it lies on the detector, and what is cut off.

Geometry only: outlines, pectoral muscle, places of masses, poses. Grey values are made in `phantom_pixels`.
Lengths are mm. The anatomy of every breast is drawn as a left one: x points from the chest wall to the nipple, y down
the image (towards medial in CC, towards inferior in MLO), the nipple lies near (depth, 0). The detector's corner at
the chest wall and the upper edge is (0, 0). A right breast is the mirror image of a left one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import splev, splprep
from scipy.spatial import cKDTree

VIEWS = ("CC", "MLO")
FIELD_HEIGHT_MM = 240.0
"""Height of the simulated detector (24 cm, as of an 18 x 24 cm receptor); its width follows from the image's shape."""

CAUSES: Mapping[str, tuple[str, ...]] = {
    "CC": ("medial", "nipple", "lateral", "posterior"),
    "MLO": ("inferior", "pectoral", "superior", "nipple"),
}
"""What a truncated image of each view may lack."""

_NIPPLE_LEVEL = {"CC": 0.5, "MLO": 0.56}  # of the field's height
# Shift (x, y) in mm and stretch of (x, y) for one unit of truncation. A nipple leaves the field only where a long
# breast meets a small receptor; everything else is a breast that lies in the wrong place.
_CUT_MOTION = {
    "medial": (0.0, 100.0, 0.0, 0.0),
    "lateral": (0.0, -100.0, 0.0, 0.0),
    "inferior": (0.0, 100.0, 0.0, 0.0),
    "superior": (0.0, -100.0, 0.0, 0.0),
    "posterior": (-100.0, 0.0, 0.0, 0.0),
    "pectoral": (-100.0, 0.0, 0.0, 0.0),
    "nipple": (34.0, 0.0, 0.7, 0.0),
}
# Share of the breast's area that a truncation takes away, of the muscle's where the muscle is what is missing.
_LOSS = {"nipple": (0.06, 0.14), "pectoral": (0.65, 0.85), "posterior": (0.22, 0.34)}
_CUT_SIDE = {  # the image edge, left breast
    "medial": "bottom",
    "lateral": "top",
    "inferior": "bottom",
    "superior": "top",
    "posterior": "left",
    "pectoral": "left",
    "nipple": "right",
}


@dataclass(frozen=True)
class Mass:
    """A mass with its place in both views: (`x`, `y[view]`) of the centre, half axes, margin.

    `margin` is one of circumscribed, lobulated, obscured, spiculated. `contrast` is what it adds to the tissue, of
    which fat has 0.36.
    """

    x: float
    y: Mapping[str, float]
    half_axes: tuple[float, float]
    angle: Mapping[str, float]
    margin: str
    contrast: float
    lobes: tuple[tuple[float, float], ...]
    """Amplitude and phase of the outline's harmonics 2, 3, …"""

    def radius(self, x: np.ndarray, y: np.ndarray, view: str) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the centre in units of the outline (1 on the mass's border), and the polar angle."""
        cos, sin = np.cos(self.angle[view]), np.sin(self.angle[view])
        dx, dy = x - self.x, y - self.y[view]
        along, across = (cos * dx + sin * dy) / self.half_axes[0], (cos * dy - sin * dx) / self.half_axes[1]
        theta = np.arctan2(across, along)
        border = 1.0 + sum(a * np.cos(k * theta + phase) for k, (a, phase) in enumerate(self.lobes, start=2))
        return np.hypot(along, across) / border, theta


@dataclass(frozen=True)
class Pose:
    """Where the breast lies on the detector: stretch, then rotation (radians), then shift (mm)."""

    shift: tuple[float, float]
    rotation: float = 0.0
    stretch: tuple[float, float] = (1.0, 1.0)

    def to_field(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Anatomy coordinates -> detector coordinates, mm."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        x, y = x * self.stretch[0], y * self.stretch[1]
        return cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1]

    def to_anatomy(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detector coordinates -> anatomy coordinates, mm."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        x, y = x - self.shift[0], y - self.shift[1]
        return (cos * x + sin * y) / self.stretch[0], (cos * y - sin * x) / self.stretch[1]


@dataclass(frozen=True)
class Breast:
    """One breast: its size in mm, its density (ACR a-d) and its masses."""

    depth: float
    """Chest wall to nipple in CC."""
    half_height: float
    """Half the extent along the chest wall in CC."""
    sag: float
    """0 (firm) … 1 (pendulous)."""
    pectoral_share: float
    """Width of the pectoral muscle at the field's upper edge, as a share of the breast's width there."""
    density: str
    masses: tuple[Mass, ...] = ()

    def nipple_x(self, view: str) -> float:
        """Distance of the nipple from the chest wall, mm."""
        return self.depth if view == "CC" else 1.05 * self.depth

    def outline(self, view: str) -> np.ndarray:
        """The skin line from beyond the upper to beyond the lower end of any field, (points, 2) as x, y in mm."""
        line = self._outline_cc() if view == "CC" else self._outline_mlo()
        return _with_nipple(line, np.array([self.nipple_x(view), 0.0]))

    def pectoral_edge(self, y: np.ndarray) -> np.ndarray:
        """The pectoral muscle's anterior edge in MLO: x in mm at height y (negative below its lower end)."""
        depth = self.nipple_x("MLO")
        top, bottom = -_NIPPLE_LEVEL["MLO"] * FIELD_HEIGHT_MM, 0.06 * depth
        share = (bottom - y) / (bottom - top)
        bulge = 0.35 * np.clip(share, 0, None) * np.clip(1 - share, 0, None)
        return self.pectoral_share * 0.56 * depth * (share + bulge)

    @cached_property
    def _skin(self) -> dict[str, tuple[cKDTree, np.ndarray]]:
        trees = {}
        for view in VIEWS:
            line = self.outline(view)
            tangent = np.gradient(line, axis=0)
            inward = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
            trees[view] = (cKDTree(line), inward / np.linalg.norm(inward, axis=1, keepdims=True))
        return trees

    def depth_below_skin(self, x: np.ndarray, y: np.ndarray, view: str) -> np.ndarray:
        """Signed distance to the skin line in mm, positive in the breast, of anatomy points of any shape."""
        tree, inward = self._skin[view]
        points = np.stack([np.ravel(x), np.ravel(y)], axis=1)
        distance, nearest = tree.query(points)
        side = np.einsum("ij,ij->i", points - tree.data[nearest], inward[nearest])
        return (np.where(side >= 0, 1.0, -1.0) * distance).reshape(np.shape(x))

    def _outline_cc(self) -> np.ndarray:
        t = np.linspace(-np.pi / 2, np.pi / 2, 600)
        height = np.where(t < 0, 1.04, 0.96) * self.half_height  # the lateral half is the fuller one
        arc = np.stack([self.depth * np.cos(t) ** 0.92, height * np.sin(t)], axis=1)
        far = np.linspace(-120.0, -0.5, 240)
        upper = np.stack([far, np.full_like(far, arc[0, 1]) + 0.04 * far], axis=1)
        lower = np.stack([far, np.full_like(far, arc[-1, 1]) - 0.04 * far], axis=1)[::-1]
        return _resample(np.concatenate([upper, arc, lower]))

    def _outline_mlo(self) -> np.ndarray:
        d, s = self.nipple_x("MLO"), self.sag
        knots = [
            (0.95, -4.6),
            (0.72, -3.0),
            (0.58, -2.0),
            (0.57, -1.45),
            (0.66, -1.0),
            (0.81, -0.62),
            (0.95, -0.28),
            (1.00, 0.0),
            (0.965, 0.20 + 0.04 * s),
            (0.80, 0.43 + 0.07 * s),
            (0.52, 0.60 + 0.10 * s),
            (0.24, 0.66 + 0.10 * s),
            (0.105, 0.665 + 0.07 * s),  # inframammary fold
            (0.12, 0.76 + 0.06 * s),
            (0.19, 0.95),
            (0.24, 1.40),
            (0.26, 3.4),
        ]
        spline, _ = splprep(np.array(knots).T * d, s=0)
        return _resample(np.stack(splev(np.linspace(0, 1, 4000), spline), axis=1))


def _resample(line: np.ndarray, step: float = 0.4) -> np.ndarray:
    """The same polyline with points `step` mm apart."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0.0, length[-1], step)
    return np.stack([np.interp(at, length, line[:, axis]) for axis in (0, 1)], axis=1)


def _with_nipple(line: np.ndarray, tip: np.ndarray) -> np.ndarray:
    """Raise a nipple of 5 mm, seen in profile, on the skin line at the point nearest to `tip`."""
    tangent = np.gradient(line, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    centre = int(np.argmin(np.linalg.norm(line - tip, axis=1)))
    along = (np.arange(len(line)) - centre) * 0.4
    return _resample(line + (5.0 * np.exp(-((along / 5.0) ** 4)))[:, None] * normal[centre])


@dataclass(frozen=True)
class PhantomView:
    """One image's geometry: a breast, the view, the pose of the complete image and, if truncated, the actual pose."""

    breast: Breast
    view: str
    complete_pose: Pose
    field_mm: tuple[float, float]
    """Height and width of the detector."""
    pose: Pose = field(default=Pose((0.0, 0.0)))
    cause: str = ""
    lost_fraction: float = 0.0
    """Share of the breast's area on the complete image that lies outside the field of this one."""

    def cut_side(self, laterality: str) -> str:
        """The image edge (left, right, top, bottom) at which tissue is missing; empty if complete."""
        side = _CUT_SIDE.get(self.cause, "")
        return {"left": "right", "right": "left"}.get(side, side) if laterality == "R" else side

    def field_grid(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Detector coordinates (x, y) of the centres of rows x columns cells that fill the field."""
        y = (np.arange(rows) + 0.5) * self.field_mm[0] / rows
        x = (np.arange(columns) + 0.5) * self.field_mm[1] / columns
        across, down = np.meshgrid(x, y)
        return across, down

    def breast_mask(self, rows: int, columns: int) -> np.ndarray:
        """Boolean (rows, columns): inside the skin line. Drawn as a left breast."""
        x, y = self.pose.to_anatomy(*self.field_grid(rows, columns))
        return self.breast.depth_below_skin(x, y, self.view) > 0

    def truncated(self, cause: str, rng: np.random.Generator) -> PhantomView:
        """The same breast laid so that tissue leaves the field for the named reason (one of `CAUSES[view]`)."""
        low, high = _LOSS.get(cause, (0.10, 0.25))
        wanted, turn = rng.uniform(low, high), rng.uniform(-0.05, 0.05)
        x, y = self.field_grid(120, int(120 * self.field_mm[1] / self.field_mm[0]))
        tissue = self.complete_pose.to_anatomy(x, y)
        inside = self.breast.depth_below_skin(*tissue, self.view) > 0
        tissue = (tissue[0][inside], tissue[1][inside])
        target = tissue
        if cause == "pectoral":
            muscle = tissue[0] < self.breast.pectoral_edge(tissue[1])
            target = (tissue[0][muscle], tissue[1][muscle])
        least, most = 0.0, 3.0
        for _ in range(12):  # the loss grows with the motion: bisection
            amount = 0.5 * (least + most)
            loss = self._loss(self._moved(cause, amount, turn), target)
            least, most = (amount, most) if loss < wanted else (least, amount)
        pose = self._moved(cause, most, turn)
        return replace(self, pose=pose, cause=cause, lost_fraction=self._loss(pose, tissue))

    def _moved(self, cause: str, amount: float, turn: float) -> Pose:
        dx, dy, sx, sy = _CUT_MOTION[cause]
        base = self.complete_pose
        return Pose(
            shift=(base.shift[0] + amount * dx, base.shift[1] + amount * dy),
            rotation=base.rotation + turn,
            stretch=(1.0 + amount * sx, 1.0 + amount * sy),
        )

    def _loss(self, pose: Pose, tissue: tuple[np.ndarray, np.ndarray]) -> float:
        x, y = pose.to_field(*tissue)
        kept = (x >= 0) & (x < self.field_mm[1]) & (y >= 0) & (y < self.field_mm[0])
        return float(1.0 - kept.mean())


def complete_view(breast: Breast, view: str, field_mm: tuple[float, float], rng: np.random.Generator) -> PhantomView:
    """A well-positioned image: nipple in profile, the whole breast on the detector, slightly different every time."""
    jitter = rng.uniform(-1.0, 1.0, size=3)
    shift = (float(2.0 * jitter[0]), float(_NIPPLE_LEVEL[view] * field_mm[0] + 4.0 * jitter[1]))
    pose = Pose(shift, rotation=float(0.04 * jitter[2]))
    return PhantomView(breast, view, pose, field_mm, pose)


def draw_breast(patient_size: np.ndarray, density: str, masses: int, rng: np.random.Generator) -> Breast:
    """One breast of a patient.

    Args:
        patient_size: three numbers in [0, 1]: depth, height, sag; both breasts of a patient share them.
        density: ACR category a, b, c or d.
        masses: how many masses it holds.
        rng: source of all that differs between the sides.
    """
    size = np.clip(patient_size + rng.normal(0.0, 0.04, size=3), 0.0, 1.0)
    breast = Breast(
        depth=78.0 + 36.0 * float(size[0]),
        half_height=68.0 + 26.0 * float(size[1]),
        sag=float(size[2]),
        pectoral_share=float(rng.uniform(0.66, 0.9)),
        density=density,
    )
    for _ in range(masses):
        breast = replace(breast, masses=(*breast.masses, _draw_mass(breast, rng)))
    return breast


def _draw_mass(breast: Breast, rng: np.random.Generator) -> Mass:
    """A mass that lies in the breast, clear of skin, pectoral muscle and the other masses, in both views."""
    major = float(np.exp(rng.uniform(np.log(4.5), np.log(14.0))))
    axes = (major, major * float(rng.uniform(0.65, 0.95)))
    for attempt in itertools.count(1):
        x = float(rng.uniform(0.2, 0.85)) * breast.depth
        cc, mlo = rng.uniform(-0.7, 0.7) * breast.half_height, rng.uniform(-0.9, 0.5) * breast.depth
        y = {"CC": float(cc), "MLO": float(mlo)}
        if _is_free(breast, x, y, 1.3 * axes[0]):
            break
        if attempt % 200 == 0:  # a crowded breast has room for a smaller one
            axes = (0.8 * axes[0], 0.8 * axes[1])
    margin = str(rng.choice(["circumscribed", "lobulated", "obscured", "spiculated"]))
    amplitude = {"circumscribed": 0.025, "lobulated": 0.10, "obscured": 0.06, "spiculated": 0.06}[margin]
    lobes = tuple((amplitude * float(a), 2 * np.pi * float(p)) for a, p in rng.uniform(0, 1, (6, 2)))
    angle = {view: float(rng.uniform(0, np.pi)) for view in VIEWS}
    return Mass(x, y, axes, angle, margin, float(rng.uniform(0.25, 0.5)), lobes)


def _is_free(breast: Breast, x: float, y: Mapping[str, float], reach: float) -> bool:
    if x < float(breast.pectoral_edge(np.array(y["MLO"]))) + reach:
        return False
    if any(breast.depth_below_skin(np.array(x), np.array(y[view]), view) < reach + 6.0 for view in VIEWS):
        return False
    others = [(o.x, o.y[view], y[view], 1.3 * max(o.half_axes)) for o in breast.masses for view in VIEWS]
    return all(np.hypot(x - ox, here - oy) > reach + size for ox, oy, here, size in others)
