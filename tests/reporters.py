"""What an error reporter such as Sentry, or a traceback of rich, collects of an error."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import FrameType


def walked(value: object, depth: int = 8) -> Iterator[str]:
    """What an error reporter such as Sentry makes of a local variable: mappings and collections are walked."""
    if isinstance(value, str | bytes):
        yield str(value)
    elif isinstance(value, Mapping) and depth:
        for name, item in list(value.items()):
            yield from walked(name, depth - 1)
            yield from walked(item, depth - 1)
    elif isinstance(value, Sequence | AbstractSet) and depth:
        for item in list(value):
            yield from walked(item, depth - 1)
    else:
        yield repr(value)


def collected(frames: Iterable[FrameType]) -> str:
    """The local variables of frames, but for those of the tests, which know the token."""
    tests = str(Path(__file__).parent)
    return "\n".join(
        text
        for frame in frames
        if not frame.f_code.co_filename.startswith(tests)
        for text in walked(dict(frame.f_locals))
    )


def chain(error: BaseException) -> Iterator[FrameType]:
    """The frames of an error, and of all that it came from, suppressed or not."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        if (one := waiting.pop()) is None:
            continue
        yield from (frame for frame, _ in traceback.walk_tb(one.__traceback__))
        waiting += [one.__cause__, one.__context__]
