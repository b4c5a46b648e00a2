"""The small prior that ships with the project: Stable Diffusion's layout, trained on the tabletop world."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import ids3d
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.registry import register
from ids3d.tabletop.captions import layout_words


@register("prior", "tabletop")
class Tabletop(StableDiffusion):
    """`StableDiffusion` on the bundled folder, whose vocabulary is so small that it knows its unknown words."""

    world = "tabletop"

    @dataclass
    class Config(StableDiffusion.Config):
        # The folder that comes with ids3d, or another in its layout.
        path: str = str(Path(ids3d.__file__).parent / "weights" / "tabletop")
        # As for stable-diffusion; 0 in any case where the prompts change shapes or places, which need new edges.
        follow_edges: float = 2.0

    def follow_edges(self, source: str, target: str) -> float:
        """As the config says where the prompts tell of the same shapes and places, and so of the same edges; else 0."""
        return self.cfg.follow_edges if layout_words(source) == layout_words(target) else 0.0

    def unknown_words(self, text: str) -> list[str]:
        """Return the words (runs of letters or digits, lower case) that are no token of their own, in order, once."""
        words = dict.fromkeys(re.findall(r"[^\W_]+", text.lower()))
        vocabulary = self.tokenizer.get_vocab()
        return [word for word in words if self._spelling(word) != [vocabulary.get(f"{word}</w>")]]

    def _spelling(self, word: str) -> list[int]:
        return self.tokenizer(word, add_special_tokens=False).input_ids
