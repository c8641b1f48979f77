"""Many captures, streamed: one outcome each, whatever happens, and never more in shared than asked for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, aclosing, nullcontext

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    Capture,
    Captured,
    CaptureOutcome,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayClient,
    NotSent,
    NotSentError,
    OutcomeUnknownError,
    PreauthorizationOutcome,
    Preauthorized,
    RateLimitedError,
    Rejected,
    RetryPolicy,
    ServiceError,
    Unknown,
)
from jetpay_async._batch.worker_pool import BloomFilter
from jetpay_async._core.executor import CallExecutor
from tests import loopback
from tests.ledger.processes import counting_api
from tests.loopback import FASTAPI, HTML, Act, Exchange, Loopback, replies, work_then
from tests.network import FAST, TOKEN, Network, every_network
from tests.recording_server import RecordingServer, connect, debits, request, until


async def capture(client: JetpayClient, ids: Iterable[str], *, concurrency: int = 8) -> dict[str, CaptureOutcome]:
    """Capture them all, and return the outcomes by debit."""
    outcomes = [outcome async for outcome in client.capture_many(ids, concurrency=concurrency)]
    by_debit = {outcome.debit_id: outcome for outcome in outcomes}
    assert len(by_debit) == len(outcomes)
    return by_debit


# --- one outcome for each ---------------------------------------------------------------------------------------------


@every_network
def test_all_are_captured(network: Network) -> None:
    """Each debit is captured once, and told once."""

    async def main() -> None:
        async with network.serve(RecordingServer()) as server:
            assert isinstance(server, RecordingServer)
            async with network.connect(server) as client:
                outcomes = await capture(client, debits(100))

            assert list(server.carried_out.values()) == [1] * 100
            assert set(outcomes) == set(server.carried_out)
            assert all(isinstance(outcome, Captured) for outcome in outcomes.values())

    network.run(main)


async def drop(exchange: Exchange) -> None:
    exchange.hang_up()


FATES: dict[str, tuple[str, list[Act], type[object], type[object]]] = {
    "captured": ("debit_x", [], Captured, Capture),
    "no such id": ("no/id", [], NotSent, InvalidArgumentError),
    "an empty id": ("", [], NotSent, InvalidArgumentError),
    "refused": ("debit_x", [replies(422, FASTAPI[422])], Rejected, InvalidRequestError),
    "captured already": ("debit_x", [replies(409, FASTAPI[409])], Rejected, ConflictError),
    "limited": ("debit_x", [replies(429, FASTAPI[429])] * 3, NotSent, RateLimitedError),
    "lost, and undone each time": ("debit_x", [drop] * 3, NotSent, ServiceError),
    "lost, and done": ("debit_x", [work_then(drop)], Captured, Capture),
    "lost in a proxy": ("debit_x", [replies(502, HTML)], Captured, Capture),
}


@pytest.mark.parametrize(("debit_id", "fate", "meaning", "content"), FATES.values(), ids=FATES)
@pytest.mark.asyncio
async def test_each_fate_has_its_outcome(
    debit_id: str, fate: list[Act], meaning: type[object], content: type[object]
) -> None:
    """What befalls one item is told of it, and does not disturb its neighbours."""
    ids = debits(10)
    ids.insert(5, debit_id)
    async with RecordingServer(responses={debit_id: [*fate]}).listen() as bank, connect(bank) as client:
        outcomes = await capture(client, ids)

    outcome = outcomes.pop(debit_id)
    assert type(outcome) is meaning
    assert type(outcome.capture if isinstance(outcome, Captured) else outcome.error) is content
    assert [type(other) for other in outcomes.values()] == [Captured] * 10
    assert bank.twice == []


@pytest.mark.asyncio
async def test_a_429_that_may_have_been_processed_is_unknown() -> None:
    """Where the policy does not trust a 429, nothing says that asking again is safe; who asks again has it confirmed_by_status."""
    policy = attrs.evolve(FAST, resend_rate_limited=False)
    responses: dict[str, list[Act]] = {"debit_1": [work_then(replies(429, FASTAPI[429]))]}
    async with RecordingServer(responses=responses).listen() as bank, connect(bank, retry=policy) as client:
        first = (await capture(client, debits(3)))["debit_1"]
        again = (await capture(client, ["debit_1"]))["debit_1"]

    assert isinstance(first, Unknown)
    assert isinstance(first.error, RateLimitedError)
    assert isinstance(again, Captured)
    assert again.confirmed_by_status
    assert bank.twice == []


@pytest.mark.asyncio
async def test_what_is_no_id_at_all_is_an_item_like_any_other() -> None:
    """Items of any type are told as they were given."""
    odd: list[object] = [5, None, b"debit", ["debit"]]
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = [each async for each in client.capture_many([*odd, "debit_1"], ordered=True)]  # type: ignore[list-item] # as an untyped caller might

    assert [outcome.debit_id for outcome in outcomes] == [*odd, "debit_1"]
    assert [type(outcome) for outcome in outcomes] == [NotSent] * 4 + [Captured]


@pytest.mark.asyncio
async def test_an_unknown_one_is_told_as_such() -> None:
    """What the status can't tell within the deadline is `Unknown`, with its error."""
    bank = RecordingServer(responses={"debit_1": [loopback.hang_up]}, scripts={"status": [loopback.silence] * 9})
    async with bank.listen(), connect(bank, timeout=0.3) as client:
        outcomes = await capture(client, debits(3))

    unknown = outcomes["debit_1"]
    assert isinstance(unknown, Unknown)
    assert isinstance(unknown.error, OutcomeUnknownError)
    assert (unknown.attempts, unknown.error.debit_id) == (1, "debit_1")


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_under_a_mixture_of_faults_each_has_one_outcome() -> None:
    """Whatever the service loses, breaks, refuses and limits, each debit is captured at most once, and told once."""
    faults = {"silent": 0.01, "broken": 0.02, "cut": 0.03, "limited": 0.01, "refused": 0.05}
    quick = RetryPolicy(max_attempts=4, base_delay=0.005, max_delay=0.05, resolve_after=0.3, resolve_after_timeout=0.3)
    async with counting_api(latency=0.002, slow=0.02, slowest=0.1, **faults) as api:
        async with JetpayClient(TOKEN, base_url=api.url, timeout=3.0, retry=quick) as client:
            outcomes = await capture(client, debits(1000), concurrency=64)
        totals = await api.totals()

    kinds = Counter(type(outcome) for outcome in outcomes.values())
    assert len(outcomes) == 1000
    assert totals["twice"] == []
    assert kinds[Rejected] == totals["refused"] > 20
    assert kinds[Captured] <= totals["captured"] <= kinds[Captured] + kinds[Unknown]
    assert kinds[Captured] > 900
    # On a machine that is too busy, a deadline may pass before a status can be believed.
    assert kinds[NotSent] + kinds[Unknown] < 20


