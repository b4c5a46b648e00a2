"""The Blender scenes of NeRF (Mildenhall et al. 2020): `transforms_train.json`, `transforms_test.json`, RGBA images.

Each file has `camera_angle_x`, the horizontal angle of view in radians, and frames with `file_path`, without suffix and
relative to the folder, and `transform_matrix`, camera to world in OpenGL's axes. Nothing is behind the object, which
all views show whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ids3d.config.bounds import check_bounds
from ids3d.data.scenes.capture import Capture, build, root_of
from ids3d.data.scenes.frames import Frame, angle_of, read_frames
from ids3d.data.scenes.image_folders import choose_folder, named_images
from ids3d.data.scenes.photographs import stored_size
from ids3d.data.scenes.poses import check_cameras
from ids3d.data.scenes.protocol import WHITE, SceneConfig
from ids3d.data.scenes.splitting import evenly, every_nth
from ids3d.errors import UserError
from ids3d.lenses import Lens
from ids3d.registry import register
from ids3d.scene import Scene

TRAIN, HELD_OUT = "transforms_train.json", ("transforms_test.json", "transforms_val.json")


@register("scene", "blender")
class Blender:
    """An object that was rendered from all around before nothing; the test split is held out.

    Without one, that for validation is; without either, every `holdout`-th view.
    """

    @dataclass
    class Config(SceneConfig):
        test_views: int = 25  # views of the test split that are held out, spread evenly over it; 0: all

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, test_views="[0, 1e6]")

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        """Read the scene from disk, and say in one line what was found.

        Raises:
            UserError: the folder, a transforms file, an image, or how they go together.
        """
        cfg, root = self.cfg, root_of(self.cfg)
        path = root / TRAIN
        if not path.is_file():
            raise UserError(
                f"there is no {TRAIN} in {root}: is this a scene in the layout of NeRF's Blender scenes?"
            )
        frames, angles = _split(path)
        held_out = every_nth(len(frames), cfg.holdout)
        test = next((root / name for name in HELD_OUT if (root / name).is_file()), None)
        if test is not None:
            more, more_angles = _split(test)
            chosen = evenly(len(more), cfg.test_views)
            held_out = torch.arange(len(frames) + len(chosen)) >= len(frames)
            frames += [more[i] for i in chosen]
            angles += [more_angles[i] for i in chosen]
        names = [frame.file_path for frame in frames]
        folders = named_images(root, names, path)
        width, height = stored_size(next(iter(folders.values()))[0])
        lenses = tuple(_lens(angle, width, height) for angle in angles)
        c2w = torch.stack([frame.c2w for frame in frames])
        check_cameras(path, c2w, lenses, "right, up, back, centre")
        capture = Capture(
            root=root,
            source=path,
            c2w=c2w,
            lenses=lenses,
            choice=choose_folder(root, folders, lenses[0], cfg),
            keys=tuple(_key(name) for name in names),
            held_out=held_out,
            background=WHITE,
        )
        return build(capture, cfg)


def _split(path: Path) -> tuple[list[Frame], list[float]]:
    """The frames of one split, and of each the angle of view."""
    said, frames = read_frames(path)
    angle = angle_of(said, "camera_angle_x", str(path))
    if angle is None:
        raise UserError(f"{path} has no camera_angle_x, the horizontal angle of view in radians")
    return frames, [angle] * len(frames)


def _lens(angle: float, width: int, height: int) -> Lens:
    focal = 0.5 * width / math.tan(0.5 * angle)
    return Lens(width, height, focal, focal, width / 2, height / 2)


def _key(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() == ".png" else path).as_posix()
