"""How long does an import take, and how much does an installation bring along?"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.measuring import CLIENT_CORE, Comparison, Turn, alternate, on_core
from benchmarks.reports import Plan, Report, Table
from benchmarks.serving import Server
from benchmarks.webhooks import JWKS, KID, PRIVATE, body_of
from jetpay_async.webhooks import sign

QUESTION = "What do the import and the installation cost?"
PROCESSES = 3
"""How many a turn takes; the median of them stands."""
WEBHOOKS, JWT = "jetpay_async.webhooks, and its first use", "jwt and cattrs"
CLIENT, AIOHTTP = "jetpay_async, the client", "aiohttp"


def _first_use() -> str:
    """Write the code that verifies and decodes: what a package imports when it is needed belongs to its import."""
    body = body_of(1)
    return (
        f"from jetpay_async import webhooks as w; keys = w.KeySet.from_jwks({JWKS!r});"
        f"w.verify({body!r}, {sign(body, PRIVATE, kid=KID)!r}, keys=keys); w.decode({body!r})"
    )


IMPORTS: Mapping[str, str] = {
    JWT: "import jwt, cattrs",
    WEBHOOKS: _first_use(),
    "jetpay_async.webhooks": "import jetpay_async.webhooks",
    CLIENT: "from jetpay_async import JetpayClient",
    AIOHTTP: "import aiohttp",
    "httpx": "import httpx",
    "joserfc": "from joserfc import jwk, jwt",
    "stripe": "import stripe; stripe.StripeClient",
    "square": "from square import AsyncSquare",
    "mollie": "from mollie import ClientSDK, models",
    "openai": "from openai import AsyncOpenAI",
}
INSTALLATIONS = (
    "jetpay-async",
    "aiohttp",
    "httpx",
    "pyjwt[crypto]",
    "joserfc",
    "authlib",
    "stripe[async]",
    "squareup",
    "mollie-api-py",
    "openai",
    "standardwebhooks",
)
_TIMER = (
    "import resource, time; usage = resource.getrusage(resource.RUSAGE_SELF); before = usage.ru_utime + usage.ru_stime;"
    "at = time.perf_counter(); {code}; wall = time.perf_counter() - at;"
    "usage = resource.getrusage(resource.RUSAGE_SELF); print(usage.ru_utime + usage.ru_stime - before, wall)"
)


def measure(plan: Plan, _: Server) -> Report:
    """Import in fresh processes; add up what is installed with everything that it requires."""
    chosen = {name: IMPORTS[name] for name in (JWT, WEBHOOKS, CLIENT, AIOHTTP)} if plan.quick else IMPORTS
    turns: dict[str, list[Turn]] = {name: [] for name in chosen}
    with on_core(CLIENT_CORE):
        for code in chosen.values():
            _run_once(code)  # for the compiled files
        for name in alternate(list(chosen), plan.rounds):
            turns[name].append(run(chosen[name]))
    imports = Comparison(title="Import, in fresh processes", turns=turns, baseline=JWT)
    tables = [] if plan.quick else [table_of_sizes()]
    return Report(
        question=QUESTION,
        figures={
            "import and use of jetpay_async.webhooks / import jwt, cattrs": imports.ratio(WEBHOOKS, JWT),
            "import of the client / import of aiohttp": imports.ratio(CLIENT, AIOHTTP),
        },
        comparisons=[imports],
        tables=tables,
        notes=["The size of a requirement is counted in full, also where the application has it anyway."],
    )


def run(code: str) -> Turn:
    """Run a statement in fresh processes: in one alone, the kernel's share moves more than what is compared."""
    turns = [_run_once(code) for _ in range(PROCESSES)]
    return Turn(
        operations=1,
        cpu=statistics.median(turn.cpu for turn in turns),
        wall=statistics.median(turn.wall for turn in turns),
    )


def _run_once(code: str) -> Turn:
    timed = [sys.executable, "-c", _TIMER.format(code=code)]
    # Where it is set, nothing that changed is compiled beforehand, and compiling is most of what would be measured.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    used, wall = map(float, subprocess.run(timed, check=True, capture_output=True, text=True, env=env).stdout.split())
    return Turn(operations=1, cpu=used, wall=wall)


def table_of_sizes() -> Table:
    """Show what each installation takes, itself and all in all."""
    rows = []
    for name in INSTALLATIONS:
        required = requirements_of(name)
        own = size_of(Requirement(name).name)
        total = sum(map(size_of, required))
        rows.append((name, f"{own / 1e6:.1f}", f"{total / 1e6:.1f}", str(len(required))))
    return Table(
        title="Installed size, without compiled files",
        columns=("", "itself MB", "with requirements MB", "packages"),
        rows=rows,
    )


def requirements_of(name: str) -> set[str]:
    """Name the distributions that an installation consists of, itself included."""
    found: set[str] = set()
    seen: set[str] = set()
    pending = [name]
    while pending:
        text = pending.pop()
        if text in seen:
            continue
        seen.add(text)
        wanted = Requirement(text)
        found.add(canonicalize_name(wanted.name))
        for line in distribution(wanted.name).requires or ():
            required = Requirement(line)
            extras = wanted.extras or {""}
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in extras):
                brackets = f"[{','.join(sorted(required.extras))}]" if required.extras else ""
                pending.append(required.name + brackets)
    return found


def size_of(name: str) -> int:
    """Bytes of a distribution's files; those of a package installed from its source tree are found by importing."""
    files = [path for path in distribution(name).files or () if path.suffix != ".pyc"]
    size = sum(Path(path.locate()).stat().st_size for path in files if Path(path.locate()).is_file())
    spec = importlib.util.find_spec("jetpay_async") if name == "jetpay-async" else None
    if spec is not None and spec.origin is not None and not any(path.suffix == ".py" for path in files):
        size += sum(
            path.stat().st_size
            for path in Path(spec.origin).parent.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        )
    return size