@pytest.mark.asyncio
async def test_a_fault_of_our_own_costs_no_other_its_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody thought of is that item's outcome: unknown if its request had begun to leave."""
    execute = CallExecutor.execute

    async def sometimes(self: CallExecutor, execution: object) -> object:
        result = await execute(self, execution)  # type: ignore[arg-type, var-annotated] # of any type
        if result.debit_id == "debit_3":
            raise LookupError("a fault")
        return result

    monkeypatch.setattr(CallExecutor, "execute", sometimes)
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = await capture(client, debits(10), concurrency=1)

    unknown = outcomes.pop("debit_3")
    assert isinstance(unknown, Unknown)
    assert isinstance(unknown.error.__cause__, LookupError)
    assert "an unexpected LookupError" in str(unknown.error)
    assert "a fault" in caplog.text
    assert [type(outcome) for outcome in outcomes.values()] == [Captured] * 9


@pytest.mark.asyncio
async def test_a_fault_before_anything_left_says_that_nothing_was_sent() -> None:
    """If it happens while the item is read, the outcome is `NotSent`."""

    class Broken(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise LookupError("a fault")

        def __bool__(self) -> bool:
            raise LookupError("a fault")

    async with RecordingServer().listen() as bank, connect(bank) as client:
        (outcome,) = [each async for each in client.capture_many([Broken("debit_1")])]

    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.error.__cause__, LookupError)
    assert bank.requests == []


