"""What all ways to edit a scene share: settings, prompts, the sources' latents, and what is shown on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.images import colour_depth, depth_range, difference, resize
from ids3d.metrics import psnr
from ids3d.models.priors.protocol import Prompt, editing_size
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.systems.edit_scene.protocol import SceneEdit
