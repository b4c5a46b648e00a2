"""Edits: what each kind changes, and that nothing else changes but light and shadow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ids3d.tabletop import edits as module
from ids3d.tabletop.edits import (
    KINDS,
    Edit,
    edit_camera,
    held_out_edit,
    recolour,
    remove,
    render_edit,
    sample_edit,
)
from ids3d.tabletop.render import FIRST_OBJECT
from ids3d.tabletop.scene import (
    HELD_OUT,
    SHAPES,
    Light,
    Object,
    TabletopScene,
    can_stand_beside,
    footprint,
    orbit,
)
from ids3d.tabletop.world import FORMER, LIGHT, World

SCENE = TabletopScene(
    (Object("cube", "red", 0.3, 0, 0.4), Object("cylinder", "black", 0.3, 0, -0.4)), "wooden"
)


def kept(edit: Edit) -> list[tuple[int, int]]:
    """Indices before and after of each object that the edit leaves alone."""
    before, after = (
        [i for i in range(len(scene.objects)) if i != touched]
        for scene, touched in zip((edit.before, edit.after), edit.touched, strict=True)
    )
    return list(zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 2 * HELD_OUT), world=st.sampled_from([FORMER, LIGHT]))
def test_only_the_mask_changes(kind: str, seed: int, world: World) -> None:
    edit = sample_edit(seed, (kind,), world=world)
    camera = edit_camera(seed, edit, 40)
    view = render_edit(edit, camera)
    outside = ~view.mask
    assert outside.any()
    assert view.mask.any()
    assert torch.equal(view.before.depth[outside], view.after.depth[outside])
    renamed = view.before.ids.clone()
    for i, j in kept(edit):
        renamed[view.before.ids == FIRST_OBJECT + i] = FIRST_OBJECT + j
        assert torch.equal(view.before.coverage[i][outside], view.after.coverage[j][outside])
        assert edit.before.objects[i] == edit.after.objects[j]
    assert torch.equal(renamed[outside], view.after.ids[outside])
    if kind in ("recolour", "floor"):  # neither moves a shadow
        assert torch.equal(view.before.rgb[outside], view.after.rgb[outside])
        assert torch.equal(view.before.depth, view.after.depth)
    # What is left without the light is the surfaces' own colours.
    night = Light(strength=0.0)
    dark = render_edit(
        replace(edit, before=replace(edit.before, light=night), after=replace(edit.after, light=night)),
        camera,
    )
    assert torch.equal(dark.before.rgb[outside], dark.after.rgb[outside])
    assert not torch.equal(dark.before.rgb[view.mask], dark.after.rgb[view.mask])


def test_the_mask_holds_what_only_the_centre_of_a_pixel_shows() -> None:
    """A ball half a pixel wide, right behind a pixel's centre, between the rays of its colour."""
    scene = TabletopScene((Object("sphere", "red", 0.02, 0.0, 0.0),))
    view = render_edit(recolour(scene, 0, "blue"), orbit([0.0], [30.0], [2.5], 17, [(0.0, 0.0, 0.02)]))
    assert view.before.coverage.max() == 0
    assert view.before.ids[8, 8] == FIRST_OBJECT
    assert view.mask.nonzero().tolist() == [[8, 8]]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2 * HELD_OUT), kind=st.sampled_from(KINDS))
def test_edits_say_and_do_what_they_are(seed: int, kind: str) -> None:
    edit = sample_edit(seed, (kind,))
    assert edit.kind == kind
    assert edit == sample_edit(seed, (kind,))
    assert edit.source != edit.target
    assert 1 <= len(edit.before.objects) <= 2
    counts = len(edit.before.objects), len(edit.after.objects)
    assert counts[1] - counts[0] == {"remove": -1, "add": 1}.get(kind, 0)
    for scene in (edit.before, edit.after):
        for i, thing in enumerate(scene.objects):
            assert all(can_stand_beside(thing, other) for other in scene.objects[:i])
    assert (edit.before.wall, edit.before.light) == (edit.after.wall, edit.after.light)
    assert (edit.before.floor != edit.after.floor) == (kind == "floor")
    i, j = edit.touched
    if i is not None and j is not None:
        a, b = edit.before.objects[i], edit.after.objects[j]
        assert a != b
        assert b == replace(a, **{"recolour": {"colour": b.colour}, "reshape": {"shape": b.shape}}[kind])


def test_edits_by_hand() -> None:
    edit = recolour(SCENE, 0, "blue")
    assert edit.target == "a blue cube and a black cylinder on a wooden floor"
    assert edit.touched == (0, 0)
    assert remove(SCENE, 0).target == "a black cylinder on a wooden floor"
    assert module.add(remove(SCENE, 1).after, SCENE.objects[1]).target == edit.source
    with pytest.raises(ValueError, match="empty table"):
        remove(remove(SCENE, 0).after, 0)
    with pytest.raises(ValueError, match="no edit"):
        sample_edit(0, ("paint",))
    assert held_out_edit(3) == sample_edit(HELD_OUT + 3)


def test_whatever_stands_somewhere_has_room_for_another_shape() -> None:
    """Else an object close beside another could become nothing, and no edit of its seed could be drawn."""
    room = {shape: footprint(Object(shape, "red", 0.3, 0, 0)) for shape in SHAPES}
    for shape, own in room.items():
        assert any(other <= own for another, other in room.items() if another != shape), shape
