"""Picking the right caption of many: the question that the tabletop CLIP is judged by, and judges samples by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ids3d.metrics.clip_score import ClipScore
from ids3d.progress import track
from ids3d.tabletop.captions import caption, key, near_misses, swapped
from ids3d.tabletop.scene import PortableRandom, TabletopScene, sample_scene

CANDIDATES = 64


def candidates(scene: TabletopScene, rng: PortableRandom, count: int = CANDIDATES) -> list[TabletopScene]:
    """Scenes whose captions all say different things, the right one first.

    After it comes the scene with its first two objects' colours swapped, where that is another scene; half of the rest
    (or as many as there are) differ from the right one in one word; the others are scenes at random.
    """
    chosen = {key(scene): scene}
    swap = swapped(scene)
    if swap is not None:
        chosen[key(swap)] = swap
    near = {key(miss): miss for miss in near_misses(scene) if key(miss) not in chosen}
    wanted = len(chosen) + (count - len(chosen)) // 2
    while near and len(chosen) < wanted:
        drawn = rng.choice(tuple(near))
        chosen[drawn] = near.pop(drawn)
    while len(chosen) < count:
        other = sample_scene(int(rng.uniform(0, 1e9)), world=scene.world)
        chosen.setdefault(key(other), other)
    return list(chosen.values())


def pick(clip: ClipScore, pictures: Tensor, choices: Sequence[Sequence[TabletopScene]]) -> list[int]:
    """Which of its candidates the CLIP finds most like each picture.

    Args:
        clip: the judge.
        pictures: (n, 3, h, w) in [0, 1].
        choices: n lists of candidates; a picture is held against their plain captions.

    Returns:
        n indices into the lists. Where the best score is shared, the last that has it: a judge who can't tell is not
        right about the first.
    """
    seen = torch.cat([clip.embed_pictures(part).cpu() for part in pictures.split(64)])
    texts = {
        text: row for row, text in enumerate(dict.fromkeys(caption(s) for scenes in choices for s in scenes))
    }
    distinct = list(texts)
    parts = [distinct[start : start + 512] for start in range(0, len(distinct), 512)]
    read = torch.cat(
        [clip.embed_captions(part).cpu() for part in track(parts, "reading captions", unit="batch")]
    )
    picked = []
    for embedding, scenes in zip(seen, choices, strict=True):
        scores = read[[texts[caption(scene)] for scene in scenes]] @ embedding
        picked.append(int((scores == scores.max()).nonzero()[-1]))
    return picked
