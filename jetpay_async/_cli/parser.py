"""The arguments of every command. Only the standard library is imported: ``--help`` is quick."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from jetpay_async._cli import dispatch
from jetpay_async._cli.examples import add_examples
from jetpay_async._cli.guide_parser import GuideCommands
from jetpay_async._cli.io.console import write_lines, write_usage
from jetpay_async._cli.io.exit_codes import EXIT_STATUSES
from jetpay_async._cli.trigger_parser import add_triggers
from jetpay_async._cli.unresolved_parser import add_unresolved
from jetpay_async._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from _typeshed import SupportsWrite

    AddParser: TypeAlias = Callable[..., argparse.ArgumentParser]

__all__ = ["build_parser"]

N = TypeVar("N", int, float)

_ENVIRONMENT = """\
environment:
  JETPAY_API_TOKEN  the API token, from Jetpay's dashboard or a sandbox
  JETPAY_BASE_URL   the URL of the API; the production service if not set
  HTTPS_PROXY       the http:// URL of a proxy, for hosts that NO_PROXY does not name

"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; it sets ``command`` to the function to call."""
    parser = _Parser(
        prog="jetpay",
        description="Preauthorize amounts on saved cards with Jetpay, and capture them later, exactly once.",
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
    add_unresolved(
        add_parser,
        add_ledger=_add_whole_ledger,
        add_json=_add_json,
        add_connection=_add_connection,
        seconds=_number(float, 0.001),
    )
    _add_status(add_parser)
    _add_cancel(add_parser)
    guide = GuideCommands(add=_add, add_common=_add_common, amount=_amount, timestamp=_timestamp)
    guide.add_to(add_parser)
    _add_webhooks(add_parser, guide)
    _add_completion(add_parser, parser)
    add_examples(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """Writes as commands do: a stdout that can't be written shows in the exit status."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout:
            write_lines(message)
        else:
            write_usage(message)


def _add(
    add_parser: AddParser,
    name: str,
    summary: str,
    *,
    run: Callable[..., int],
    epilog: str = EXIT_STATUSES,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        add_parser: Of the group of commands that it joins.
        name: What the user types.
        summary: One sentence.
        run: Called with every option as a keyword.
        epilog: The end of its help.
        usage: The beginning of its help, if argparse can't write it.
    """
    parser = add_parser(
        name,
        usage=usage,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    log = parser.add_argument_group("log, on stderr")
    log.add_argument(
        "-v", "--verbose", dest="verbosity", action="count", default=0, help="log what is retried; -vv everything"
    )
    log.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="log this and what is graver")
    log.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: records, and all messages, are objects, one per line (text)",
    )
    return parser


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help=f"write {what} as JSON")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=_number(float, 0.001), metavar="SECONDS", help="for each operation, its retries included (30)"
    )
    parser.add_argument("--proxy", metavar="URL", help="send every request through this proxy (HTTPS_PROXY)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_connection(parser)
    _add_json(parser, "the outcome")


def _add_raw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--raw", action="store_true", help="in CSV, put no apostrophe before cells that a spreadsheet would run"
    )


def _add_demo(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "demo",
        "charge some hundred cards against a sandbox that loses replies, and check its records",
        run=dispatch.demo,
        epilog=_DEMO_STATUSES,
    )
    parser.add_argument("--count", type=_number(int, 1), default=300, metavar="N", help="cards to charge (%(default)s)")
    parser.add_argument(
        "--concurrency", type=_number(int, 1), default=64, metavar="N", help="calls at a time (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="random seed of the cards and the faults (%(default)s)"
    )
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="lose and delay no reply")
    _add_json(parser, "only the report,")


_DEMO_STATUSES = """\
exit status:
  0    every outcome is accounted for, and nothing was captured twice
  1    an outcome was lost or duplicated, according to the sandbox's records
  74   done, but stdout could not be written
  130  interrupted
"""


