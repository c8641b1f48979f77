"""Streams captures and says what that did to its memory: ``python -m tests.batch.streaming URL COUNT...``.

After each batch it prints the most memory that the process has had so far, in bytes, as a line of JSON with the number
of outcomes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

from jetpay_async import Captured, JetpayClient


async def main(url: str, counts: list[int]) -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    async with JetpayClient("token", base_url=url) as client:
        for count in counts:
            captured = 0
            ids = (f"debit_{count}_{number}" for number in range(count))
            async for outcome in client.capture_many(ids, concurrency=64):
                captured += isinstance(outcome, Captured)
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
            print(json.dumps({"captured": captured, "memory": most}), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(count) for count in sys.argv[2:]]))
