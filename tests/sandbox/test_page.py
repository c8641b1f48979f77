"""The page at /_sandbox/ in a real Chromium, as a person uses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio

from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async.sandbox import Sandbox
from tests.browser import WAIT_SECONDS, emulate, open_browser, overflow, require_browser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_T = TypeVar("_T")

require_browser()

from selenium.webdriver.common.by import By  # noqa: E402 - after the skip
from selenium.webdriver.common.keys import Keys  # noqa: E402 - after the skip
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402 - after the skip

QUICK = RetryPolicy(base_delay=0.01, max_delay=0.05, resolve_after=0.1, resolve_after_timeout=0.1)


class Browser:
    """A Chromium whose calls block a thread, so that the sandbox can answer meanwhile."""

    def __init__(self) -> None:
        self.driver = open_browser()

    async def do(self, action: Callable[[Any], _T]) -> _T:
        return await asyncio.to_thread(action, self.driver)

    async def open(self, sandbox: Sandbox) -> None:
        await self.do(lambda driver: driver.get(f"{sandbox.url}/_sandbox/"))
        await self.wait_for("connection", "Live")

    async def text(self, identifier: str) -> str:
        return await self.do(lambda driver: str(driver.find_element(By.ID, identifier).text))

    async def wait_for(self, identifier: str, *texts: str) -> None:
        def shows(driver: Any) -> bool:
            shown = driver.find_element(By.ID, identifier).text
            return all(text in shown for text in texts)

        await self.do(lambda driver: WebDriverWait(driver, WAIT_SECONDS).until(shows))

    async def press(self, label: str) -> None:
        await self.do(lambda driver: driver.find_element(By.XPATH, f"//button[.='{label}']").click())

    async def emulate(self, theme: str, width: int) -> None:
        await self.do(lambda driver: emulate(driver, theme, width))


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    opened = await asyncio.to_thread(Browser)
    yield opened
    await asyncio.to_thread(opened.driver.quit)


async def _reserve(sandbox: Sandbox, client: JetpayClient) -> str:
    payer = sandbox.add_payer()
    reserved = await client.preauthorize(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="100.50",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Stay",
    )
    return reserved.debit_id


@pytest.mark.asyncio
async def test_a_lost_reply_is_resolved(browser: Browser) -> None:
    """A person loses the next reply with a button, and sees the capture without one, its status, and the debit paid."""
    async with Sandbox() as sandbox, JetpayClient(sandbox.api_token, base_url=sandbox.url, retry=QUICK) as client:
        await browser.open(sandbox)
        debit_id = await _reserve(sandbox, client)
        await browser.wait_for("debits", debit_id, "preauthorized")

        await browser.press("Lose the next reply")
        await browser.wait_for("report", "The next reply will be lost")
        await browser.wait_for("faults", "lose_reply_after")
        captured = await client.capture(debit_id)

        assert captured.confirmed_by_status
        await browser.wait_for(
            "debits", "preauthorized → paid", "capture: no reply (lose_reply_after)", "status: 200", "once"
        )
        await browser.wait_for("faults", "None yet")
        await browser.wait_for("counters", "Captured twice\n0")
        assert await browser.do(lambda driver: driver.get_log("browser")) == []


@pytest.mark.asyncio
async def test_the_keyboard_is_enough(browser: Browser) -> None:
    """Tab leads through the link to the debits, the card and the buttons in their order, and Enter presses one."""
    async with Sandbox() as sandbox:
        await browser.open(sandbox)

        def tab(driver: Any) -> str:
            driver.switch_to.active_element.send_keys(Keys.TAB)
            focused = driver.switch_to.active_element
            return str(focused.get_attribute("aria-label") or focused.text)

        order = [await browser.do(tab) for _ in range(4)]
        await browser.do(lambda driver: driver.switch_to.active_element.send_keys(Keys.ENTER))
        await browser.wait_for("report", "The next reply will be lost")

    assert order == ["Skip to the debits", "Card of the payer", "Add a payer", "Lose the next reply"]


@pytest.mark.asyncio
async def test_both_themes_and_a_phone(browser: Browser) -> None:
    """Dark and light differ, and at a phone's width nothing but the tables scrolls sideways."""
    async with Sandbox() as sandbox, JetpayClient(sandbox.api_token, base_url=sandbox.url, retry=QUICK) as client:
        await _reserve(sandbox, client)
        await browser.open(sandbox)
        colors: dict[str, str] = {}
        for theme in ("light", "dark"):
            await browser.emulate(theme, 390)
            style = "return getComputedStyle(document.body).backgroundColor"
            colors[theme] = await browser.do(lambda driver, style=style: driver.execute_script(style))
            assert await browser.do(overflow) <= 0

    assert colors == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}


@pytest.mark.asyncio
async def test_it_asks_no_other_host(browser: Browser) -> None:
    """Everything that the page loads comes from the sandbox."""
    async with Sandbox() as sandbox:
        await browser.open(sandbox)
        script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        loaded = await browser.do(lambda driver: driver.execute_script(script))

        assert {name.rpartition("/")[2] for name in loaded} >= {"page.css", "page.js"}
        assert all(name.startswith(f"{sandbox.url}/_sandbox/") for name in loaded)
