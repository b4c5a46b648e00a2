"""How things are called elsewhere: what somebody who comes from threestudio types, and how it is done here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By dotted path: the longest that fits is taken.
HABITS = {
    "resume": "a run goes on with --resume RUN, and is evaluated again with --test RUN; RUN is its folder",
    "gpu": "a GPU is chosen with --gpu N or device=cuda:N",
    "exp_root_dir": "the folder of all results is output=…",
    "exp_dir": "the folder of all results is output=…",
    "use_timestamp": "a run's own folder is called tag=…; without it, after date and time",
    "system_type": "there is no system to choose; modules are guidance=…, edit=…, geometry=… and so on",
    "data_type": "the format of the data is data=…",
    "data.batch_size": "views edited at once are edit.views_per_batch=…; images, edit.batch_size=…",
    "system": "there is no system; its modules are at the top, such as guidance.guidance_scale=… or edit.lr=…",
    "system.prompt_processor": 'prompts are prompt.source="…" (what it is) and prompt.target="…" (what it becomes)',
    "system.guidance": "the guidance's settings are at the top, such as guidance.guidance_scale=…",
    "system.guidance_type": "the guidance is guidance=…, such as ids or dds",
    "system.geometry": "the geometry's settings are at the top, such as geometry.voxels=…",
    "system.renderer": "the renderer's settings are at the top, such as renderer.steps=…",
    "system.loggers": "where figures are logged is tracking=wandb, tensorboard, csv or none",
    "system.optimizer": "rates are edit.lr=…, reconstruct.lr_density=… and reconstruct.lr_appearance=…",
    "trainer": "there is no trainer; numbers of steps are edit.steps=… and reconstruct.steps=…",
    "trainer.devices": "processes, one for each device, are devices=N",
    "trainer.num_nodes": "machines are nodes=N",
    "trainer.strategy": "several processes average their gradients: devices=N is all that it takes",
    "trainer.max_steps": "numbers of steps are edit.steps=… and reconstruct.steps=…",
    "trainer.val_check_interval": "the steps between two looks at held-out views are edit.validate_every=…",
    "trainer.log_every_n_steps": "the steps between two logged ones are edit.log_every=…",
    "checkpoint": "what resuming needs is saved by itself; a run goes on with --resume RUN",
}


def habit(path: str, value: Any) -> str:
    """Return how it is done here what another project's config says at a dotted path; '' if that is no known habit."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if deeper := habit(f"{path}.{key}", item):
                return deeper
    while path:
        if path in HABITS:
            return HABITS[path]
        path = path.rpartition(".")[0]
    return ""
