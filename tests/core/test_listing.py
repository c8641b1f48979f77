"""What the list of webhooks proves about a registration without an answer, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    ServiceError,
    Webhook,
)
from jetpay_async._core import account_operations, webhook_operations
from jetpay_async._core.execution import Options
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.responses import Unanswered
from tests.core.scripted import POLICY, START, ScriptedService, Sent, answer, executor, lost, response
from tests.guide import CALLBACK_URL
from tests.loopback import FASTAPI, WEBHOOK

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.send_guard import SendGuard


@attrs.define
class WebhookService(ScriptedService):
    """Registers webhooks, and lists them."""

    registered: list[dict[str, object]] = attrs.Factory(list)

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        """Play the next act for the method, or do as the guide says."""
        assert path.startswith(("/webhooks/", "/contact"))
        if guard is not None:
            guard.begin(None)
        self.sent.append(Sent(method, self.now, within))
        script = self.scripts.get(method)
        act = script.pop(0) if script else act_as_the_guide
        result = act(self, self.sent[-1])
        if guard is not None:
            guard.complete()
        return result


def act_as_the_guide(service: ScriptedService, sent: Sent) -> RawResponse:
    assert isinstance(service, WebhookService)
    if sent.route == "POST":
        service.registered.append(WEBHOOK)
        return response(200, WEBHOOK)
    return response(200, service.registered, left_at=sent.at)


def listed(*webhooks: object, left_at: float | None = START, age: float = 0.0) -> Callable[..., RawResponse]:
    """Answer a read of the list, on a request that left at this time."""
    return lambda _, __: response(200, list(webhooks), left_at=left_at, age=age)


DIRECT = lost(ResolveBound.DIRECT)
DUPLICATE = answer(422, FASTAPI[422])
unlisted = answer(503, {"detail": "no"})


def not_sent(_: ScriptedService, __: Sent) -> RawResponse:
    raise Unanswered("no connection", started=False)


async def register(service: WebhookService, *, timeout: float = 100.0, max_attempts: int = 3) -> Any:
    """Register a webhook."""
    client = executor(service)
    call = webhook_operations.register_webhook(
        CALLBACK_URL, callback_api_key=None, max_batch_size=10, max_wait_seconds=60, replay_from=None
    )
    policy = attrs.evolve(POLICY, max_attempts=max_attempts)
    return await client.execute(client.begin(call, Options(timeout, policy)))


@pytest.mark.asyncio
async def test_a_webhook_in_the_list_was_registered() -> None:
    """What is there is believed at once, and says how it was learnt."""
    service = WebhookService(scripts={"POST": [lost()]}, registered=[WEBHOOK])

    found = await register(service)

    assert isinstance(found, Webhook)
    assert (found.confirmed_by_list, found.attempts, found.id) == (True, 1, 123)
    assert [sent.route for sent in service.sent] == ["POST", "GET"]


@pytest.mark.parametrize(("bound", "seconds"), [(ResolveBound.DIRECT, 5.0), (ResolveBound.TIMEOUT, 60.0)])
@pytest.mark.asyncio
async def test_a_webhook_is_absent_only_once_the_request_cannot_arrive(bound: ResolveBound, seconds: float) -> None:
    """It is registered again when the bound has passed, and no sooner."""
    service = WebhookService(scripts={"POST": [lost(bound)]})

    made = await register(service)

    posts = [sent.at for sent in service.sent if sent.route == "POST"]
    assert (made.confirmed_by_list, made.attempts) == (False, 2)
    assert posts == [START, pytest.approx(START + seconds)]
    assert len(service.registered) == 1


@pytest.mark.parametrize(
    "stale", [listed(left_at=None), listed(left_at=START + 70, age=60.0)], ids=["from this process", "from a cache"]
)
@pytest.mark.asyncio
async def test_a_list_from_memory_does_not_prove_absence(stale: Any) -> None:
    """Only a read that went out, less the time that its reply spent in caches, counts."""
    service = WebhookService(scripts={"POST": [lost()], "GET": [stale] * 100})

    with pytest.raises(OutcomeUnknownError) as caught:
        await register(service)

    assert caught.value.moves_money is False
    assert "ensure_webhook()" in caught.value.next_step
    assert service.count("POST") == 1


@pytest.mark.asyncio
async def test_other_settings_are_an_error() -> None:
    """A webhook that is not the one asked for is not passed off as it."""
    service = WebhookService(scripts={"POST": [lost()]}, registered=[{**WEBHOOK, "max_batch_size": 50}])

    with pytest.raises(ConflictError, match="another max_batch_size: its identifier is webhook_123"):
        await register(service)


@pytest.mark.parametrize("act", [unlisted, answer(429, FASTAPI[429]), not_sent], ids=["503", "429", "no connection"])
@pytest.mark.asyncio
async def test_a_list_that_fails_is_read_again(act: Any) -> None:
    """A momentary failure of the list ends nothing."""
    service = WebhookService(scripts={"POST": [DIRECT], "GET": [act, act]}, registered=[WEBHOOK])

    assert (await register(service)).confirmed_by_list


@pytest.mark.asyncio
async def test_a_list_that_must_not_be_read_leaves_it_unknown() -> None:
    """A lasting obstacle is named."""
    service = WebhookService(scripts={"POST": [DIRECT], "GET": [answer(401, FASTAPI[401])]})

    with pytest.raises(OutcomeUnknownError, match="the list can't be read") as caught:
        await register(service)

    assert isinstance(caught.value.__cause__, AuthenticationError)


@pytest.mark.asyncio
async def test_it_is_unknown_at_the_deadline() -> None:
    """Where the bound lies beyond the deadline, nothing is sent again."""
    service = WebhookService(scripts={"POST": [lost()]})

    with pytest.raises(OutcomeUnknownError):
        await register(service, timeout=30.0)

    assert service.count("POST") == 1
    assert service.now <= START + 30


@pytest.mark.asyncio
async def test_the_attempts_are_limited() -> None:
    """When the last attempt is proven not carried out, calling again is safe."""
    service = WebhookService(scripts={"POST": [DIRECT, DIRECT]})

    with pytest.raises(ServiceError, match="the list does not have it; calling again is safe"):
        await register(service, max_attempts=2)

    assert service.count("POST") == 2


@pytest.mark.asyncio
async def test_a_duplicate_at_once_is_an_error() -> None:
    """A rejection of the first request is the API's answer: nothing of ours can have made the webhook."""
    service = WebhookService(scripts={"POST": [DUPLICATE]}, registered=[WEBHOOK])

    with pytest.raises(InvalidRequestError):
        await register(service)

    assert [sent.route for sent in service.sent] == ["POST"]


