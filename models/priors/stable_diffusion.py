"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), and whatever else has their layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ids3d.config.bounds import check_bounds
from ids3d.models.priors.control import edit_activations, edit_attention
from ids3d.models.priors.precision import run_in
from ids3d.models.priors.protocol import Prompt, SharedAttention
from ids3d.models.priors.source_attention import share_attention
from ids3d.registry import register


@register("prior", "stable-diffusion")
class StableDiffusion:
    """A frozen latent diffusion model made of diffusers' own classes.

    Example, with the bundled weights:
        >>> from pathlib import Path
        >>> import ids3d
        >>> folder = Path(ids3d.__file__).parent / "weights" / "tabletop"
        >>> prior = StableDiffusion(StableDiffusion.Config(path=str(folder)))
        >>> z = prior.encode(torch.zeros(1, 3, 128, 128))
        >>> z.shape
        torch.Size([1, 8, 16, 16])
        >>> eps = prior.predict_noise(z, torch.tensor([500]), prior.embed(["a cube"]), guidance_scale=7.5)
        >>> eps.shape
        torch.Size([1, 8, 16, 16])
    """

    world = ""

    @dataclass
    class Config:
        # A folder in diffusers' layout (vae/, unet/, text_encoder/, tokenizer/, scheduler/), or a name on the hub.
        path: str = "CompVis/stable-diffusion-v1-4"
        # What the networks compute in. auto: float16 on CUDA, float32 elsewhere. Latents, noise and the schedule's
        # arithmetic are float32 in any case (float64 where the latents are).
        dtype: Literal["auto", "float32", "float16", "float64"] = "auto"
        # Which files of the weights; fp16: *.fp16.safetensors; null: *.safetensors.
        variant: str | None = None
        # Encode and decode a batch one image at a time: less memory, a little slower.
        vae_slicing: bool = False
        # Recompute the UNet's activations backwards, for IDS and CDS on a small GPU: less memory, 1.3x slower.
        gradient_checkpointing: bool = False
        # With edit=pictures, what it changes in a view follows the photograph's own edges within windows that reach so
        # many latent pixels far: for a prior coarser than the photographs. 0: as it is decoded, for new textures.
        follow_edges: float = 0.0

        def __post_init__(self) -> None:
            check_bounds(self, follow_edges="[0, 64]")

    def __init__(self, cfg: Config, device: torch.device | str = "cpu") -> None:
        # Not above: diffusers and transformers take seconds to import, which reading a config need not wait for.
        from ids3d.models.priors.loading import load_checkpoint

        self.cfg = cfg
        self.device = torch.device(device)
        parts = load_checkpoint(cfg.path, self.dtype, cfg.variant)
        self.vae, self.unet, self.text_encoder = parts.vae, parts.unet, parts.text_encoder
        self.tokenizer, self.schedule = parts.tokenizer, parts.schedule
        if cfg.vae_slicing:
            self.vae.enable_slicing()
        if cfg.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in on the present device."""
        if self.cfg.dtype == "auto":
            return torch.float16 if self.device.type == "cuda" else torch.float32
        return {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}[self.cfg.dtype]

    @property
    def image_size(self) -> int:
        """The side in pixels of the square images that it was trained on."""
        return int(self.unet.config.sample_size) * self.downsample

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def downsample(self) -> int:
        """Pixels per latent pixel, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def to(self, device: torch.device | str) -> StableDiffusion:
        """Move the networks, in place, and to the `dtype` that they compute in there. Returns itself."""
        self.device = torch.device(device)
        for network in (self.vae, self.unet, self.text_encoder):
            torch.nn.Module.to(
                network, self.device, self.dtype
            )  # diffusers' own warns of each change of type
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (b, 3, h, w) in [0, 1] to latents (b, c, h/downsample, w/downsample). Differentiable.

        The mean of the encoder's posterior times the checkpoint's scaling factor: nothing is drawn at random. Raises
        ValueError when a side is not a multiple of `downsample`.
        """
        if images.shape[-2] % self.downsample or images.shape[-1] % self.downsample:
            raise ValueError(
                f"an image of {images.shape[-2]}x{images.shape[-1]}: expected multiples of {self.downsample}"
            )
        mean = run_in(self.dtype, lambda x: self.vae.encode(x).latent_dist.mean, images * 2 - 1)
        return mean * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, c, h, w) to images (b, 3, h·downsample, w·downsample) in [0, 1].

        Differentiable, with no gradient where a colour had to be clamped.
        """
        images = run_in(
            self.dtype, lambda z: self.vae.decode(z).sample, latents / self.vae.config.scaling_factor
        )
        return (images / 2 + 0.5).clamp(0, 1)

    def embed(self, texts: Sequence[str]) -> Prompt:
        """Return the text encoder's last hidden states for the prompts and for the empty one, without gradients.

        Warn (UserWarning) of a prompt with more tokens than the encoder takes, and say what was cut off.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = min(
            int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings)
        )
        for text in texts:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            if len(ids) > length - 2:  # one token marks the start, one the end
                lost = self.tokenizer.decode(ids[length - 2 :]).strip()
                warnings.warn(
                    f"the prompt {text!r} is too long for the prior: {lost!r} was cut off", stacklevel=2
                )
        tokens = self.tokenizer(
            [*texts, ""], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            states = self.text_encoder(tokens.to(self.device)).last_hidden_state
        return Prompt(states[:-1], states[-1:].expand(len(texts), -1, -1), tokens[:-1].to(self.device))

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        """Return ε^ω(z_t, y, t) = ε(z_t, ∅, t) + ω (ε(z_t, y, t) − ε(z_t, ∅, t)), whatever the network predicts.

        Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), in one call of the UNet on the empty prompts
        followed by the prompts; ω = 0 and ω = 1 need only one of the two halves.

        Args:
            z_t: noisy latents (b, c, h, w). Differentiable.
            t: timesteps (b,), or one for all of them.
            prompt: b prompts, or one for all latents.
            guidance_scale: ω.
        Returns: (b, c, h, w) in the type of `z_t`, at least float32.
        """
        batch = len(z_t)
        prompt, t = prompt.expand(batch), t.to(z_t.device).expand(batch)
        if guidance_scale == 0:
            output = self._call_unet(z_t, t, prompt.null)
        elif guidance_scale == 1:
            output = self._call_unet(z_t, t, prompt.cond)
        else:
            both = self._call_unet(
                torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([prompt.null, prompt.cond])
            )
            null, cond = both.chunk(2)
            output = null + guidance_scale * (cond - null)
        return self.schedule.to_noise(output, z_t, t)  # affine in the output, so it may follow the guidance

    def _call_unet(self, z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        text = text.to(z_t.device, self.dtype)  # prompts may have been embedded before the prior was moved
        return run_in(self.dtype, lambda z: self.unet(z, t, encoder_hidden_states=text).sample, z_t)

    @contextmanager
    def self_attention_outputs(self) -> Iterator[list[Tensor]]:
        """See `Prior.self_attention_outputs`. Outputs come with the graph. The hooks go with the context."""
        outputs: list[Tensor] = []

        def keep(_module: Any, _args: Any, output: Tensor) -> None:
            outputs.append(output)

        layers = [layer for name, layer in self.unet.up_blocks.named_modules() if name.endswith(".attn1")]
        hooks = [layer.register_forward_hook(keep) for layer in layers]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def edit_attention(
        self, edit: Callable[[str, Tensor], Tensor], cross: bool, batch: int
    ) -> AbstractContextManager[None]:
        """See `Prior.edit_attention`. The layers' own processors are back when the context ends."""
        return edit_attention(self.unet, edit, "attn2" if cross else "attn1", batch)

    def share_attention(self, shared: SharedAttention) -> AbstractContextManager[None]:
        """See `Prior.share_attention`. The layers' own processors are back when the context ends."""
        return share_attention(self.unet, shared)

    def edit_activations(
        self, edit: Callable[[str, Tensor], Tensor], features: bool, queries_and_keys: bool
    ) -> AbstractContextManager[None]:
        """See `Prior.edit_activations`. The hooks go with the context."""
        return edit_activations(self.unet, edit, features, queries_and_keys)

    def follow_edges(self, source: str, target: str) -> float:
        """How many latent pixels far an edit's change to a picture is carried to its own edges: as the config says."""
        return self.cfg.follow_edges

    def unknown_words(self, text: str) -> list[str]:
        """Return []: a tokenizer that can spell anything does not tell what the model has learned."""
        return []
