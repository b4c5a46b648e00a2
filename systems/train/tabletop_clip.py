"""Train the tabletop CLIP: the judge of tabletop pictures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ids3d.config.bounds import WEIGHT, check_bounds
from ids3d.errors import UserError
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.train.sides import Sided, columns
from ids3d.systems.train.towers import HEADS, save_half, text_tower
from ids3d.systems.train.training import (
    Show,
    TrainingConfig,
    as_images,
    autocast,
    chosen_world,
    described,
    optimiser,
    training_pictures,
    validation_pictures,
)
from ids3d.tabletop.captions import (
    OPPOSITE,
    SIDES,
    TEMPLATES,
    key,
    mirrored,
    near_misses,
    paraphrase,
    place,
    swapped,
    vocabulary,
)
from ids3d.tabletop.clip import save_preprocessing
from ids3d.tabletop.patches import classes, patch_labels
from ids3d.tabletop.scene import PortableRandom, TabletopScene
from ids3d.tabletop.tokenizer import build_tokenizer

PATCHES = 8  # along each side of a picture
EMBEDDING_SCALE = 10.0  # of unit embeddings, before they are read by a linear layer


class Batch(NamedTuple):
    """What a step trains on: b pictures, k captions wrong for each of them, and m pairs that differ in a side.

    Attributes:
        images: (b, h, w, 3) uint8.
        tokens: of all captions, padded to the longest: b right, b·k wrong, m right and m wrong about a side.
        same: (b, b), which pictures' captions say the same.
        labels: what each patch shows, (b, patches).
        sided: (m,), of which picture each pair speaks.
        pairs: (m, 2), the classes that it has to the left and to the right.
    """

    images: Tensor
    tokens: Tensor
    same: Tensor
    labels: Tensor
    sided: Tensor
    pairs: Tensor


@register("train", "tabletop-clip")
class TabletopCLIP(pl.LightningModule):
    """Contrastive training, each picture against the batch's captions and against captions wrong in one point.

    Since the world knows what is where, the image tower also learns to name what each of its patches shows, and its
    embedding all that the picture shows and how far to the right that is. Those heads are thrown away; they make the
    tower learn shapes in minutes instead of hours, and sides at all.
    """

    @dataclass
    class Config(TrainingConfig):
        width: int = 128  # width of the layers of both towers
        image_layers: int = 5  # layers of the image's tower
        text_layers: int = 3  # layers of the text's tower
        negatives: int = 5  # wrong captions for each picture, beside the batch's others
        patch_weight: float = 1.0  # weight of the loss on naming the patches
        whole_weight: float = 0.3  # weight of the loss on naming all that the picture shows
        place_weight: float = 3.0  # weight of the loss on how far to the right each of what it shows is
        start: str | None = None  # a CLIP's folder to begin with, such as ids3d/weights/tabletop/clip

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, width="[4, 1e4]", image_layers="[1, 100]", text_layers="[1, 100]")
            check_bounds(
                self, negatives="[1, 1000]", patch_weight=WEIGHT, whole_weight=WEIGHT, place_weight=WEIGHT
            )

    def __init__(self, cfg: Config, seed: int, show: Show) -> None:
        super().__init__()
        self.cfg, self.seed = cfg, seed  # nothing to show: a CLIP makes no pictures
        self.tokenizer = build_tokenizer(vocabulary(chosen_world(cfg)))
        self.clip = start_clip(cfg, self.tokenizer)
        self.classes = classes(chosen_world(cfg))
        self.name_patches = nn.Linear(cfg.width, self.classes)
        self.name_whole = nn.Linear(cfg.width, self.classes)
        self.place_whole = nn.Linear(cfg.width, self.classes)
        data = training_pictures(cfg)
        self.rgb, self.ids, self.described = data.rgb, data.ids, described(data, cfg)
        self.groups = by_objects([scene for scene, _ in self.described])
        held_out = validation_pictures(cfg)
        self.held_out, self.held_out_described = held_out.rgb, described(held_out, cfg)

    def batch_of_step(self, step: int) -> Batch:
        """A step's pictures, half of the batches mirrored, and what is said of them rightly and wrongly.

        As many pictures of one, two and three objects each: the more there are, the more there is to mistake.
        """
        generator = generator_for(self.seed, "train", step)
        index = [
            group[int(torch.randint(len(group), (), generator=generator))]
            for group, _ in zip(itertools.cycle(self.groups), range(self.cfg.batch_size), strict=False)
        ]
        images, ids = torch.from_numpy(self.rgb[index]), torch.from_numpy(self.ids[index])
        scenes, where = map(list, zip(*(self.described[i] for i in index), strict=True))
        if torch.rand((), generator=generator) < 0.5:
            images, ids, where = images.flip(2), ids.flip(2), [mirrored(relations) for relations in where]
        rng = PortableRandom(step, f"captions/{self.seed}")
        right = [paraphrase(scene, rng, holding) for scene, holding in zip(scenes, where, strict=True)]
        wrong = [
            text
            for scene, holding in zip(scenes, where, strict=True)
            for text in wrong_captions(scene, holding, self.cfg.negatives, rng)
        ]
        sided = [
            Sided.draw(i, scenes[i], r, rng) for i, holding in enumerate(where) for r in holding if r in SIDES
        ]
        texts = [*right, *wrong, *(s.right for s in sided), *(s.wrong for s in sided)]
        keys = [key(scene) for scene in scenes]
        side = self.cfg.size // PATCHES
        return Batch(
            images,
            self.tokens(texts),
            torch.tensor([[a == b for b in keys] for a in keys]),
            torch.stack([patch_labels(i, s, side) for i, s in zip(ids, scenes, strict=True)]),
            torch.tensor([s.index for s in sided], dtype=torch.long),
            torch.tensor([s.left_and_right for s in sided], dtype=torch.long).view(-1, 2),
        )

    def training_step(self, batch: Batch) -> Tensor:
        labels, count, sided = batch.labels, len(batch.images), len(batch.sided)
        with autocast(self, self.cfg):
            text = self.embed_text(batch.tokens)
            pooled, patches = self.embed_images(as_images(batch.images, self.device))
        text, sides = text[: len(text) - 2 * sided], text[len(text) - 2 * sided :]
        own, near = text[:count], text[count:].unflatten(0, (count, -1))
        contrast = self._contrast(pooled, own, near, batch.same.float())
        naming = functional.cross_entropy(self.name_patches(patches).flatten(0, 1), labels.flatten())
        shown = functional.one_hot(labels, self.classes).amax(1).float()
        whole = functional.binary_cross_entropy_with_logits(
            EMBEDDING_SCALE * self.name_whole(pooled), shown, reduction="none"
        )
        whole = whole.sum(1).mean()
        off = self.place_whole(EMBEDDING_SCALE * pooled) - columns(labels, self.classes)
        placing = (off.square() * shown).sum(1).mean()
        siding = self._sides(pooled[batch.sided], sides, batch.pairs)
        placing = placing + siding
        losses = {
            "siding": siding,
            "contrast": contrast,
            "naming": naming,
            "whole": whole,
            "placing": placing,
        }
        self.log_dict({f"clip/{name}": loss for name, loss in losses.items()}, batch_size=1)
        named = self.cfg.patch_weight * naming + self.cfg.whole_weight * whole
        return contrast + named + self.cfg.place_weight * placing

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (n, d) of pictures in [-1, 1], and the patches' features (n, patches, width)."""
        seen = self.clip.vision_model(pixel_values=images)
        pooled = functional.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1)
        return pooled.float(), self.clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:]).float()

    def tokens(self, texts: list[str]) -> Tensor:
        """Captions (n,) as tokens (n, longest)."""
        return self.tokenizer(texts, padding=True, return_tensors="pt").input_ids

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Unit embeddings (n, d) of captions' tokens."""
        read = self.clip.text_model(input_ids=tokens)
        return functional.normalize(self.clip.text_projection(read.pooler_output), dim=-1).float()

    def _read(self, texts: list[str]) -> Tensor:
        return self.embed_text(self.tokens(texts).to(self.device))

    def _contrast(self, images: Tensor, text: Tensor, wrong: Tensor, same: Tensor) -> Tensor:
        """Cross entropy from pictures to captions and back; captions that say the same as one's own are not wrong.

        images, text (n, d); wrong (n, k, d) is more that is wrong for each picture; same (n, n) is 1 where two
        pictures' captions say the same.
        """
        scale = self.clip.logit_scale.exp().clamp(max=100)
        among = scale * images @ text.T
        own = scale * (images[:, None] * wrong).sum(-1)
        targets = same / same.sum(1, keepdim=True)
        to_text = functional.cross_entropy(
            torch.cat([among, own], 1), functional.pad(targets, (0, own.shape[1]))
        )
        return to_text + functional.cross_entropy(among.T, targets)

    def _sides(self, images: Tensor, text: Tensor, pairs: Tensor) -> Tensor:
        """How badly captions are told apart that differ in a side, and how badly they say where their objects are.

        images (m, d), the one that each pair of captions speaks of; text (2m, d): the right captions, and the wrong
        ones; pairs (m, 2): the classes to the left and to the right.
        """
        if not len(pairs):
            return images.new_zeros(())
        right, wrong = ((images * t).sum(1) for t in text.chunk(2))
        told = functional.softplus(self.clip.logit_scale.exp().clamp(max=100) * (wrong - right)).mean()
        column = self.place_whole(EMBEDDING_SCALE * text)
        left, right_ = (column.gather(1, torch.cat([pairs, pairs.flip(1)])[:, [i]])[:, 0] for i in (0, 1))
        return told + functional.softplus(4 * (left - right_)).mean()

    @torch.no_grad()
    def validation_step(self, step: int) -> None:
        """Of held-out pictures: the share whose caption is found among 16 near ones, and whose side is told rightly."""
        rng = PortableRandom(0, "validation")
        found, sides = [], []
        for start in range(0, len(self.held_out), 64):
            images, _ = self.embed_images(as_images(self.held_out[start : start + 64], self.device))
            for image, (scene, holding) in zip(
                images, self.held_out_described[start : start + 64], strict=True
            ):
                near = [paraphrase(s, rng) for s in (scene, *_negatives(scene, 16, rng))]
                found.append(int((self._read(near) @ image).argmax()) == 0)
                if holding and holding != mirrored(holding):
                    two = [place(scene, holding[0]), place(scene, mirrored(holding)[0])]
                    sides.append(int((self._read(two) @ image).argmax()) == 0)
        self.log("clip/top1_of_17_near", sum(found) / len(found), prog_bar=True, batch_size=1)
        if sides:
            self.log("clip/side", sum(sides) / len(sides), prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimiser(self, self.cfg)

    def save(self) -> None:
        """Write the CLIP in half precision, with its tokenizer and what it does to pictures."""
        into = Path(self.cfg.into)
        save_half(self.clip, into / "clip")
        self.tokenizer.save_pretrained(into / "clip")
        save_preprocessing(into / "clip", self.cfg.size)


def by_objects(scenes: Sequence[TabletopScene]) -> list[list[int]]:
    """The indices of scenes with one object, with two and so on, leaving out what numbers none has."""
    groups: dict[int, list[int]] = {}
    for i, scene in enumerate(scenes):
        groups.setdefault(len(scene.objects), []).append(i)
    return [groups[count] for count in sorted(groups)]


def start_clip(cfg: TabletopCLIP.Config, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A new CLIP, with the weights that training starts from. Raises UserError if they are missing or do not fit."""
    clip = CLIPModel(clip_config(cfg, tokenizer))
    if cfg.start is not None:
        try:
            clip.load_state_dict(CLIPModel.from_pretrained(cfg.start, dtype=torch.float32).state_dict())
        except (OSError, RuntimeError) as error:
            raise UserError(f"train.start: no CLIP of these sizes in {cfg.start}") from error
    return clip


def clip_config(cfg: TabletopCLIP.Config, tokenizer: CLIPTokenizer) -> CLIPConfig:
    """The towers' sizes."""
    vision = {
        "hidden_size": cfg.width,
        "intermediate_size": 4 * cfg.width,
        "num_hidden_layers": cfg.image_layers,
        "num_attention_heads": HEADS,
        "projection_dim": cfg.width,
        "hidden_act": "gelu",
        "image_size": cfg.size,
        "patch_size": cfg.size // PATCHES,
    }
    text = text_tower(cfg.width, cfg.text_layers, tokenizer).to_dict()
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=cfg.width)


def _misses(scene: TabletopScene) -> list[TabletopScene]:
    """Every scene whose caption is wrong for this one in one word, and the one with two objects' colours swapped."""
    wrong = [s for s in near_misses(scene) if key(s) != key(scene)]
    swap = swapped(scene)
    return wrong if swap is None else [swap, *wrong]


def _negatives(scene: TabletopScene, count: int, rng: PortableRandom) -> list[TabletopScene]:
    """Scenes whose captions are wrong for this one in one point: every other one in a shape, which is learned last.

    Where there are two objects, the first has their colours swapped.
    """
    wrong = _misses(scene)
    shapes = [s for s in wrong if [o.shape for o in s.objects] != [o.shape for o in scene.objects]]
    drawn = [rng.choice(shapes if i % 2 else wrong) for i in range(count)]
    swap = swapped(scene)
    if swap is not None:
        drawn[0] = swap
    return drawn


def wrong_captions(
    scene: TabletopScene, relations: Sequence[str], count: int, rng: PortableRandom
) -> list[str]:
    """Captions that are wrong for a view in one point; where relations hold in it, the last is wrong about a place.

    It names what is on the other side, or the two objects the other way round; a network that reads captions as bags of
    words can tell neither from what is right.
    """
    texts = [paraphrase(wrong, rng) for wrong in _negatives(scene, count, rng)]
    if relations:
        relation = rng.choice(tuple(relations))
        if rng.uniform(0, 1) < 0.5:
            scene = replace(scene, objects=scene.objects[::-1])
        else:
            relation = OPPOSITE[relation]
        texts[-1] = place(scene, relation, rng.choice(TEMPLATES))
    return texts
