"""The servers that answer the benchmarks."""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Iterator

import pytest

from benchmarks import serving
from benchmarks.serving import ReplyDelay, Server

PATHS = (
    "/debit/debit_1/capture",
    "/contact/contact_1/creditcards/cc_1/preauthorize",
    "/transaction/debit_1/status",
    "/v1/payment_intents/pi_1/capture",
    "/v2/payments/tr_1/complete",
    "/v2/payments/tr_1/captures",
    "/v1/batches/batch_1/cancel",
)


def post(server: Server, path: str, body: bytes = b"") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(serving.HOST, server.port, timeout=5)
    connection.request("POST", path, body)
    response = connection.getresponse()
    answer = response.status, response.headers["Content-Type"], response.read()
    connection.close()
    return answer


@pytest.fixture(scope="module")
def nginx() -> Iterator[Server]:
    """The server of a real run."""
    if serving.find_nginx() is None:
        pytest.skip("there is no nginx, and Debian's packages can't be had")
    with serving.serving() as server:
        assert server.name.startswith("nginx 1.")
        yield server


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """The server where there is no nginx."""
    with serving.serving_late(ReplyDelay()) as server:
        yield server


@pytest.mark.parametrize("path", PATHS)
def test_both_servers_answer_alike(nginx: Server, own: Server, path: str) -> None:
    """Where nginx is missing, the work is the same."""
    answer = post(own, path)

    assert post(nginx, path) == answer
    assert answer[0] in {200, 201}


@pytest.mark.parametrize("kind", ["nginx", "own"])
def test_requests_are_counted_and_asking_is_not(kind: str, request: pytest.FixtureRequest) -> None:
    """The count is of the requests that were measured, those with a body included."""
    server: Server = request.getfixturevalue(kind)
    before = server.requests()

    for path in PATHS[:2]:
        post(server, path, b'{"amount": 100.50}')

    assert server.requests() - before == 2
    assert server.requests() - before == 2


@pytest.mark.parametrize("found", [None, "nginx"])
def test_tls_is_served_under_a_certificate_that_can_be_checked(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is measured as it is used: processes that are started meanwhile trust the server's authority."""
    nginx = serving.find_nginx()
    if found and nginx is None:
        pytest.skip("there is no nginx, and Debian's packages can't be had")
    before = os.environ.get("SSL_CERT_FILE")
    monkeypatch.setattr(serving, "find_nginx", lambda: nginx if found else None)

    with serving.serving() as server:
        connection = http.client.HTTPSConnection(
            serving.HOST, server.tls_port, timeout=5, context=ssl.create_default_context()
        )
        connection.request("POST", PATHS[0])
        status = connection.getresponse().status
        connection.close()

    assert status == 200
    assert server.name.startswith(found or "uvloop")
    assert os.environ.get("SSL_CERT_FILE") == before


def test_one_debit_of_a_hundred_is_slow() -> None:
    """Slow replies are as many as was said, and not all of one worker."""
    delay = ReplyDelay(0.05, slow_every=100, slow_factor=25)
    delays = [delay.of(number) for number in range(1000)]

    assert delays.count(1.25) == 10
    assert delays.count(0.05) == 990
    assert len({delays.index(1.25, start) % 64 for start in range(0, 900, 100)}) > 1


def test_a_late_reply_takes_its_time() -> None:
    """The delay is that of the debit."""
    with serving.serving_late(ReplyDelay(0.0, slow_every=0)) as server:
        began = time.monotonic()
        post(server, PATHS[0])
        quick = time.monotonic() - began
    with serving.serving_late(ReplyDelay(0.1)) as server:
        began = time.monotonic()
        post(server, PATHS[0])

    assert time.monotonic() - began >= 0.1 > quick
