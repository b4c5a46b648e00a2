"""The command line as a user meets it: one line for what is wrong, exit code 2, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ids3d import launch
from ids3d.cli import launch_command
from ids3d.errors import UserError
from ids3d.experiment import ImageJob, SceneJob, load

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "ids-llff.yaml")
PRIORS = ROOT / "configs" / "prior"
SAMPLE = str(ROOT / "ids3d" / "scenes" / "tabletop_llff")


def test_a_process_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "--config", CONFIG, "sede=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: unknown key sede (command line): did you mean seed?\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["no --config"]),
        (["--config", "none.yaml"], ["none.yaml", "does not exist"]),
        (["--config", CONFIG, "sede=1"], ["unknown key sede (command line)", "seed"]),
        (["--config", CONFIG, "seed=one"], ["bad value for seed (command line)", "whole number", "'one'"]),
        (["--config", CONFIG, "prompt.target="], ["prompt.target is empty"]),
        (["--config", CONFIG, "guidance=idss"], ["unknown guidance or sampler 'idss'", "did you mean ids?"]),
        (["--resume", "nowhere"], ["nowhere", "config.yaml"]),
        (["--test", CONFIG], ["ids-llff.yaml", "config.yaml"]),
        (["--nonsense", "--config", CONFIG], ["--nonsense", "--help"]),
        (["--view", "nowhere"], ["nowhere", "config.yaml"]),
        (["--view"], ["no --config"]),
        (["--view", "nowhere", "seed=1"], ["--view RUN", "key=value"]),
        (["--config", CONFIG, "--view", "nowhere"], ["--view RUN", "without --config"]),
        (["--config", CONFIG, "--view", "sede=1"], ["unknown key sede (command line)"]),
        (["--config", CONFIG, "--view", "--print-config"], ["--view", "--print-config"]),
        (["--config", CONFIG, "--port", "80"], ["--port", "--view"]),
        (["--config", CONFIG, "--view", "--port", "65536"], ["--port 65536", "65535"]),
        (["--config", CONFIG, "--gpu", "-1"], ["device 'cuda:-1'"]),
        (["--config", CONFIG, "--gpu", "0,1"], ["--gpu", "0,1"]),
        (["--config", CONFIG, "--train", "--gpu", "0", "trainer.max_steps=5"], ["edit.steps="]),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["launch.py", *arguments])
    assert launch.command() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert all(part in said for part in parts), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "guidance.guidance_scal=3",
            ["unknown key guidance.guidance_scal (command line)", "mean guidance_scale?"],
        ),
        ("edit.steps=many", ["bad value for edit.steps (command line)", "whole number", "'many'"]),
        ("edit.steps=0", ["edit", "steps"]),
        ("data.root=nowhere", ["nowhere"]),
        ("prior=tabeltop", ["unknown prior 'tabeltop'", "did you mean tabletop?"]),
    ],
)
def test_what_is_wrong_deeper_down_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        launch.main(["--config", CONFIG, override])
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_heavy_imports(tmp_path: Path) -> None:
    code = "import sys; from ids3d import launch; sys.argv = ['launch.py', '--help']\ntry: launch.main(['--help'])\n"
    code += "except SystemExit: pass\nassert not {'torch', 'omegaconf'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


@pytest.mark.parametrize(
    ("line", "files", "overrides"),
    [
        (
            "--config a.yaml b.yaml seed=1 prompt.target=x",
            ["a.yaml", "b.yaml"],
            ["seed=1", "prompt.target=x"],
        ),
        ("seed=1 --config a.yaml tag=t --config b.yaml", ["a.yaml", "b.yaml"], ["tag=t", "seed=1"]),
        ("--config a.yaml --train seed=1", ["a.yaml"], ["seed=1"]),
        ("--config runs/lr=3/config.yaml", ["runs/lr=3/config.yaml"], []),
        ("--resume out/x seed=1", [], ["seed=1"]),
        ("--config a.yaml --train --gpu 1 seed=1", ["a.yaml"], ["device=cuda:1", "seed=1"]),
    ],
)
def test_files_and_overrides_are_told_apart(line: str, files: list[str], overrides: list[str]) -> None:
    arguments = launch.parse_arguments(line.split())
    assert (arguments.files, arguments.overrides) == (files, overrides)


def test_shipped_configs_are_found_from_any_folder_and_an_own_file_of_that_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["--config", "configs/ids-llff.yaml", "--print-config"]
    launch.main(line)
    assert "name: ids-llff\n" in capsys.readouterr().out
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ids-llff.yaml").write_text("name: mine\n")
    launch.main(line)
    assert "name: mine\n" in capsys.readouterr().out


def test_help_says_how_the_command_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for called, shown in (("/venv/bin/ids3d", "ids3d"), ("launch.py", "python launch.py")):
        monkeypatch.setattr("sys.argv", [called])
        with pytest.raises(SystemExit):
            launch.main(["--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: {shown} ") and f"\n  {shown} --config configs/ids-llff.yaml\n" in text
        assert "in any folder" in text


def test_a_file_that_is_no_config_of_ours_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("configs/none.yaml", "ids-llff.yaml", "scenes/README.md"):
        with pytest.raises(UserError, match=f"config {name} does not exist"):
            launch.main(["--config", name])


def test_modes_exclude_each_other() -> None:
    with pytest.raises(UserError, match="not allowed with"):
        launch.parse_arguments(["--config", "a.yaml", "--test", "x", "--train"])


def test_the_printed_config_has_every_default_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch.main(["--config", CONFIG, "guidance=dds", "tag=t", "--print-config"])
    printed = capsys.readouterr().out
    assert "guidance_scale: 1.5" in printed and "root:" in printed
    (tmp_path / "config.yaml").write_text(printed)
    again = load([tmp_path / "config.yaml"])
    assert again.guidance.type == "dds"
    assert again.to_yaml() == printed


@pytest.mark.parametrize("config", ["ids-llff.yaml", "ids-image.yaml"])
@pytest.mark.parametrize("method", ["ids", "dds", "cds", "sds", "pds"])
def test_every_overlay_serves_pictures_and_scenes_and_every_method(config: str, method: str) -> None:
    """Stable Diffusion's bring the published settings back, the tabletop prior's what suits it, for all methods."""
    suits_tabletop = (1.5, (0.8, 0.98), (0.3, 0.4), "cross+self", 24, 0.488)
    published = (7.5, (0.05, 0.95), None, "none", 200, 0.0488)
    for overlay in ("sd14", "sd15", "tabletop", None):
        files = [ROOT / "configs" / config] + ([PRIORS / f"{overlay}.yaml"] if overlay else [])
        job = load(files, [f"guidance={method}"])
        assert isinstance(job, SceneJob | ImageJob)
        job.check()
        guidance, edit = job.guidance.settings(), job.edit.settings()
        timesteps = (guidance.t_range, guidance.t_range_end)
        chosen = (guidance.guidance_scale, *timesteps, guidance.attention, edit.steps, edit.lr)
        foreign = overlay in ("sd14", "sd15")
        assert job.prior.type == ("stable-diffusion" if foreign else "tabletop")
        assert chosen == (published if foreign else suits_tabletop)
    assert {file.stem for file in PRIORS.glob("*.yaml")} == {"sd14", "sd15", "tabletop"}


def test_a_runs_folder_is_found_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "checkpoints" / "interrupted.ckpt").touch()
    assert launch.run_folder(str(tmp_path)) == tmp_path
    for name in ("last.ckpt", "interrupted.ckpt"):
        assert launch.run_folder(str(tmp_path / "checkpoints" / name)) == tmp_path
    with pytest.raises(UserError, match="nor a checkpoint in one"):
        launch.run_folder(str(tmp_path / "checkpoints" / "none.ckpt"))


def test_a_command_is_named_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, command in (("/usr/bin/ids3d", "ids3d"), ("launch.py", "python launch.py")):
        monkeypatch.setattr(sys, "argv", [program])
        assert launch_command() == command


@pytest.mark.parametrize("mode", ["--resume", "--test"])
def test_a_runs_config_runs_no_code_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    folder = tmp_path / "out" / "x" / "y"
    folder.mkdir(parents=True)
    (tmp_path / "somebodys_code.py").write_text("raise SystemExit('it ran')\n")
    (folder / "config.yaml").write_text("name: x\ntag: y\nguidance: somebodys_code:Evil\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--trust-code"):
        launch.main([mode, str(folder)])
    with pytest.raises(SystemExit, match="it ran"):
        launch.main([mode, str(folder), "--trust-code", "data.root=" + SAMPLE])
    assert [file.name for file in folder.iterdir()] == ["config.yaml"]


def test_without_viser_the_viewer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setattr("sys.argv", ["launch.py", "--view", "anywhere"])
    assert launch.command() == 2
    assert "pip install -e '.[viewer]'" in capsys.readouterr().err


def test_a_viewer_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    assert launch.parse_arguments(["--config", CONFIG, "--view"]).view == ""
    plain, told = (
        launch.address(launch.parse_arguments(["--config", CONFIG, "--view", *words]))
        for words in ((), ("--host", "0.0.0.0", "--port", "9000"))
    )
    assert (plain.host, plain.port) == ("127.0.0.1", 8080)
    assert (told.host, told.port) == ("0.0.0.0", 9000)
