"""A sandbox in a thread and an event loop of its own, for tests whose fixtures, loops and threads are anybody's."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from jetpay_async.sandbox._sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def sandbox_in_thread() -> Generator[Sandbox]:
    """Run a sandbox in a thread of its own, for as long as the block lasts.

    Each of its methods and properties can be used from any thread: it is executed in the sandbox's loop. The
    asynchronous ones can be awaited in any loop.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="jetpay sandbox", daemon=True)
    thread.start()
    try:
        sandbox = _ThreadedSandbox(loop, thread)
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        try:
            yield sandbox
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _ThreadedSandbox(Sandbox):
    """A `Sandbox` whose public methods and properties are executed in its loop, whoever uses them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self.own_loop = loop
        self.own_thread = thread
        super().__init__()


def _synchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(sandbox: _ThreadedSandbox, *arguments: object, **options: object) -> object:
        if threading.current_thread() is sandbox.own_thread:
            return function(sandbox, *arguments, **options)

        async def execute() -> object:
            return function(sandbox, *arguments, **options)

        return asyncio.run_coroutine_threadsafe(execute(), sandbox.own_loop).result()

    return call


def _asynchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def call(sandbox: _ThreadedSandbox, *arguments: object, **options: object) -> object:
        if threading.current_thread() is sandbox.own_thread:
            return await function(sandbox, *arguments, **options)
        future = asyncio.run_coroutine_threadsafe(function(sandbox, *arguments, **options), sandbox.own_loop)
        return await asyncio.wrap_future(future)

    return call


def _in_own_loop(member: object) -> object:
    """Return a member of `Sandbox` as one that is executed in the sandbox's loop."""
    if isinstance(member, property):
        return property(_synchronous(cast("Callable[..., Any]", member.fget)), doc=member.__doc__)
    if inspect.iscoroutinefunction(member):
        return _asynchronous(member)
    return _synchronous(member) if inspect.isfunction(member) else member


for _name, _member in tuple(vars(Sandbox).items()):
    if not _name.startswith("_"):
        setattr(_ThreadedSandbox, _name, _in_own_loop(_member))
