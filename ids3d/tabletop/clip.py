"""The CLIP of the tabletop world: how it takes pictures, and loading it.

It takes pictures of 128x128 pixels with channels from -1 to 1: `2 x - 1` of pictures x in [0, 1], others with the
short side brought to 128 pixels (bicubic, anti-aliased) and the middle square taken. `preprocessor_config.json` in its
folder says so in transformers' words, so that `ids3d.metrics.ClipScore` (which does all this) and transformers'
`CLIPImageProcessor` need not be told.
"""

from __future__ import annotations

import json
from pathlib import Path

from ids3d.errors import UserError
from ids3d.metrics.clip_score import ClipScore

PREPROCESSING = "preprocessor_config.json"


def save_preprocessing(folder: Path, size: int) -> None:
    """Write beside a CLIPModel's weights how it takes pictures, `size` being the side of what it sees, in pixels."""
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,  # PIL's BICUBIC
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / PREPROCESSING).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_clip(prior: Path) -> ClipScore:
    """The CLIP in a tabletop prior's folder, on the CPU. Raises UserError if it is missing or not whole."""
    folder = prior / "clip"
    for file in ("config.json", PREPROCESSING):
        if not (folder / file).is_file():
            raise UserError(
                f"no tabletop CLIP at {folder}: {file} is missing (configs/tabletop/clip.yaml trains one)"
            )
    return ClipScore(folder)
