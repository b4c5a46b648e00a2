"""DDIM against diffusers' own scheduler; P2P, PnP and SDEdit against their limits and against maps made by hand."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ids3d.models.priors.alignment import align
from ids3d.models.priors.protocol import Prompt
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.models.samplers.ddim import ddim_invert, ddim_step, ddim_timesteps
from ids3d.models.samplers.p2p import P2P
from ids3d.models.samplers.pnp import PnP
from ids3d.models.samplers.sdedit import SDEdit
from tests import tiny_sd

PREDICTIONS = ["epsilon", "v_prediction"]
SOURCES, TARGETS = ["a red cube", "a blue cone"], ["a blue cube", "a red cone on a wooden floor"]


@functools.cache
def prior(kind: str = "v_prediction") -> StableDiffusion:
    return tiny_sd.prior(kind, "float64")  # type: ignore[arg-type]


def latents(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def generators(n: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def prompts() -> tuple[Prompt, Prompt]:
    return prior().embed(SOURCES), prior().embed(TARGETS)


def sample(p: StableDiffusion, z: Tensor, prompt: Prompt, steps: int, scale: float) -> Tensor:
    """Plain DDIM from z at the first timestep, by diffusers' scheduler."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(p.predict_noise(z, t[None], prompt, scale), int(t), z).prev_sample
    return z