# --- how many at a time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 7, 64])
@pytest.mark.asyncio
async def test_never_more_in_flight_than_asked_for(concurrency: int) -> None:
    """So many are in shared while there are enough, and never one more, by the server's own count."""
    bank = RecordingServer()
    bank.open.clear()
    async with bank.listen(), connect(bank) as client:
        capturing = asyncio.create_task(capture(client, debits(4 * concurrency), concurrency=concurrency))
        await until(lambda: bank.in_flight == concurrency)
        bank.open.set()
        await capturing

    assert bank.most_in_flight == concurrency


@pytest.mark.asyncio
async def test_a_slow_one_holds_nobody_up() -> None:
    """All others are captured and told while one is not answered."""
    release = asyncio.Event()
    async with RecordingServer(held={"debit_0": release}).listen() as bank, connect(bank, timeout=60.0) as client:
        told: list[str] = []
        async for outcome in client.capture_many(debits(500), concurrency=4):
            told.append(outcome.debit_id)
            if len(told) == 499:
                release.set()

    assert told[-1] == "debit_0"


@pytest.mark.asyncio
async def test_input_is_taken_as_it_is_needed() -> None:
    """Endless input is no trouble: an id is taken when its turn comes, and the loop may be left."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"debit_{taken}"

    async with RecordingServer().listen() as bank, connect(bank) as client:
        told = 0
        async with aclosing(client.capture_many(endless(), concurrency=8)) as outcomes:
            async for _ in outcomes:
                told += 1
                assert taken - told <= 16
                if told == 300:
                    break

    assert taken <= 316
    assert bank.twice == []


@pytest.mark.asyncio
async def test_a_slow_consumer_slows_the_captures() -> None:
    """While nobody takes outcomes, no more than twice the concurrency is begun."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = client.capture_many(debits(100), concurrency=5)
        await anext(outcomes)
        await until(lambda: len(bank.carried_out) == 11)
        await asyncio.sleep(0.05)
        assert len(bank.carried_out) == 11
        await anext(outcomes)
        await until(lambda: len(bank.carried_out) == 12)
        await outcomes.aclose()

    assert len(bank.carried_out) == 12


@pytest.mark.asyncio
async def test_a_slow_consumer_gets_all() -> None:
    """A consumer that takes its time for each outcome misses none."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        told = []
        async for outcome in client.capture_many(debits(60), concurrency=4):
            await asyncio.sleep(0.001)
            told.append(outcome.debit_id)

    assert sorted(told) == sorted(debits(60))
    assert bank.twice == []


@pytest.mark.asyncio
async def test_no_task_for_an_item() -> None:
    """However many items, there are as many tasks as workers, the same from the first to the last."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        workers: set[asyncio.Task[object] | None] = set()
        outcomes = client.capture_many(
            debits(300), concurrency=6, on_outcome=lambda _: workers.add(asyncio.current_task())
        )
        assert len(await take_all(outcomes)) == 300

    assert len(workers) == 6
    assert bank.twice == []


# --- input ------------------------------------------------------------------------------------------------------------


async def slowly(ids: Iterable[str]) -> AsyncIterator[str]:
    for debit_id in ids:
        await asyncio.sleep(0)
        yield debit_id


class Both:
    """An iterable that blocks, and an async iterable that doesn't, as an ORM's query is."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it would block the loop")

    def __aiter__(self) -> AsyncIterator[str]:
        return slowly(debits(20))


INPUTS: dict[str, Callable[[], object]] = {
    "list": lambda: debits(20),
    "tuple": lambda: tuple(debits(20)),
    "generator": lambda: (debit_id for debit_id in debits(20)),
    "set": lambda: set(debits(20)),
    "dict": lambda: dict.fromkeys(debits(20)),
    "async generator": lambda: slowly(debits(20)),
    "both": Both,
}


@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
@pytest.mark.asyncio
async def test_any_iterable_will_do(make: Callable[[], Iterable[str]]) -> None:
    """Sync or async; of one that is both, the async one, since the other would block."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = await capture(client, make())

    assert set(outcomes) == set(bank.carried_out) == set(debits(20))