@pytest.mark.asyncio
async def test_a_duplicate_after_no_answer_may_be_ours() -> None:
    """A rejection that follows a lost request is checked against the list."""
    ours = WebhookService(
        scripts={"POST": [DIRECT, DUPLICATE], "GET": [listed(left_at=START + 5), listed(WEBHOOK, left_at=START + 6)]}
    )
    foreign = WebhookService(scripts={"POST": [DIRECT, DUPLICATE]})
    unreadable = WebhookService(
        scripts={
            "POST": [DIRECT, DUPLICATE],
            "GET": [listed(left_at=START + 5), answer(403, FASTAPI[403])],
        }
    )
    token = WebhookService(scripts={"POST": [DIRECT, answer(401, FASTAPI[401])]})

    assert (await register(ours)).confirmed_by_list
    with pytest.raises(InvalidRequestError):
        await register(foreign)
    with pytest.raises(AuthenticationError):
        await register(token)
    with pytest.raises(OutcomeUnknownError, match="the list can't be read"):
        await register(unreadable)


@pytest.mark.asyncio
async def test_a_removal_that_finds_nothing_at_once_is_an_error() -> None:
    """A 404 is success only after a request without an answer, and only for a removal."""
    service = WebhookService(
        scripts={"DELETE": [answer(404, FASTAPI[404])], "PATCH": [DIRECT, answer(404, FASTAPI[404])]}
    )
    client = executor(service)

    for call in (
        webhook_operations.remove_webhook("webhook_123"),
        webhook_operations.replay_webhook("webhook_123", replay_from=1),
    ):
        with pytest.raises(NotFoundError):
            await client.execute(client.begin(call, Options(10.0, POLICY)))  # type: ignore[arg-type, misc] # of any


@pytest.mark.asyncio
async def test_a_contact_that_was_lost_once_stays_unknown() -> None:
    """Where a harmless request is sent again and then can't leave, the first one may still have been carried out."""
    service = WebhookService(scripts={"PUT": [DIRECT, not_sent, not_sent]})
    client = executor(service)
    call = account_operations.create_contact(email="a@example.com", name="A", tags=(), language="en")

    with pytest.raises(OutcomeUnknownError) as caught:
        await client.execute(client.begin(call, Options(100.0, attrs.evolve(POLICY, resend_harmless=True))))

    assert (caught.value.attempts, caught.value.moves_money) == (3, False)
