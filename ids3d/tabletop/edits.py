"""Edits of tabletop scenes whose outcome is known: a scene becomes a scene, a caption becomes a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.lenses import Distortion
from ids3d.tabletop.captions import caption
from ids3d.tabletop.render import FIRST_OBJECT, FLOOR, TabletopRender, render
from ids3d.tabletop.scene import (
    HELD_OUT,
    SHAPES,
    Object,
    PortableRandom,
    TabletopScene,
    can_stand_beside,
    sample_camera,
    sample_scene,
)
from ids3d.tabletop.world import LIGHT, World

KINDS = ("recolour", "reshape", "floor", "remove", "add")


@dataclass(frozen=True)
class Edit:
    """A scene before and after.

    `kind` is one of KINDS, `touched` the index (before, after) of the object that changes.
    """

    kind: str
    before: TabletopScene
    after: TabletopScene
    touched: tuple[int | None, int | None] = (None, None)

    @property
    def source(self) -> str:
        """Caption of the scene before."""
        return caption(self.before)

    @property
    def target(self) -> str:
        """Caption of the scene after."""
        return caption(self.after)


def recolour(scene: TabletopScene, index: int, colour: str) -> Edit:
    """Give one object another colour."""
    return _change(scene, index, replace(scene.objects[index], colour=colour), "recolour")


def reshape(scene: TabletopScene, index: int, shape: str) -> Edit:
    """Give one object another shape of the same size."""
    return _change(scene, index, replace(scene.objects[index], shape=shape), "reshape")


def refloor(scene: TabletopScene, floor: str) -> Edit:
    """Lay another floor."""
    return Edit("floor", scene, replace(scene, floor=floor))


def remove(scene: TabletopScene, index: int) -> Edit:
    """Take one of several objects away."""
    kept = scene.objects[:index] + scene.objects[index + 1 :]
    if not kept:
        raise ValueError("the only object of a scene can't be removed: no caption describes an empty table")
    return Edit("remove", scene, replace(scene, objects=kept), (index, None))


def add(scene: TabletopScene, thing: Object) -> Edit:
    """Put one more object on the table."""
    after = replace(scene, objects=(*scene.objects, thing))
    return Edit("add", scene, after, (None, len(scene.objects)))


def _change(scene: TabletopScene, index: int, thing: Object, kind: str) -> Edit:
    objects = (*scene.objects[:index], thing, *scene.objects[index + 1 :])
    return Edit(kind, scene, replace(scene, objects=objects), (index, index))


def sample_edit(
    seed: int, kinds: Sequence[str] = KINDS, objects: int | None = None, world: World = LIGHT
) -> Edit:
    """The edit of a seed, of one of the given kinds, on a world's scene whose seed is this one's.

    `objects` says how many the scene holds before; without it one or two, as the kind allows. What an edit adds is the
    last object of a scene with one more, so that scenes after edits are like those before.
    """
    rng = PortableRandom(seed, "edit")
    kind = rng.choice(tuple(kinds))
    if kind not in KINDS:
        raise ValueError(f"no edit {kind!r}; there are {', '.join(KINDS)}")
    two = rng.uniform(0, 1) < 0.5
    count = objects or {"remove": 2, "add": 1}.get(kind, 2 if two else 1)
    scene = sample_scene(seed, count + 1 if kind == "add" else count, world)
    index = int(rng.uniform(0, count))
    if kind == "recolour":
        return recolour(scene, index, rng.choice([c for c in world.colours if _fits(scene, index, colour=c)]))
    if kind == "reshape":
        return reshape(scene, index, rng.choice([s for s in SHAPES if _fits(scene, index, shape=s)]))
    if kind == "floor":
        return refloor(scene, rng.choice([f for f in world.floors if f != scene.floor]))
    if kind == "remove":
        return remove(scene, index)
    return add(replace(scene, objects=scene.objects[:-1]), scene.objects[-1])


def _fits(scene: TabletopScene, index: int, **change: str) -> bool:
    """Whether an object changed so is another one, and still can stand beside the others."""
    thing = scene.objects[index]
    others = scene.objects[:index] + scene.objects[index + 1 :]
    changed = replace(thing, **change)  # type: ignore[arg-type]
    return changed != thing and all(can_stand_beside(changed, other) for other in others)


def held_out_edit(
    index: int, kinds: Sequence[str] = KINDS, objects: int | None = None, world: World = LIGHT
) -> Edit:
    """The index-th edit for evaluation: its seed never meets training."""
    return sample_edit(HELD_OUT + index, kinds, objects, world)


def edit_camera(seed: int, edit: Edit, size: int = 64) -> Cameras:
    """The camera of a seed, from a side that no object hides behind another from, before or after the edit."""
    return sample_camera(seed, max(edit.before, edit.after, key=lambda scene: len(scene.objects)), size)


@dataclass(frozen=True)
class EditedView:
    """One camera's pictures before and after an edit.

    mask (h, w) bool: what the edit touches; outside it, it changes nothing but light and shadow.
    """

    before: TabletopRender
    after: TabletopRender
    mask: Tensor


def render_edit(
    edit: Edit,
    camera: Cameras,
    supersampling: int = 2,
    *,
    room: bool = True,
    distortion: Distortion | None = None,
) -> EditedView:
    """Both pictures of an edit by one camera, and its mask: all pixels that show some of a surface that it changes."""
    before, after = (
        render(scene, camera, supersampling=supersampling, room=room, distortion=distortion)
        for scene in (edit.before, edit.after)
    )
    if edit.kind == "floor":
        return EditedView(before, after, (before.floor > 0) | (before.ids == FLOOR))
    mask = torch.zeros_like(before.ids, dtype=torch.bool)
    for picture, index in zip((before, after), edit.touched, strict=True):
        if index is not None:
            mask = mask | (picture.coverage[index] > 0) | (picture.ids == FIRST_OBJECT + index)
    return EditedView(before, after, mask)
