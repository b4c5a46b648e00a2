"""The site of the docs: it builds strictly, and is read and searched from the disk, without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("material", reason="the site needs mkdocs-material: pip install -e '.[docs]'")
webdriver = pytest.importorskip(
    "selenium.webdriver", reason="it is read by selenium: pip install -e '.[dev]'"
)

ROOT = Path(__file__).parent.parent
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FETCHED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"' >]+)""")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_has_every_page_and_fetches_nothing(site: Path) -> None:
    pages = {
        page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")
    }
    for source in (ROOT / "docs").rglob("*.md"):
        place = source.relative_to(ROOT / "docs").with_suffix(".html").as_posix().replace("README", "index")
        assert place in pages
    for name, text in pages.items():
        assert FETCHED.findall(text) == [], name
        assert "```" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL), name
    assert "Identity-preserving Distillation Sampling" in pages["index.html"]
    assert "guidance.w_cut" in pages["settings.html"]
    assert "systems/ → data/, models/" in pages["architecture.html"]
    assert not (site / "hooks.py").exists()


@contextmanager
def window(width: int, profile: Path) -> Iterator[Any]:
    """A Chromium without a network."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", offline):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    metrics = {"width": width, "height": 844, "pixelRatio": 1, "touch": False}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.2)


@pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="it is read in chromium with chromedriver: apt-get install chromium chromium-driver",
)
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_read_and_searched_from_the_disk(site: Path, tmp_path: Path, width: int) -> None:
    pages = [page for page in site.rglob("*.html") if page.name not in ("404.html", "report.html")]
    assert len(pages) > 12
    with window(width, tmp_path / "profile") as driver:
        for page in pages:
            driver.get(page.as_uri())
            wide = driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
            assert wide == [width, width], page
            assert driver.execute_script("return [...document.images].every(i => i.naturalWidth > 0)"), page
        driver.execute_script("document.querySelector('input.md-search__input').focus()")
        driver.switch_to.active_element.send_keys("lr_density")
        found = "return document.querySelector('.md-search-result').innerText"
        until(lambda: "Settings" in driver.execute_script(found), "Settings among what is found")
        assert driver.get_log("browser") == []
