"""Captions and their words: complete, one token each, and candidates that say different things."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from ids3d.tabletop.candidates import candidates
from ids3d.tabletop.captions import caption, key, near_misses, paraphrase, swapped, vocabulary
from ids3d.tabletop.scene import HELD_OUT, Object, PortableRandom, TabletopScene, sample_scene
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer

seeds = st.integers(0, 2 * HELD_OUT)
SCENE = TabletopScene(
    (Object("cube", "red", 0.3, 0, 0.4), Object("cylinder", "white", 0.3, 0, -0.4)), "wooden"
)


def test_captions_by_hand() -> None:
    assert caption(SCENE) == "a red cube and a white cylinder on a wooden floor"
    three = replace(SCENE, objects=(*SCENE.objects, Object("sphere", "orange", 0.2, 0, 0)), floor="grassy")
    assert caption(three) == "a red cube, a white cylinder and an orange sphere on a grassy floor"
    said = {paraphrase(SCENE, PortableRandom(i, "words")) for i in range(300)}
    assert "a picture of a red cube beside a white cylinder on a wooden floor" in said
    assert "a wooden floor with a red cube next to a white cylinder on it" in said
    assert len(said) == 20  # five sentences, four ways to name two things
    swap = swapped(SCENE)
    assert swap is not None
    assert caption(swap) == "a white cube and a red cylinder on a wooden floor"
    assert swapped(replace(SCENE, objects=SCENE.objects[:1])) is None
    alike = replace(SCENE, objects=(SCENE.objects[0], replace(SCENE.objects[1], colour="red")))
    assert swapped(alike) is None


@settings(max_examples=100, deadline=None)
@given(seed=seeds, draw=st.integers(0, 1000))
def test_every_word_is_known(seed: int, draw: int) -> None:
    text = paraphrase(sample_scene(seed), PortableRandom(draw, "words"))
    assert set(re.findall(r"\w+|[^\w\s]", text)) <= set(vocabulary())


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_near_misses_differ_in_one_word(seed: int) -> None:
    scene = sample_scene(seed)
    words = re.sub(r"\ban\b", "a", caption(scene)).split()
    for miss in near_misses(scene):
        other = re.sub(r"\ban\b", "a", caption(miss)).split()
        assert sum(a != b for a, b in zip(words, other, strict=True)) == 1


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_candidates_say_64_different_things(seed: int) -> None:
    scene = sample_scene(seed)
    chosen = candidates(scene, PortableRandom(seed, "candidates"))
    assert chosen[0] == scene
    assert len({key(s) for s in chosen}) == len(chosen) == 64
    near = {key(miss) for miss in near_misses(scene)}
    swap = swapped(scene)
    if swap is not None:
        assert key(chosen[1]) == key(swap)
    expected = min(len(near - ({key(swap)} if swap else set())), (64 - 1 - (swap is not None)) // 2)
    assert sum(key(s) in near for s in chosen[1:]) >= expected
    assert [key(s) for s in chosen] == [key(s) for s in candidates(scene, PortableRandom(seed, "candidates"))]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(vocabulary())


def test_each_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in vocabulary():
        ids = tokenizer(word).input_ids
        assert len(ids) == 3, word
        assert (ids[0], ids[2]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ids = [tokenizer(word).input_ids[1] for word in vocabulary()]
    assert len(set(ids)) == len(ids)
    assert len(tokenizer("sofa").input_ids) > 3  # unknown words are spelt


def test_tokenizer_survives_saving(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    texts = [paraphrase(sample_scene(seed), PortableRandom(seed, "words")) for seed in range(50)] + [
        "",
        "a sofa",
    ]
    for cls in (CLIPTokenizer, AutoTokenizer):
        read = cls.from_pretrained(tmp_path)
        for padding in (False, "max_length"):
            assert read(texts, padding=padding).input_ids == tokenizer(texts, padding=padding).input_ids


def test_no_caption_is_cut_off(tokenizer: CLIPTokenizer) -> None:
    objects = tuple(Object("cube", colour, 0.2, 0, 0) for colour in ("red", "green", "blue"))
    longest = max(
        len(tokenizer(paraphrase(TabletopScene(objects), PortableRandom(i, "words"))).input_ids)
        for i in range(200)
    )
    assert longest <= LENGTH