@pytest.mark.asyncio
async def test_no_input_is_no_outcome() -> None:
    """An empty batch is over at once."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        assert await capture(client, []) == {}

    assert bank.requests == []


@pytest.mark.parametrize("make", [iter, slowly], ids=["sync", "async"])
@pytest.mark.asyncio
async def test_an_input_that_breaks_loses_nothing(make: Callable[[Iterable[str]], Iterable[str]]) -> None:
    """What was taken from it is carried through and told, nothing further is begun, and then its error comes out."""
    released = asyncio.Event()

    def broken() -> Iterator[str]:
        yield from debits(5)
        released.set()
        raise LookupError("the database is gone")

    bank = RecordingServer(held=dict.fromkeys(debits(5), released))
    async with bank.listen(), connect(bank) as client:
        told: list[CaptureOutcome] = []
        with pytest.raises(LookupError, match="the database is gone"):
            async for outcome in client.capture_many(make(broken()), concurrency=8):
                told += [outcome]

    assert sorted(outcome.debit_id for outcome in told) == debits(5)
    assert sorted(bank.carried_out) == debits(5)


class Undead:
    """Comes to life again after its tenth item, which is an error."""

    def __init__(self, error: type[Exception]) -> None:
        self.asked = 0
        self.error = error

    def __iter__(self) -> Undead:
        return self

    def __next__(self) -> str:
        self.asked += 1
        if self.asked == 10:
            raise self.error
        return f"debit_{self.asked}"


class AsyncUndead(Undead):
    """The same, and it takes its time."""

    def __aiter__(self) -> AsyncUndead:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(0.001)
        return self.__next__()


@pytest.mark.parametrize(
    ("items", "end"),
    [
        (Undead(LookupError), pytest.raises(LookupError)),
        (AsyncUndead(LookupError), pytest.raises(LookupError)),
        (Undead(StopIteration), nullcontext()),
        (AsyncUndead(StopAsyncIteration), nullcontext()),
    ],
    ids=["sync, broken", "async, broken", "sync, ended", "async, ended"],
)
@pytest.mark.asyncio
async def test_after_its_end_the_input_is_not_asked_again(
    items: Undead, end: AbstractContextManager[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iterator that could go on after its end, or after its error, is left alone."""
    monkeypatch.setattr(items, "asked", 0)
    async with RecordingServer().listen() as bank, connect(bank) as client:
        with end:
            await capture(client, items, concurrency=4)

    assert items.asked == 10
    assert len(bank.carried_out) == 9


@pytest.mark.asyncio
async def test_an_async_input_is_asked_for_one_at_a_time() -> None:
    """An async generator does not bear to be asked by two at once."""
    asked = 0

    async def careful() -> AsyncIterator[str]:
        nonlocal asked
        for debit_id in debits(40):
            asked += 1
            assert asked == 1
            await asyncio.sleep(0.001)
            asked -= 1
            yield debit_id

    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = [outcome async for outcome in client.capture_many(careful(), concurrency=8, ordered=True)]

    assert [outcome.debit_id for outcome in outcomes] == debits(40)
    assert bank.twice == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"debit_ids": "debit_1"}, "debit_ids"),
        ({"debit_ids": b"debit_1"}, "debit_ids"),
        ({"debit_ids": bytearray(b"debit_1")}, "debit_ids"),
        ({"debit_ids": None}, "debit_ids"),
        ({"debit_ids": 5}, "debit_ids"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": "64"}, "concurrency"),
        ({"rate": 0}, "rate"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 10**400}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": "10"}, "rate"),
        ({"on_outcome": "print"}, "on_outcome"),
    ],
    ids=str,
)
@pytest.mark.asyncio
async def test_bad_arguments_are_refused_when_it_is_called(arguments: dict[str, object], field: str) -> None:
    """Before anything is taken, not when the first outcome is asked for; the error names the argument."""
    taken: list[str] = []

    def ids() -> Iterator[str]:
        taken.append("one")
        yield "debit_1"

    async with JetpayClient(TOKEN, base_url="http://127.0.0.1:1") as client:
        for call, items in ((client.capture_many, "debit_ids"), (client.preauthorize_many, "requests")):
            given = {items if name == "debit_ids" else name: value for name, value in arguments.items()}
            with pytest.raises(InvalidArgumentError) as caught:
                call(**{items: ids(), **given})  # type: ignore[operator] # as an untyped caller might

            assert caught.value.field == (items if field == "debit_ids" else field)
            assert str(caught.value).startswith(f"{caught.value.field}: ")
    assert taken == []


