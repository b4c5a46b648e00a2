"""Settings from mappings, files and overrides: what is understood, and what is said about what is not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ids3d.config import Node, Origin, parse
from ids3d.config.habits import HABITS
from ids3d.errors import UserError
from ids3d.experiment import Prompts, load


@dataclass
class Inner:
    depth: int = 3


@dataclass
class Everything:
    rate: float = 0.1
    steps: int = 5
    on: bool = False
    title: str = "x"
    mode: Literal["fast", "slow"] = "fast"
    span: tuple[float, float] = (0.0, 1.0)
    sizes: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    limit: int | None = None
    either: int | str = 0
    inner: Inner = field(default_factory=Inner)
    table: dict[str, float] = field(default_factory=dict)


def said(function: Any, *args: Any) -> str:
    """The message of the UserError that the call raises; it has to be one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parse_takes_each_kind_of_value() -> None:
    node = {
        "rate": 2,
        "steps": 1e3,
        "on": True,
        "title": "a",
        "mode": "slow",
        "span": [1, 2],
        "sizes": [1, 2, 3],
        "names": ["a"],
        "limit": None,
        "either": "b",
        "inner": {"depth": 7},
        "table": {"a": 1},
    }
    expected = Everything(
        2.0, 1000, True, "a", "slow", (1.0, 2.0), (1, 2, 3), ["a"], None, "b", Inner(7), {"a": 1.0}
    )
    assert parse(Everything, node) == expected
    assert isinstance(parse(Everything, node).rate, float) and isinstance(parse(Everything, node).steps, int)
    assert parse(Everything, {}) == Everything()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"rte": 1}, "unknown key m.rte: did you mean rate?"),
        ({"inner": {"dept": 1}}, "unknown key m.inner.dept: did you mean depth?"),
        ({"rate": "fast"}, "bad value for m.rate: expected a number, got 'fast'"),
        ({"rate": True}, "bad value for m.rate: expected a number, got true"),
        ({"rate": float("nan")}, "bad value for m.rate: expected a number, got nan"),
        ({"rate": float("inf")}, "bad value for m.rate: expected a number, got inf"),
        ({"rate": -1e300}, "bad value for m.rate: expected a number, got -1e+300"),
        ({"rate": 10**400}, f"bad value for m.rate: expected a number, got 1{'0' * 96}..."),
        ({"rate": 10**5000}, "bad value for m.rate: expected a number, got a very large number"),
        ({"span": [0, float("inf")]}, "bad value for m.span[1]: expected a number, got inf"),
        ({"steps": 1e300}, "bad value for m.steps: expected a whole number, got 1e+300"),
        ({"steps": 2**63}, "bad value for m.steps: expected a whole number, got 9223372036854775808"),
        ({"title": "a\ud800"}, "bad value for m.title: 'a\\ud800' has characters that no text has"),
        ({"title": "a\0"}, "bad value for m.title: 'a\\x00' has characters that no text has"),
        (
            {"title": "a" * 20_000},
            "bad value for m.title: a text of 20000 characters, more than 10000",
        ),
        ({"mode": "nothing"}, "bad value for m.mode: expected fast or slow, got 'nothing'"),
        ({"qqq": 1}, f"unknown key m.qqq: known are {', '.join(asdict(Everything()))}"),
        ({"STEPS": 1}, "unknown key m.STEPS: did you mean steps?"),
        ({"steps": 1.5}, "bad value for m.steps: expected a whole number, got 1.5"),
        ({"steps": float("inf")}, "bad value for m.steps: expected a whole number, got inf"),
        ({"steps": None}, "bad value for m.steps: expected a whole number, got null"),
        ({"on": 1}, "bad value for m.on: expected true or false, got 1"),
        ({"title": 3}, "bad value for m.title: expected text, got 3"),
        ({"mode": "fats"}, "bad value for m.mode: expected fast or slow, got 'fats'; did you mean fast?"),
        ({"span": [1]}, "bad value for m.span: expected a list of 2: [a number, a number], got [1]"),
        ({"sizes": [1, "a"]}, "bad value for m.sizes[1]: expected a whole number, got 'a'"),
        ({"names": "a"}, "bad value for m.names: expected a list, each item text, got 'a'"),
        ({"limit": "a"}, "bad value for m.limit: expected a whole number, got 'a'"),
        ({"either": [1]}, "bad value for m.either: expected a whole number or text, got [1]"),
        ({"inner": 3}, "bad value for m.inner: expected a mapping of settings, got 3"),
        ({"table": {"a": "b"}}, "bad value for m.table.a: expected a number, got 'b'"),
    ],
)
def test_parse_names_what_is_wrong(node: Mapping[str, Any], message: str) -> None:
    assert said(parse, Everything, node, "m") == message


