"""The command line, ``jetpay``. Each command's module is imported when it is run, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from jetpay_async._cli.io.exit_codes import EXIT_STATUSES, ExitStatus, exit_status
from jetpay_async._version import __version__
from jetpay_async.errors import InvalidArgumentError, JetpayError
from jetpay_async.money import to_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    AddParser: TypeAlias = Callable[..., argparse.ArgumentParser]

__all__ = ["main"]

N = TypeVar("N", int, float)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``jetpay``.

    Args:
        argv: The arguments after the program's name; those of the process if None.

    Returns:
        The exit status; ``jetpay --help`` tells what each one means.

    Raises:
        SystemExit: For ``--help``, ``--version``, and arguments that make no sense.
    """
    given = sys.argv[1:] if argv is None else argv
    options = vars(_parser().parse_args(given or ["--help"]))
    module, command = options.pop("command")
    try:
        status: int = getattr(import_module(f"{__name__}.{module}"), command)(**options)
    except JetpayError as error:
        sys.stderr.write(f"jetpay: {error}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        sys.stderr.write("jetpay: interrupted\n")
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        from jetpay_async._cli.io.console import close_stdout  # noqa: PLC0415 - `jetpay --help` has no need of it

        close_stdout()
        return ExitStatus.REFUSED
    return status


_ENVIRONMENT = """\
environment:
  JETPAY_API_TOKEN  the API token, from Jetpay's dashboard or a sandbox
  JETPAY_BASE_URL   where the API is; the production service, if not set

"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jetpay",
        description="Reserve money on saved cards with Jetpay, and take it later: once.",
        epilog=_ENVIRONMENT + EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jetpay-async {__version__}")
    add_parser = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    _add_demo(add_parser)
    _add_sandbox(add_parser)
    _add_preauthorize(add_parser)
    _add_capture(add_parser)
    _add_captures(add_parser)
    _add_status(add_parser)
    _add_cancel(add_parser)
    _add_webhooks(add_parser)
    return parser


def _add(
    add_parser: AddParser, name: str, summary: str, *, run: str, epilog: str = EXIT_STATUSES, usage: str | None = None
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        add_parser: Of the group of commands that it joins.
        name: What the user types.
        summary: One sentence.
        run: Which function, as ``module.name`` below this package; it gets every option as a keyword.
        epilog: What closes its help.
        usage: What opens it, if argparse can't say it.
    """
    parser = add_parser(
        name,
        usage=usage,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module, _, function = run.rpartition(".")
    parser.set_defaults(command=(module, function))
    return parser


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help=f"write {what} as JSON")


def _add_demo(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "demo",
        "charge some hundred cards against a sandbox that loses replies, and check the books",
        run="demo.run.demo",
        epilog=_DEMO_STATUSES,
    )
    parser.add_argument("--count", type=_number(int, 1), default=300, metavar="N", help="cards to charge (%(default)s)")
    parser.add_argument(
        "--concurrency", type=_number(int, 1), default=64, metavar="N", help="calls at a time (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the cards and the faults (%(default)s)")
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="lose nothing, delay nothing")
    _add_json(parser, "the report, and nothing else,")


_DEMO_STATUSES = """\
exit status:
  0    every outcome is accounted for, and nothing was captured twice
  1    an outcome was lost or doubled, by the sandbox's own records
"""


def _add_sandbox(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "sandbox",
        "run the API in miniature on this machine until Ctrl-C, for trying things out",
        run="commands.sandbox.sandbox",
        epilog=_FAULTS,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_number(int, 0, 65535), default=8087, help="the port, 0 for a free one (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of identifiers and faults (%(default)s)")
    parser.add_argument(
        "--latency",
        type=_number(float, 0),
        default=0.0,
        metavar="SECONDS",
        help="before each request is worked on (%(default)s)",
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="FAULT",
        help="switch a fault on, for example 'lose_reply_after route=capture probability=0.05'; may be repeated",
    )
    parser.add_argument(
        "--webhook",
        dest="webhooks",
        action="append",
        default=[],
        metavar="URL",
        help="deliver events there; may be repeated",
    )
    parser.add_argument(
        "--speedup",
        type=_number(float, 1),
        default=60.0,
        metavar="TIMES",
        help="divide the waits between deliveries by this; 1 makes a batch wait for a minute (%(default)s)",
    )


