"""Every variant does the work that it is measured by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pytest

from tests.benchmarks.peers import require_peers

require_peers()

from benchmarks import batch, contenders, durable, layers, peers, preauthorize, serving, subjects, webhooks  # noqa: E402
from benchmarks.reports import Plan  # noqa: E402
from benchmarks.serving import Server  # noqa: E402
from benchmarks.subjects import LOOPS, Contender, Site  # noqa: E402

VARIANTS: Mapping[str, Contender] = {
    **contenders.CONTENDERS,
    **contenders.HOOKED,
    **peers.PEERS,
    **layers.LAYERS,
    **batch.CONTENDERS,
    **durable.CONTENDERS,
    "preauthorize by hand": preauthorize.by_hand,
    "preauthorize": preauthorize.ours,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving.serving() as server:
        yield server


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_makes_the_requests_it_is_measured_by(server: Server, name: str) -> None:
    """The server counts one request for each operation, in every turn, on both loops, plain and over TLS."""
    with subjects.started({name: VARIANTS[name]}) as running:
        for tls, loop in itertools.product((False, True), LOOPS):
            before = server.requests()
            with subjects.opened(running, Site(url=server.url(tls=tls), in_flight=2, loop=loop)):
                for count in (2, 7):
                    running[name].turn(count)
            assert server.requests() - before == 2 + 7


@pytest.mark.parametrize("count", webhooks.COUNTS)
def test_every_stack_takes_the_delivery(count: int) -> None:
    """All verify the same delivery, and those that decode it get the same events; forged ones are rejected."""
    comparison = webhooks.compare(count, Plan(rounds=1, seconds=0.0))

    assert len(comparison.turns) == (16 if count == 1 else 13)


@pytest.mark.parametrize("verify", [webhooks.pyjwt_verify, webhooks.joserfc_verify, webhooks.authlib_verify])
def test_a_stack_that_is_compared_with_checks_the_body(verify: webhooks.Callable[[bytes, str], None]) -> None:
    """The other libraries do the whole work: a body of another delivery is rejected."""
    authorization = webhooks.sign(webhooks.body_of(1), webhooks.PRIVATE, kid=webhooks.KID)

    with pytest.raises(ValueError, match="another body"):
        verify(webhooks.body_of(2), authorization)


def test_an_ideal_pool_starts_each_item_when_a_slot_is_free() -> None:
    """The ideal is the schedule of the replies alone."""
    delays = serving.ReplyDelay(1.0, slow_every=4, slow_factor=3)
    assert [delays.of(number) for number in range(5)] == [1.0, 1.0, 1.0, 3.0, 1.0]

    assert batch.ideal_time(4, 1, delays) == 6.0
    assert batch.ideal_time(4, 2, delays) == 4.0
    assert batch.ideal_time(5, 4, delays) == 3.0
