"""What is said of settings: docs/settings.md, which `python -m ids3d.systems.settings_page FILE` writes, and --help."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence

from ids3d.cli import ArgumentParser, run_command
from ids3d.config.describing import Setting
from ids3d.config.habits import habit
from ids3d.errors import UserError, nearest
from ids3d.experiment import ImageJob, Job, SceneJob, TrainingJob
from ids3d.files import atomic_write
from ids3d.registry import KINDS
from ids3d.systems.settings import EXPORT, Group, Type, all_kinds, groups, kinds_by_key

WIDTH = 100  # columns of --help
INTRODUCTION = """\
# Settings

A setting is typed as `key=value` behind the config, or written into a YAML file:

```bash
python launch.py --config configs/ids-llff.yaml guidance.w_cut=3 edit.rounds=6
```

Each has its type here, the interval that it must be in (a square bracket includes that end, a round one does not) and
its default; where a config that comes with ids3d says another value, that and the config's name are beside it.
`python launch.py --help guidance.w_cut` prints the same of one setting, `--help ids` of a type of module,
`--help guidance` of a kind; `--print-config` what a run would have. This page is made from the code, by `make docs`.
"""
TITLES = {
    Job.__name__: "All jobs",
    SceneJob.__name__: "Jobs over scenes",
    ImageJob.__name__: "Jobs over images",
    TrainingJob.__name__: "Trainings of the tabletop prior",
    EXPORT: "Exports",
}


def page() -> str:
    """The page of all settings, in Markdown."""
    return "\n".join([INTRODUCTION, *(line for group in groups(all_kinds()) for line in _section(group))])


def _section(group: Group) -> Iterable[str]:
    yield f"## {_title(group)}\n"
    yield f"{_markdown(group.about)}\n"
    if group.kind == EXPORT:
        yield "They are typed behind `python launch.py --export RUN KIND`.\n"
    if group.types and group.common:
        yield f"### common to all{'' if group.kind == EXPORT else ' modules'}\n"
        if group.kind in KINDS and KINDS[group.kind].shared:
            yield f"These stay as they are when `{group.key}=` names another.\n"
    yield from map(_item, group.common)
    for of in group.types:
        own = group.own(of)
        yield f"### {of.name}\n"
        yield f"{_markdown(of.about)}{'' if own else ' It has no settings of its own.'}\n"
        yield from map(_item, own)


def _title(group: Group) -> str:
    """The job, or the key, with the kind where that is called otherwise."""
    return TITLES.get(group.kind) or (group.key if group.key == group.kind else f"{group.key} ({group.kind})")


def _item(setting: Setting) -> str:
    return f"- **`{setting.key}`**: {_markdown(setting.text)}\n\n    {_facts(setting, '`')}\n"


def _facts(setting: Setting, quote: str = "") -> str:
    """Type, bounds and default."""
    interval = f", in {quote}{setting.bounds}{quote}" if setting.bounds else ""
    if setting.default is None:
        return f"{setting.type}{interval}; no default"
    values: dict[str, list[str]] = {}
    for value, config in setting.shipped:
        values.setdefault(value, []).append(config)
    others = "; ".join(f"{quote}{value}{quote} in {', '.join(configs)}" for value, configs in values.items())
    default = f"{quote}{setting.default}{quote}{f' ({others})' if others else ''}"
    return f"{setting.type}{interval}; default {default}"


def _markdown(text: str) -> str:
    """The text with what Markdown would take for markup escaped, but for code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<])", r"\\\1", part) for part in parts)


def help_on(key: str) -> str:
    """What there is to say of a setting, a type of module, a kind of module or a config's key, as it is typed.

    Raises UserError: there is none of this name.
    """
    head, kinds = key.partition(".")[0], kinds_by_key()
    known = groups(kinds[head] if head in kinds else [key] if key in all_kinds() else all_kinds())
    found = [
        *_on_settings(key, known),
        *(p for group in known if key in (group.kind, group.key) for p in _on_group(group)),
        *(
            p
            for group in known
            for of in group.types
            if of.name == key
            for p in _on_type(group, of, of.settings)
        ),
    ]
    if not found:
        raise UserError(f"nothing is called {key[:100]!r}: {_hint(key)}")
    return "\n\n".join(found) + "\n"


def _hint(key: str) -> str:
    known = groups(all_kinds())
    settings = [
        s.key for group in known for s in (*group.common, *(s for of in group.types for s in of.settings))
    ]
    same = dict.fromkeys(name for name in settings if name.endswith(f".{key}"))
    if same:
        return f"did you mean {' or '.join(same)}?"
    names = [*settings, *kinds_by_key(), *all_kinds(), *(of.name for group in known for of in group.types)]
    return habit(key, None) or nearest(key, names) or "docs/settings.md lists every setting"


def _on_settings(key: str, known: Sequence[Group]) -> Iterable[str]:
    """A paragraph for each setting of this name, or within it, that differs from the others."""
    owners: dict[Setting, list[str]] = {}
    for group in known:
        named = [(s, of.name) for of in group.types for s in of.settings]
        for setting, owner in named or [(s, "") for s in group.common]:
            if setting.key == key or (not group.types and setting.key.startswith(f"{key}.")):
                owners.setdefault(setting, []).append(owner)
    for setting, names in owners.items():
        yield _paragraph(setting, f"  of {', '.join(names)}" if all(names) else "")


def _on_group(group: Group) -> Iterable[str]:
    yield _filled(f"{_title(group)}: {group.about}")
    yield from map(_paragraph, group.common)
    for of in group.types:
        yield from _on_type(group, of, group.own(of))


def _on_type(group: Group, of: Type, settings: Sequence[Setting]) -> Iterable[str]:
    typed = f"{group.key}={of.name}" if group.key else f"--export RUN {of.name}"
    yield _filled(f"{typed}: {of.about}")
    yield from map(_paragraph, settings)


def _paragraph(setting: Setting, owners: str = "") -> str:
    text = "\n".join(_filled(text, "  ") for text in (setting.text, _facts(setting)))
    return f"{setting.key}{owners}\n{text}"


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def main(argv: Sequence[str]) -> None:
    """Write the page. Raises UserError: it cannot be written."""
    parser = ArgumentParser("python -m ids3d.systems.settings_page", "Writes the page of every setting.")
    parser.add_argument("file", metavar="FILE", help="docs/settings.md")
    arguments = parser.parse_args(argv)
    with atomic_write(arguments.file) as file:
        file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
