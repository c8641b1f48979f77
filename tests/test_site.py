"""The documentation site in a real Chromium, as a reader uses it. ``nox -s browser`` says where it was built."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.browser import WAIT_SECONDS, emulate, open_browser, overflow, require_browser

require_browser()
SITE = Path(os.environ.get("JETPAY_TEST_SITE", Path(__file__).parents[1] / "docs/_build/html"))
if "JETPAY_TEST_SITE" not in os.environ and not SITE.exists():
    pytest.skip("the documentation is not built: `nox -s docs` builds it", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402 - after the skip
from selenium.webdriver.common.keys import Keys  # noqa: E402 - after the skip
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - after the skip


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(SITE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_reference_has_the_texts_of_fields() -> None:
    """Also of the classes that are defined elsewhere than where users find them."""
    reference = (SITE / "reference/generated/jetpay_async.html").read_text(encoding="utf-8")

    for text in ("True if learnt by reading the transaction", "What the other calls take; the reply"):
        assert text in reference


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    opened = open_browser()
    yield opened
    opened.quit()


@pytest.fixture
def driver(browser: Any) -> Any:
    emulate(browser, "light", 1300)
    return browser


def errors(driver: Any) -> list[dict[str, object]]:
    """The errors in the console, but for the icon that browsers ask for by themselves."""
    said = driver.get_log("browser")
    return [each for each in said if each["level"] == "SEVERE" and "favicon.ico" not in str(each["message"])]


def test_no_page_has_an_error(driver: Any, url: str) -> None:
    """Each page opens without an error in the console, and loads nothing from any other host."""
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    for page in pages:
        driver.get(f"{url}/{page}")
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        loaded = driver.execute_script(script)

        assert errors(driver) == [], page
        assert [name for name in loaded if not name.startswith(f"{url}/")] == [], page

    assert len(pages) > 25


def test_the_search_works(driver: Any, url: str) -> None:
    """Who looks for an error finds the page about errors, and what was looked for is marked on it."""
    driver.get(f"{url}/index.html")
    field = driver.find_element(By.CSS_SELECTOR, "input[name=q]")
    field.send_keys("OutcomeUnknownError", Keys.ENTER)

    def found(driver: Any) -> bool:
        return "Errors" in [each.text for each in driver.find_elements(By.CSS_SELECTOR, "ul.search li a")]

    WebDriverWait(driver, WAIT_SECONDS).until(found)
    driver.find_element(By.CSS_SELECTOR, "ul.search").find_element(By.LINK_TEXT, "Errors").click()
    WebDriverWait(driver, WAIT_SECONDS).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "span.highlighted"))
    assert driver.current_url.startswith(f"{url}/reference/errors.html")
    assert errors(driver) == []


def test_an_unknown_outcome_is_two_clicks_away(driver: Any, url: str) -> None:
    """From the front page, whoever has an unknown outcome is on the page about it with one click, or two."""
    driver.get(f"{url}/index.html")
    driver.find_element(By.PARTIAL_LINK_TEXT, "unknown outcome").click()

    assert "next_step" in driver.find_element(By.CSS_SELECTOR, "article").text


def test_the_button_changes_the_theme(driver: Any, url: str) -> None:
    """A reader whose system prefers light can have dark, and the next page keeps to it."""
    script = "return getComputedStyle(document.body).backgroundColor"
    driver.get(f"{url}/index.html")
    preferred = driver.execute_script(script)
    try:
        for _ in range(3):  # automatic, light, dark
            if driver.execute_script(script) == preferred:
                buttons = driver.find_elements(By.CSS_SELECTOR, "button.theme-toggle")
                next(button for button in buttons if button.is_displayed()).click()
        chosen = driver.execute_script(script)
        driver.get(f"{url}/unknown-outcomes.html")

        assert chosen != preferred
        assert driver.execute_script(script) == chosen
        assert errors(driver) == []
    finally:
        driver.execute_script("localStorage.clear()")


def test_the_list_for_models_is_at_the_root(driver: Any, url: str) -> None:
    """`llms.txt` is served from the site's root, and each page that it names opens."""
    driver.get(f"{url}/llms.txt")
    text = driver.find_element(By.TAG_NAME, "body").text
    pages = re.findall(r"\]\(([^)]+)\)", text)

    assert "never call the same method" in text
    assert len(pages) > 25
    assert [page for page in pages if not (SITE / page).exists()] == []


@pytest.mark.parametrize(
    "page",
    [
        "index.html",
        "explanation/once.html",
        "explanation/benchmarks.html",
        "reference/settings.html",
        "reference/commands.html",
        "reference/generated/jetpay_async.html",
    ],
)
def test_both_themes_and_a_phone(driver: Any, url: str, page: str) -> None:
    """Dark and light differ, and at a phone's width the page does not scroll sideways."""
    driver.get(f"{url}/{page}")
    colors = set()
    for theme in ("light", "dark"):
        emulate(driver, theme, 390)
        colors.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert overflow(driver) <= 0

    assert len(colors) == 2