def _add_sandbox(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "sandbox",
        "run a simulation of the API on this machine until Ctrl-C",
        run=dispatch.sandbox,
        epilog=_FAULTS,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_number(int, 0, 65535), default=8087, help="the port, 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of identifiers and faults (%(default)s)"
    )
    parser.add_argument(
        "--latency",
        type=_number(float, 0),
        default=0.0,
        metavar="SECONDS",
        help="delay before each request is processed (%(default)s)",
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="FAULT",
        help="inject a fault, for example 'lose_reply_after route=capture probability=0.05'; may be repeated",
    )
    parser.add_argument("--list-faults", action="store_true", help="explain every fault and card number, and end")
    parser.add_argument(
        "--webhook",
        dest="webhooks",
        action="append",
        default=[],
        metavar="URL",
        help="deliver events to this URL; may be repeated",
    )
    parser.add_argument(
        "--speedup",
        type=_number(float, 1),
        default=60.0,
        metavar="FACTOR",
        help="divide the waits between deliveries by this; with 1 a batch waits for a minute (%(default)s)",
    )
    _add_sandbox_access(parser)
    _add_sandbox_files(parser)


def _add_sandbox_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--public-url", metavar="URL", help="where others reach it, for links: http://sandbox:8087 between containers"
    )
    parser.add_argument(
        "--allow-host",
        dest="allowed_hosts",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests for this name, too, or * for all; may be repeated",
    )
    parser.add_argument(
        "--allow-callbacks",
        dest="callback_hosts",
        action="append",
        default=[],
        metavar="HOST|CIDR",
        help="deliver webhooks to this host or network, too, or * for all; may be repeated",
    )
    parser.add_argument(
        "--token", metavar="TOKEN", help="the API token, which begins with jetpay_sandbox_; a random one if left out"
    )


def _add_sandbox_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="keep the state in this file; if it exists, --scenario, --fault and --webhook don't apply",
    )
    parser.add_argument("--scenario", metavar="FILE", help="start with the payers, faults and webhooks of a TOML file")


_FAULTS = """\
--list-faults explains the kinds of faults, their settings, and the card numbers
with a special meaning.

exit status:
  0    stopped by SIGTERM
  2    an option or a file is not valid, or the address can't be listened on
  130  stopped by Ctrl-C or SIGHUP
"""


def _add_preauthorize(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "preauthorize",
        "reserve an amount on a saved card",
        run=dispatch.preauthorize,
        usage="""%(prog)s --contact ID --card ID --amount AMOUNT --to-account ID
                           --statement TEXT [--timeout SECONDS] [--proxy URL]
                           [--json]
       %(prog)s FILE|- --ledger LEDGER --batch NAME [--concurrency N]
                           [--rate N] [--restored] [--account LABEL]
                           [--accept-rejections] [--timeout SECONDS]
                           [--proxy URL] [--dry-run] [--json] [--out FILE]
                           [--raw]
       both forms: [-v] [--log-level LEVEL] [--log-format text|json]""",
        epilog=_REQUEST_FILES + EXIT_STATUSES + _REQUEST_STATUSES,
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="FILE|-",
        help="with --ledger: many of them, each with its reference; or - for stdin",
    )
    parser.add_argument("--contact", dest="contact_id", metavar="ID", help="the payer")
    parser.add_argument("--card", dest="credit_card_id", metavar="ID", help="a card that is saved on that contact")
    parser.add_argument("--amount", type=_amount, help="in dollars, with at most two decimals: 100.50")
    parser.add_argument("--to-account", dest="to_bank_account_id", metavar="ID", help="the merchant's bank account")
    parser.add_argument(
        "--statement", metavar="TEXT", help="what the payer's bank statement shows, up to 30 characters"
    )
    parser.add_argument(
        "--ledger",
        metavar="LEDGER",
        help="where every intent and outcome is recorded: a file on a local disk, created if absent, or a "
        "postgresql:// URL (keep its password in ~/.pgpass)",
    )
    parser.add_argument(
        "--batch", metavar="NAME", help="the name of the batch; the same name with the same requests continues it"
    )
    parser.add_argument("--concurrency", type=_number(int, 1), metavar="N", help="requests at a time (64)")
    parser.add_argument(
        "--rate", type=_number(float, 0.001), metavar="N", help="requests per second, of all processes on the ledger"
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="the ledger was restored from a backup or an older replica: send nothing, record the rest as unknown",
    )
    parser.add_argument(
        "--account", metavar="LABEL", help="a label of your account, not the token; a ledger of another one is refused"
    )
    parser.add_argument(
        "--accept-rejections",
        action="store_true",
        help="do not stop when the first requests are all answered by 403 or 404, as for a wrong account",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read the file and report what would be done; send nothing, need no token",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write every payment of the batch, beside the further columns of the list, to this file once it is "
        "complete: CSV, or JSON lines if the name ends in .jsonl; - is stdout",
    )
    _add_raw(parser)
    _add_connection(parser)
    _add_json(parser, "the outcome, or the report of a batch,")


