"""The report's files hold what they were given, and its page needs nothing else."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import torch

from ids3d.report.page import Claim, Figure, Report, Table, format_cell, plot_lines, stack_rows
from ids3d.report.stats import Estimate


def report() -> Report:
    table = Table(
        "images",
        ("psnr", "steps"),
        (
            ("IDS <best>", (Estimate(21.3, 20.8, 21.77, 64), 200)),
            ("DDS", (Estimate(math.nan, math.nan, math.nan, 0), 200)),
        ),
        "A note.",
    )
    image = plot_lines("identity", ("strength", "PSNR"), [("ids", [0, 1], [30, 20])], [("sdedit", 0.5, 22)])
    claims = [Claim("IDS keeps identity better than DDS", "not decided", "0.10 dB (-0.20 to 0.40)")]
    return Report(
        "Images", "python -m ids3d.bench images", "", [table], claims, [Figure("c", "curves", image)]
    )


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = report().write(tmp_path).read_text()
    assert "21.30 (20.80 to 21.77)" in page and "not decided" in page and "A note." in page
    assert "IDS &lt;best&gt;" in page  # what users write is text, not markup
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not list(tmp_path.glob(".*"))


def test_the_table_is_a_file(tmp_path: Path) -> None:
    report().write(tmp_path)
    with (tmp_path / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["psnr"] == "21.3" and rows[0]["psnr low"] == "20.8" and rows[0]["psnr n"] == "64"
    assert rows[1]["steps"] == "200" and rows[1]["psnr"] == "nan"
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_numbers_as_text() -> None:
    assert format_cell(0.12345) == "0.123" and format_cell(200) == "200" and format_cell(math.nan) == "–"
    assert format_cell(Estimate(1.5, math.nan, math.nan, 1)) == "1.50"


def test_lines_are_drawn() -> None:
    empty, full = plot_lines("t", ("x", "y"), []), plot_lines("t", ("x", "y"), [("a", [0, 1], [0, 1])])
    assert empty.shape == full.shape and not torch.equal(empty, full)


def test_rows_are_stacked_on_white() -> None:
    stacked = stack_rows([torch.full((1, 2, 3), 0.2), torch.full((2, 3, 3), 0.4)])
    expected = torch.full((3, 3, 3), 0.4)
    expected[0, :2], expected[0, 2] = 0.2, 1.0
    assert torch.equal(stacked, expected)
