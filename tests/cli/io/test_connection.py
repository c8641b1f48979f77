"""How a command reaches the API: directly, through the proxy of the environment, or through the one that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jetpay_async import JetpayClient
from tests.cli.conftest import CommandResult, reserve_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.sandbox import Sandbox

    Jetpay = Callable[..., CommandResult]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies, which is restored afterwards."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        for each in (name, name.upper()):
            monkeypatch.setenv(each, "")
            monkeypatch.delenv(each)


@pytest.fixture
def debit_id(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """A debit of the sandbox, which is to be reached as a proxy of an API that can't be reached directly."""
    (reserved,) = reserve_many(sandbox, 1)
    monkeypatch.setenv("JETPAY_BASE_URL", NOWHERE)
    return reserved


def test_the_proxy_of_the_environment(
    jetpay: Jetpay, sandbox: Sandbox, debit_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that the environment names is used."""
    monkeypatch.setenv("http_proxy", sandbox.url)

    assert jetpay("status", debit_id).out == f"{debit_id}  preauthorized\n"


def test_a_host_that_needs_no_proxy(
    jetpay: Jetpay, sandbox: Sandbox, debit_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that NO_PROXY names is reached directly."""
    monkeypatch.setenv("http_proxy", sandbox.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert jetpay("status", debit_id).status == 3


def test_a_proxy_that_is_given(
    jetpay: Jetpay, sandbox: Sandbox, debit_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--proxy takes the place of what the environment says."""
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert jetpay("capture", debit_id, f"--proxy={sandbox.url}") == CommandResult(0, f"{debit_id}  paid\n", "")


PROXIES = [
    *(
        "proxy.example:3128",
        "https://h:3128",
        "socks5://me:sesame@h",
        "http://",
        "http://h:0",
        "http://h:x",
        "http://[h",
    ),
    *("http://h\x1b[31m", "none"),
]
NO_PROXY = (
    "is not the URL of a proxy, such as http://proxy.example:3128; one that begins with https:// or socks5:// can't be "
    "used\n"
)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_is_none(jetpay: Jetpay, sandbox: Sandbox, proxy: str) -> None:
    """What can't be a proxy is refused, and its password is not shown."""
    run = jetpay("status", "debit_1", f"--proxy={proxy}")

    assert (run.status, run.out, run.err) == (2, "", f"jetpay: argument --proxy: {NO_PROXY}")


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_variable_that_names_none(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """The environment's proxy is neither passed over nor tried for half a minute: nothing is sent."""
    monkeypatch.setenv("http_proxy", proxy)

    run = jetpay("status", "debit_1")

    assert (run.status, run.out, run.err) == (2, "", f"jetpay: HTTP_PROXY: {NO_PROXY}")
    assert sandbox.requests() == 0


def test_the_options_reach_the_client(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """--timeout is the client's; without a proxy the client knows that its connections are direct."""
    given: list[dict[str, object]] = []
    genuine = JetpayClient.from_env

    def from_env(**options: object) -> JetpayClient:
        given.append(options)
        return genuine(**options)  # type: ignore[arg-type] # as given

    monkeypatch.setattr(JetpayClient, "from_env", from_env)

    jetpay("status", "debit_1", "--timeout=7.5")
    jetpay("status", "debit_1")

    assert (given[0]["timeout"], given[0]["trust_env"]) == (7.5, False)
    assert "timeout" not in given[1]


@pytest.mark.parametrize("command", ["preauthorize", "capture", "status", "cancel"])
def test_commands_that_call_the_api_have_them(jetpay: Jetpay, command: str) -> None:
    """Every command that calls the API has both options."""
    shown = jetpay(command, "--help").out

    assert "--proxy URL" in shown
    assert "--timeout SECONDS" in shown
