"""The arguments of ``jetpay unresolved``. Only the standard library is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async._cli import dispatch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import TypeAlias

    AddParser: TypeAlias = Callable[..., argparse.ArgumentParser]
    AddOptions: TypeAlias = Callable[[argparse.ArgumentParser], None]

__all__ = ["add_unresolved"]

_STATUSES = """\
exit status:
  0   done
  2   it can't be done: no such ledger or reference, or not in this state
  3   not released; repeating it is safe, since the status is read first
  4   (show) what became of it is unknown
  70  an internal error
  74  done, but stdout could not be written
"""


def add_unresolved(
    add_parser: AddParser,
    *,
    add_ledger: AddParser,
    add_json: Callable[[argparse.ArgumentParser, str], None],
    add_connection: AddOptions,
    seconds: Callable[[str], float],
) -> None:
    """Add the commands.

    Args:
        add_parser: Of the whole command line.
        add_ledger: Adds a command with ``--ledger`` to a group.
        add_json: Adds ``--json``.
        add_connection: Adds the options of every command that calls the API.
        seconds: Reads a number above 0.
    """
    group = add_parser(
        "unresolved",
        help="preauthorizations, charges and credits that may have been done, and debits that nobody knows",
        description="Inspect and decide what a ledger could not: preauthorizations, charges and credits by reference "
        "whose outcome is unknown, and debits that events reported and nothing in the ledger knows.",
    )
    nested = group.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser

    parser = add_ledger(
        nested,
        "list",
        "list what is unknown, and the debits that nobody knows",
        run=dispatch.unresolved_list,
        epilog=_STATUSES,
    )
    add_json(parser, "each, one per line,")

    parser = add_ledger(
        nested,
        "show",
        "show all that is known of one, and what may be its debit",
        run=dispatch.unresolved_show,
        epilog=_STATUSES,
    )
    _add_reference(parser)
    add_json(parser, "it")

    parser = add_ledger(
        nested,
        "adopt",
        "record which debit is its own, once its status says that it is reserved or paid",
        run=dispatch.unresolved_adopt,
        epilog=_STATUSES,
    )
    _add_reference(parser)
    parser.add_argument("debit_id", metavar="DEBIT", help="the debit, or the credit")
    add_connection(parser)
    add_json(parser, "it")

    parser = add_ledger(
        nested,
        "release",
        "cancel reservations that nobody knows, if their status says before and after that it is right",
        run=dispatch.unresolved_release,
        epilog=_STATUSES,
    )
    parser.add_argument("debit_ids", nargs="+", metavar="DEBIT", help="as `jetpay unresolved list` shows them")
    parser.add_argument(
        "--older-than",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="leave those alone that were made since (%(default)g)",
    )
    add_connection(parser)
    add_json(parser, "what became of each, one per line,")

    parser = add_ledger(
        nested,
        "discard",
        "record that nothing came of it, since you have looked it up at Jetpay",
        run=dispatch.unresolved_discard,
        epilog=_STATUSES,
    )
    _add_reference(parser)
    add_json(parser, "it")


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="yours, which it was asked for with")
