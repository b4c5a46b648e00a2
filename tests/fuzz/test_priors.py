"""Priors and CLIP models in damaged or hostile folders: loaded, or refused in one line; nothing in them is run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ids3d.metrics import ClipScore
from ids3d.models.priors.loading import load_checkpoint
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP
from tests import tiny_sd
from tests.fuzz.hostile import PATHS, Payload, damaged, fuzz, verdict
from tests.fuzz.test_runs import NOISE, saved

CONFIGS = (
    "unet",
    "vae",
    "text_encoder",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
QUICK = (Phase.explicit, Phase.generate)  # no shrinking, which loads a model each time
VALUES: list[Any] = [None, True, -1, 0, 3, 0.5, 10**12, "x", "../x", [], [0], ["x"], {}, {"a": 1}]


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    return shutil.copytree(tiny_sd.folder("epsilon"), tmp_path / "prior")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return shutil.copytree(TABLETOP_CLIP, tmp_path / "clip")


def assert_loads_or_refuses(folder: Path) -> None:
    verdict(lambda: load_checkpoint(str(folder), torch.float32), folder)


def config_of(folder: Path, part: str) -> Path:
    return folder / part if part.endswith(".json") else folder / part / "config.json"


@settings(fuzz, max_examples=12, phases=QUICK)
@given(data=st.data())
def test_damaged_files_of_a_prior(prior: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(p for p in prior.rglob("*") if p.is_file())))
    content = file.read_bytes()
    try:
        file.write_bytes(data.draw(damaged(content) | NOISE))
        assert_loads_or_refuses(prior)
    finally:
        file.write_bytes(content)


@settings(fuzz, max_examples=15, phases=QUICK)
@given(data=st.data(), part=st.sampled_from(CONFIGS), value=st.sampled_from(VALUES))
def test_foreign_values_in_a_priors_configs(prior: Path, data: st.DataObject, part: str, value: Any) -> None:
    file = config_of(prior, part)
    content = file.read_text()
    config = json.loads(content)
    try:
        file.write_text(json.dumps({**config, data.draw(st.sampled_from(sorted(config))): value}))
        assert_loads_or_refuses(prior)
    finally:
        file.write_text(content)


WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "pytorch_model",
}


@pytest.mark.parametrize("how", [saved(Payload()), pickle.dumps(Payload(), 2)], ids=["new", "old"])
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.filterwarnings("ignore")
def test_weights_that_would_run_code(
    prior: Path, monkeypatch: pytest.MonkeyPatch, part: str, how: bytes
) -> None:
    monkeypatch.chdir(prior)
    (weights,) = (prior / part).glob("*.safetensors")
    weights.unlink()
    (prior / part / f"{WEIGHTS[part]}.bin").write_bytes(how)
    assert verdict(lambda: load_checkpoint(str(prior), torch.float32), prior) is None


CODE = "from pathlib import Path\nPath('payload_ran').touch()\nclass Evil: pass\n"


def test_code_beside_the_weights_is_not_run(prior: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prior)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked either
    names = ("AutoModel", "AutoConfig", "AutoTokenizer", "AutoProcessor")
    auto: dict[str, Any] = dict.fromkeys(names, "evil.Evil")
    auto["AutoTokenizer"] = ["evil.Evil", None]
    for folder in (*(prior / part for part in ("unet", "vae", "text_encoder", "tokenizer")), clip):
        (folder / "evil.py").write_text(CODE)
    for file in [*(config_of(prior, part) for part in CONFIGS), *clip.glob("*config.json")]:
        config = {**json.loads(file.read_text()), "auto_map": auto}
        file.write_text(json.dumps(config))
    before = sorted(prior.rglob("*"))
    verdict(lambda: load_checkpoint(str(prior), torch.float32))
    verdict(lambda: ClipScore(clip))
    assert sorted(prior.rglob("*")) == before


@settings(fuzz, max_examples=12, phases=QUICK)
@given(data=st.data(), value=st.sampled_from(VALUES))
def test_damaged_files_of_a_clip_model(clip: Path, data: st.DataObject, value: Any) -> None:
    file = data.draw(st.sampled_from(sorted(p for p in clip.rglob("*") if p.is_file())))
    content = file.read_bytes()
    try:
        config = json.loads(content) if file.suffix == ".json" else None
        if config is not None and data.draw(st.booleans()):
            file.write_text(json.dumps({**config, data.draw(st.sampled_from(sorted(config))): value}))
        else:
            file.write_bytes(data.draw(damaged(content) | NOISE))
        verdict(lambda: ClipScore(clip), clip)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert verdict(lambda: load_checkpoint(path, torch.float32), tmp_path) is None
    assert verdict(lambda: ClipScore(path), tmp_path) is None
