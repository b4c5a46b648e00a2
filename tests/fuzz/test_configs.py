"""Configs and overrides, shipped ones damaged and hostile ones: a job that is whole, or one line."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ids3d.experiment import Job, load
from tests.fuzz.hostile import VALUES, damaged, fuzz, verdict

CONFIGS = Path(__file__).parents[2] / "configs"


def checked(files: list[str | Path], overrides: list[str]) -> Job:
    job = load(files, overrides, data_only=files)
    job.check()
    return job


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a job's mapping by its dotted path."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{path}.{key}" if path else key)


def assert_whole(job: Job, folder: Path) -> None:
    """A job that was accepted: numbers are finite, results stay in its output, and it can be written and read back."""
    for path, value in leaves(job.to_mapping()):
        for item in value if isinstance(value, list) else [value]:
            assert not isinstance(item, float) or math.isfinite(item), path
    if job.tag:
        assert job.folder.parent.parent == Path(job.output)
    file = folder / "written.yaml"
    file.write_text(job.to_yaml(), encoding="utf-8")
    assert load([file]).to_mapping() == job.to_mapping()
    file.unlink()


def pairs(data: str) -> list[tuple[str, str]]:
    """Every setting of a job with every hostile value, shuffled."""
    paths = [path for path, _ in leaves(load([], ["name=x", f"data={data}"]).to_mapping())]
    return random.Random(0).sample(made := [(p, v) for p in paths for v in VALUES], len(made))


@pytest.mark.parametrize("data", ["llff", "files"])
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_settings_with_hostile_values(
    data: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = pairs(data)
    accepted = 0
    for path, value in cases[100:] if part else cases[:100]:
        overrides = ["name=x", f"data={data}", f"{path}={value}"]
        job = verdict(lambda: checked([], overrides), tmp_path)  # noqa: B023
        if job is not None:
            accepted += 1
            assert_whole(job, tmp_path)
    assert 0.05 < accepted / (len(cases) - 100 if part else 100) < 0.5


@pytest.mark.parametrize("value", VALUES)
def test_hostile_values_in_a_file(value: str, tmp_path: Path) -> None:
    for i, text in enumerate(
        (f"{value}\n", f"name: {value}\n", f"name: x\nprompt: {{target: {value}}}\n", f"{value}: x\n")
    ):
        file = tmp_path / f"{i}.yaml"
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        job = verdict(lambda: checked([file], ["name=x"]), tmp_path)  # noqa: B023
        if job is not None:
            assert_whole(job, tmp_path)


@fuzz
@given(st.data(), st.sampled_from(sorted(CONFIGS.glob("*.yaml"))))
def test_shipped_configs_damaged(tmp_path: Path, data: st.DataObject, config: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(data.draw(damaged(config.read_bytes())))
    job = verdict(lambda: checked([tmp_path / "a.yaml"], []), tmp_path)
    if job is not None:
        assert_whole(job, tmp_path)


@fuzz
@given(
    st.text()
    | st.recursive(
        st.sampled_from(["a", "name", "guidance", "type"]), lambda x: st.tuples(x, x).map(": ".join)
    )
)
def test_any_text_as_a_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    verdict(lambda: checked([tmp_path / "a.yaml"], []), tmp_path)


@fuzz
@given(st.text(st.characters(codec=None), min_size=1))
def test_any_text_as_an_override(tmp_path: Path, text: str) -> None:
    for override in (
        text,
        f"tag={text}",
        f"name={text}",
        f"prompt.source={text}",
        f"guidance={text}",
        f"device={text}",
    ):
        job = verdict(lambda: checked([], ["name=x", override]), tmp_path)  # noqa: B023
        if job is not None:
            assert_whole(job, tmp_path)


def test_what_a_config_asks_of_the_environment_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for text in (
        "name: ${oc.env:SECRET}",
        "name: x\nprompt: {target: '${oc.env:SECRET}'}",
        "name: x\ndata: {background: ['${oc.env:SECRET}']}",
        "name: x\nguidance: ${oc.env:SECRET}",
        "name: x\nprior: {path: '${oc.decode:${oc.env:SECRET}}'}",
        "name: x\noutput: $SECRET",
        "name: x\n${oc.env:SECRET}: 1",
    ):
        (tmp_path / "a.yaml").write_text(text)
        job = verdict(lambda: checked([tmp_path / "a.yaml"], []))
        assert job is None or "hunter2" not in job.to_yaml()
