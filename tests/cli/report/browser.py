"""A real browser for the tests of the page: headless Chromium, driven by selenium."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """What the tests ask of a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path) -> None:
        """Open a page, and forget what was said and asked for before."""
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """The text of all elements that the selector finds, shown or not."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
        )
        return found

    def shown_rows(self) -> list[str]:
        """The names in the rows of the table of tensors that can be seen."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('#tensors tbody tr')].filter((e) => e.offsetHeight)"
            ".map((e) => e.cells[0].textContent)"
        )
        return found

    def complaints(self) -> list[dict[str, Any]]:
        """What the console says."""
        found: list[dict[str, Any]] = self.driver.get_log("browser")
        return found

    def requests(self) -> list[str]:
        """The addresses that the page asked for, its own included."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def emulate(self, scheme: str = "light", width: int = 1200, height: int = 900) -> None:
        """A colour scheme and a window."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def screenshot(self, path: Path) -> None:
        """For people to look at."""
        self.driver.save_screenshot(str(path))


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile; skips where there is none."""
    selenium = pytest.importorskip("selenium", reason="selenium drives the browser")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver_path = shutil.which("chromedriver")
    if program is None or driver_path is None:
        pytest.skip("no Chromium with its chromedriver (Debian: apt-get install chromium chromium-driver)")
    assert selenium
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