def test_parse_names_the_file() -> None:
    node = Node({"rte": 1}, {"rte": Origin("a.yaml")})
    assert said(parse, Everything, node, "m") == "unknown key m.rte (a.yaml): did you mean rate?"


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*asdict(Everything()), "other"]),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1.\n"), st.lists),
        max_size=3,
    )
)
def test_parse_either_gives_settings_or_one_line(node: dict[str, Any]) -> None:
    try:
        parse(Everything, node, "m")
    except UserError as error:
        assert len(str(error).splitlines()) <= 1


MODULE = """
from dataclasses import dataclass

class Soft:
    @dataclass
    class Config:
        strength: float = 1.0
        power: int = 2

    def __init__(self, cfg, prior):
        self.cfg, self.prior = cfg, prior

    def __call__(self, z_src, z_trg, source, target, generator, progress=0.0):
        raise NotImplementedError

class Hard(Soft):
    @dataclass
    class Config:
        strength: float = 9.0
        edge: str = "sharp"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an importable module of two guidances and a config that uses the first."""
    (tmp_path / "toy_guidances.py").write_text(MODULE)
    (tmp_path / "a.yaml").write_text("name: toy\nguidance:\n  type: toy_guidances:Soft\n  power: 3\n")
    (tmp_path / "hard.yaml").write_text("guidance: toy_guidances:Hard\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_layers_are_merged_left_to_right(folder: Path) -> None:
    (folder / "b.yaml").write_text("seed: 3\nguidance:\n  strength: 5\n")
    experiment = load(["a.yaml", "b.yaml"], ["guidance.power=7", "tag=x"])
    assert (experiment.name, experiment.seed, experiment.tag) == ("toy", 3, "x")
    assert asdict(experiment.guidance.settings()) == {"strength": 5.0, "power": 7}
    assert experiment.guidance.build("prior").prior == "prior"


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        (["a.yaml", "hard.yaml"], []),
        (["a.yaml"], ["guidance=toy_guidances:Hard"]),
        (["a.yaml"], ["guidance.type=toy_guidances:Hard"]),
    ],
)
def test_another_type_drops_the_settings_of_the_former(
    folder: Path, files: list[str], overrides: list[str]
) -> None:
    assert asdict(load(files, overrides).guidance.settings()) == {"strength": 9.0, "edge": "sharp"}


@pytest.mark.parametrize("swap", [False, True])
def test_overrides_are_one_layer(folder: Path, swap: bool) -> None:
    overrides = ["guidance=toy_guidances:Hard", "guidance.edge=round"]
    assert load(["a.yaml"], overrides[::-1] if swap else overrides).guidance.settings().edge == "round"


def test_the_same_type_keeps_its_settings(folder: Path) -> None:
    assert load(["a.yaml"], ["guidance=toy_guidances:Soft"]).guidance.settings().power == 3
    (folder / "default.yaml").write_text("name: toy\nguidance:\n  power: 4\n")
    assert load(["default.yaml"], ["guidance=ids"]).guidance.node == {"power": 4}
    assert load(["default.yaml"], ["guidance=dds"]).guidance.node == {}


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("a red cube", "a red cube"),
        ("the #1 cube, red: really", "the #1 cube, red: really"),
        ("[red] cube", "[red] cube"),
        ("'quoted'", "quoted"),
        ("3", "3"),
        ("yes", "yes"),
        ("x=y", "x=y"),
    ],
)
def test_text_on_the_command_line_is_taken_as_typed(folder: Path, typed: str, text: str) -> None:
    assert load(["a.yaml"], [f"prompt.target={typed}"]).prompt.target == text


