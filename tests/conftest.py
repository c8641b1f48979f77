"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

# A loaded machine is slow, which is no fault of the code: the time that an example takes is not judged.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Canned replies, without a socket."""
    from aioresponses import core

    # aiohttp 3.14 wants the writer of a request, which aioresponses 0.7.9 does not know of.
    class Response(aiohttp.ClientResponse):
        def __init__(self, *args: object, **options: object) -> None:
            try:
                super().__init__(*args, stream_writer=Mock(output_size=0), **options)  # type: ignore[arg-type] # as given
            except TypeError:
                super().__init__(*args, **options)  # type: ignore[arg-type] # as given

    monkeypatch.setattr(core, "ClientResponse", Response)
    with aioresponses() as replies:
        yield replies