@pytest.mark.parametrize("rate", [1, 0.5, 5e-324, 1e300], ids=str)
@pytest.mark.asyncio
async def test_any_positive_rate_will_do(rate: float) -> None:
    """However slow or fast: the first item starts at once."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        async with aclosing(client.capture_many(debits(1), rate=rate)) as outcomes:
            assert isinstance(await anext(outcomes), Captured)
    assert len(bank.carried_out) == 1


# --- duplicates -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_id_given_twice_at_once_is_captured_once() -> None:
    """Those under way share one request, and each is told."""
    release = asyncio.Event()
    bank = RecordingServer(held={"debit_1": release})
    async with bank.listen(), connect(bank) as client:
        outcomes: list[CaptureOutcome] = []

        async def take() -> None:
            outcomes.extend([each async for each in client.capture_many(["debit_1"] * 20, concurrency=20)])

        taking = asyncio.create_task(take())
        await bank.arrived.wait()
        release.set()
        await taking

    assert [type(outcome) for outcome in outcomes] == [Captured] * 20
    assert bank.carried_out == {"debit_1": 1}
    assert bank.count("capture") == 1


@pytest.mark.asyncio
async def test_an_id_given_again_later_is_captured_once() -> None:
    """Also when the first was long ago, and the service would take the money again."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        ids = ["debit_0", *debits(200), "debit_0", "debit_7"]
        outcomes = [outcome async for outcome in client.capture_many(ids, concurrency=4, ordered=True)]

    assert [outcome.debit_id for outcome in outcomes] == ids
    assert all(isinstance(outcome, Captured) for outcome in outcomes)
    assert bank.twice == []
    assert bank.count("capture") == 200
    assert [outcome.confirmed_by_status for outcome in outcomes[-2:] if isinstance(outcome, Captured)] == [True, True]


@pytest.mark.asyncio
async def test_an_id_given_again_is_captured_if_it_was_not() -> None:
    """Rejected the first time and captured the second: the status says that nothing had happened."""
    bank = RecordingServer(responses={"debit_1": [replies(402, {"detail": "declined"})]})
    async with bank.listen(), connect(bank) as client:
        outcomes = [each async for each in client.capture_many(["debit_1", "debit_1"], concurrency=1, ordered=True)]

    assert [type(outcome) for outcome in outcomes] == [Rejected, Captured]
    assert bank.carried_out == {"debit_1": 1}


@pytest.mark.asyncio
async def test_a_mistaken_filter_costs_a_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that takes every id for known makes each debit's status read, and each debit is captured."""
    monkeypatch.setattr(BloomFilter, "add", lambda _, __: True)
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = await capture(client, debits(20))

    assert all(isinstance(outcome, Captured) and outcome.attempts == 1 for outcome in outcomes.values())
    assert list(bank.carried_out.values()) == [1] * 20
    assert bank.count("status") == 20


