"""Attention of the source in the target's score, against a slow reference that writes out every map."""

from __future__ import annotations

import contextlib
import functools
import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ids3d.models.guidance.distillation import Distillation
from ids3d.models.priors.alignment import align
from ids3d.models.priors.protocol import SharedAttention
from ids3d.models.priors.source_attention import share_attention
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.registry import find
from tests import tiny_sd
from tests.models.reference import Reference, draws

METHODS = ["sds", "dds", "cds", "pds", "ids"]
# Of equal length; a word more; words exchanged for more of them.
PROMPTS = [
    ("a red cube on a wooden floor", "a blue cube on a wooden floor"),
    ("a red cone", "a red cone on a wooden floor"),
    ("a cube and a blue cone", "a red cube and a cube on a floor"),
]
SEED = 11


class _Explicit:
    """Attention by its formula: softmax(q kᵀ / √d) v, one head at a time, with maps kept or taken."""

    def __init__(self) -> None:
        self.keep: list[Tensor] | None = None
        self.take: list[Tensor] | None = None
        self.alignment: list[int] | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states)[0], attn.to_k(context)[0], attn.to_v(context)[0]
        width = q.shape[1] // attn.heads
        outs, maps = [], []
        for head in range(attn.heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T / width**0.5
            map_ = scores.exp() / scores.exp().sum(1, keepdim=True)
            if self.take is not None:
                theirs = self.take[head]
                if self.alignment is None:
                    map_ = theirs
                else:
                    map_ = torch.stack(
                        [map_[:, j] if i < 0 else theirs[:, i] for j, i in enumerate(self.alignment)], dim=1
                    )
            maps.append(map_)
            outs.append(map_ @ v[:, part])
        if self.keep is not None:
            self.keep[:] = maps
        return attn.to_out[0](torch.cat(outs, 1))[None]


class ExplicitReference(Reference):
    """Two predictions, the second with the first's maps."""

    def __init__(self, folder, prediction_type) -> None:
        super().__init__(folder, prediction_type)
        self.layers = {name: _Explicit() for name in self.unet.attn_processors}
        self.unet.set_attn_processor(dict(self.layers))

    def pair(self, z_t_src, z_t_trg, prompts, t, w, self_tokens) -> tuple[Tensor, Tensor]:
        kept: dict[tuple[str, str], list[Tensor]] = {}
        ids = [
            self.tokenizer(p, padding="max_length", max_length=self.tokens, return_tensors="pt").input_ids
            for p in prompts
        ]
        aligned = align(*ids)[0].tolist()
        out = []
        for z_t, prompt in ((z_t_src, prompts[0]), (z_t_trg, prompts[1])):
            parts = []
            for half, text in (("null", ""), ("cond", prompt)):
                for name, layer in self.layers.items():
                    layer.keep = layer.take = layer.alignment = None
                    if not out:
                        layer.keep = kept[name, half] = []
                    elif ".attn1" in name:
                        if len(kept[name, half][0]) <= self_tokens:
                            layer.take = kept[name, half]
                    else:
                        layer.take = kept[name, half]
                        layer.alignment = aligned if half == "cond" else None
                parts.append(self.unet(z_t, t, self.text(text)).sample)
            null, cond = parts
            bar = self.bars[t]
            if self.prediction_type == "v_prediction":
                null, cond = (bar**0.5 * v + (1 - bar) ** 0.5 * z_t for v in (null, cond))
            out.append((1 - w) * null + w * cond)
        return out[0], out[1]


@functools.cache
def prior(kind: str, dtype: str = "float64") -> StableDiffusion:
    return tiny_sd.prior(kind, dtype)  # type: ignore[arg-type]


def latents(seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, prior: StableDiffusion, **settings) -> Distillation:
    cls = find("guidance", name)
    guidance: Distillation = cls(cls.Config(**settings), prior)
    return guidance


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("attention", "self_tokens"), [("cross", 0), ("cross+self", 1024), ("cross+self", 16)]
)
@torch.no_grad()
def test_dds_takes_the_maps_that_an_explicit_attention_gives(kind, attention, self_tokens):
    reference = ExplicitReference(tiny_sd.folder(kind), kind)
    z_src, z_trg = latents(0, 3), latents(0, 3) + 0.5 * latents(1, 3)
    guidance = make("dds", prior(kind), attention=attention, self_tokens=self_tokens)
    plain = make("dds", prior(kind))
    sources, targets = (prior(kind).embed([pair[i] for pair in PROMPTS]) for i in (0, 1))
    grads = guidance(z_src, z_trg, sources, targets, generator()).grad
    without = plain(z_src, z_trg, sources, targets, generator()).grad
    limit = self_tokens if attention == "cross+self" else 0
    for i, draw in enumerate(draws(generator(), 3, 50, 950)):
        one = slice(i, i + 1)
        z_t = [reference.noised(z[one], draw.noises[0], draw.t) for z in (z_src, z_trg)]
        eps_src, eps_trg = reference.pair(*z_t, PROMPTS[i], draw.t, 7.5, limit)
        expected = eps_trg - eps_src
        assert (grads[one] - expected).norm() <= 1e-5 * expected.norm()
        assert (without[one] - expected).norm() > 0.05 * expected.norm()  # it is not for nothing


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_two_calls_take_what_one_call_takes(kind):
    """With a graph the source is predicted before the target, as CUT has it."""
    p = prior(kind)
    source, target = p.embed([PROMPTS[2][0]]), p.embed([PROMPTS[2][1]])
    settings = {"attention": "cross+self", "cut_patches": 4}
    together = make("dds", p, attention="cross+self")
    apart = make("cds", p, **settings, w_cut=1e-12)
    args = (latents(0), latents(1), source, target)
    expected, got = together(*args, generator()).grad, apart(*args, generator()).grad
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_what_is_recomputed_backwards_attends_as_before():
    """With gradient checkpointing the UNet runs again in the backward pass: CUT's gradient is the same."""
    grads = []
    for checkpointing in (False, True):
        cfg = StableDiffusion.Config(
            path=str(tiny_sd.folder("epsilon")), dtype="float64", gradient_checkpointing=checkpointing
        )
        p = StableDiffusion(cfg)
        p.unet.train(checkpointing)  # diffusers checkpoints in training mode only; there is no dropout
        guidance = make("cds", p, attention="cross+self")
        prompts = p.embed([PROMPTS[1][0]]), p.embed([PROMPTS[1][1]])
        grads.append(guidance(latents(0), latents(1), *prompts, generator()).grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "attention"), [*itertools.product(["dds", "cds", "pds", "ids"], ["cross", "cross+self"])]
)
def test_an_edit_of_nothing_is_nothing(name, attention):
    p = prior("v_prediction")
    prompt = p.embed([PROMPTS[0][0]])
    settings = {"w_cut": 0.0} if name == "cds" else {}
    grad = make(name, p, attention=attention, **settings)(
        latents(0), latents(0), prompt, prompt, generator()
    ).grad
    assert grad.abs().max() < 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_layers_are_as_before_afterwards_even_if_it_fails(name, monkeypatch):
    p = prior("epsilon")
    source, target = p.embed([PROMPTS[0][0]]), p.embed([PROMPTS[0][1]])
    before = dict(p.unet.attn_processors)
    guidance = make(name, p, attention="cross+self")
    guidance(latents(0), latents(1), source, target, generator())
    assert p.unet.attn_processors == before

    def fail(*_args, **_kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(p.unet.conv_out, "forward", fail)
        guidance(latents(0), latents(1), source, target, generator())
    assert p.unet.attn_processors == before


@pytest.mark.parametrize("name", METHODS)
def test_every_method_feels_the_sources_attention(name):
    p = prior("epsilon")
    source, target = p.embed([PROMPTS[0][0]]), p.embed([PROMPTS[0][1]])
    args = (latents(0), latents(1), source, target)
    none, cross, both = (
        make(name, p, attention=a)(*args, generator()).grad for a in ("none", "cross", "cross+self")
    )
    assert not torch.allclose(none, cross) and not torch.allclose(cross, both)


def test_without_a_prompt_no_map_of_a_word_is_taken():
    """ω = 0: the empty prompt alone is asked for, and its maps are the target's own."""
    p = prior("epsilon")
    source, target = p.embed([PROMPTS[0][0]]), p.embed([PROMPTS[0][1]])
    args = (latents(0), latents(1), source, target)
    none, cross = (
        make("dds", p, guidance_scale=0.0, attention=a)(*args, generator()).grad for a in ("none", "cross")
    )
    assert torch.equal(none, cross)


@pytest.mark.parametrize("name", METHODS)
def test_words_maps_are_taken_in_the_first_part_of_the_run(name):
    p = prior("epsilon")
    source, target = p.embed([PROMPTS[0][0]]), p.embed([PROMPTS[0][1]])
    args = (latents(0), latents(1), source, target)
    none, cross = (make(name, p, attention=a, attention_share=0.4) for a in ("none", "cross"))
    for progress, taken in ((0.0, True), (0.39, True), (0.4, False), (1.0, False)):
        grads = [method(*args, generator(), progress).grad for method in (none, cross)]
        assert torch.equal(*grads) != taken
    never = make(name, p, attention="cross", attention_share=0.0)
    assert torch.equal(never(*args, generator()).grad, none(*args, generator()).grad)


@pytest.mark.parametrize("name", METHODS)
def test_the_self_attention_is_taken_to_the_end(name):
    """After the first part it is as if there had never been a map of a word, which is not the method as published."""
    p = prior("epsilon")
    source, target = p.embed([PROMPTS[0][0]]), p.embed([PROMPTS[0][1]])
    args = (latents(0), latents(1), source, target)
    none, both, alone = (
        make(name, p, attention=a, attention_share=share)
        for a, share in (("none", 0.4), ("cross+self", 0.4), ("cross+self", 0.0))
    )
    for progress, maps in ((0.39, True), (0.4, False), (1.0, False)):
        grads = [method(*args, generator(), progress).grad for method in (none, both, alone)]
        assert torch.equal(*grads[1:]) != maps
        assert not torch.allclose(grads[0], grads[2])


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return out


def test_at_512_pixels_no_map_of_all_pixels_with_all_pixels_is_made():
    """A UNet of Stable Diffusion's shape, a tenth as wide, on latents of 64x64: 4096 pixels."""
    torch.manual_seed(0)
    width = (32, 64, 128, 128)
    unet = UNet2DConditionModel(64, block_out_channels=width, layers_per_block=1, cross_attention_dim=64)
    words = torch.arange(77)[None]
    largest = []
    for self_tokens in (None, 0, 4096):  # no attention of the source, cross, cross+self
        shared = SharedAttention(1, align(words, words), self_tokens or 0, True)
        sharing = contextlib.nullcontext() if self_tokens is None else share_attention(unet, shared)
        with torch.no_grad(), sharing, _Largest() as found:
            unet(torch.randn(4, 4, 64, 64), 500, torch.randn(4, 77, 64))
        largest.append(found.numbers)
    assert largest[0] == largest[1] == largest[2] < 4096 * 4096
