"""Train the tabletop CLIP: the judge of tabletop pictures, and the text encoder that the prior is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer, PreTrainedModel

from ids3d.errors import UserError
from ids3d.registry import register
from ids3d.systems.train.training import (
    Show,
    TrainingConfig,
    as_images,
    optimiser,
    step_generator,
    training_pictures,
    validation_pictures,
)
from ids3d.tabletop.captions import caption, key, near_misses, paraphrase, swapped, vocabulary
from ids3d.tabletop.clip import save_preprocessing
from ids3d.tabletop.patches import CLASSES, patch_labels
from ids3d.tabletop.scene import PortableRandom, TabletopScene, sample_scene
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer

PATCH = 8
NEAR = 24  # captions wrong in one point that a picture is held against: all that there are for two objects
EMBEDDING_SCALE = 10.0  # of unit embeddings, before they are read by a linear layer


@register("train", "tabletop-clip")
class TabletopCLIP(pl.LightningModule):
    """Contrastive training, each picture against the batch's captions and against captions wrong in one point.

    Since the world knows what is where, the image tower also learns to name what each of its patches shows, and its
    embedding all that the picture shows. Those heads are thrown away; they make the tower learn shapes in minutes
    instead of hours.
    """

    @dataclass
    class Config(TrainingConfig):
        width: int = 128
        image_layers: int = 5
        text_layers: int = 3
        negatives: int = 3  # wrong captions for each picture, beside the batch's others
        patch_weight: float = 1.0  # of the loss on naming the patches
        whole_weight: float = 0.3  # of the loss on naming all that the picture shows
        start: str | None = None  # a CLIP's folder to begin with, such as ids3d/weights/tabletop/clip
        judge_only: bool = False  # leave the prior's text encoder as it is, which a UNet has been trained on
        # The text tower stays as `start` has it. Captions are then read once and kept, so that each picture is held
        # against all captions that are wrong in one point, and not only against `negatives` of them.
        freeze_text: bool = False

    def __init__(self, cfg: Config, seed: int, show: Show) -> None:
        super().__init__()
        self.cfg, self.seed = cfg, seed  # nothing to show: a CLIP makes no pictures
        self.tokenizer = build_tokenizer(vocabulary())
        self.clip = start_clip(cfg, self.tokenizer)
        if cfg.freeze_text:
            for part in (self.clip.text_model, self.clip.text_projection):
                part.requires_grad_(False)
        self._read: dict[str, Tensor] = {}  # plain captions' embeddings, of a text tower that stays as it is
        self.name_patches = nn.Linear(cfg.width, CLASSES)
        self.name_whole = nn.Linear(cfg.width, CLASSES)
        data = training_pictures(cfg)
        self.rgb, self.ids = data.rgb, data.ids
        self.scenes = [sample_scene(seed) for seed in data.seeds]
        held_out = validation_pictures(cfg)
        self.held_out = as_images(held_out.rgb)
        self.held_out_scenes = [sample_scene(seed) for seed in held_out.seeds]

    def training_step(self, step: int) -> Tensor:
        generator = step_generator(self.seed, self.global_step)
        index = torch.randint(len(self.rgb), (self.cfg.batch_size,), generator=generator).tolist()
        images, ids = as_images(self.rgb[index]), torch.as_tensor(self.ids[index])
        if torch.rand((), generator=generator) < 0.5:
            images, ids = images.flip(-1), ids.flip(-1)
        scenes = [self.scenes[i] for i in index]
        rng = PortableRandom(self.global_step, f"captions/{self.seed}")
        if self.cfg.freeze_text:
            near, own = self._all_near(scenes, rng)
        else:
            wrong = [negative for scene in scenes for negative in _negatives(scene, self.cfg.negatives, rng)]
            text = self.embed_text([paraphrase(scene, rng) for scene in (*scenes, *wrong)])
            own, near = text[: len(scenes)], text[len(scenes) :].unflatten(0, (len(scenes), -1))
        pooled, patches = self.embed_images(images.to(self.device))
        contrast = self._contrast(pooled, own, near, scenes)
        labels = torch.stack([patch_labels(i, s, PATCH) for i, s in zip(ids, scenes, strict=True)]).to(
            self.device
        )
        naming = functional.cross_entropy(self.name_patches(patches).flatten(0, 1), labels.flatten())
        shown = functional.one_hot(labels, CLASSES).amax(1).float()
        whole = functional.binary_cross_entropy_with_logits(
            EMBEDDING_SCALE * self.name_whole(pooled), shown, reduction="none"
        )
        whole = whole.sum(1).mean()
        self.log_dict({"clip/contrast": contrast, "clip/naming": naming, "clip/whole": whole}, batch_size=1)
        return contrast + self.cfg.patch_weight * naming + self.cfg.whole_weight * whole

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (n, d) of pictures in [-1, 1], and the patches' features (n, patches, width)."""
        seen = self.clip.vision_model(pixel_values=images)
        pooled = functional.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1)
        return pooled, self.clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])

    def embed_text(self, texts: list[str]) -> Tensor:
        """Unit embeddings (n, d) of captions."""
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        read = self.clip.text_model(input_ids=tokens.input_ids)
        return functional.normalize(self.clip.text_projection(read.pooler_output), dim=-1)

    @torch.no_grad()
    def _all_near(self, scenes: list[TabletopScene], rng: PortableRandom) -> tuple[Tensor, Tensor]:
        """Embeddings of each scene's wrong captions (n, NEAR, d), and of its own (n, d); plain captions, read once.

        Where there are more than NEAR they are drawn, where fewer drawn again.
        """
        wrong = [[caption(s) for s in _misses(scene)] for scene in scenes]
        chosen = [w if len(w) == NEAR else [rng.choice(w) for _ in range(NEAR)] for w in wrong]
        own = [caption(scene) for scene in scenes]
        near = [text for texts in chosen for text in texts]
        new = [text for text in dict.fromkeys([*own, *near]) if text not in self._read]
        for start in range(0, len(new), 512):
            texts = new[start : start + 512]
            self._read.update(zip(texts, self.embed_text(texts).unbind(), strict=True))
        embedded = torch.stack([self._read[text] for text in near]).unflatten(0, (len(scenes), NEAR))
        return embedded, torch.stack([self._read[text] for text in own])

    def _contrast(self, images: Tensor, text: Tensor, wrong: Tensor, scenes: list[TabletopScene]) -> Tensor:
        """Cross entropy from pictures to captions and back; captions that say the same as one's own are not wrong.

        images, text (n, d); wrong (n, k, d) is more that is wrong for each picture.
        """
        keys = [key(scene) for scene in scenes]
        same = torch.tensor([[a == b for b in keys] for a in keys], device=self.device).float()
        scale = self.clip.logit_scale.exp().clamp(max=100)
        among = scale * images @ text.T
        own = scale * (images[:, None] * wrong).sum(-1)
        targets = same / same.sum(1, keepdim=True)
        to_text = functional.cross_entropy(
            torch.cat([among, own], 1), functional.pad(targets, (0, own.shape[1]))
        )
        return to_text + functional.cross_entropy(among.T, targets)

    @torch.no_grad()
    def validation_step(self, step: int) -> None:
        rng = PortableRandom(0, "validation")
        right = 0
        for start in range(0, len(self.held_out), 64):
            scenes = self.held_out_scenes[start : start + 64]
            images, _ = self.embed_images(self.held_out[start : start + 64].to(self.device))
            candidates = [
                paraphrase(s, rng) for scene in scenes for s in (scene, *_negatives(scene, 16, rng))
            ]
            text = self.embed_text(candidates).view(len(scenes), 17, -1)
            right += int(((images[:, None] * text).sum(-1).argmax(1) == 0).sum())
        self.log("clip/top1_of_17_near", right / len(self.held_out), prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimiser(self, self.cfg)

    def save(self) -> None:
        """Write the CLIP in half precision and its text tower and tokenizer as Stable Diffusion's folders hold them."""
        into = Path(self.cfg.into)
        save_half(self.clip, into / "clip")
        self.tokenizer.save_pretrained(into / "clip")
        save_preprocessing(into / "clip", self.cfg.size)
        if self.cfg.judge_only:
            return
        tower = CLIPTextModel(self.clip.config.text_config)
        tower.load_state_dict(self.clip.text_model.state_dict())
        save_half(tower, into / "text_encoder")
        self.tokenizer.save_pretrained(into / "tokenizer")


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Save a transformers model in half precision, marked to be loaded in single precision."""
    model.half().save_pretrained(folder)
    model.float()
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float32
    config.save_pretrained(folder)


def start_clip(cfg: TabletopCLIP.Config, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A new CLIP, with the weights that training starts from. Raises UserError if they are missing or do not fit."""
    sizes = clip_config(cfg, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    clip = CLIPModel(sizes)
    if cfg.start is not None:
        try:
            clip.load_state_dict(CLIPModel.from_pretrained(cfg.start, dtype=torch.float32).state_dict())
        except (OSError, RuntimeError) as error:
            raise UserError(f"train.start: no CLIP of these sizes in {cfg.start}") from error
    return clip


def clip_config(cfg: TabletopCLIP.Config, tokens: int, start: int, end: int) -> CLIPConfig:
    """The towers' sizes."""
    common = {"num_attention_heads": 4, "projection_dim": cfg.width, "hidden_act": "gelu"}
    sizes = {"hidden_size": cfg.width, "intermediate_size": 4 * cfg.width}
    text = {"vocab_size": tokens, "max_position_embeddings": LENGTH, "num_hidden_layers": cfg.text_layers}
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision = {"image_size": cfg.size, "patch_size": PATCH, "num_hidden_layers": cfg.image_layers}
    return CLIPConfig(
        text_config={**common, **sizes, **text, **ends},
        vision_config={**common, **sizes, **vision},
        projection_dim=cfg.width,
    )


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