def test_interpolation_is_refused(folder: Path) -> None:
    assert "not supported" in said(load, ["a.yaml"], ["tag=p${guidance.power}"])
    (folder / "b.yaml").write_text("tag: p${guidance.power}\n")
    assert said(load, ["a.yaml", "b.yaml"]).startswith("b.yaml: tag: ")


@pytest.mark.parametrize(
    ("content", "overrides", "parts"),
    [
        ("name: x\nsede: 1\n", [], ["unknown key sede (b.yaml)", "seed"]),
        ("name: x\n", ["sede=1"], ["unknown key sede (command line)", "seed"]),
        ("name: x\nseed: one\n", [], ["seed (b.yaml)", "a whole number", "'one'"]),
        ("name: x\n", ["prompt.targt=a"], ["unknown key prompt.targt (command line)", "target"]),
        ("name: x\n", ["prompt.target="], ["prompt.target is empty"]),
        ("name: x\n", ["stage=reconstuct"], ["stage (command line)", "did you mean reconstruct?"]),
        ("name: x\n", ["guidance=3"], ["guidance", "3"]),
        ("name: x\n", ["seed"], ["'seed'", "key=value"]),
        ("name: x\n", ["=3"], ["'=3'", "key=value"]),
        ("name: x\n", ["name=../x"], ["'../x'", "folder"]),
        ("name: x\n", ["seed=-1"], ["seed -1"]),
        ("name: x\n", [f"tag={'a' * 300}"], ["tag has 300 characters"]),
        ("name: x\n", [f"tag={'é' * 150}"], ["tag has 150 characters"]),
        ("name: reconstructions\n", [], ["what runs share"]),
        ("name: x\n", ["device=gpu"], ["device 'gpu'", "cuda:N"]),
        ("name: x\n", ["device=cuda:x"], ["device 'cuda:x'"]),
        ("name: x\n", ["prompt.target=\udcff"], ["prompt.target (command line)", "no text has"]),
        ('name: x\nprompt: {target: "\\ud800"}\n', [], ["b.yaml"]),
        ("name: x\n", [".".join("a" * 100) + "=1"], ["within one another"]),
        ("name: x\n", [f"seed={'[' * 9999}{']' * 9999}"], ["a whole number"]),
        ("name: x\n", [f"seed={'1' * 9999}"], ["a whole number"]),
        ("name: x\n", ["guidance=.:x"], ["guidance (command line)", "'.:x'", "package.module:Class"]),
        ("name: x\n", ["guidance=a.:x"], ["package.module:Class"]),
        ("name: x\n", ["guidance=builtins:dict"], ["dataclass named Config"]),
        ("name: x\n", ["guidance=toy_guidances:__spec__"], ["expected a class"]),
        ("5\n", [], ["b.yaml", "top level"]),
        ("null\n", [], ["b.yaml", "top level"]),
        ("'a: b'\n", [], ["b.yaml", "top level"]),
        (f"name: {'[' * 9999}\n", [], ["b.yaml, line 1", "within one another"]),
        (f"name: {'{a: ' * 9999}\n", [], ["b.yaml, line 1", "within one another"]),
        ("a: &a [1, 1]\nname: [*a, *a]\n", [], ["b.yaml, line 2", "aliases"]),
        ("name: !!python/object/apply:os.getcwd []\n", [], ["b.yaml, line 1", "tags"]),
        ("name: !!int x\n", [], ["b.yaml, line 1", "tags"]),
        (f"seed: {'1' * 9999}\n", [], ["b.yaml", "digits"]),
        ("name: x\ndata: {root: ['${oc.env:HOME}']}\n", [], ["b.yaml: data: ", "not supported"]),
        ("name: x\n'${oc.env:HOME}': x\n", [], ["unknown key ${oc.env:HOME} (b.yaml)"]),
        ("seed: 1\n", [], ["name has no value"]),
        ("name: [\n", [], ["b.yaml, line", "YAML"]),
        ("name: x\nname: y\n", [], ["b.yaml, line 2", "YAML"]),
        ("name: ${\n", [], ["b.yaml", "YAML"]),
        ("- a\n- b\n", [], ["b.yaml", "top level"]),
        ("just words\n", [], ["b.yaml", "top level"]),
        ("1: 2\n", [], ["b.yaml", "key 1"]),
    ],
)
def test_load_names_what_is_wrong(folder: Path, content: str, overrides: list[str], parts: list[str]) -> None:
    (folder / "b.yaml").write_text(content)
    message = said(lambda: load(["b.yaml"], overrides).check())
    assert all(part in message for part in parts), message


