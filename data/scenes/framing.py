"""Where a captured scene sits: its axes, its unit of length, and the box around what its cameras see.

All in double precision; the results are rounded to single precision only when they are handed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ids3d.cameras import closest_to_axes
from ids3d.errors import UserError
from ids3d.scene import CameraLayout, Similarity
from ids3d.space import BOX, NDC, Space

SpaceChoice = Literal["auto", "box", "ndc"]
DEPTH = 2.0  # of normalised device coordinates, in shifts between the outermost cameras

# Mean resultant length of the viewing directions; 0.75 is that of an evenly filled cone of 60 degrees.
FORWARD_FACING = 0.75


@dataclass(frozen=True)
class Poses:
    """What framing needs of n views, in the units and axes of the files.

    Attributes:
        c2w: (n, 3, 4) float64, OpenGL axes.
        tangents: (n, 2) float64, tangents of half the horizontal and half the vertical field of view.
        bounds: (n, 2) float64, nearest and farthest depth that each view shows, along its camera's axis.
    """

    c2w: Tensor
    tangents: Tensor
    bounds: Tensor

    @property
    def centres(self) -> Tensor:
        return self.c2w[:, :, 3]

    @property
    def forward(self) -> Tensor:
        return -self.c2w[:, :, 2]


@dataclass(frozen=True)
class Ball:
    """What holds all that was photographed, where that is known: centre (3,) float64 and radius, the files' units."""

    centre: Tensor
    radius: float


@dataclass(frozen=True)
class Framing:
    """The scene's axes and units, and its extent in them.

    Attributes:
        layout: how the cameras stand to each other.
        to_scene: from the files' units and axes to the scene's.
        aabb: (6,) float32, (x0, y0, z0, x1, y1, z1) in scene units.
        near, far: along unit rays, in scene units: no view shows anything nearer than near, and no ray is
            still in the box beyond far.
        nearest: (n,) float32, in scene units: depth along each camera's axis before which its view shows nothing.
        look: (n,) float32, in scene units: depth along each camera's axis of what it looks at.
        core: (6,) float32, of views from all around: the part of the box that half of the cameras see whole; else None.
        space: the coordinates that aabb is in.
    """

    layout: CameraLayout
    to_scene: Similarity
    aabb: Tensor
    near: float
    far: float
    nearest: Tensor
    look: Tensor
    core: Tensor | None = None
    space: Space = BOX

    def place(self, c2w: Tensor) -> Tensor:
        """Cameras (n, 3, 4) of the files, float64, as cameras of the scene, float32."""
        turned = self.to_scene.rotation @ c2w[:, :, :3]
        return torch.cat([turned, self.to_scene.apply(c2w[:, :, 3])[:, :, None]], dim=-1).float()


def frame(
    poses: Poses, recentre: bool, box_size: float, ball: Ball | None = None, space: SpaceChoice = "box"
) -> Framing:
    """Choose axes, unit and box.

    Args:
        poses: the views.
        recentre: turn and shift the scene, so that y is up, the average camera looks along -z but for its pitch,
            and the origin is the mean of the cameras' centres, or, for views from all around, the point that
            they look at. False keeps the files' axes and origin.
        box_size: the longest side of the box in scene units; 0 keeps the files' units.
        ball: the box is around it; None: around all that the views see.
        space: what the field is laid out in: a box of the world, or the average camera's normalised device coordinates;
            auto: these where the views are forward-facing and have them, with nothing known of what is photographed.

    Raises UserError: they are asked for, and there are no normalised device coordinates for these views.
    """
    layout = layout_of(poses)
    if recentre:
        moved = Similarity(_axes(poses), _origin(poses, layout), 1.0)
    else:
        moved = Similarity(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)
    if ball is None:
        corners = moved.apply(frusta(poses, _depths(poses, layout)))
        low, high = corners.reshape(-1, 3).amin(dim=0), corners.reshape(-1, 3).amax(dim=0)
    else:
        middle = moved.apply(ball.centre)
        low, high = middle - ball.radius, middle + ball.radius
    scale = box_size / float((high - low).max()) if box_size > 0 else 1.0
    to_scene = Similarity(moved.rotation, moved.origin, scale)
    low, high, centres = scale * low, scale * high, to_scene.apply(poses.centres)
    farthest = torch.maximum((centres - low).abs(), (centres - high).abs()).norm(dim=-1).max()
    near = scale * float(poses.bounds[:, 0].min())
    nearest = (scale * poses.bounds[:, 0]).float()
    around = layout == "all around"
    look = scale * (_focus_depths(poses) if around else poses.bounds.prod(dim=-1).sqrt()).float()
    core = _core(poses, to_scene, low, high) if around else None
    aabb = torch.cat([low, high]).float()
    framing = Framing(layout, to_scene, aabb, near, float(farthest), nearest, look, core)
    if space == "box" or (space == "auto" and (layout != "forward-facing" or ball is not None)):
        return framing
    try:
        coordinates, aabb = ndc(poses, to_scene)
    except UserError:
        if space == "auto":
            return framing
        raise
    return replace(framing, space=coordinates, aabb=aabb)