_REQUEST_FILES = """\
A file is CSV with a header, JSON lines or one JSON array of objects, with the
columns reference, contact, card, amount, to_account and statement. A reference is
yours, such as a booking's id, and is one reservation in this ledger. UTF-8 or
UTF-16, also gzipped. All of it is checked before anything is sent. A batch
survives Ctrl-C, kill -9 and power cuts: the same command continues it, and
reserves nothing twice.

"""

_REQUEST_STATUSES = """\
Of a batch:
  0    complete, and every amount was reserved
  1    complete, and some were rejected
  2    an invalid argument, file, ledger or configuration; nothing was sent
  3    stopped before its end, for the reason shown; the same command continues
  4    complete, but the outcome of some is UNKNOWN: jetpay unresolved list
  5    complete, but some were only accepted; events report how they end
  130  stopped by Ctrl-C, SIGTERM or SIGHUP; the same command continues
"""


def _add_capture(add_parser: AddParser) -> None:
    parser = _add(
        add_parser,
        "capture",
        "capture the full amount of preauthorized debits",
        run=dispatch.capture,
        usage="""%(prog)s DEBIT_ID [DEBIT_ID ...] [--timeout SECONDS] [--proxy URL]
                      [--json]
       %(prog)s FILE|- --ledger LEDGER --batch NAME [--column NAME]
                      [--concurrency N] [--rate N] [--restored]
                      [--account LABEL] [--accept-rejections]
                      [--timeout SECONDS] [--proxy URL] [--dry-run] [--json]
                      [--out FILE] [--raw]
       both forms: [-v] [--log-level LEVEL] [--log-format text|json]""",
        epilog=_FILES + EXIT_STATUSES + _BATCH_STATUSES,
    )
    parser.add_argument(
        "debits",
        nargs="+",
        metavar="DEBIT_ID|FILE|-",
        help="from preauthorize, captured one after the other; with --ledger a file of them, or - for stdin",
    )
    parser.add_argument(
        "--ledger",
        metavar="LEDGER",
        help="where every intent and outcome is recorded: a file on a local disk, created if absent, or a "
        "postgresql:// URL (keep its password in ~/.pgpass)",
    )
    parser.add_argument(
        "--batch", metavar="NAME", help="the name of the batch; the same name with the same debits continues it"
    )
    parser.add_argument("--column", metavar="NAME", help="the column, or the JSON key, of the debit ids (debit_id)")
    parser.add_argument("--concurrency", type=_number(int, 1), metavar="N", help="captures at a time (64)")
    parser.add_argument(
        "--rate", type=_number(float, 0.001), metavar="N", help="captures per second, of all processes on the ledger"
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="the ledger was restored from a backup or an older replica: read each debit's status before sending",
    )
    parser.add_argument(
        "--account", metavar="LABEL", help="a label of your account, not the token; a ledger of another one is refused"
    )
    parser.add_argument(
        "--accept-rejections",
        action="store_true",
        help="do not stop when the first captures are all answered by 403 or 404, as for a wrong account",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read the file and report what would be done; send nothing, need no token",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="write every outcome of the batch, beside the other columns of the list, to this file once it is "
        "complete: CSV, or JSON lines if the name ends in .jsonl; - is stdout",
    )
    _add_raw(parser)
    _add_connection(parser)
    _add_json(parser, "the outcome of each debit, or the progress and the report of a batch, one per line,")


