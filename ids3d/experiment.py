"""One run's whole configuration: YAML files merged left to right, then `key=value` overrides, checked to the last key.

job = load(["configs/ids-llff.yaml"], ["guidance=dds", "data.root=/data/fern"])
guidance = job.guidance.build(prior)
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf

from ids3d.config import ModuleKey, Node, merge, parse, read_file, read_layers, read_overrides
from ids3d.config.bounds import check_bounds
from ids3d.device import DEVICE
from ids3d.errors import UserError
from ids3d.module import Module, module, plain
from ids3d.registry import shared_settings
from ids3d.tasks import LONGEST_NAME


@dataclass(frozen=True)
class Prompts:
    """What the scene is, and what it is to become. None: the caption that the scene itself brings, if it does."""

    # What the scene or image is; null: the caption that it brings itself, if it does.
    source: str | None = None
    target: str | None = None  # what it is to become; null: the caption of that

    def __post_init__(self) -> None:
        for name, text in (("source", self.source), ("target", self.target)):
            if text is not None and not text.strip():
                raise ValueError(
                    f"prompt.{name} is empty: say in words what the scene is, and what it is to become"
                )


@dataclass(frozen=True)
class ImageEvaluation:
    """How edited images are judged and shown."""

    clip: str | None = "tabletop"  # a CLIPModel's folder or hub name; tabletop = the bundled one; null = none
    strip: int = 6  # images on the way that strip.png shows

    def __post_init__(self) -> None:
        check_bounds(self, strip="[0, 1000]")


J = TypeVar("J", bound="Job")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every root of a config has. Results go to `<output>/<name>/<tag>/`."""

    name: str  # the folder of its runs within output; letters, digits and . _ - + =
    tag: str = ""  # the run's folder within the name's; empty: date and time, or of images the method's name
    output: str = "outputs"  # the folder of all results
    seed: int = 0  # from 0 to 2^63; the same one gives the same results, on a CPU to the bit
    device: str = "auto"  # cpu, cuda, cuda:1 (the second one); auto: CUDA where there is a device
    # Where figures are logged; the first two write csv too.
    tracking: Literal["wandb", "tensorboard", "csv", "none"] = "csv"

    def __post_init__(self) -> None:
        for key, text in (("name", self.name), ("tag", self.tag)):
            if not re.fullmatch(r"[\w.+=-]*", text) or text in (".", ".."):
                raise ValueError(f"{key} {text!r} cannot name a folder: use letters, digits and . _ - + =")
            if len(text.encode()) > LONGEST_NAME:
                raise ValueError(
                    f"{key} has {len(text)} characters: a folder's name has at most {LONGEST_NAME}"
                )
        if not self.name:
            raise ValueError("name is empty")
        if self.name == "reconstructions":
            raise ValueError("name 'reconstructions' is taken by the folder of what runs share")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not between 0 and 2^63")
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"device {self.device!r}: expected auto, cpu, cuda or, of several, cuda:N")

    @property
    def folder(self) -> Path:
        """Where this run's results go."""
        return Path(self.output) / self.name / self.tag

    def moved_to(self: J, folder: Path) -> J:
        """The job with its results in `folder`, whatever it was called when it was made. Raises UserError."""
        try:
            return dataclasses.replace(
                self, output=str(folder.parent.parent), name=folder.parent.name, tag=folder.name
            )
        except ValueError as error:
            raise UserError(f"{folder}: {error}: rename the folder") from None

    @property
    def names_code(self) -> bool:
        """Whether a module is named by its import path; to go on with such a run takes --trust-code."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return any(isinstance(value, Module) and ":" in value.type for value in values)

    def default_tag(self) -> str:
        """The tag of a run that was given none: the date and the time."""
        return time.strftime("%Y%m%d-%H%M%S")

    def check(self) -> None:
        """Find every module and parse its settings. Raises UserError for the first thing that is wrong."""
        self.to_mapping()

    def to_mapping(self) -> dict[str, Any]:
        """Every setting with its value, defaults too, as plain mappings, lists and scalars."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.to_mapping() if isinstance(v, Module) else plain(v) for k, v in values.items()}

    def to_yaml(self) -> str:
        """`to_mapping` as YAML that `load` reads back to an equal job; says which settings of a module are shared."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return "".join(
            v.to_yaml() if isinstance(v, Module) else OmegaConf.to_yaml({k: plain(v)})
            for k, v in values.items()
        )


@dataclass(frozen=True, kw_only=True)
class SceneJob(Job):
    """The root of a config that reconstructs a scene, edits it and evaluates."""

    data: Module = module("auto", "scene")  # the format of the scene's folder
    geometry: Module = module("grid", "geometry")  # what the field of density and colour is made of
    renderer: Module = module("occupancy", "renderer")  # how the field is turned into pictures
    prior: Module = module("tabletop", "prior")  # the diffusion model that knows what prompts look like
    guidance: Module = module("ids", "guidance", "sampler")  # the method that edits
    reconstruct: Module = module("rays", "reconstruct")  # how the field is fitted to the photographs
    edit: Module = module("pictures", "edit-scene")  # how what the method says of views reaches the field
    evaluate: Module = module("held-out", "evaluate")  # what is measured and shown of the edit
    stage: Literal["all", "reconstruct"] = "all"  # where to stop: after everything, or before the edit
    devices: int = 1  # processes on each machine, one a device (CUDA's, or any number on a CPU)
    nodes: int = 1  # machines
    save_minutes: float = 2.0  # minutes of work that a kill may cost: a checkpoint is saved in time; 0 = none
    upload_field: bool = False  # with tracking=wandb: the edited field goes there too, as an artifact
    prompt: Prompts = field(default_factory=Prompts)

    def check(self) -> None:
        """See `Job.check`; refuses a method that gives no gradient where the edit needs one."""
        super().check()
        if self.guidance.kind == "sampler" and not self.edit.find().samplers:
            raise UserError(
                f"guidance {self.guidance.type} gives no gradient, which edit {self.edit.type} needs: "
                "choose edit=pictures"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, devices="[1, 1024]", nodes="[1, 1e5]", save_minutes="[0, 1e6]")
        if self.processes > 1 and ":" in self.device:
            raise ValueError(f"device {self.device} is one device: with devices={self.devices}, device=cuda")

    @property
    def processes(self) -> int:
        """How many share the run's work."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class ImageJob(Job):
    """The root of a config that edits images: one whose `data` names a source of images."""

    data: Module = module("files", "images")  # where the images to edit come from
    prior: Module = module("tabletop", "prior")  # the diffusion model that knows what prompts look like
    guidance: Module = module("ids", "guidance", "sampler")  # the method that edits
    edit: Module = module("latents", "edit-images")  # how images are edited by it
    evaluate: ImageEvaluation = field(default_factory=ImageEvaluation)
    prompt: Prompts = field(default_factory=Prompts)

    def default_tag(self) -> str:
        """The method's name: what was edited by it is then found again, and not edited twice."""
        return re.sub(r"[^\w.+=-]+", "-", self.guidance.type)


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Job):
    """The root of a config that trains one of the tabletop prior's models: any config with the key `train`."""

    train: Module = module("", "train")  # which model, and its settings
    tag: str = "run"  # a training that was stopped goes on when it is started again under the same tag


