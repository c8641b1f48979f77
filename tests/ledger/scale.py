"""How much the tests of this folder do.

Little by default, so that they fit into every run. The full size is
``JETPAY_TEST_DEBITS=5000 JETPAY_TEST_KILLS=20 JETPAY_TEST_SLOWEST=3``; ``JETPAY_TEST_MILLION=1`` adds a batch of a
million. ``--log-cli-level=INFO`` shows what was done and how it went.
"""

from __future__ import annotations

import os
from typing import Any

DEBITS = int(os.environ.get("JETPAY_TEST_DEBITS", "400"))
KILLS = int(os.environ.get("JETPAY_TEST_KILLS", "4"))
SLOWEST_SECONDS = float(os.environ.get("JETPAY_TEST_SLOWEST", "0.4"))
"""Seconds that a capture takes at most."""
MILLION = "JETPAY_TEST_MILLION" in os.environ

RESPONSE_TIMEOUT_SECONDS = max(0.9, 1.5 * SLOWEST_SECONDS)
"""Seconds after which a capture that is not answered is given up: more than any takes."""

TIMES: dict[str, Any] = {"timeout": RESPONSE_TIMEOUT_SECONDS * 1.5, "resolve_after": SLOWEST_SECONDS * 1.2}
"""Of a runner: two thirds of its timeout are for the response. A request that leaves shortly before the deadline is
given up soon, so the time to resolve after is longer than any capture takes."""

LIFELIKE: dict[str, Any] = {"latency": 0.005, "slow": 0.1, "slowest": SLOWEST_SECONDS, "silent": 1 / 200}
"""Of the API: mostly quick, sometimes slow, and one response in 200 never comes."""

TIME_LIMIT_SECONDS = 60 + DEBITS / 10 + KILLS * (2 + RESPONSE_TIMEOUT_SECONDS * 2)
"""Seconds for one test, on a busy machine."""
