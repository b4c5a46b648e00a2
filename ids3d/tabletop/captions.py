"""What is said of a tabletop scene: a small grammar with paraphrases, and all the words that it can use."""

from __future__ import annotations

import re
from dataclasses import replace

from ids3d.tabletop.scene import COLOURS, FLOORS, SHAPES, Object, PortableRandom, TabletopScene

TEMPLATES = (
    "{things} on a {floor} floor",
    "a photo of {things} on a {floor} floor",
    "a picture of {things} on a {floor} floor",
    "{things} standing on the {floor} floor",
    "a {floor} floor with {things} on it",
)
"""How a scene is put in words; the first is what `caption` says."""

PAIRS = ("{0} and {1}", "{0} next to {1}", "{0} beside {1}", "{0} with {1}")


def name(thing: Object) -> str:
    """For example "a red cube"; "an orange sphere"."""
    return f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.shape}"


def caption(scene: TabletopScene) -> str:
    """The plain caption of a scene, its objects in their order: "a red cube and a white cylinder on a wooden floor"."""
    return TEMPLATES[0].format(things=_list(scene, PAIRS[0]), floor=scene.floor)


def paraphrase(scene: TabletopScene, rng: PortableRandom) -> str:
    """One of the ways to say it; half of the time the plain one, the objects always in their order."""
    if rng.uniform(0, 1) < 0.5:
        return caption(scene)
    return rng.choice(TEMPLATES).format(things=_list(scene, rng.choice(PAIRS)), floor=scene.floor)


def _list(scene: TabletopScene, pair: str) -> str:
    names = [name(thing) for thing in scene.objects]
    if len(names) == 1:
        return names[0]
    if len(names) == 2:
        return pair.format(*names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def vocabulary() -> list[str]:
    """Every word and mark that a caption can hold, sorted."""
    text = " ".join((*TEMPLATES, *PAIRS)).format(*[""] * 2, things="", floor="")
    words = (
        set(re.findall(r"[a-z]+", text)) | set(SHAPES) | set(COLOURS) | set(FLOORS) | {"a", "an", "and", ","}
    )
    return sorted(words)


def key(scene: TabletopScene) -> tuple[str, ...]:
    """What a caption says, whatever its words and the objects' order: two scenes of one key share their captions."""
    return (*sorted(f"{thing.colour} {thing.shape}" for thing in scene.objects), scene.floor)


def swapped(scene: TabletopScene) -> TabletopScene | None:
    """The first two objects with each other's colours; None if there is no second or the caption says the same then."""
    if len(scene.objects) < 2:
        return None
    a, b, *others = scene.objects
    swap = replace(scene, objects=(replace(a, colour=b.colour), replace(b, colour=a.colour), *others))
    return swap if key(swap) != key(scene) else None


def near_misses(scene: TabletopScene) -> list[TabletopScene]:
    """Every scene that differs from this one in a single word of its caption: one colour, one shape or the floor."""
    missed = [replace(scene, floor=floor) for floor in FLOORS if floor != scene.floor]
    for index, thing in enumerate(scene.objects):
        others = [replace(thing, colour=c) for c in COLOURS if c != thing.colour]
        others += [replace(thing, shape=s) for s in SHAPES if s != thing.shape]
        missed += [
            replace(scene, objects=(*scene.objects[:index], other, *scene.objects[index + 1 :]))
            for other in others
        ]
    return missed