ROOTS: tuple[type[Job], ...] = (SceneJob, ImageJob, TrainingJob)


def module_fields(root: type[Job]) -> dict[str, Any]:
    """The metadata of each field of a job that holds a Module, by its key."""
    return {f.name: f.metadata for f in dataclasses.fields(root) if "kinds" in f.metadata}


def _module_keys() -> dict[str, ModuleKey]:
    """Each key that names a module in any job. The types that it stands for where none is said are jobs' defaults."""
    found = [(key, of) for root in ROOTS for key, of in module_fields(root).items()]
    keys = {}
    for key, _ in found:
        defaults = frozenset(of["default"] for k, of in found if k == key)
        kinds = sorted({kind for k, of in found if k == key for kind in of["kinds"]})
        keys[key] = ModuleKey(defaults, partial(_shared_by, kinds))
    return keys


def _shared_by(kinds: Sequence[str]) -> frozenset[str]:
    return frozenset().union(*(shared_settings(kind) for kind in kinds))


MODULE_KEYS = _module_keys()


def load(
    files: Sequence[str | Path], overrides: Sequence[str] = (), data_only: Sequence[str | Path] = ()
) -> Job:
    """The job that `files`, merged left to right, and then `key=value` `overrides` describe.

    A file may `include` others, which it is then laid over. A key that names a module may hold the module's name or a
    mapping with `type`. Where a later layer names another type, the settings of the earlier one are dropped, but for
    those that the kind's modules share; all overrides are one layer, whatever their order. Only the root's keys are
    checked here, and what `data` names: the modules' own need their imports, so `Job.check` does that.

    Args:
        data_only: those of the files that somebody else may have written. Nothing is imported because they say so.

    Raises UserError: a file that is missing or is no YAML, an override that is not key=value, an unknown key, a bad
    value, an import path in one of the files `data_only`.
    """
    tree, foreign = Node(), {str(Path(file)) for file in data_only}
    for path in map(Path, files):
        # What others left includes nothing: there the key is an unknown one.
        layers = [read_file(path, MODULE_KEYS)] if str(path) in foreign else read_layers(path, MODULE_KEYS)
        for layer in layers:
            tree = merge(tree, layer, MODULE_KEYS)
    tree = merge(tree, read_overrides(overrides, MODULE_KEYS), MODULE_KEYS)
    _refuse_code(tree, foreign)
    root = _root(tree)
    for key, field_of in module_fields(root).items():
        tree[key] = _module(key, tree, field_of["kinds"], field_of["default"])
    return parse(root, tree)


