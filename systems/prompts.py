"""The prompts of an edit: where they come from, and whether the prior has met their words."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ids3d.errors import UserError
from ids3d.experiment import Prompts
from ids3d.models.priors.protocol import Prior
from ids3d.scene import Scene
from ids3d.tasks import EditTask

log = logging.getLogger(__name__)


def scene_prompts(given: Prompts, scene: Scene) -> tuple[str, str]:
    """(source, target): the given ones, or else the scene's own captions. Raises UserError where there is neither."""
    source, target = (
        text if text is not None else scene.captions[i] if scene.captions else ""
        for i, text in enumerate((given.source, given.target))
    )
    for name, text in (("source", source), ("target", target)):
        if not text.strip():
            raise UserError(
                f"prompt.{name} is not given and the scene has no captions.json: say what the scene "
                f'{"shows" if name == "source" else "should become"} with prompt.{name}="..."'
            )
    return source, target


def task_prompts(given: Prompts, task: EditTask) -> tuple[str, str]:
    """(source, target) of an image: its own, or else the given ones; of a made image, the given ones first.

    Raises UserError where there is neither.
    """
    prompts = []
    for name, text, own in (("source", given.source, task.source), ("target", given.target, task.target)):
        chosen = (text if own is None or (text is not None and task.world) else own) or ""
        if not chosen.strip():
            raise UserError(f'no {name} prompt: give it with prompt.{name}="..." or in the table')
        prompts.append(chosen)
    return prompts[0], prompts[1]


def warn_of_foreign_scene(prior: Prior, prompts: tuple[str, str], scene: Scene) -> None:
    """Warn once if a prior of one small world is asked for words, or a scene, that it has never met."""
    captions = scene.captions
    foreign = captions is None or any(prior.unknown_words(text) for text in captions)
    _warn(
        prior,
        prompts,
        "scenes like this one" if foreign else "",
        "the edit will mean little: use a prior that has, with --config ... configs/prior/sd15.yaml",
    )


def warn_of_foreign_images(prior: Prior, given: Prompts, tasks: Sequence[EditTask]) -> None:
    """Warn once if a prior of one small world is asked for words, or images, that it has never met."""
    texts = [given.source, given.target, *(text for task in tasks for text in (task.source, task.target))]
    _warn(
        prior,
        [text for text in texts if text],
        "images but those of its own world" if any(task.world != prior.world for task in tasks) else "",
        "the edit may mean little: use a prior that has, with --config configs/ids-image.yaml "
        "configs/prior/sd15.yaml",
    )


def _warn(prior: Prior, texts: Sequence[str], foreign: str, advice: str) -> None:
    unknown = list(dict.fromkeys(word for text in texts for word in prior.unknown_words(text)))
    if not prior.world or not (unknown or foreign):
        return
    words = f"the words {', '.join(unknown)}" if unknown else ""
    log.warning(
        "the %s prior has never met %s, and %s (Stable Diffusion, on a GPU)",
        prior.world,
        " and ".join(filter(None, (words, foreign))),
        advice,
    )
