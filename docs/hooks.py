"""What mkdocs.yml asks of MkDocs beside its plugins: pages that lie elsewhere in the repository, and drawings as text.

A page is written once, where GitHub shows it; its links are those of that place.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# What is shown though it does not lie in docs/, by its path in the repository: its path in the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CITATION.cff": "CITATION.cff",
    "ids3d/scenes/README.md": "scenes.md",
    "ids3d/weights/tabletop/README.md": "prior.md",
}
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
ARROW = re.compile(r"^ +(\w+)(?:\[([^]]*)\])? --> (\w+)(?:\[([^]]*)\])?$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with the links that it has in the site, and as text its drawing, which a script would be fetched for."""
    place = page.file.src_uri
    source = next((s for s, p in ELSEWHERE.items() if p == place), f"docs/{place}")

    def in_site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        to = ELSEWHERE.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(to, posixpath.dirname(place) or ".")

    return re.sub(r"```mermaid\n(.*?)```", _arrows, LINK.sub(in_site, markdown), flags=re.DOTALL)


def _arrows(drawing: re.Match[str]) -> str:
    """A flow chart's arrows, a line for each node that some start from."""
    labels: dict[str, str] = {}
    below: dict[str, list[str]] = {}
    for upper, upper_label, lower, lower_label in ARROW.findall(drawing[1]):
        labels |= {name: label for name, label in ((upper, upper_label), (lower, lower_label)) if label}
        below.setdefault(upper, []).append(lower)
    lines = [
        f"{labels[upper]} → {', '.join(labels[name] for name in lower)}" for upper, lower in below.items()
    ]
    return "\n".join(["```text", *lines, "```"])