def _refuse_code(tree: Node, data_only: Container[str]) -> None:
    """Raise UserError for a module that one of these files gives by its import path: importing it runs it."""
    for key in MODULE_KEYS:
        node = tree.get(key)
        if isinstance(node, Node) and ":" in str(node.get("type", "")):
            origin = node.origins["type"] if "type" in node.origins else tree.origins[key]
            if origin.source in data_only:
                raise UserError(
                    f"{key} ({origin.source}) is {node['type']}, which is code outside of ids3d that would be run: "
                    "if you trust it, add --trust-code"
                )


def load_saved(
    folder: Path,
    files: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> Job:
    """The job of a run's folder, where that lies now and whatever it is called; `files` and `overrides` as in `load`.

    Args:
        trust_code: import what the folder's config.yaml names by import path.

    Raises UserError as `load` does, and where config.yaml is cut short.
    """
    saved = folder / "config.yaml"
    data_only = () if trust_code else (saved,)
    _check_whole(saved, data_only)
    return load([saved, *files], overrides, data_only).moved_to(folder)


def _check_whole(file: Path, data_only: Sequence[Path]) -> None:
    """Raise UserError for a config.yaml that does not reach to its end: the defaults would stand in for the rest."""
    tree = read_file(file, MODULE_KEYS)
    if "name" not in tree:  # the first setting of all
        raise UserError(f"{file} is damaged: it does not hold the settings of a run")
    key, settings = list(load([file], (), data_only).to_mapping().items())[-1]
    last = list(settings)[-1]
    if last not in tree.get(key, {}) or not file.read_bytes().endswith(b"\n"):
        raise UserError(
            f"{file} is damaged: its last setting, {key}.{last}, is not there; write it anew, with --print-config and "
            "the settings that the run was started with"
        )


def _root(tree: Node) -> type[Job]:
    """What kind of job a config describes."""
    if "train" in tree:
        return TrainingJob
    data = _module("data", tree, ("scene", "images"), "auto")
    return ImageJob if data.kind == "images" else SceneJob


def _module(key: str, tree: Node, kinds: tuple[str, ...], default: str) -> Module:
    value, origin = tree.get(key, Node()), tree.origins.get(key)
    if not isinstance(value, Node):
        source = f" ({origin.source})" if origin else ""
        raise UserError(f"bad value for {key}{source}: expected a module's name or a mapping, got {value!r}")
    name, type_origin = value.get("type", default), value.origins.get("type")
    if not isinstance(name, str) or not name:
        source = f" ({type_origin.source})" if type_origin else ""
        raise UserError(f"bad value for {key}.type{source}: expected the name of a module, got {name!r}")
    settings = {k: v for k, v in value.items() if k != "type"}
    return Module(key, kinds, name, Node(settings, value.origins), type_origin)