@pytest.mark.asyncio
async def test_another_batch_asks_anew() -> None:
    """A batch remembers nothing of an earlier one: whether to ask again is its caller's business."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        await capture(client, ["debit_1"])
        await capture(client, ["debit_1"])

    assert bank.count("capture") == 2
    assert bank.count("status") == 0


def test_the_filter_forgets_nothing_and_is_seldom_mistaken() -> None:
    """Each id is new once and known ever after; among 20,000 others hardly any is taken for known."""
    known = BloomFilter()

    mistaken = sum(known.add(debit_id) for debit_id in debits(20_000))

    assert mistaken < 10
    assert all(known.add(debit_id) for debit_id in debits(20_000))


def test_a_full_filter_still_answers() -> None:
    """Full, it takes every id for known."""
    known = BloomFilter()
    known._bytes[:] = b"\xff" * len(known._bytes)

    assert all(known.add(debit_id) for debit_id in debits(100))


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_in_order_if_asked_for() -> None:
    """Outcomes come in the order of the ids, whatever the order of the answers."""
    gates = {debit_id: asyncio.Event() for debit_id in debits(10)}
    async with RecordingServer(held=gates).listen() as bank, connect(bank) as client:
        told: list[str] = []

        async def take() -> None:
            told.extend([outcome.debit_id async for outcome in client.capture_many(debits(10), ordered=True)])

        taking = asyncio.create_task(take())
        await until(lambda: bank.in_flight == 10)
        for gate in reversed(gates.values()):
            gate.set()
            await asyncio.sleep(0.001)
        await taking

    assert told == debits(10)


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as they come"])
@pytest.mark.asyncio
async def test_in_order_it_does_not_run_away(ordered: bool) -> None:
    """Behind one slow item no more than 16 times the concurrency is begun; without order all others are."""
    release = asyncio.Event()
    async with RecordingServer(held={"debit_0": release}).listen() as bank, connect(bank) as client:
        outcomes = client.capture_many(debits(100), concurrency=2, ordered=ordered)
        taking = asyncio.create_task(take_all(outcomes))
        expected = 2 * 16 - 1 if ordered else 99
        await until(lambda: len(bank.carried_out) >= expected)
        await asyncio.sleep(0.02)
        assert len(bank.carried_out) == expected
        release.set()

        assert len(await taking) == 100


async def take_all(outcomes: AsyncIterator[CaptureOutcome]) -> list[CaptureOutcome]:
    return [outcome async for outcome in outcomes]


@pytest.mark.asyncio
async def test_in_order_an_input_that_breaks_loses_nothing() -> None:
    """All that was taken comes in order, and then the error."""

    def broken() -> Iterator[str]:
        yield from debits(7)
        raise LookupError

    told: list[str] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:
        with pytest.raises(LookupError):
            async for outcome in client.capture_many(broken(), concurrency=3, ordered=True):
                told += [outcome.debit_id]

    assert told == debits(7)
    assert bank.twice == []


# --- on_outcome -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_hook_is_told_of_each_before_it_is_yielded() -> None:
    """`on_outcome` gets each outcome, the very one that is yielded, as it happens."""
    told: list[CaptureOutcome] = []
    async with RecordingServer().listen() as bank, connect(bank) as client:
        yielded = []
        async for outcome in client.capture_many([*debits(50), "no/id"], on_outcome=told.append):
            assert outcome in told
            yielded.append(outcome)

    assert [id(outcome) for outcome in told] == [id(outcome) for outcome in yielded]
    assert len(bank.carried_out) == 50


@pytest.mark.asyncio
async def test_in_order_the_hook_is_told_at_once() -> None:
    """It does not wait for earlier items: what happened is written down when it happens."""
    release = asyncio.Event()
    told: list[CaptureOutcome] = []
    async with RecordingServer(held={"debit_0": release}).listen() as bank, connect(bank) as client:
        taking = asyncio.create_task(take_all(client.capture_many(debits(5), ordered=True, on_outcome=told.append)))
        await until(lambda: len(told) == 4)
        release.set()
        await taking

    assert told[-1].debit_id == "debit_0"
    assert bank.twice == []


@pytest.mark.asyncio
async def test_a_hook_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What `on_outcome` raises is logged, and every outcome is yielded all the same."""

    def broken(outcome: CaptureOutcome) -> None:
        raise LookupError("no database")

    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = await take_all(client.capture_many(debits(3), on_outcome=broken))

    assert len(outcomes) == 3
    assert sorted(record.message for record in caplog.records) == [
        f"on_outcome failed for {debit_id}" for debit_id in debits(3)
    ]
    assert "no database" in caplog.text
    assert bank.twice == []


