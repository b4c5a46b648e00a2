"""What a folder says of an edit: captions, and for made scenes the true edited views.

`captions.json` reads {"source": ..., "target": ...}; that of a tabletop scene has {"world": "tabletop"} too. Then
`edited/` and `masks/` hold, for each held-out view, a PNG of its name with the true edit, and with what the edit
touches. Elsewhere folders of those names are somebody's own, and are left alone. `depth/`, where it is there, has the
true depths of the scene before the edit, for each held-out view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ids3d.data.scenes.photographs import inspect, read_masks, read_photographs
from ids3d.data.scenes.protocol import Colour
from ids3d.data.scenes.undistortion import Undistortion
from ids3d.errors import UserError
from ids3d.reading import is_plain, read_json
from ids3d.scene import Truth
from ids3d.tabletop.folders import DEPTH_UNIT


def read_captions(root: Path) -> tuple[str, str] | None:
    """(source, target) of `captions.json`, or None where there is none. Raises UserError if it is malformed."""
    path = root / "captions.json"
    if not path.exists():
        return None
    captions = read_json(path)
    source, target = (
        captions.get(key) if isinstance(captions, dict) else None for key in ("source", "target")
    )
    if not all(isinstance(text, str) and text.strip() and is_plain(text) for text in (source, target)):
        raise UserError(f'{path} must read {{"source": "...", "target": "..."}}, with a text for each')
    return str(source), str(target)


def has_truth(root: Path, setting: bool | None) -> bool:
    """Whether the true edit is to be read: as the setting says, or else if this is a tabletop scene that has it."""
    if setting is not None:
        return setting
    captions = root / "captions.json"
    if not captions.exists() or not any((root / name).is_dir() for name in ("edited", "masks")):
        return False
    content = read_json(captions)
    return isinstance(content, dict) and content.get("world") == "tabletop"


def read_truth(
    root: Path,
    keys: Sequence[str],
    size: tuple[int, int],
    background: Colour,
    undistortions: Sequence[Undistortion | None],
    scale: float,
) -> Truth:
    """The true edit of the held-out views from `edited/` and `masks/`, and their depths where `depth/` has them.

    Args:
        keys: of the held-out views: edited/<key>.png.
        size: (height, width) of the views.
        background: behind transparency.
        undistortions: of each view, as its photograph's.
        scale: scene units per unit of the files.

    Raises:
        UserError: a view's image is missing, or does not fit the view.
    """
    height, width = size
    folders = ("edited", "masks", "depth") if (root / "depth").is_dir() else ("edited", "masks")
    paths = {name: [root / name / f"{key}.png" for key in keys] for name in folders}
    for path in (path for files in paths.values() for path in files):
        if not path.is_file():
            raise UserError(
                f"there is no {path}: each held-out view needs one in {'/, '.join(folders)}/ (data.truth=false: the "
                "folders hold something else)"
            )
    edited, masks = ([inspect(path, width, height) for path in paths[name]] for name in ("edited", "masks"))
    for photograph in (*edited, *masks):
        if (photograph.width, photograph.height) < (width, height):
            raise UserError(f"{photograph.path} is smaller than its view ({width}x{height})")
    images, _ = read_photographs(edited, height, width, background, undistortions)
    masked = read_masks(paths["masks"], height, width, undistortions)
    if "depth" not in paths or any(undistortions):
        return Truth(images, masked)
    return Truth(images, masked, scale * torch.stack([read_depth(p, height, width) for p in paths["depth"]]))


def read_depth(path: Path, height: int, width: int) -> Tensor:
    """A depth map (height, width) float32, the files' units: of each pixel the one that its middle falls into.

    Raises UserError: it is no picture of 16 bits, or is smaller.
    """
    try:
        with Image.open(path) as image:
            stored = np.array(image)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    if stored.dtype != np.uint16 or stored.ndim != 2 or stored.shape[0] < height or stored.shape[1] < width:
        raise UserError(
            f"{path} is no picture of 16 bits with a pixel for each of its view's ({width}x{height})"
        )
    rows, columns = (
        ((np.arange(wanted) + 0.5) * there / wanted).astype(int)
        for wanted, there in zip((height, width), stored.shape, strict=True)
    )
    return torch.from_numpy(stored[rows][:, columns].astype(np.float32)) * DEPTH_UNIT
