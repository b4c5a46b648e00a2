"""Captions and their words: complete, one token each, and candidates that say different things."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from ids3d.cameras import project
from ids3d.tabletop.candidates import candidates
from ids3d.tabletop.captions import (
    OPPOSITE,
    caption,
    key,
    layout_words,
    mirrored,
    near_misses,
    paraphrase,
    place,
    relations,
    swapped,
    vocabulary,
)
from ids3d.tabletop.scene import (
    HELD_OUT,
    Object,
    PortableRandom,
    TabletopScene,
    orbit,
    sample_camera,
    sample_scene,
)
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer
from ids3d.tabletop.world import FORMER, LIGHT, World

seeds = st.integers(0, 2 * HELD_OUT)
worlds = st.sampled_from([FORMER, LIGHT])
SCENE = TabletopScene(
    (Object("cube", "red", 0.3, 0, 0.4), Object("cylinder", "black", 0.3, 0, -0.4)), "wooden"
)


def test_captions_by_hand() -> None:
    assert caption(SCENE) == "a red cube and a black cylinder on a wooden floor"
    three = replace(SCENE, objects=(*SCENE.objects, Object("sphere", "orange", 0.2, 0, 0)), floor="pink")
    assert caption(three) == "a red cube, a black cylinder and an orange sphere on a pink floor"
    said = {paraphrase(SCENE, PortableRandom(i, "words")) for i in range(300)}
    assert "a picture of a red cube beside a black cylinder on a wooden floor" in said
    assert "a wooden floor with a red cube next to a black cylinder on it" in said
    assert len(said) == 20  # five sentences, four ways to name two things
    swap = swapped(SCENE)
    assert swap is not None
    assert caption(swap) == "a black cube and a red cylinder on a wooden floor"
    assert swapped(replace(SCENE, objects=SCENE.objects[:1])) is None
    alike = replace(SCENE, objects=(SCENE.objects[0], replace(SCENE.objects[1], colour="red")))
    assert swapped(alike) is None


@settings(max_examples=100, deadline=None)
@given(seed=seeds, draw=st.integers(0, 1000), world=worlds)
def test_every_word_is_known(seed: int, draw: int, world: World) -> None:
    scene = sample_scene(seed, world=world)
    text = paraphrase(scene, PortableRandom(draw, "words"), relations(scene, sample_camera(seed, scene)))
    assert set(re.findall(r"\w+|[^\w\s]", text)) <= set(vocabulary(world))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2 * HELD_OUT))
def test_what_is_said_of_places_is_what_the_view_shows(seed: int) -> None:
    """Against the projected middles of the objects: to the left is a smaller column, in front is less deep."""
    scene = sample_scene(seed, 2, LIGHT)
    camera = sample_camera(seed, scene, 128)
    middles = torch.tensor([[thing.x, thing.y, thing.size] for thing in scene.objects])
    xy, depth = project(camera, middles)
    columns, depths = xy[0, :, 0].tolist(), depth[0].tolist()
    said = relations(scene, camera)
    for relation in said:
        a, b = {"left": columns, "right": columns[::-1], "in": depths, "behind": depths[::-1]}[
            next(word for word in relation.split() if word not in ("to", "the"))
        ]
        assert a < b
    if smallest_gap_is_clear(scene, columns):
        assert {"to the left of", "to the right of"} & set(said)
    other_way_round = relations(replace(scene, objects=scene.objects[::-1]), camera)
    assert other_way_round == tuple(OPPOSITE[relation] for relation in said)
    columns = [128 - column for column in columns]
    for relation in mirrored(said):
        if "left" in relation or "right" in relation:
            assert (columns[0] < columns[1]) == ("left" in relation)


def smallest_gap_is_clear(scene: TabletopScene, columns: list[float]) -> bool:
    """Whether the middles are farther apart, in pixels, than the objects could be wide, each seen from 1.4 away."""
    focal = 64 / math.tan(math.radians(21.5))
    return abs(columns[0] - columns[1]) > focal * sum(thing.size for thing in scene.objects) / 1.4


def test_nothing_is_said_where_it_is_not_clear() -> None:
    cube, cone = Object("cube", "red", 0.3, 0.0, -0.5), Object("cone", "blue", 0.3, 0.0, 0.5)
    scene = TabletopScene((cube, cone), "pink", "ice", world=LIGHT)
    assert relations(scene, orbit([0.0], [30.0], [2.5], 64)) == (
        "to the left of",
    )  # seen from +x: y to the right
    assert relations(scene, orbit([180.0], [30.0], [2.5], 64)) == ("to the right of",)
    assert relations(scene, orbit([90.0], [30.0], [2.5], 64)) == ("behind",)
    assert relations(scene, orbit([270.0], [30.0], [2.5], 64)) == ("in front of",)
    near = replace(scene, objects=(cube, replace(cone, x=0.4, y=-0.2)))
    assert relations(near, orbit([45.0], [30.0], [2.5], 64)) == ()
    for silent in (
        replace(scene, objects=scene.objects[:1]),
        replace(scene, objects=(*scene.objects, replace(cone, y=0.0))),
        replace(scene, floor="grey", wall="sand", world=FORMER),
    ):
        assert relations(silent, orbit([0.0], [30.0], [2.5], 64)) == ()
    assert place(scene, "to the left of") == "a red cube to the left of a blue cone on a pink floor"
    said = [paraphrase(scene, PortableRandom(i, "words"), ("behind",)) for i in range(400)]
    assert 0.4 < sum("behind" in text for text in said) / 400 < 0.6
    assert "a pink floor with a red cube behind a blue cone on it" in said


@settings(max_examples=60, deadline=None)
@given(seed=seeds, world=worlds)
def test_near_misses_differ_in_one_word(seed: int, world: World) -> None:
    scene = sample_scene(seed, world=world)
    words = re.sub(r"\ban\b", "a", caption(scene)).split()
    for miss in near_misses(scene):
        other = re.sub(r"\ban\b", "a", caption(miss)).split()
        assert sum(a != b for a, b in zip(words, other, strict=True)) == 1


@settings(max_examples=40, deadline=None)
@given(seed=seeds, world=worlds)
def test_candidates_say_64_different_things(seed: int, world: World) -> None:
    scene = sample_scene(seed, world=world)
    chosen = candidates(scene, PortableRandom(seed, "candidates"))
    assert chosen[0] == scene
    assert len({key(s) for s in chosen}) == len(chosen) == 64
    assert {s.world for s in chosen} == {world}
    near = {key(miss) for miss in near_misses(scene)}
    swap = swapped(scene)
    if swap is not None:
        assert key(chosen[1]) == key(swap)
    expected = min(len(near - ({key(swap)} if swap else set())), (64 - 1 - (swap is not None)) // 2)
    assert sum(key(s) in near for s in chosen[1:]) >= expected
    assert [key(s) for s in chosen] == [key(s) for s in candidates(scene, PortableRandom(seed, "candidates"))]


@pytest.fixture(scope="module", params=[FORMER, LIGHT], ids=str)
def world(request: pytest.FixtureRequest) -> World:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(world: World) -> CLIPTokenizer:
    return build_tokenizer(vocabulary(world))


def test_each_word_is_one_token(tokenizer: CLIPTokenizer, world: World) -> None:
    words = vocabulary(world)
    for word in words:
        ids = tokenizer(word).input_ids
        assert len(ids) == 3, word
        assert (ids[0], ids[2]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ids = [tokenizer(word).input_ids[1] for word in words]
    assert len(set(ids)) == len(ids)
    assert len(tokenizer("sofa").input_ids) > 3  # unknown words are spelt


def test_tokenizer_survives_saving(tokenizer: CLIPTokenizer, world: World, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    scenes = [sample_scene(seed, world=world) for seed in range(50)]
    texts = [*(paraphrase(scene, PortableRandom(0, "words")) for scene in scenes), "", "a sofa"]
    for cls in (CLIPTokenizer, AutoTokenizer):
        read = cls.from_pretrained(tmp_path)
        for padding in (False, "max_length"):
            assert read(texts, padding=padding).input_ids == tokenizer(texts, padding=padding).input_ids


def test_no_caption_is_cut_off(tokenizer: CLIPTokenizer, world: World) -> None:
    objects = tuple(Object("cube", colour, 0.2, 0, 0) for colour in ("red", "green", "orange"))
    scenes = [TabletopScene(objects[:n], "wooden", world=world) for n in (2, 3)]
    longest = max(
        len(tokenizer(paraphrase(scene, PortableRandom(i, "words"), relations)).input_ids)
        for i in range(200)
        for scene, relations in zip(scenes, (world.relations, ()), strict=True)
    )
    assert longest <= LENGTH


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [
        (
            "a red cube and a black cylinder on a wooden floor",
            "a blue cube and a black cylinder on a wooden floor",
            True,
        ),
        ("a red cube on a wooden floor", "a pink floor with a green cube on it", True),
        ("a red cube on a wooden floor", "a red cone on a wooden floor", False),
        (
            "a red cube and a blue cone on a wooden floor",
            "a red cone and a blue cube on a wooden floor",
            True,
        ),
        ("a red cube on a wooden floor", "a red car on a wooden floor", False),
        ("a red cube to the left of a blue cone", "a red cube to the right of a blue cone", False),
        ("a red cube next to a blue cone", "a red cube", False),
    ],
)
def test_layouts_are_the_same_where_shapes_and_places_are(source: str, target: str, same: bool) -> None:
    assert (layout_words(source) == layout_words(target)) == same