_FAULTS = """\
The kinds of faults, their settings, and the card numbers that mean something are
described in `python -m pydoc jetpay_async.sandbox`.
"""


def _add_preauthorize(add_parser: AddParser) -> None:
    parser = _add(
        add_parser, "preauthorize", "reserve an amount on a saved card", run="commands.operations.preauthorize"
    )
    parser.add_argument("--contact", dest="contact_id", required=True, metavar="ID", help="the payer")
    parser.add_argument(
        "--card", dest="credit_card_id", required=True, metavar="ID", help="a card that is saved on that contact"
    )
    parser.add_argument("--amount", type=_amount, required=True, help="in dollars, with at most two decimals: 100.50")
    parser.add_argument(
        "--to-account", dest="to_bank_account_id", required=True, metavar="ID", help="the merchant's bank account"
    )
    parser.add_argument(
        "--statement", required=True, metavar="TEXT", help="what the payer's bank statement shows, up to 30 characters"
    )
    _add_json(parser, "the outcome")


def _add_capture(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "capture",
        "take the full amount of preauthorized debits",
        run="commands.capture.capture",
        usage="""%(prog)s DEBIT_ID [DEBIT_ID ...] [--json]
       %(prog)s FILE|- --ledger LEDGER --batch NAME [--concurrency N] [--rate N]
                      [--dry-run] [--json] [--out FILE]""",
        epilog=_FILES + EXIT_STATUSES + _BATCH_STATUSES,
    )
    parser.add_argument(
        "debits",
        nargs="+",
        metavar="DEBIT_ID|FILE|-",
        help="from preauthorize, several are taken one after the other; with --ledger a file of them, or - for stdin",
    )
    parser.add_argument(
        "--ledger",
        metavar="LEDGER",
        help="where every intent and outcome is remembered: a file on a local disk, made if absent, or a postgresql:// "
        "URL (leave its password to ~/.pgpass)",
    )
    parser.add_argument(
        "--batch", metavar="NAME", help="names the list of debits; the same name with the same list goes on with it"
    )
    parser.add_argument("--concurrency", type=_number(int, 1), metavar="N", help="captures at a time (64)")
    parser.add_argument(
        "--rate", type=_number(float, 0.001), metavar="N", help="captures a second, of all processes on the ledger"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="read the file, say what would be done, and do none of it; no token"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write every outcome of the batch there once it is complete: CSV, or JSON lines if the name ends in "
        ".jsonl; - is stdout",
    )
    _add_json(parser, "the outcome of each debit, or the progress and the report of a batch, on a line of its own,")


_FILES = """\
A file is CSV (a header with a debit_id column, or a single column; comma,
semicolon or tab), JSON lines (strings, or objects with a debit_id), or has one id
a line; the ending .csv, .tsv, .jsonl, .ndjson or .json tells, or else the first
line. All of it is checked before anything is sent. A batch survives Ctrl-C,
kill -9 and power cuts: the same command again goes on, and takes nothing twice.

"""

_BATCH_STATUSES = """\
Of a batch:
  0    complete, and every debit was captured
  1    complete, and some were rejected
  2    a wrong argument, file, ledger or configuration; nothing was sent
  3    stopped before its end, for the reason it says; the same command goes on
  4    complete, and what became of some is UNKNOWN; the same command looks again
  130  stopped by Ctrl-C or SIGTERM; the same command goes on
"""


