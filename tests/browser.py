"""A Chromium that tests drive; they are skipped where there is none, unless ``JETPAY_TEST_BROWSER`` requires it."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# Not how long anything takes, but after which a test has failed.
WAIT_SECONDS = 30


def require_browser() -> None:
    """Skip a module, before it imports selenium."""
    if os.environ.get("JETPAY_TEST_BROWSER") == "required":
        return
    pytest.importorskip("selenium", reason="selenium is not installed: it is in the group `browser`")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium or its driver is not installed", allow_module_level=True)


def open_browser() -> Any:
    """Start a Chromium without a window."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def emulate(driver: Any, theme: str, width: int) -> None:
    """Have a driver's page prefer a theme, in a window of a width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def overflow(driver: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(driver.execute_script("return document.documentElement.scrollWidth - innerWidth"))