def test_load_names_the_files_that_cannot_be_read(folder: Path) -> None:
    assert said(load, ["none.yaml"]) == "config none.yaml does not exist"
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "config binary.yaml cannot be read" in said(load, ["binary.yaml"])
    assert "cannot be read" in said(load, [str(folder)])
    assert "cannot be read" in said(load, ["x" * 5000])
    assert "cannot be read" in said(load, ["a\0"])
    os.mkfifo(folder / "pipe.yaml")
    assert said(load, ["pipe.yaml"]) == "config pipe.yaml cannot be read: it is no plain file"
    (folder / "large.yaml").write_text("# filled up\n" * 100_000)
    assert "cannot be read: 1200000 bytes" in said(load, ["large.yaml"])


def test_names_of_modules_are_taken_in_any_case(folder: Path) -> None:
    (folder / "upper.yaml").write_text("name: toy\nguidance: IDS\n")
    (folder / "typed.yaml").write_text("name: toy\nguidance: {type: Ids, fpr_scale: 2}\n")
    assert load(["upper.yaml"]).guidance.type == "ids"
    assert load(["typed.yaml"], ["guidance=IDS"]).guidance.settings().fpr_scale == 2
    assert load(["typed.yaml"], ["guidance.type=DDS"]).guidance.find().__name__ == "DDS"


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("resume=outputs/x/y/ckpts/last.ckpt", "--resume RUN"),
        ("system.prompt_processor.prompt=a cat", "prompt.target="),
        ("system.prompt_processor_type=x", "modules are at the top"),
        ("system.guidance.guidance_scale=100", "guidance.guidance_scale="),
        ("trainer.max_steps=500", "edit.steps="),
        ("data.batch_size=2", "edit.views_per_batch="),
        ("system.optimizer.args.lr=0.1", "edit.lr="),
        ("exp_root_dir=out", "output="),
    ],
)
def test_what_threestudio_calls_it_is_answered_with_how_it_is_done_here(typed: str, advice: str) -> None:
    def check(overrides: list[str]) -> None:
        load([], ["name=x", *overrides]).check()

    message = said(check, [typed])
    assert message.startswith(f"unknown key {typed.split('=')[0].split('.')[0]}") and advice in message


def test_every_answer_to_a_habit_names_settings_that_there_are() -> None:
    scene, images = (load([], ["name=x", f"data={data}"]).to_mapping() for data in ("llff", "files"))
    for advice in HABITS.values():
        for path in re.findall(r"([a-z_]+(?:\.[a-z_]+)*)=", advice):
            first, _, second = path.partition(".")
            assert any(first in s and (not second or second in s[first]) for s in (scene, images)), path


def test_what_a_file_of_somebody_else_names_is_not_imported(folder: Path) -> None:
    (folder / "left_behind.py").write_text("raise SystemExit('it ran')\n")
    for key in ("guidance", "data", "train"):
        for text in (f"{key}: left_behind:Evil\n", f"{key}: {{type: 'left_behind:Evil'}}\n"):
            (folder / "b.yaml").write_text(f"name: x\n{text}")
            assert "--trust-code" in said(lambda: load(["b.yaml"], data_only=["b.yaml"]).check())
    # What the user types is the user's own, and so is what the type of somebody else's file is replaced with.
    trusted = ["guidance=toy_guidances:Soft", "guidance.power=5"]
    assert load(["a.yaml"], trusted, data_only=["a.yaml"]).guidance.settings().power == 5
    assert load(["a.yaml"], ["guidance=ids"], data_only=["a.yaml"]).guidance.type == "ids"
    assert load(["a.yaml"], data_only=["hard.yaml"]).guidance.find().__name__ == "Soft"
    assert "--trust-code" in said(lambda: load(["a.yaml"], ["guidance.power=5"], data_only=["a.yaml"]))


def test_a_run_that_names_code_says_so(folder: Path) -> None:
    assert load(["a.yaml"]).names_code
    assert not load(["a.yaml"], ["guidance=ids"]).names_code