def _add_captures(add_parser: AddParser) -> None:
    captures = add_parser(
        "captures",
        help="look into a ledger of captures, and correct it",
        description="Look into a ledger of captures, and correct it. No token is needed, and nothing is sent.",
    )
    add_nested = captures.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    parser = _add_ledger(add_nested, "status", "tell how far the batches are", run="commands.captures.status")
    _add_json(parser, "each batch, on a line of its own,")

    parser = _add_ledger(
        add_nested, "list", "tell which debits were rejected or are unknown", run="commands.captures.list_items"
    )
    _add_state(parser, "only those in this state; may be repeated (rejected and unknown)")
    _add_json(parser, "all that is known of each, on a line of its own,")

    parser = _add_ledger(add_nested, "export", "write all that is known of every debit", run="commands.captures.export")
    _add_state(parser, "only those in this state; may be repeated (all)")
    parser.add_argument(
        "--out", default="-", metavar="FILE", help="CSV, or JSON lines if the name ends in .jsonl; - is stdout (-)"
    )
    _add_json(parser, "JSON lines, whatever the name:")

    parser = _add_ledger(
        add_nested,
        "retry-rejected",
        "have the rejected debits of a batch tried again by its next run",
        run="commands.captures.retry_rejected",
        required=True,
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    _add_json(parser, "how many there were")


def _add_ledger(
    add_parser: AddParser, name: str, summary: str, *, run: str, required: bool = False
) -> argparse.ArgumentParser:
    parser = _add(add_parser, name, summary, run=run, epilog=_LEDGER_STATUSES)
    parser.add_argument(
        "--ledger", required=True, metavar="LEDGER", help="a file that `jetpay capture` made, or a postgresql:// URL"
    )
    parser.add_argument("--batch", required=required, metavar="NAME", help="of one batch" if required else "one only")
    return parser


def _add_state(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument(
        "--state", dest="states", action="append", default=[], choices=_STATES, metavar="STATE", help=summary
    )


_STATES = ("pending", "sending", "captured", "rejected", "unknown")

_LEDGER_STATUSES = """\
exit status:
  0    done
  2    a wrong argument, or a ledger that is absent or can't be used
  130  interrupted, or answered with no; nothing was changed
"""


def _add_status(add_parser: AddParser) -> None:
    parser = _add(add_parser, "status", "tell where a transaction stands", run="commands.operations.status")
    parser.add_argument("identifier", metavar="ID", help="of a transaction; a debit's is its transaction's")
    _add_json(parser, "it")


def _add_cancel(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "cancel",
        "cancel a transaction of which no funds have been pulled yet",
        run="commands.operations.cancel",
    )
    parser.add_argument("identifier", metavar="ID", help="of a transaction; a debit's is its transaction's")
    _add_json(parser, "the outcome")


def _add_webhooks(add_parser: AddParser) -> None:
    webhooks = add_parser("webhooks", help="look into webhook deliveries", description="Look into deliveries.")
    add_nested = webhooks.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    parser = _add(
        add_nested,
        "explain",
        "say why a delivery verifies or does not, without showing any of it",
        run="commands.webhooks.explain",
        epilog=_EXPLAIN_STATUSES,
    )
    parser.add_argument(
        "--body", required=True, metavar="FILE", help="the raw bytes of the request's body; - reads them from stdin"
    )
    parser.add_argument(
        "--authorization",
        required=True,
        metavar="VALUE",
        help="the value of the Authorization header; @FILE reads it from a file, out of sight of other users' ps",
    )
    parser.add_argument(
        "--jwks", required=True, metavar="FILE|URL", help="the key set: a file, or where Jetpay publishes it"
    )
    parser.add_argument(
        "--now",
        type=_moment,
        metavar="TIME",
        help="judge as of this moment: seconds since the epoch or ISO 8601, UTC unless it has an offset",
    )
    _add_json(parser, "the answer")


_EXPLAIN_STATUSES = """\
exit status:
  0    it verifies
  1    it does not
  2    an argument is wrong
  3    there are no keys to check with
"""


def _number(kind: Callable[[str], N], least: N, most: float = sys.float_info.max) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number that fits")
        return number

    return read


def _amount(text: str) -> Decimal:
    try:
        return to_amount(text)
    except InvalidArgumentError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no amount in dollars with at most two decimals, such as 100.50"
        ) from None


def _moment(text: str) -> float:
    try:
        moment = datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no time, such as 2026-01-22T10:15:30Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