_FILES = """\
A file is CSV (a header with a debit_id column, or a single column; comma,
semicolon or tab), JSON lines or one JSON array (strings, or objects with a
debit_id), or has one id per line. The ending .csv, .tsv, .jsonl, .ndjson or .json
decides, otherwise the first line. UTF-8 or UTF-16, also gzipped. All of it is
checked before anything is sent. A batch survives Ctrl-C, kill -9 and power cuts:
the same command continues it, and captures nothing twice.

"""

_BATCH_STATUSES = """\
Of a batch:
  0    complete, and every debit was captured
  1    complete, and some were rejected
  2    an invalid argument, file, ledger or configuration; nothing was sent
  3    stopped before its end, for the reason shown; the same command continues
  4    complete, but the outcome of some is UNKNOWN; the same command checks again
  5    complete, but some were only accepted; the same command checks again
  130  stopped by Ctrl-C, SIGTERM or SIGHUP; the same command continues
"""


def _add_captures(add_parser: AddParser) -> None:
    captures = add_parser(
        "captures",
        help="inspect and repair a capture ledger",
        description="Inspect and repair a capture ledger. Nothing is captured, and only `resolve` needs a token.",
    )
    add_nested = captures.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    parser = _add_ledger(add_nested, "status", "show the progress of the batches", run=dispatch.captures_status)
    _add_json(parser, "each batch, one per line,")

    parser = _add_ledger(
        add_nested, "list", "list the debits that were rejected or are unknown", run=dispatch.captures_list
    )
    _add_state(parser, "only those in this state; may be repeated (rejected and unknown)")
    _add_json(parser, "everything that is known of each, one per line,")

    parser = _add_ledger(
        add_nested, "export", "write everything that is known of every debit", run=dispatch.captures_export
    )
    _add_state(parser, "only those in this state; may be repeated (all)")
    parser.add_argument(
        "--out", default="-", metavar="FILE", help="CSV, or JSON lines if the name ends in .jsonl; - is stdout (-)"
    )
    _add_raw(parser)
    _add_json(parser, "JSON lines, whatever the name:")

    parser = _add_ledger(
        add_nested,
        "retry-rejected",
        "return the rejected debits of a batch to pending; its next run tries them again",
        run=dispatch.captures_retry_rejected,
        required=True,
    )
    _add_yes(parser)
    _add_json(parser, "their number")

    parser = _add_ledger(
        add_nested,
        "resolve",
        "read the status of accepted and unknown debits, and record what it says; nothing is sent",
        run=dispatch.captures_resolve,
        epilog=_RESOLVE_STATUSES,
    )
    parser.add_argument(
        "--account", metavar="LABEL", help="a label of your account; a ledger of another one is refused"
    )
    _add_connection(parser)
    _add_json(parser, "where each batch stands, one per line,")

    parser = _add_whole_ledger(
        add_nested,
        "verify",
        "check the file, the tables and the counts of a ledger, and show what it holds",
        run=dispatch.captures_verify,
        epilog=_VERIFY_STATUSES,
    )
    _add_json(parser, "what was found")

    parser = _add_whole_ledger(
        add_nested, "backup", "copy a ledger to a new file, also while runs are alive", run=dispatch.captures_backup
    )
    parser.add_argument("file", metavar="FILE", help="the new file, on a local disk")
    _add_json(parser, "its size")

    parser = _add_whole_ledger(
        add_nested,
        "prune",
        "remove batches that are finished, but for the ids of their captured debits",
        run=dispatch.captures_prune,
    )
    parser.add_argument(
        "--before",
        required=True,
        type=_past,
        metavar="TIME",
        help="those finished before: a date or a time (UTC), or an age in days, such as 90d; "
        "batches with a debit that is not resolved always stay",
    )
    _add_yes(parser)
    _add_json(parser, "what was removed")