def test_a_job_is_moved_to_where_its_folder_is(folder: Path) -> None:
    job = load(["a.yaml"]).moved_to(Path("/somewhere/else/again"))
    assert job.folder == Path("/somewhere/else/again")
    assert "rename the folder" in said(load(["a.yaml"]).moved_to, Path("/somewhere/my runs/a"))


def test_a_modules_own_keys_are_checked_with_their_source(folder: Path) -> None:
    message = said(load(["a.yaml"], ["guidance.strenth=1"]).guidance.settings)
    assert message == "unknown key guidance.strenth (command line): did you mean strength?"
    (folder / "b.yaml").write_text("guidance:\n  power: big\n")
    message = said(load(["a.yaml", "b.yaml"]).guidance.settings)
    assert message == "bad value for guidance.power (b.yaml): expected a whole number, got 'big'"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("1e3").via("a number to OmegaConf, text to PyYAML")
@given(
    text=st.text("aé1e3.${}\\:#'\"-,[]&*!|>%@` ", min_size=1).filter(
        lambda text: text.strip() and "${" not in text
    )
)
def test_the_printed_config_reads_back_equal(folder: Path, text: str) -> None:
    experiment = replace(load(["a.yaml"]), prompt=Prompts(target=text))
    (folder / "printed.yaml").write_text(experiment.to_yaml(), encoding="utf-8")
    again = load(["printed.yaml"])
    assert again.prompt == experiment.prompt
    assert again.to_yaml() == experiment.to_yaml()


def test_a_file_is_laid_over_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "priors").mkdir()
    (tmp_path / "priors" / "small.yaml").write_text(
        "prior: tabletop\nguidance: {guidance_scale: 2, t_range: [0.1, 0.2]}\n"
    )
    main = tmp_path / "main.yaml"
    main.write_text("include: priors/small.yaml\nname: x\nguidance: {type: ids, guidance_scale: 3}\n")
    settings = load([main]).guidance.settings()
    assert (settings.guidance_scale, settings.t_range) == (3, (0.1, 0.2))
    for text, message in (
        ("include: nowhere.yaml\nname: x\n", "nowhere.yaml does not exist"),
        ("include: {a: 1}\nname: x\n", "expected a file's path"),
        ("include: main.yaml\nname: x\n", "cannot include others"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        assert message in said(lambda: load([tmp_path / "bad.yaml"]))
    with_include = [main]
    assert "unknown key include" in said(lambda: load(with_include, data_only=with_include))


def test_shared_settings_survive_another_method(tmp_path: Path) -> None:
    """What all methods share stays, where the new one has it; a method's own goes with it."""
    (tmp_path / "a.yaml").write_text(
        "name: x\nguidance: {type: ids, guidance_scale: 2, attention: cross, fpr_iterations: 7, max_rms: 5}\n"
    )
    for method in ("dds", "cds", "sds", "pds"):
        settings = load([tmp_path / "a.yaml"], [f"guidance={method}"]).guidance.settings()
        assert (settings.guidance_scale, settings.attention, settings.max_rms) == (2, "cross", 5), method
    assert (
        load([tmp_path / "a.yaml"], ["guidance=dds", "guidance.attention=none"]).guidance.settings().attention
        == "none"
    )
    images = load([tmp_path / "a.yaml"], ["data=files", "guidance=p2p"])
    assert images.guidance.settings().guidance_scale == 2 and images.check() is None
    with pytest.raises(
        UserError, match="fpr_iterations"
    ):  # written for this very method, so it must be its own
        load([tmp_path / "a.yaml"], ["guidance=dds", "guidance.fpr_iterations=2"]).check()


def test_print_config_says_what_is_shared() -> None:
    text = load([], ["name=x", "guidance=ids"]).to_yaml()
    section = text[text.index("guidance:") : text.index("reconstruct:")]
    shared, own = section.split("# of ids alone")
    assert "# shared" in shared and "attention: none" in shared and "guidance_scale" in shared
    assert "fpr_iterations" in own and "fpr_iterations" not in shared
    assert yaml.safe_load(text) == load([], ["name=x", "guidance=ids"]).to_mapping()
