"""A file that keeps a sandbox's state across restarts."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jetpay_async._core import json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jetpay_async.sandbox._sandbox import Sandbox

__all__ = ["kept"]

# Writing takes some tenths of a second with a hundred thousand debits, during which nothing is answered.
_SAVE_INTERVAL_SECONDS = 1.0


@asynccontextmanager
async def kept(sandbox: Sandbox, path: Path) -> AsyncGenerator[None]:
    """Write the state of a running sandbox to a file: now, at most a second after each change, and at the end.

    Raises:
        OSError: The file can't be written.
    """
    _save(sandbox, path)
    saving = asyncio.create_task(_save_changes(sandbox, path))
    try:
        yield
    finally:
        saving.cancel()
        with suppress(asyncio.CancelledError):
            await saving
        _save(sandbox, path)


async def _save_changes(sandbox: Sandbox, path: Path) -> None:
    version = -1
    while True:
        version = await sandbox.wait_for_change(version)
        await asyncio.sleep(_SAVE_INTERVAL_SECONDS)
        _save(sandbox, path)


def _save(sandbox: Sandbox, path: Path) -> None:
    """Replace the file. It holds the tokens and the private keys of the sandbox, so only its owner may read it."""
    # mkstemp makes a file that only its owner may read.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dump(sandbox.snapshot()))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
