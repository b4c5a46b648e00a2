"""What is said of a tabletop scene: a small grammar with paraphrases, and all the words that it can use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from ids3d.cameras import Cameras
from ids3d.tabletop.scene import SHAPES, Object, PortableRandom, TabletopScene
from ids3d.tabletop.world import LIGHT, World

TEMPLATES = (
    "{things} on a {floor} floor",
    "a photo of {things} on a {floor} floor",
    "a picture of {things} on a {floor} floor",
    "{things} standing on the {floor} floor",
    "a {floor} floor with {things} on it",
)
"""How a scene is put in words; the first is what `caption` says."""

PAIRS = ("{0} and {1}", "{0} next to {1}", "{0} beside {1}", "{0} with {1}")


SIDES = ("to the left of", "to the right of")
OPPOSITE = dict(zip((*SIDES, "in front of", "behind"), (*SIDES[::-1], "behind", "in front of"), strict=True))


def name(thing: Object) -> str:
    """For example "a red cube"; "an orange sphere"."""
    return f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.shape}"


def caption(scene: TabletopScene) -> str:
    """The plain caption of a scene, its objects in their order: "a red cube and a black cylinder on a wooden floor"."""
    return TEMPLATES[0].format(things=_list(scene, PAIRS[0]), floor=scene.floor)


def paraphrase(
    scene: TabletopScene, rng: PortableRandom, relations: Sequence[str] = (), placed: float = 0.5
) -> str:
    """One of the ways to say it, the objects always in their order; half of the time a plain one.

    `relations` are those that hold between the first object and the second (`relations`): where there are any, a share
    `placed` of the captions say one of them.
    """
    if relations and rng.uniform(0, 1) < placed:
        return place(scene, rng.choice(relations), rng.choice(TEMPLATES))
    if rng.uniform(0, 1) < 0.5:
        return caption(scene)
    return rng.choice(TEMPLATES).format(things=_list(scene, rng.choice(PAIRS)), floor=scene.floor)


def place(scene: TabletopScene, relation: str, template: str = TEMPLATES[0]) -> str:
    """A caption that says where the first object is: "a red cube to the left of a black cylinder on a pink floor"."""
    return template.format(things=_list(scene, f"{{0}} {relation} {{1}}"), floor=scene.floor)


def relations(scene: TabletopScene, camera: Cameras) -> tuple[str, ...]:
    """Which of the world's relations hold between a scene's first and second object, for one camera's view.

    Beside each other counts as clear where the objects' middles are farther apart, across the line of sight, than three
    quarters of their sizes together; before each other where they are farther apart along it than across and do not
    overlap. Of three objects nothing is said, nor where the world's captions say nothing of places.
    """
    if len(scene.objects) != 2 or not scene.world.relations:
        return ()
    a, b = scene.objects
    right, _, back, _ = camera.c2w[0].double().unbind(-1)
    apart = torch.tensor([a.x - b.x, a.y - b.y, 0.0], dtype=torch.float64)
    across, nearer = float(apart @ right), float(apart @ back)
    said = []
    if abs(across) > 0.75 * (a.size + b.size):
        said.append("to the left of" if across < 0 else "to the right of")
    if abs(nearer) > max(abs(across), a.size + b.size):
        said.append("in front of" if nearer > 0 else "behind")
    return tuple(said)


def mirrored(relations: Sequence[str]) -> tuple[str, ...]:
    """The same relations in the mirror image of the view."""
    return tuple(OPPOSITE[relation] if relation in SIDES else relation for relation in relations)


def _list(scene: TabletopScene, pair: str) -> str:
    names = [name(thing) for thing in scene.objects]
    if len(names) == 1:
        return names[0]
    if len(names) == 2:
        return pair.format(*names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def vocabulary(world: World = LIGHT) -> list[str]:
    """Every word and mark that a caption of a world can hold, sorted."""
    text = " ".join((*TEMPLATES, *PAIRS, *world.relations)).format(*[""] * 2, things="", floor="")
    names = {*SHAPES, *world.colours, *world.floors}
    return sorted({*re.findall(r"[a-z]+", text), *names, "a", "an", "and", ","})


def layout_words(text: str) -> list[str]:
    """Which shapes a caption names, and where things are, sorted: what it says but for colours and floors."""
    places = set(re.findall(r"[a-z]+", " ".join(OPPOSITE))) - {"to", "the", "of", "in"}
    return sorted(word for word in re.findall(r"[a-z]+", text.lower()) if word in places or word in SHAPES)


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
    missed = [replace(scene, floor=floor) for floor in scene.world.floors if floor != scene.floor]
    for index, thing in enumerate(scene.objects):
        others = [replace(thing, colour=c) for c in scene.world.colours if c != thing.colour]
        others += [replace(thing, shape=s) for s in SHAPES if s != thing.shape]
        missed += [
            replace(scene, objects=(*scene.objects[:index], other, *scene.objects[index + 1 :]))
            for other in others
        ]
    return missed
