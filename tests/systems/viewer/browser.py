"""A headless Chromium that opens a viewer's page, and hands to do there what a user would."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 240.0  # seconds; a busy machine is slow, and none of this is timed
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"never: {what}")


class Browser:
    """A window with a viewer's page, at `url`.

    Args:
        profile: an empty folder.
    """

    def __init__(self, url: str, profile: Path, size: tuple[int, int] = (1000, 700)) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size={},{}".format(*size)):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)
        self.driver.get(url)
        until(lambda: "Show" in self.text(), "the page with its panel")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def picture(self) -> np.ndarray:
        """The window, (h, w, 3) in [0, 255], without the panel to the right and what viser says at the top."""
        shot = np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB"))
        return shot[180:, : shot.shape[1] - 360].astype(float)

    def scene(self) -> np.ndarray:
        """Wait until there is more to see than one colour, which an empty page has, and return the picture."""
        return until(lambda: _uneven(self.picture()), "a picture that is not empty")[0]  # type: ignore[no-any-return]

    def other_than(self, before: np.ndarray, what: str) -> np.ndarray:
        """Wait until the picture has changed, and return it."""
        return until(lambda: _changed(self.picture(), before), what)[0]  # type: ignore[no-any-return]

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a dropdown."""
        field = self._input(label)
        field.click()
        until(lambda: self._options(option), f"the option {option}")[0].click()

    def _options(self, option: str) -> list[Any]:
        options = self.driver.find_elements(By.CSS_SELECTOR, "[role=option]")
        return [o for o in options if o.is_displayed() and o.text.strip() == option]

    def _input(self, label: str) -> Any:
        """The input beside a label."""
        path = f"(//label[normalize-space()='{label}']/following::*[self::input or self::textarea])[1]"
        return until(lambda: self.driver.find_elements(By.XPATH, path), f"the input {label}")[0]

    def type(self, label: str, text: str) -> None:
        """Replace a text."""
        field = self._input(label)
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def press(self, label: str) -> None:
        """Press a button."""
        path = f"//button[normalize-space()='{label}']"
        button = until(lambda: self.driver.find_elements(By.XPATH, path), f"the button {label}")[0]
        self.driver.execute_script("arguments[0].click()", button)

    def drag(self, right: int, down: int) -> None:
        """Turn the camera about the scene."""
        canvas = self.driver.find_element(By.TAG_NAME, "canvas")
        actions = ActionChains(self.driver).move_to_element_with_offset(canvas, -150, 60)
        actions.click_and_hold().move_by_offset(right // 2, down // 2).move_by_offset(right // 2, down // 2)
        actions.release().perform()

    def close(self) -> None:
        self.driver.quit()


def _uneven(picture: np.ndarray) -> tuple[np.ndarray] | None:
    return (picture,) if picture.std(axis=(0, 1)).min() > 3 else None


def _changed(picture: np.ndarray, before: np.ndarray) -> tuple[np.ndarray] | None:
    return (picture,) if np.abs(picture - before).mean() > 2 else None
