"""Headers of a reply: the request's id, and how long to wait."""

from __future__ import annotations

import math
import os
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from jetpay_async._core.http import RawResponse, find_request_id, read_age, read_retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator

# Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples.
MOMENT = 784111777.0


@pytest.fixture(params=["UTC", "America/Vancouver", "Asia/Kathmandu"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run in this time zone."""
    if not hasattr(time, "tzset"):
        pytest.skip("this platform can't change the zone of a process")
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


RETRY_AFTER = [
    ("no header", None, None),
    ("seconds", "3", 3.0),
    ("no seconds", "0", 0.0),
    ("spaces around", " 3\t", 3.0),
    ("leading zeros", "003", 3.0),
    ("many seconds", "999999999", 999999999.0),
    ("a fixed date", "Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
    ("the date of RFC 850", "Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
    ("the date of asctime, which is UTC", "Sun Nov  6 08:49:47 1994", 10.0),
    ("a date with no zone known", "Sun, 06 Nov 1994 08:49:47 -0000", 10.0),
    ("a date of another zone", "Sun, 06 Nov 1994 10:49:47 +0200", 10.0),
    ("a date that has passed", "Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
    ("an empty header", "", None),
    ("a fraction", "1.5", 1.5),
    ("a fraction of nothing", "2.0", 2.0),
    ("less than a second", "0.5", 0.5),
    ("a point without digits after it", "1.", None),
    ("a point without digits before it", ".5", None),
    ("two points", "1.5.0", None),
    ("a decimal comma", "1,5", None),
    ("a very long fraction", "1." + "5" * 100_000, None),
    ("below zero", "-1", None),
    ("an exponent", "1e3", None),
    ("a unit", "3s", None),
    ("two values", "3, 5", None),
    ("too many digits", "9999999999", None),
    ("a very long number", "9" * 100_000, None),
    ("digits of another script", "\u0663", None),
    ("NaN", "nan", None),
    ("infinity", "inf", None),
    ("a word", "soon", None),
    ("a day that does not exist", "Mon, 31 Feb 2026 00:00:00 GMT", None),
    ("a zone that does not exist", "Sun, 06 Nov 1994 08:49:37 +9999", None),
    ("a year out of range", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
    ("a zone out of range", "Sun, 06 Nov 1994 08:49:37 +99999999999999999999", None),
    ("an ISO date", "1994-11-06T08:49:47Z", None),
]


@pytest.mark.parametrize(("value", "seconds"), [row[1:] for row in RETRY_AFTER], ids=[row[0] for row in RETRY_AFTER])
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None, zone: str) -> None:
    """Retry-After is read as RFC 9110 has it, in any zone of this machine; what it can't be is ignored."""
    assert read_retry_after(value, MOMENT) == seconds


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001 - as strategies want them
def test_any_date_is_read_back(moment: datetime) -> None:
    """A date that a server writes is read to the second."""
    date = moment.replace(microsecond=0, tzinfo=UTC)

    assert read_retry_after(format_datetime(date, usegmt=True), 0.0) == date.timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0.0), ("0", 0.0), (" 12 ", 12.0), ("0.5", 0.5), ("", math.inf), ("-1", math.inf), ("12, 3", math.inf)],
)
def test_an_age_that_can_not_be_read_is_infinite(value: str | None, seconds: float) -> None:
    """Age is seconds; where a cache answered and does not say how old its answer is, it may be of any age."""
    assert read_age(value) == seconds


PIECES = (
    "Sun, Sun 6 06-Nov-94 -Nov- Nov 1994 94 08:49:37 8.4 :: GMT -0000 +9999 + - , 0 0001 9999 99999999999999999999 PM "
    "-2359 \u0663"
)
pieces = st.sampled_from(PIECES.split())


@given(st.one_of(st.text(), st.lists(pieces, max_size=8).map(" ".join)))
@example("1 Jan 0001 00:00:00 +2359")
@example("31 Dec 9999 23:59:59 -2359")
def test_any_retry_after_is_a_wait_or_ignored(value: str) -> None:
    """Whatever the header says, it is a number of seconds or nothing, and no error."""
    seconds = read_retry_after(value, MOMENT)

    assert seconds is None or 0 <= seconds < 1e12


HEADERS = [
    "X-Request-ID",
    "Request-ID",
    "X-Correlation-ID",
    "X-Amzn-RequestId",
    "X-Amzn-Trace-Id",
    "X-Cloud-Trace-Context",
    "CF-Ray",
    "traceparent",
]


@pytest.mark.parametrize("name", HEADERS)
def test_the_requests_id_is_found_whatever_header_carries_it(name: str) -> None:
    """Each of the usual headers is looked at, in any case."""
    assert find_request_id(CIMultiDict({"Date": "today", name: "req_1"})) == "req_1"
    assert find_request_id(CIMultiDict({name.upper(): "req_1"})) == "req_1"


def test_the_services_own_id_comes_first() -> None:
    """The application's id is preferred to those of proxies and traces."""
    headers = CIMultiDict({name: f"id of {name}" for name in reversed(HEADERS)})

    for name in HEADERS:
        assert find_request_id(headers) == f"id of {name}"
        del headers[name]
    assert find_request_id(headers) is None


def test_a_requests_id_is_short_and_printable() -> None:
    """An id that can't be printed is passed over, and a long one is cut."""
    assert find_request_id({"X-Request-ID": "a\x1b[31m", "CF-Ray": "ray_1"}) == "ray_1"
    assert find_request_id({"X-Request-ID": "caf\udce9"}) is None
    assert find_request_id({"X-Request-ID": "caf\u00e9"}) is None
    assert find_request_id({"X-Request-ID": ""}) is None
    assert find_request_id({"X-Request-ID": "x" * 10_000}) == "x" * 200


def test_a_reply_does_not_show_its_body() -> None:
    """A body may hold names and amounts; a log of a reply has none of it."""
    assert "secret" not in repr(RawResponse(200, {}, b"secret"))