# --- the admission --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_dead_api_does_not_cost_each_item_its_deadline() -> None:
    """Of 5,000 items a few are tried; the rest is `NotSent`, safe to ask again, and says why."""
    server = Loopback(refuse_to_read=10**9)
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, timeout=0.5, retry=FAST) as client:
            outcomes = await capture(client, debits(5000), concurrency=64)

    assert len(outcomes) == 5000
    assert server.connections < 64 * 3 * 6
    refused = [outcome for outcome in outcomes.values() if "in vain" in str(getattr(outcome, "error", ""))]
    assert len(refused) > 4800
    for outcome in refused:
        assert isinstance(outcome, NotSent)
        assert isinstance(outcome.error, NotSentError)
        assert outcome.error.debit_id == outcome.debit_id
        assert outcome.error.operation == "capture"
        assert isinstance(outcome.error.__cause__, NotSentError | OutcomeUnknownError | ServiceError)


@pytest.mark.asyncio
async def test_a_refused_token_stops_the_batch_at_once() -> None:
    """One 401 says enough: nothing further is asked with that token."""
    bank = RecordingServer(scripts={"capture": [replies(401, FASTAPI[401])] * 100})
    async with bank.listen(), connect(bank) as client:
        outcomes = await capture(client, debits(50), concurrency=1)

    first, *others = outcomes.values()
    assert bank.count("capture") == 1
    assert isinstance(first, Rejected)
    assert isinstance(first.error, AuthenticationError)
    assert {type(other) for other in others} == {NotSent}
    assert all(isinstance(other, NotSent) and other.error.__cause__ is first.error for other in others)


@pytest.mark.asyncio
async def test_overload_slows_the_whole_crew() -> None:
    """When all in shared were answered by 503, only half as many are let in."""
    bank = RecordingServer(responses={debit_id: [work_then(replies(503, HTML))] for debit_id in debits(8)})
    bank.held = {debit_id: asyncio.Event() for debit_id in debits(40)[8:]}
    bank.open.clear()
    async with bank.listen(), connect(bank) as client:
        taking = asyncio.create_task(capture(client, debits(40), concurrency=8))
        await until(lambda: bank.in_flight == 8)
        bank.open.set()
        await until(lambda: len(bank.carried_out) == 8)
        await until(lambda: bank.in_flight >= 4)
        await asyncio.sleep(0.05)
        # The eight were settled by their status: answers, each of which widens the window by a fraction.
        assert 4 <= bank.in_flight < 7
        for held in bank.held.values():
            held.set()
        outcomes = await taking

    assert len(outcomes) == 40
    assert bank.twice == []


@pytest.mark.asyncio
async def test_the_rate_holds_by_the_server_s_count() -> None:
    """At 200 a second, 40 items take at least 39 slots."""
    loop = asyncio.get_running_loop()
    async with RecordingServer().listen() as bank, connect(bank) as client:
        began = loop.time()
        outcomes = [each async for each in client.capture_many(debits(40), rate=200)]
        took = loop.time() - began

    assert len(outcomes) == len(bank.carried_out) == 40
    assert took > 0.19 - 0.02


@pytest.mark.asyncio
async def test_queueing_costs_an_item_none_of_its_time() -> None:
    """The client's timeout counts from an item's start, however long it waits for its turn."""
    async with RecordingServer().listen() as bank, connect(bank, timeout=0.1) as client:
        outcomes = [each async for each in client.capture_many(debits(6), rate=20, concurrency=6)]

    assert [type(outcome) for outcome in outcomes] == [Captured] * 6
    assert len(bank.carried_out) == 6


# --- the caller -------------------------------------------------------------------------------------------------------

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


@pytest.mark.asyncio
async def test_the_caller_s_context_is_there() -> None:
    """Context variables of the caller are seen where the work is done."""
    seen: set[str] = set()

    async def token() -> str:
        seen.add(tenant.get())
        return TOKEN

    async with RecordingServer().listen() as bank:
        async with JetpayClient(token, base_url=bank.url) as client:
            tenant.set("rentals")
            await capture(client, debits(5))

    assert seen == {"rentals"}


@pytest.mark.asyncio
async def test_several_batches_at_once() -> None:
    """Each has its own pool, and debits in both are captured once."""
    async with RecordingServer().listen() as bank, connect(bank) as client:
        release = asyncio.Event()
        bank.held = dict.fromkeys(debits(10), release)
        both = [asyncio.create_task(capture(client, debits(10), concurrency=10)) for _ in range(2)]
        await until(lambda: bank.in_flight == 10)
        await asyncio.sleep(0.01)
        release.set()
        first, second = await asyncio.gather(*both)

    assert set(first) == set(second) == set(debits(10))
    assert bank.twice == []


