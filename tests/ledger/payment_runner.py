"""A process that reserves an amount for each of many references, to be killed.

Its argument is JSON. It asks for every reference, in an order of its own, until each is reserved or unknown; or it
submits all of them as a batch, until that is complete.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from jetpay_async import JetpayClient, NotSentError, OutcomeUnknownError, PreauthorizationRequest
from tests.ledger.payment_service import FAST, REQUEST


async def main(*, ledger: str, url: str, count: int, seed: int, concurrency: int, bulk: bool) -> None:
    references = [f"booking {number}" for number in range(count)]
    random.Random(seed).shuffle(references)
    left = iter(references)

    async with (
        JetpayClient("token", base_url=url, timeout=20.0, retry=FAST) as client,
        client.durable_preauthorizations(ledger, lease_seconds=3.0, concurrency=concurrency) as reservations,
    ):
        if bulk:
            requests = (
                PreauthorizationRequest(**{**REQUEST, "statement": reference}, reference=reference)
                for reference in left
            )
            batch = await reservations.submit("night", requests)
            await batch.wait()
            assert len({outcome.request.reference async for outcome in batch.outcomes()}) == count
            return

        async def work() -> None:
            for reference in left:
                request: dict[str, Any] = {**REQUEST, "statement": reference}
                while True:
                    try:
                        await reservations.preauthorize(reference=reference, **request)
                    except OutcomeUnknownError:
                        pass
                    except NotSentError:
                        continue
                    break

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
