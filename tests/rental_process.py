"""One process of the documentation's rental shop, to be killed. Its arguments are its port and the settings as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvicorn

from jetpay_async import RetryPolicy

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from rental.app import create_app
from rental.payments import Settings

if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    settings = Settings(
        webhook_ids=frozenset({1}),
        retry=RetryPolicy(base_delay=0.02, resolve_after=0.2, resolve_after_timeout=0.2),
        lease_seconds=1.5,
        **options,
    )
    uvicorn.run(create_app(settings), host="127.0.0.1", port=int(sys.argv[1]), log_config=None)