@pytest.mark.asyncio
async def test_a_client_with_other_options_lends_them() -> None:
    """The timeout of the client that is asked counts for each of its items."""
    bank = RecordingServer(held={"debit_1": asyncio.Event()})
    async with bank.listen(), connect(bank, timeout=60.0) as client:
        outcomes = await capture(client.with_options(timeout=0.2), debits(3))

    assert isinstance(outcomes["debit_0"], Captured)
    assert not isinstance(outcomes["debit_1"], Captured)


@pytest.mark.asyncio
async def test_a_closed_client_says_so_when_it_is_called() -> None:
    """Not only for each item."""
    client = JetpayClient(TOKEN, base_url="http://127.0.0.1:1")
    await client.aclose()

    with pytest.raises(ConfigurationError, match="closed"):
        client.capture_many(debits(3))
    with pytest.raises(ConfigurationError, match="closed"):
        client.preauthorize_many([])


# --- preauthorizations ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_many_preauthorizations() -> None:
    """Each request has its outcome, which holds the debit to be stored; two equal ones are two reservations."""
    told: list[PreauthorizationOutcome] = []
    requests = [*(request(number) for number in range(20)), request(3)]
    async with RecordingServer().listen() as bank, connect(bank) as client:
        outcomes = [each async for each in client.preauthorize_many(requests, concurrency=4, on_outcome=told.append)]

    assert {type(outcome) for outcome in outcomes} == {Preauthorized}
    assert sorted(outcome.debit_id for outcome in outcomes) == sorted(f"debit_of_{r.contact_id}" for r in requests)
    assert all(outcome.debit_id == f"debit_of_{outcome.request.contact_id}" for outcome in outcomes)
    assert bank.preauthorizations == 21
    assert bank.carried_out["contact_3"] == 2
    assert bank.most_in_flight <= 4
    assert told == outcomes


@pytest.mark.asyncio
async def test_each_fate_of_a_preauthorization() -> None:
    """Rejected, impossible, unknown and done are told apart, with the request."""
    impossible = request(2).__class__(
        contact_id="contact_2", credit_card_id="cc", amount="0.001", to_bank_account_id="b", statement="s"
    )
    bank = RecordingServer(
        responses={"contact_1": [replies(402, {"detail": "declined"})], "contact_3": [work_then(loopback.hang_up)]},
    )
    items: list[object] = [request(0), request(1), impossible, request(3), "contact_4"]
    async with bank.listen(), connect(bank) as client:
        outcomes = {repr(each.request): each async for each in client.preauthorize_many(items)}  # type: ignore[arg-type] # as an untyped caller might

    assert [type(outcomes[repr(item)]) for item in items] == [Preauthorized, Rejected, NotSent, Unknown, NotSent]
    odd = outcomes[repr("contact_4")]
    assert isinstance(odd, NotSent)
    assert isinstance(odd.error, InvalidArgumentError)
    assert odd.error.field == "requests"
    assert bank.preauthorizations == 2


@pytest.mark.asyncio
async def test_a_preauthorization_that_is_not_wanted_any_more_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Money is reserved: the log has the debit that nobody took."""
    bank = RecordingServer()
    bank.responses["contact_2"] = [replies(402, {"detail": "declined"})]
    bank.open.clear()
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with bank.listen(), connect(bank) as client:
            outcomes = client.preauthorize_many([request(number) for number in range(3)])
            taking = asyncio.ensure_future(anext(outcomes))
            await until(lambda: bank.in_flight == 3)
            bank.open.set()
            taking.cancel()
            await asyncio.wait([taking])

    messages = sorted(record.message for record in caplog.records)
    assert len(messages) == 3
    assert messages[1] == "preauthorize debit_of_contact_0: Preauthorized, with nobody left to take the outcome"
    assert "reference='order 2'" in messages[0]
    assert "declined" in messages[0]
