"""Where a command writes: results to stdout, everything else to stderr.

Writing never raises: what a command does must not depend on whether somebody can read its messages. A stdout that can't
be written is remembered, and shows in the exit status. A reader that closes its pipe early, such as ``head``, is no
failure.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GuardedStream",
    "encodable",
    "final_status",
    "format_message",
    "messages_are_json",
    "open_streams",
    "to_json",
    "write_lines",
    "write_message",
    "write_messages_as_json",
    "write_output",
    "write_question",
    "write_record",
    "write_result",
    "write_usage",
]

_failures: dict[str, OSError] = {}
"""The first failure of each stream that can't be written."""

_messages_as_json = False

_NOT_OPEN = OSError(errno.EBADF, "it is closed")


def open_streams() -> None:
    """Make sure that the standard streams exist, and forget earlier failures.

    A descriptor that the shell has closed (``>&-``) would be given to the next file or socket that is opened.
    """
    _failures.clear()
    write_messages_as_json(False)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    for name in ("stderr", "stdout"):  # that stdout is closed is reported on stderr
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
            _record_failure(name, _NOT_OPEN)


def write_output(text: str) -> bool:
    """Write text and a line end to stdout, at once.

    Returns:
        Whether stdout took it.
    """
    return write_lines(f"{_escaped(text)}\n")


def write_lines(lines: str) -> bool:
    """Write whole lines to stdout, at once; what its encoding can't hold is written as an escape.

    Data that is piped to another program keeps its control characters; a terminal would obey them.

    Returns:
        Whether stdout took it.
    """
    encoding = sys.stdout.encoding
    lines = _escaped(lines) if sys.stdout.isatty() else lines
    return _write("stdout", lines.encode(encoding, "backslashreplace").decode(encoding))


def write_message(text: str, *, level: str = "info") -> None:
    """Write a message to stderr, if it can be written; its level shows where messages are objects."""
    _write("stderr", format_message(text, level=level))


def format_message(text: str, *, level: str = "info") -> str:
    """Write a message as a line of text, or as an object where messages are objects."""
    if _messages_as_json:
        return _format_record({"time": time.time(), "level": level, "logger": "jetpay", "message": text})
    return f"jetpay: {_escaped(text)}\n"


def write_question(text: str) -> bool:
    """Write a question to stderr, without a line end.

    Returns:
        Whether a person can see it.
    """
    return _write("stderr", format_message(text) if _messages_as_json else _escaped(text))


def write_usage(text: str) -> None:
    """Write to stderr how a command is used, if it can be written."""
    _write("stderr", _escaped(text))


def messages_are_json() -> bool:
    """Say whether messages are objects on lines of their own."""
    return _messages_as_json


def write_messages_as_json(as_json: bool) -> None:  # noqa: FBT001 - a switch
    """Say whether messages are objects, as records of the log are, rather than lines of text."""
    global _messages_as_json  # noqa: PLW0603 - there is one stderr, too
    _messages_as_json = as_json


def write_record(record: Mapping[str, object]) -> None:
    """Write an object to stderr, on a line of its own, if it can be written.

    Args:
        record: Its ``time``, in seconds since the epoch, is written as one of ISO 8601.
    """
    _write("stderr", _format_record(record))


def _format_record(record: Mapping[str, object]) -> str:
    # Few commands write records.
    from datetime import UTC, datetime  # noqa: PLC0415 - see above

    document = {name: _plain(value) for name, value in record.items()}
    at = datetime.fromtimestamp(cast("float", record["time"]), UTC)
    document["time"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{to_json(document)}\n"


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def write_result(result: str) -> None:
    """Write the outcome of an operation to stdout, and to stderr if stdout can't be written."""
    if not write_output(result):
        write_message(f"the result is\n{result}")


def final_status(status: ExitStatus) -> ExitStatus:
    """Return the exit status of a command, which shows if everything was done but stdout was lost."""
    _write("stdout", "")
    failure = _failures.get("stdout")
    if failure is None or failure.errno == errno.EPIPE or status not in {ExitStatus.DONE, ExitStatus.ACCEPTED}:
        return status
    return ExitStatus.OUTPUT_FAILED


def _escaped(text: str) -> str:
    """Escape what a terminal would obey. Line ends stay: what is quoted in a message has none left."""
    return printable(text, None, keep="\n")


def _write(name: str, text: str, stream: TextIO | None = None) -> bool:
    if name in _failures:
        return False
    target: TextIO = stream or getattr(sys, name)
    try:
        target.write(text)
        target.flush()
    except OSError as error:
        _discard(target)
        _record_failure(name, error)
        return False
    return True


def _record_failure(name: str, error: OSError) -> None:
    _failures[name] = error
    if name == "stdout" and error.errno != errno.EPIPE:
        write_message(f"stdout can't be written: {error.strerror}")


def _discard(stream: TextIO) -> None:
    """Send what the stream still holds to nowhere: the interpreter would fail over it at its end."""
    with suppress(OSError):  # a stream without a descriptor, such as a test's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _encodable(value: Any) -> Any:
    """Write what is no Unicode, in texts of any depth, as escapes."""
    match value:
        case str():
            return encodable(value)
        case dict():
            pairs = cast("dict[str, object]", value).items()
            return {encodable(key): _encodable(each) for key, each in pairs}
        case list():
            return [_encodable(each) for each in cast("list[object]", value)]
        case _:
            return value


def encodable(text: str) -> str:
    """Write what is no Unicode, such as a byte that is not UTF-8, as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


class GuardedStream:
    """One of the standard streams, for libraries that write by themselves: writing to it never raises.

    It stays the stream of the moment in which it was made, whatever is put in its place in `sys`.

    Args:
        name: ``stdout`` or ``stderr``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream: TextIO = getattr(sys, name)
        self.encoding = self._stream.encoding
        self.isatty = self._stream.isatty
        self.fileno = self._stream.fileno

    def write(self, text: str) -> int:
        """Write if that is possible."""
        _write(self._name, text, self._stream)
        return len(text)

    def flush(self) -> None:
        """Do nothing: each piece is flushed as it is written."""


def to_json(document: object) -> str:
    """Write a document of builtins, attrs values, enums and times as one line of JSON.

    Decimals are exact numbers, and everything is ASCII, which survives any stdout.
    """
    # Messages need neither.
    import json  # noqa: PLC0415 - see above
    import re  # noqa: PLC0415 - see above
    from decimal import Decimal  # noqa: PLC0415 - see above

    import msgspec  # noqa: PLC0415 - see above

    from jetpay_async._core import json as api_json  # noqa: PLC0415 - see above

    plain = msgspec.to_builtins(document, builtin_types=(Decimal,))
    try:
        text = api_json.dump(plain).decode()
    except UnicodeEncodeError:  # the name of a file need not be UTF-8
        text = api_json.dump(_encodable(plain)).decode()
    return text if text.isascii() else re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)
