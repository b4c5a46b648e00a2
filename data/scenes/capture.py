"""What a format reads of a capture, and the scene that it makes: the way that all formats share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import ids3d
from ids3d.cameras import Cameras, Views
from ids3d.data.scenes.depths import depths_of_focus, focus_depths, object_ball
from ids3d.data.scenes.framing import Ball, Framing, Poses, frame
from ids3d.data.scenes.image_folders import Choice, common_size
from ids3d.data.scenes.photographs import Photograph, inspect, read_masks, read_photographs
from ids3d.data.scenes.poses import check_depths
from ids3d.data.scenes.protocol import BLACK, Colour, SceneConfig
from ids3d.data.scenes.silhouettes import hull_box
from ids3d.data.scenes.truth import has_truth, read_captions, read_truth
from ids3d.data.scenes.undistortion import Undistortion, undistortion_of
from ids3d.errors import UserError
from ids3d.lenses import Lens
from ids3d.memory import lack_of_memory
from ids3d.reading import given_path
from ids3d.scene import FreeSpace, Scene, SceneBounds
from ids3d.space import BOX, NDC
from ids3d.tasks import LONGEST_NAME

log = logging.getLogger(__name__)

SAMPLE = Path(ids3d.__file__).parent / "scenes" / "tabletop_llff"


@dataclass(frozen=True)
class Capture:
    """n views as a format has read them; no image is decoded yet.

    Attributes:
        root: the scene's folder.
        source: the file that says where the cameras are.
        c2w: (n, 3, 4) float64, OpenGL axes, the files' units.
        lenses: of the views at their full size, distorted as they are.
        choice: the images of the views.
        keys: of the views; a made scene's true edit is edited/<key>.png.
        held_out: (n,) bool.
        bounds: (n, 2) float64, nearest and farthest depth of each view. None: the files don't say.
        masks: images that are black where a view's pixels do not count; None: all of them do. Empty: of all views.
        background: behind transparency, where no setting says.
    """

    root: Path
    source: Path
    c2w: Tensor
    lenses: tuple[Lens, ...]
    choice: Choice
    keys: tuple[str, ...]
    held_out: Tensor
    bounds: Tensor | None = None
    masks: tuple[Path | None, ...] = ()
    background: Colour = BLACK


def root_of(cfg: SceneConfig) -> Path:
    """The scene's folder. Raises UserError: there is none."""
    root = given_path(cfg.root, "data.root") if cfg.root else SAMPLE
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    return root


def build(capture: Capture, cfg: SceneConfig) -> Scene:
    """Frame a capture, read its images, and say in one line what was found.

    Raises UserError: an image, or how things go together.
    """
    root, train, test = capture.root, ~capture.held_out, capture.held_out
    if not (bool(train.any()) and bool(test.any())):
        raise UserError(
            f"{capture.source}: {int(train.sum())} views to train on and {int(test.sum())} held out: at least one of "
            "each is needed"
        )
    choice = capture.choice
    photographs = [
        inspect(path, lens.width, lens.height)
        for path, lens in zip(choice.files, capture.lenses, strict=True)
    ]
    (width, height), found = common_size(photographs, choice)
    fault = lack_of_memory(16 * len(photographs) * height * width)
    if fault:
        raise UserError(f"{root}: {len(photographs)} images of {width}x{height} {fault}: lower data.max_size")
    undistortions = _undistortions(capture)
    pinholes = [
        lens if undone is None else undone.pinhole
        for lens, undone in zip(capture.lenses, undistortions, strict=True)
    ]
    transparent = any(p.transparent for p in photographs)
    framing, guessed = _frame(capture, pinholes, cfg, transparent)
    if not bool((framing.aabb[:3] < framing.aabb[3:]).all()):
        raise UserError(f"{root} is too far from the origin of its files: use data.recentre=true")
    colour = cfg.colour or (capture.background if transparent else None)
    behind = colour or BLACK
    room = framing.layout != "forward-facing" and not transparent
    images, opacity = read_photographs(photographs, height, width, behind, undistortions)
    cameras = _cameras(framing, capture.c2w, pinholes, (height, width))
    if opacity is not None:
        framing = _around_the_object(framing, cameras[train], opacity[train])
    views = Views(
        images,
        cameras,
        _names(capture, photographs),
        _opacity(cfg, images, opacity, room),
        _known(capture, undistortions, height, width),
    )
    bounds = SceneBounds(
        aabb=framing.aabb,
        near=framing.near,
        far=framing.far,
        background=colour or (None if room else BLACK),
        core=framing.core,
        space=framing.space,
        pixel=_pixel(framing, cameras[train], train),
        pixels=int(train.sum()) * height * width,
        free_space=FreeSpace(views[train].cameras, framing.nearest[train]),
    )
    order = test.nonzero()[:, 0].tolist()
    truth = None
    if has_truth(root, cfg.truth):
        keys, undone = [capture.keys[i] for i in order], [undistortions[i] for i in order]
        truth = read_truth(root, keys, (height, width), behind, undone, framing.to_scene.scale)
    scene = Scene(
        train=views[train],
        test=views[test],
        bounds=bounds,
        layout=framing.layout,
        to_scene=framing.to_scene,
        truth=truth,
        captions=read_captions(root),
        name=root.resolve().name,
    )
    undone_of = sum(u is not None for u in undistortions)
    parts = [found, f"distortion of {undone_of} undone" if undone_of else "", guessed, scene.describe()]
    log.info("%s: %s", root, "; ".join(part for part in parts if part))
    return scene