def assert_same(ours: Tensor, diffusers: Tensor) -> None:
    """Equal but for the schedule, which diffusers keeps in single precision."""
    torch.testing.assert_close(ours, diffusers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_is_diffusers(kind: str) -> None:
    p, z = prior(kind), latents()
    prompt = p.embed(TARGETS)
    expected = sample(p, z, prompt, 10, 3.0)
    times = ddim_timesteps(p.schedule, 10)
    with torch.no_grad():
        for now, to in zip(times, [*times[1:], -1], strict=True):
            eps = p.predict_noise(z, torch.tensor([now]), prompt, 3.0)
            z, _ = ddim_step(p.schedule, z, eps, now, to)
    assert_same(z, expected)


def test_timesteps() -> None:
    schedule = prior().schedule
    assert ddim_timesteps(schedule, 4) == [999, 749, 499, 249]
    assert ddim_timesteps(schedule, 1000) == list(range(999, -1, -1))
    with pytest.raises(ValueError, match="1001 steps on a schedule of 1000"):
        ddim_timesteps(schedule, 1001)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_sampling_undoes_the_inversion_the_better_the_more_steps(kind: str) -> None:
    p, z = prior(kind), latents()
    prompt = p.embed(SOURCES)
    errors = []
    for steps in (10, 40, 160):
        inverted = ddim_invert(p, z, prompt, steps, 1.0)
        assert len(inverted) == steps + 1 and inverted[-1] is z
        back, times = inverted[0], ddim_timesteps(p.schedule, steps)
        with torch.no_grad():
            for now, to in zip(times, [*times[1:], -1], strict=True):
                eps = p.predict_noise(back, torch.tensor([now]), prompt, 1.0)
                back, _ = ddim_step(p.schedule, back, eps, now, to)
        errors.append(float((back - z).norm() / z.norm()))
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(
    ("method", "off"),
    [(P2P, {"cross_share": 0, "self_share": 0}), (PnP, {"feature_share": 0, "attention_share": 0})],
)
def test_without_injection_they_are_plain_sampling(method: type, off: dict[str, float], kind: str) -> None:
    p = prior(kind)
    source, target = p.embed(SOURCES), p.embed(TARGETS)
    edited = method(method.Config(steps=8, guidance_scale=2.0, **off), p).edit(
        latents(), source, target, generators()
    )
    start = ddim_invert(p, latents(), source, 8, 1.0)[0]
    assert_same(edited, sample(p, start, target, 8, 2.0))


@pytest.mark.parametrize("method", [P2P, PnP])
def test_with_one_prompt_and_no_guidance_injection_changes_nothing_but_rounding(method: type) -> None:
    """Where target and source are on one trajectory, what is injected is what was there."""
    p = prior()
    source = p.embed(SOURCES)
    edit = method(method.Config(steps=1, guidance_scale=1.0), p).edit
    start = ddim_invert(p, latents(), source, 1, 1.0)[0]
    edited = edit(latents(), source, source, generators())
    assert_same(edited, sample(p, start, source, 1, 1.0))


@pytest.mark.parametrize("method", [P2P, PnP, SDEdit])
def test_a_batch_gets_what_each_gets_alone(method: type) -> None:
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    edit = method(method.Config(steps=6), prior()).edit
    both = edit(latents(), source, target, generators())
    for i in range(2):
        one = slice(i, i + 1)
        alone = edit(latents()[one], source[one], target[one], generators()[one])
        torch.testing.assert_close(both[one], alone, rtol=1e-8, atol=1e-8)
    assert (both - latents()).abs().mean() > 0.05


def test_maps_are_softmax_of_queries_and_keys() -> None:
    """Made by hand from what goes into a layer; and the layer's output is as it is without the processor."""
    p, seen, given = prior(), {}, {}
    layer = dict(p.unet.named_modules())["up_blocks.1.attentions.0.transformer_blocks.0.attn2"]

    def keep(name: str, maps: Tensor) -> Tensor:
        seen[name] = maps
        return maps

    def note(module: torch.nn.Module, args: tuple[Tensor], kwargs: dict[str, Tensor], output: Tensor) -> None:
        given.update(hidden=args[0], context=kwargs["encoder_hidden_states"], output=output)

    hook = layer.register_forward_hook(note, with_kwargs=True)
    source, z, t = p.embed(SOURCES), latents(), torch.tensor([300])
    with torch.no_grad():
        plain = p.predict_noise(z, t, source, 3.0)
        output = given["output"]
        with p.edit_attention(keep, cross=True, batch=2):
            edited = p.predict_noise(z, t, source, 3.0)
        hook.remove()
        # The maps are softmaxed in single precision.
        torch.testing.assert_close(edited, plain, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(given["output"], output, rtol=1e-6, atol=1e-6)
        (name,) = [n for n in seen if n.startswith("up_blocks.1.attentions.0.")]
        heads = layer.heads
        for row in range(2):
            q = given["hidden"][2 + row] @ layer.to_q.weight.T
            k = given["context"][2 + row] @ layer.to_k.weight.T
            width = q.shape[1] // heads
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                maps = torch.softmax(q[:, part] @ k[:, part].T / width**0.5, dim=1)
                torch.testing.assert_close(seen[name][row, head], maps, rtol=1e-5, atol=1e-6)
    assert sum("attn1" in n for n in seen) == 0


def test_p2p_takes_the_sources_maps_where_the_prompts_agree() -> None:
    """Of equal tokens the source's, of added ones the target's own: what the layers get is put together by hand."""
    p = prior()
    source, target = p.embed(["a red cube"]), p.embed(["a red cube on a wooden floor"])
    z, records = latents(1), []
    original = p.edit_attention

    def spy(edit, cross: bool, batch: int):  # type: ignore[no-untyped-def]
        def watched(layer: str, maps: Tensor) -> Tensor:
            used = edit(layer, maps)
            records.append((cross, layer, maps.clone(), used.clone()))
            return used

        return original(watched, cross, batch)

    p.edit_attention = spy  # type: ignore[method-assign]
    try:
        P2P(P2P.Config(steps=1, cross_share=1, self_share=1), p).edit(z, source, target, generators(1))
    finally:
        del p.edit_attention
    half = len(records) // 2
    assert half and [r[:2] for r in records[:half]] == [r[:2] for r in records[half:]]
    for (cross, _, src, _), (_, _, own, used) in zip(records[:half], records[half:], strict=True):
        if not cross:
            assert torch.equal(used, src)
            continue
        # start, a, red, cube | on a wooden floor | end ...: positions 4 to 7 are the target's own, the ends shift by 4
        assert torch.equal(used[..., :4], src[..., :4])
        assert torch.equal(used[..., 4:8], own[..., 4:8])
        assert torch.equal(used[..., 8:], src[..., 4:12])


def test_alignment_of_tokens() -> None:
    ids = torch.tensor
    assert align(ids([[1, 5, 6, 7, 2, 2]]), ids([[1, 5, 9, 7, 2, 2]])).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert align(ids([[1, 5, 2, 2, 2]]), ids([[1, 8, 5, 2, 2]])).tolist() == [[0, -1, 1, 2, 3]]
    assert align(ids([[1, 5, 6, 2]]), ids([[1, 6, 2, 2]])).tolist() == [[0, 2, 3, -1]]


def test_pnp_injects_features_queries_and_keys_into_both_halves() -> None:
    p, outputs = prior(), []
    names = ["up_blocks.1.resnets.1.conv2"] + [
        f"up_blocks.1.attentions.1.transformer_blocks.0.attn1.{part}" for part in ("to_q", "to_k")
    ]
    source, target = p.embed(SOURCES), p.embed(TARGETS)
    pnp = PnP(PnP.Config(steps=1, feature_share=1, attention_share=1), p)
    after = {"up_blocks.1.resnets.1": [], "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_v": []}
    hooks = [
        p.unet.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: after[name].append(o))
        for name in after
    ]
    edit_activations = p.edit_activations

    def spy(edit, features: bool, attention: bool):  # type: ignore[no-untyped-def]
        def watched(layer: str, own: Tensor) -> Tensor:
            outputs.append((layer, own, edit(layer, own)))
            return outputs[-1][2]

        return edit_activations(watched, features, attention)

    p.edit_activations = spy  # type: ignore[method-assign]
    try:
        pnp.edit(latents(), source, target, generators())
    finally:
        del p.edit_activations
        for hook in hooks:
            hook.remove()
    assert [layer for layer, _, _ in outputs] == names * 2
    for (_, src, _), (_, own, used) in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(used, torch.cat([src, src])) and not torch.equal(own, used)


def test_sdedit_at_its_ends() -> None:
    p, (source, target) = prior(), prompts()
    edit = functools.partial(SDEdit, prior=p)
    untouched = edit(SDEdit.Config(strength=0.0)).edit(latents(), source, target, generators())
    assert torch.equal(untouched, latents())
    full = edit(SDEdit.Config(strength=1.0, steps=10, guidance_scale=2.0)).edit(
        latents(), source, target, generators()
    )
    noise = torch.stack([torch.randn(4, 8, 8, generator=g) for g in generators()]).double()
    start = p.schedule.add_noise(latents(), noise, torch.tensor([999, 999]))
    assert_same(full, sample(p, start, target, 10, 2.0))


def test_nothing_stays_behind_also_when_it_fails() -> None:
    p, (source, _) = prior(), prompts()
    before = dict(p.unet.attn_processors)

    def fail(layer: str, own: Tensor) -> Tensor:
        raise RuntimeError("no")

    for enter in (
        lambda: p.edit_attention(fail, cross=True, batch=2),
        lambda: p.edit_attention(fail, cross=False, batch=2),
        lambda: p.edit_activations(fail, features=True, queries_and_keys=True),
    ):
        with pytest.raises(RuntimeError, match="no"), enter():
            p.predict_noise(latents(), torch.tensor([10]), source, 2.0)
        assert all(p.unet.attn_processors[name] is layer for name, layer in before.items())
        assert not any(module._forward_hooks for module in p.unet.modules())


def test_shown_estimates_end_in_the_edit() -> None:
    source, target = prompts()
    shown: list[tuple[float, Tensor]] = []
    for method in (P2P, PnP, SDEdit):
        shown.clear()
        edited = method(method.Config(steps=5), prior()).edit(
            latents(), source, target, generators(), lambda z, done: shown.append((done, z))
        )
        assert shown[-1][0] == 1.0 and torch.equal(shown[-1][1], edited)
        assert [done for done, _ in shown] == sorted(done for done, _ in shown)
