"""The format of a scene, told by what lies in its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ids3d.data.scenes import blender, colmap, llff, transforms
from ids3d.data.scenes.capture import root_of
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.errors import UserError
from ids3d.registry import find, register
from ids3d.scene import Scene

log = logging.getLogger(__name__)


def _has(name: str) -> Callable[[Path], str]:
    return lambda root: name if (root / name).is_file() else ""


def _model(root: Path) -> str:
    found = colmap.find_model(root)
    return "" if found is None else found.relative_to(root).as_posix()


# In the order in which they are tried: a model of COLMAP's comes last, as the other files are made from one.
FORMATS: tuple[tuple[str, str, Callable[[Path], str]], ...] = (
    ("blender", blender.TRAIN, _has(blender.TRAIN)),
    ("transforms", transforms.FILE, _has(transforms.FILE)),
    ("llff", llff.POSES, _has(llff.POSES)),
    ("colmap", "a COLMAP model in sparse/0, sparse, colmap/sparse/0 or the folder itself", _model),
)


@register("scene", "auto")
class Auto:
    """A scene in whichever format its folder has: blender, transforms, llff or colmap, in this order.

    Settings of one format alone need its name, as in data=colmap data.model=sparse/1.
    """

    @dataclass
    class Config(SceneConfig):
        pass

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        """Read the scene, and say in a line each what it was taken for, and what was found.

        Raises UserError: there is no folder, nothing that a format knows in it, or what that format raises.
        """
        root = root_of(self.cfg)
        found = [(name, what) for name, _, look in FORMATS if (what := look(root))]
        if not found:
            raise UserError(f"data.root {root} has none of {_looked_for()}{_below(root)}")
        (name, what), *others = found
        also = "".join(f"; {w} is there too (data={n})" for n, w in others)
        log.info("%s: taken as %s, for its %s%s", root, name, what, also)
        chosen = find("scene", name)
        shared = {f.name: getattr(self.cfg, f.name) for f in dataclasses.fields(SceneConfig)}
        scene: Scene = chosen(chosen.Config(**shared)).load()
        return dataclasses.replace(scene, taken_as=f"{name}, for its {what}")


def _looked_for() -> str:
    return ", ".join(f"{what} ({name})" for name, what, _ in FORMATS)


def _below(root: Path) -> str:
    """A hint where a scene lies one folder deeper."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    inside = next((p for p in folders if any(look(p) for _, _, look in FORMATS)), None)
    return f"; did you mean {inside}?" if inside else ""