def _frame(
    capture: Capture, pinholes: Sequence[Lens], cfg: SceneConfig, transparent: bool
) -> tuple[Framing, str]:
    """The scene's frame, and a word on where its depths are from if the files don't say."""
    c2w, bounds, ball, guessed = capture.c2w, capture.bounds, None, ""
    if bounds is not None:
        bounds = bounds * torch.tensor([cfg.near_margin, cfg.far_margin], dtype=torch.float64)
    elif cfg.near is not None and cfg.far is not None:
        bounds = torch.ones(len(c2w), 2, dtype=torch.float64)
    else:
        bounds, ball = _guessed_depths(capture, pinholes, transparent)
        guessed = "depths by what the cameras look at"
    for column, given in enumerate((cfg.near, cfg.far)):
        if given is not None:
            bounds[:, column] = given
    check_depths(capture.source, c2w, bounds)
    tangents = torch.tensor([lens.tangents for lens in pinholes], dtype=torch.float64)
    return frame(Poses(c2w, tangents, bounds), cfg.recentre, cfg.box_size, ball, cfg.space), guessed


def _around_the_object(framing: Framing, cameras: Cameras, opacity: Tensor) -> Framing:
    """With a box no larger than the silhouettes leave room for, so that the field's cells go to the object."""
    box = hull_box(framing.aabb, cameras, opacity) if framing.space == BOX else None
    if box is None:
        return framing
    core = framing.core
    if core is not None:
        core = torch.cat([torch.maximum(core[:3], box[:3]), torch.minimum(core[3:], box[3:])])
        core = core if bool((core[:3] < core[3:]).all()) else None
    return replace(framing, aabb=box, core=core)


def _pixel(framing: Framing, cameras: Cameras, which: Tensor) -> float:
    """The median view's, where it looks: in normalised device coordinates a pixel is as wide at every depth."""
    width = 1 / cameras.fx if isinstance(framing.space, NDC) else framing.look[which] / cameras.fx
    return float(width.median())


def _guessed_depths(
    capture: Capture, pinholes: Sequence[Lens], transparent: bool
) -> tuple[Tensor, Ball | None]:
    found = object_ball(capture.c2w, pinholes) if transparent else None
    if found is not None:
        return found[1], found[0]
    focus = focus_depths(capture.c2w)
    if focus is None:
        raise UserError(
            f"{capture.source} does not say how far away anything is, and the cameras do not look at one point: "
            "give data.near and data.far, in the file's units"
        )
    return depths_of_focus(focus), None


def _cameras(framing: Framing, c2w: Tensor, lenses: Sequence[Lens], size: tuple[int, int]) -> Cameras:
    height, width = size
    values = torch.tensor([[p.fx, p.fy, p.cx, p.cy, p.width, p.height] for p in lenses], dtype=torch.float64)
    fx, fy, cx, cy, full_width, full_height = values.float().unbind(-1)
    return Cameras(
        c2w=framing.place(c2w),
        fx=fx * width / full_width,
        fy=fy * height / full_height,
        cx=cx * width / full_width,
        cy=cy * height / full_height,
        height=height,
        width=width,
    )


def _opacity(cfg: SceneConfig, images: Tensor, opacity: Tensor | None, room: bool) -> Tensor | None:
    """How opaque the images (n, h, w, 3) are taken to be, (n, h, w), None where that is not known.

    Raises UserError: other backgrounds are asked for, but what is behind the images is not known.
    """
    if cfg.random_background and room:
        raise UserError(
            "data.random_background: no image is transparent, and behind what they show all around may be a room: say "
            "data.background=white, or another colour, if there is none"
        )
    random = cfg.colour is None if cfg.random_background is None else cfg.random_background
    if room or not random:
        return None
    return torch.ones(()).expand(images.shape[:3]) if opacity is None else opacity


def _undistortions(capture: Capture) -> list[Undistortion | None]:
    """Of each view, what is to be done about its lens; the same object for the same lens."""
    made: dict[Lens, Undistortion | None] = {}
    for i, lens in enumerate(capture.lenses):
        if lens not in made:
            try:
                made[lens] = undistortion_of(lens)
            except ValueError as error:
                raise UserError(f"{capture.source}: view {i}: {error}") from error
    return [made[lens] for lens in capture.lenses]


def _known(
    capture: Capture, undistortions: Sequence[Undistortion | None], height: int, width: int
) -> Tensor | None:
    """(n, height, width) bool: which pixels count; None: all."""
    masked = [i for i, mask in enumerate(capture.masks) if mask is not None]
    if not masked:
        return None
    paths = [mask for mask in capture.masks if mask is not None]
    for i, path in zip(masked, paths, strict=True):
        inspect(path, capture.lenses[i].width, capture.lenses[i].height)
    known = torch.ones(len(capture.masks), height, width, dtype=torch.bool)
    known[masked] = read_masks(paths, height, width, [undistortions[i] for i in masked])
    if not bool(known[~capture.held_out].any()):
        raise UserError(f"{paths[0].parent}: the masks are black everywhere: white is what counts")
    return known


def _names(capture: Capture, photographs: Sequence[Photograph]) -> tuple[str, ...]:
    """What the views are called: their image's stem, or where several of a split have one, their keys."""
    names = [p.path.stem for p in photographs]
    for split in (capture.held_out, ~capture.held_out):
        chosen = split.nonzero()[:, 0].tolist()
        counts = Counter(names[i] for i in chosen)
        for i in chosen:
            if counts[names[i]] > 1:
                names[i] = capture.keys[i].replace("/", "-")
        if len({names[i] for i in chosen}) < len(chosen):
            raise UserError(
                f"{photographs[0].path.parent} has images that differ in nothing but the suffix: keep one of each"
            )
    for name, photograph in zip(names, photographs, strict=True):
        if not name.isprintable() or len(name.encode(errors="replace")) > LONGEST_NAME:
            raise UserError(
                f"{photograph.path}: nothing can be called so that is made of this view: rename the image"
            )
    return tuple(names)