def ndc(poses: Poses, to_scene: Similarity) -> tuple[NDC, Tensor]:
    """The average camera's normalised device coordinates, and the box (6,) in them that holds all frusta.

    The near plane is at the nearest thing that any view shows. A disparity's length is the shift that it makes between
    the outermost cameras, so that a cell is about as deep as these can tell.

    Raises UserError: a camera is at that plane or beyond it, a view looks sideways, or all cameras are at one place.
    """
    back = _unit(-poses.forward.mean(dim=0))
    up = poses.c2w[:, :, 1].mean(dim=0)
    right = _unit(torch.linalg.cross(_not_along(back, up), back))
    axes = torch.stack([right, torch.linalg.cross(back, right), back]) @ to_scene.rotation.T
    centres = to_scene.apply(poses.centres)
    origin = centres.mean(dim=0)
    corners = to_scene.apply(frusta(poses, poses.bounds))
    depths = -((corners - origin) @ axes[2])
    near = float(depths.min())
    local = (centres - origin) @ axes.T
    if near <= 1.05 * max(0.0, float((-local[:, 2]).max())):
        raise UserError(
            "data.space=ndc: there is no plane before all cameras with all that they show behind it: use data.space=box"
        )
    shift = float(torch.cdist(local[:, :2], local[:, :2]).max()) / near
    if shift < 1e-6:
        raise UserError("data.space=ndc: all cameras are at one place: use data.space=box")
    space = NDC(axes.float(), origin.float(), near, DEPTH * shift)
    seen = space.coordinates(corners)
    low, high = seen.reshape(-1, 3).amin(dim=0), seen.reshape(-1, 3).amax(dim=0)
    return space, torch.cat([low, high]).float()


def layout_of(poses: Poses) -> CameraLayout:
    """How the cameras stand: the directions agree, or the axes meet in front of them, or behind."""
    if float(poses.forward.mean(dim=0).norm()) > FORWARD_FACING:
        return "forward-facing"
    return "all around" if float(_focus_depths(poses).median()) > 0 else "looking outwards"


def frusta(poses: Poses, depths: Tensor) -> Tensor:
    """Corners (n, 8, 3) of what each view sees between two depths (n, 2) along its axis."""
    signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    sides = signs * poses.tangents[:, None]
    corners = torch.cat([sides, -torch.ones_like(sides[..., :1])], dim=-1)
    local = (depths[:, :, None, None] * corners[:, None]).flatten(1, 2)
    return local @ poses.c2w[:, :, :3].mT + poses.centres[:, None]


def _depths(poses: Poses, layout: CameraLayout) -> Tensor:
    """From which depth to which depth (n, 2) a view's frustum counts for the box.

    Photographs from all around an object show the room behind it here and there: in some views, bounds reach far.
    A box that held the room would leave few cells for the object, so there no view reaches farther beyond the
    point that the cameras look at than the median view does; what is cut off is behind the object in every view.
    """
    if layout != "all around":
        return poses.bounds
    focus = _focus_depths(poses)
    reach = (poses.bounds[:, 1] - focus).median()
    far = torch.minimum(poses.bounds[:, 1], focus + reach)
    return torch.stack([poses.bounds[:, 0], torch.maximum(far, 1.01 * poses.bounds[:, 0])], dim=-1)


def _core(poses: Poses, to_scene: Similarity, low: Tensor, high: Tensor) -> Tensor:
    """A cube (6,) around the point that the cameras look at, as large as the median view shows there, in the box."""
    middle = to_scene.apply(closest_to_axes(poses.centres, poses.forward))
    reach = to_scene.scale * (_focus_depths(poses) * poses.tangents.amax(dim=-1)).median()
    return torch.cat([torch.maximum(middle - reach, low), torch.minimum(middle + reach, high)]).float()


def _focus_depths(poses: Poses) -> Tensor:
    """(n,) depth, along each camera's axis, of the point that all axes pass nearest to."""
    focus = closest_to_axes(poses.centres, poses.forward)
    return ((focus - poses.centres) * poses.forward).sum(dim=-1)


def _origin(poses: Poses, layout: CameraLayout) -> Tensor:
    return (
        closest_to_axes(poses.centres, poses.forward) if layout == "all around" else poses.centres.mean(dim=0)
    )


def _axes(poses: Poses) -> Tensor:
    """The scene's axes: (3, 3), its rows x, y, z in the files' axes.

    Upright also where the cameras look down on the scene: floors, tables and walls are then along the sides of the
    box, which has less to hold beneath them and behind them than one tilted with the average camera.
    """
    up = _upright(poses)
    back = _not_along(up, -poses.forward.mean(dim=0))
    right = _unit(torch.linalg.cross(up, back))
    return torch.stack([right, up, torch.linalg.cross(right, up)])


def _upright(poses: Poses) -> Tensor:
    """The direction (3,) opposite to gravity, from cameras that were held level.

    Such cameras' right axes lie in one plane, whatever their elevation: its normal is up. Where they do not
    (cameras rolled about their axes, or all side by side) the mean of the cameras' own up axes has to do.
    """
    mean = poses.c2w[:, :, 1].mean(dim=0)
    mean = _unit(mean) if float(mean.norm()) > 1e-3 else _unit(poses.c2w[0, :, 1])
    _, spread, axes = torch.linalg.svd(poses.c2w[:, :, 0])
    normal = axes[2] * torch.sign(axes[2] @ mean)
    # Right axes that are parallel, to half a degree, lie in many planes: rounding would choose among them.
    spans = len(spread) == 3 and float(spread[1]) > 0.01 * float(spread[0])
    level = spans and float(spread[2]) < 0.25 * float(spread[1])
    return normal if level and float(normal @ mean) > 0.8 else mean


def _not_along(axis: Tensor, wanted: Tensor) -> Tensor:
    """`wanted`, or the coordinate axis most across the unit `axis` where `wanted` is nearly along it."""
    across = wanted - (wanted @ axis) * axis
    return wanted if float(across.norm()) > 1e-3 else torch.eye(3, dtype=axis.dtype)[int(axis.abs().argmin())]


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()
