"""The keys that Jetpay publishes: fetched, cached, and renewed in the background."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import urlsplit

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.contract import KEY_SET
from jetpay_async._core.endpoints import is_loopback, is_plain_url, is_vendor
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks.errors import Fact, KeysUnavailableError, Reason, WebhookError, shown
from jetpay_async.webhooks.keyset import KeySet, read_key_set

__all__ = ["Fetch", "RemoteKeySet"]

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""An async function that GETs a URL and returns the body. It must not follow redirects, and may raise anything."""

# Keys are renewed in the background at this share of their maximum age, so that no delivery waits.
_RENEWAL_SHARE = 0.75
# How long after a failed fetch the next may start: short for a delivery that waits, long for a service that fails.
_RETRY_PAUSE_SECONDS = 5.0


class RemoteKeySet:
    """Keys that are fetched from Jetpay when they are needed, and renewed before they are too old.

    Deliveries that wait share one fetch; cancelling one of them doesn't cancel it for the others. A delivery that names
    an unknown key leads to a fetch, since keys are rotated, but at most once every ``cooldown`` seconds.

    **Revocation.** What a fetch brings replaces what was cached at once: a key that the published set lacks, or no
    longer offers for signatures, verifies nothing any more. A set without any key is believed only when a second fetch
    brings one too; until then deliveries get a 503. A fetch that fails, or brings what is no key set, changes nothing:
    the cached keys stay valid for ``max_stale`` more seconds.

    Use it as ``async with RemoteKeySet(...) as keys:``, which fetches the keys before the first delivery needs them, or
    call `aclose` at the end. Entering it again opens it again. Each process has its own.

    Args:
        url: The API's address, such as `jetpay_async.PRODUCTION_URL`, below which the key set is at
            ``/.well-known/jwks.json`` [docs]; or, if it has a path, the key set's own address. As whoever publishes the
            keys can sign deliveries, it has to be a host of Jetpay over https, or this machine.
        fetch: How to get it, for example through your proxy. By default with aiohttp, which is imported on first use:
            no redirects, no cookies, no proxies, at most `MAX_JWKS_BYTES`.
        max_age: Seconds after which keys must be renewed; at three quarters of them they are renewed in the background.
        max_stale: Seconds beyond ``max_age`` for which they are still used while renewing them fails.
        cooldown: Seconds between two fetches because of unknown keys.
        timeout: Seconds for one fetch.
        trusted_origins: Further origins that the keys may come from, such as ``https://gateway.example``.
        clock: Where time comes from.

    Raises:
        ConfigurationError: The URL is malformed, unencrypted, holds credentials, or is neither Jetpay's nor one of
            ``trusted_origins``; or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        fetch: Fetch | None = None,
        *,
        max_age: float = 600.0,
        max_stale: float = 3600.0,
        cooldown: float = 30.0,
        timeout: float = 5.0,
        trusted_origins: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for name, seconds in (("max_age", max_age), ("cooldown", cooldown), ("timeout", timeout)):
            check_seconds(name, seconds, configuration=True)
        check_seconds("max_stale", max_stale, zero=True, configuration=True)
        self.url: str = _jwks_url(url, trusted_origins)
        self._fetch = fetch or _fetch_with_aiohttp
        self._max_age = max_age
        self._max_stale = max_stale
        self._cooldown = cooldown
        self._timeout = timeout
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._failure: str | None = None
        self._found_empty = False
        self._fetching: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._closed = False
        # An application must be able to start while Jetpay is down. The failure is logged; the next delivery fetches.
        with contextlib.suppress(KeysUnavailableError):
            await self.current()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel a fetch that is in progress; from now on deliveries get a 503. Calling it again does nothing."""
        self._closed = True
        fetching = self._current_fetch()
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait([fetching], timeout=self._timeout)

    async def current(self) -> KeySet:
        """Return keys that can be trusted now, fetching them first if there are none or they are too old.

        Raises:
            KeysUnavailableError: There are none: the fetch failed, the last successful fetch is too long ago, or this
                is closed.
        """
        age = self._clock.monotonic() - self._fetched_at
        if age >= self._max_age * _RENEWAL_SHARE or self._found_empty or self._closed:
            fetching = self._start(pause=0.0)
            if fetching is not None and (age >= self._max_age or self._found_empty):
                await asyncio.wait([fetching])
        return self._trusted()

    async def newer_than(self, keys: KeySet) -> KeySet | None:
        """Return keys that were fetched after these, which lack one; fetch them if the last fetch isn't too recent.

        Returns:
            The newer keys, or None if these are the newest.

        Raises:
            KeysUnavailableError: The last fetch failed, so it is unknown whether there are newer ones.
        """
        if self._keys is keys:
            fetching = self._start(pause=self._cooldown)
            if fetching is not None:
                await asyncio.wait([fetching])
        newest = self._trusted()
        if newest is not keys:
            return newest
        if self._failure is not None:
            raise KeysUnavailableError(Reason.KEYS_UNREACHABLE, self._failure_facts())
        return None

    def _trusted(self) -> KeySet:
        if self._closed:
            raise KeysUnavailableError(Reason.KEYS_CLOSED)
        if self._found_empty:
            raise KeysUnavailableError(Reason.NO_USABLE_KEY, {"unusable": 0})
        if self._keys is None:
            raise KeysUnavailableError(Reason.KEYS_UNREACHABLE, self._failure_facts())
        age = self._clock.monotonic() - self._fetched_at
        if age >= self._max_age + self._max_stale:
            raise KeysUnavailableError(Reason.KEYS_OUTDATED, {"age": age, **self._failure_facts()})
        return self._keys

    def _failure_facts(self) -> dict[str, Fact]:
        return {"url": self.url, "problem": self._failure or "the fetch was cancelled"}

    def _current_fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch that is in progress; one of an earlier event loop will never end and doesn't count."""
        fetching = self._fetching
        if fetching is None or fetching.done() or fetching.get_loop() is not asyncio.get_running_loop():
            return None
        return fetching

    def _start(self, *, pause: float) -> asyncio.Task[None] | None:
        """Return the fetch that is in progress, or a new one if the last ended at least ``pause`` seconds ago."""
        fetching = self._current_fetch()
        if fetching is None and not self._closed:
            if self._failure is not None or self._found_empty:
                pause = _RETRY_PAUSE_SECONDS
            if self._clock.monotonic() - self._tried_at >= pause:
                fetching = self._fetching = asyncio.create_task(self._renew(), name="jetpay webhook keys")
        return fetching

    async def _renew(self) -> None:
        """Fetch the keys; replace the cached ones only if that succeeds."""
        try:
            async with asyncio.timeout(self._timeout):
                document = await self._fetch(self.url)
            self._take_over(read_key_set(document, fetched_at=self._clock.time()))
        except Exception as error:  # noqa: BLE001 - functions of users may raise anything
            self._failure = _description(error)
            logger.warning("the webhook keys could not be fetched from %s: %s", self.url, self._failure)
        else:
            self._failure = None
        finally:
            self._tried_at = self._clock.monotonic()

    def _take_over(self, fetched: KeySet) -> None:
        # A publisher that fails may publish nothing for a moment; what two fetches say is meant.
        self._found_empty = fetched.names_no_key and not self._found_empty and not self._is_empty
        if self._found_empty:
            logger.warning("the key set at %s is empty: no delivery is accepted until a second fetch tells", self.url)
            return
        if not fetched.kids:
            logger.warning("the key set at %s has no usable key: every delivery is rejected", self.url)
        self._keys = fetched
        self._fetched_at = self._clock.monotonic()

    @property
    def _is_empty(self) -> bool:
        return self._keys is not None and self._keys.names_no_key


