"""What measures the sandbox's speed makes the calls that it says it makes."""

from __future__ import annotations

import sys

import pytest

from benchmarks import sandbox as benchmark
from jetpay_async.sandbox import Sandbox


@pytest.mark.asyncio
async def test_each_call_is_made_as_often_as_it_is_counted() -> None:
    """So many debits are preauthorized, read and captured, and none is refused."""
    async with Sandbox(api_token=benchmark.TOKEN) as sandbox:
        rates = await benchmark.measure(sandbox.url, 20)

        assert [(rate.name, rate.calls) for rate in rates] == [("preauthorize", 20), ("status", 20), ("capture", 20)]
        assert all(rate.per_second > 0 for rate in rates)
        assert [sandbox.requests(rate.name) for rate in rates] == [20, 20, 20]
        assert {debit.captures for debit in sandbox.debits} == {1}


@pytest.mark.asyncio
async def test_a_refused_call_is_no_call() -> None:
    """A call that is not carried out ends the measurement."""
    async with Sandbox() as sandbox:
        with pytest.raises(ExceptionGroup) as raised:
            await benchmark.measure(sandbox.url, 1)

    assert "401" in str(raised.value.exceptions[0])


def test_it_measures_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`jetpay sandbox` is what is measured, by the wall clock and by the processor's, in a process that has ended."""
    monkeypatch.setattr(sys, "argv", ["benchmark", "--calls", "5"])

    benchmark.main()

    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["preauthorize", "status", "capture", "together", "processor"]