def _add_ledger(
    add_parser: AddParser,
    name: str,
    summary: str,
    *,
    run: Callable[..., int],
    required: bool = False,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command about a batch of a ledger, or about all of them."""
    parser = _add_whole_ledger(add_parser, name, summary, run=run, epilog=epilog)
    parser.add_argument(
        "--batch", required=required, metavar="NAME", help="the batch" if required else "only this batch"
    )
    return parser


def _add_whole_ledger(
    add_parser: AddParser, name: str, summary: str, *, run: Callable[..., int], epilog: str | None = None
) -> argparse.ArgumentParser:
    parser = _add(add_parser, name, summary, run=run, epilog=epilog or _LEDGER_STATUSES)
    parser.add_argument(
        "--ledger", required=True, metavar="LEDGER", help="a file that `jetpay capture` created, or a postgresql:// URL"
    )
    return parser


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _add_state(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument(
        "--state", dest="states", action="append", default=[], choices=_STATES, metavar="STATE", help=summary
    )


_STATES = ("pending", "sending", "captured", "accepted", "rejected", "unknown")

_LEDGER_STATUSES = """\
exit status:
  0    done
  2    an invalid argument, or a ledger that is absent or can't be used
  74   done, but stdout or the file could not be written
  130  interrupted, or not confirmed; nothing was changed
"""


_RESOLVE_STATUSES = """\
exit status:
  0    no debit is accepted or unknown any more
  2    an invalid argument or configuration, or a ledger that can't be used
  3    stopped, for the reason shown; nothing was lost
  4    the outcome of some is still UNKNOWN
  5    some are still only accepted
  130  interrupted; nothing was lost
"""

_VERIFY_STATUSES = """\
exit status:
  0    no problem was found
  1    problems were found; each is shown
  2    an invalid argument, or a ledger that is absent or can't be read
  74   done, but stdout could not be written
"""


def _add_completion(add_parser: AddParser, whole: argparse.ArgumentParser) -> None:
    parser = _add(
        add_parser,
        "completion",
        "write a script that completes commands and options in a shell",
        run=dispatch.completion,
        usage="%(prog)s bash|zsh|fish",
        epilog=_COMPLETION,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "words"), metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(parser=whole)


_COMPLETION = """\
examples:
  bash:  eval "$(jetpay completion bash)"                                    in ~/.bashrc
  zsh:   eval "$(jetpay completion zsh)"                                     in ~/.zshrc, after compinit
  fish:  jetpay completion fish > ~/.config/fish/completions/jetpay.fish     once
"""


def _add_status(add_parser: AddParser) -> None:
    parser = _add(add_parser, "status", "show the state of a transaction", run=dispatch.status)
    parser.add_argument("transaction_id", metavar="ID", help="of a transaction, or of a debit")
    _add_connection(parser)
    _add_json(parser, "it")


def _add_cancel(add_parser: AddParser) -> None:
    parser = _add(
        add_parser, "cancel", "cancel a transaction of which no funds have been pulled yet", run=dispatch.cancel
    )
    parser.add_argument("transaction_id", metavar="ID", help="of a transaction, or of a debit")
    _add_connection(parser)
    _add_json(parser, "the outcome")


def _add_webhooks(add_parser: AddParser, guide: GuideCommands) -> None:
    webhooks = add_parser(
        "webhooks",
        help="register webhooks, and inspect their deliveries",
        description="Register webhooks, and inspect their deliveries.",
    )
    add_nested = webhooks.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    guide.add_webhooks_to(add_nested)
    add_triggers(add_nested, add=_add, add_json=_add_json, number=_number)
    parser = _add(
        add_nested,
        "explain",
        "explain why a delivery verifies or does not, without showing its content",
        run=dispatch.webhooks_explain,
        epilog=_EXPLAIN_STATUSES,
    )
    parser.add_argument(
        "--body", required=True, metavar="FILE", help="the raw bytes of the request's body; - reads them from stdin"
    )
    parser.add_argument(
        "--authorization",
        required=True,
        metavar="VALUE",
        help="the value of the Authorization header; @FILE reads it from a file, so that `ps` does not show it",
    )
    parser.add_argument(
        "--jwks", required=True, metavar="FILE|URL", help="the key set: a file, or the URL at which Jetpay publishes it"
    )
    parser.add_argument(
        "--now",
        type=_timestamp,
        metavar="TIME",
        help="verify as of this time: seconds since the epoch or ISO 8601, UTC unless it has an offset",
    )
    _add_json(parser, "the explanation")
    parser = _add(
        add_nested,
        "init",
        "make the tables of a PostgresInbox",
        run=dispatch.webhooks_init,
        epilog=_INBOX_STATUSES,
    )
    parser.add_argument("--inbox", metavar="URL", help="the database: postgresql://user@host:5432/database")
    parser.add_argument(
        "--print-sql", action="store_true", help="print the statements, for a migration of your own, and do nothing"
    )
    _add_dead_letters(add_nested)


def _add_dead_letters(add_parser: AddParser) -> None:
    dead_letters = add_parser(
        "dead-letters",
        help="events that could not be handled",
        description="Inspect, replay and discard events that could not be handled, in a SqliteInbox or PostgresInbox.",
    )
    add_nested = dead_letters.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    parser = _add_inbox(add_nested, "list", "list them", run=dispatch.webhooks_dead_letters_list)
    _add_json(parser, "each, one per line,")
    parser = _add_inbox(
        add_nested,
        "replay",
        "store them again; a running receiver handles them, after later events of their transactions",
        run=dispatch.webhooks_dead_letters_replay,
    )
    _add_event_ids(parser)
    parser = _add_inbox(
        add_nested, "discard", "forget them; they count as handled", run=dispatch.webhooks_dead_letters_discard
    )
    _add_event_ids(parser)


def _add_inbox(add_parser: AddParser, name: str, summary: str, *, run: Callable[..., int]) -> argparse.ArgumentParser:
    parser = _add(add_parser, name, summary, run=run, epilog=_INBOX_STATUSES)
    parser.add_argument(
        "--inbox",
        required=True,
        metavar="FILE|URL",
        help="the file of the receiver's SqliteInbox, or the URL of its PostgresInbox",
    )
    parser.add_argument("--source", default="", metavar="NAME", help="the source of the inbox, if it has one")
    return parser


def _add_event_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "event_ids", nargs="+", type=_number(int, 0, 2**63 - 1), metavar="ID", help="the id of an event"
    )


_INBOX_STATUSES = """\
exit status:
  0    done
  2    an invalid argument, or an event that is not a dead letter; nothing was
       changed
  3    the inbox can't be read or written
"""

_EXPLAIN_STATUSES = """\
exit status:
  0    it verifies
  1    it does not
  2    an argument is invalid
  3    the keys can't be read
"""


def _number(kind: Callable[[str], N], least: N, most: float = sys.float_info.max) -> Callable[[str], N]:
    def read(text: str) -> N:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            above = f"of at least {least}" if most == sys.float_info.max else f"from {least} to {most:.0f}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {above}")
        return number

    return read


def _amount(text: str) -> Decimal:
    from jetpay_async.errors import InvalidArgumentError  # noqa: PLC0415 - `--help` does not need them
    from jetpay_async.money import to_amount  # noqa: PLC0415

    try:
        return to_amount(text)
    except InvalidArgumentError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an amount in dollars with at most two decimals, such as 100.50"
        ) from None


def _past(text: str) -> float:
    """Read a time, or an age in days."""
    import time  # noqa: PLC0415 - `--help` does not need it

    days = text[:-1]
    if not (text.endswith("d") and days.isdecimal()):
        return _timestamp(text)
    return _timestamp(str(time.time() - float(days) * 86400))


def _timestamp(text: str) -> float:
    from datetime import UTC, datetime  # noqa: PLC0415 - `--help` does not need it

    try:
        time = datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-01-22T10:15:30Z") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