def _description(error: Exception) -> str:
    if isinstance(error, WebhookError):
        return str(error.facts.get("problem", error.message))
    return f"{type(error).__name__} {shown(str(error), 200)}".strip()


async def _fetch_with_aiohttp(url: str) -> bytes:
    # Importing aiohttp takes long enough to block the event loop noticeably.
    get = await asyncio.to_thread(_import_get)
    return await get(url)


def _import_get() -> Fetch:
    from jetpay_async.webhooks._jwks_http import get  # noqa: PLC0415 - imports aiohttp

    return get


def _jwks_url(url: str, trusted_origins: Iterable[str]) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"url: is not a URL: {error}") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise ConfigurationError("url: must begin with https://, as jetpay_async.PRODUCTION_URL does")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError("url: must hold a scheme, a host and at most a path; no credentials, no query")
    if not is_plain_url(url):
        raise ConfigurationError("url: must be in plain ASCII, such as jetpay_async.PRODUCTION_URL")
    origin = f"{parts.scheme}://{parts.netloc.lower()}"
    if not is_loopback(host) and origin not in {trusted.lower().rstrip("/") for trusted in trusted_origins}:
        if parts.scheme == "http":
            raise ConfigurationError(
                f"url: keys from {host} without encryption prove nothing; use https://, or say "
                f"trusted_origins=[{origin!r}] if that network is yours"
            )
        if not is_vendor(host):
            raise ConfigurationError(
                f"url: {host} is not a host of Jetpay, and whoever publishes the keys can sign deliveries; correct it, "
                f"or say trusted_origins=[{origin!r}] if that host is yours"
            )
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{KEY_SET.path}"
