"""The arguments of the commands for people who build a receiver. Only the standard library is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetpay_async._cli import dispatch
from jetpay_async._cli.io.exit_codes import EXIT_STATUSES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import TypeAlias

    AddParser: TypeAlias = Callable[..., argparse.ArgumentParser]

__all__ = ["add_triggers"]

_LARGEST_ID = 2**53  # what every receiver reads exactly
_LARGEST_EVENT_ID = 10**14  # it is a number of milliseconds as well

_SEND_STATUSES = """\
exit status:
  0    the receiver answered each delivery as it should: 2xx, or, with --break,
       anything else
  1    it did not
  2    an invalid argument or configuration; nothing was sent
  3    there was no response within 15 s, or the receiver answered 503 for 30 s:
       it could not read the keys
"""


def add_triggers(
    add_parser: AddParser,
    *,
    add: AddParser,
    add_json: Callable[[argparse.ArgumentParser, str], None],
    number: Callable[..., Callable[[str], Any]],
) -> None:
    """Add ``jetpay webhooks send`` and ``listen``.

    Args:
        add_parser: Adds to the group.
        add: Adds one command to a group.
        add_json: Adds ``--json``.
        number: Makes what reads a number.
    """
    parser = add(
        add_parser,
        "send",
        "send signed deliveries to a receiver that you build",
        run=dispatch.webhooks_send,
        epilog="example:\n"
        "  jetpay webhooks send http://127.0.0.1:8080/webhooks/jetpay --event paid --event completed\n\n"
        "They are signed with a key of their own. While the command runs, its public half is served on this\n"
        'machine: the receiver takes it with RemoteKeySet("http://127.0.0.1:8798").\n\n' + _SEND_STATUSES,
    )
    parser.add_argument("url", metavar="URL", help="of the receiver")
    parser.add_argument(
        "--event",
        dest="events",
        action="append",
        required=True,
        choices=("paid", "failed", "completed"),
        help="what became of a debit; may be repeated: all are in one delivery",
    )
    parser.add_argument(
        "--count", type=number(int, 1, 1_000_000), default=1, metavar="N", help="deliveries, each of another debit (1)"
    )
    parser.add_argument(
        "--break",
        dest="fault",
        choices=("stale", "body", "kid"),
        help="make it wrong in one thing: a token of ten minutes ago, a body that was changed after signing, or an "
        "unknown key; the receiver must reject it",
    )
    parser.add_argument("--transaction", dest="transaction_id", metavar="ID", help="of the debit (random)")
    parser.add_argument(
        "--webhook-id", type=number(int, 1, _LARGEST_ID), default=1, metavar="N", help="whose deliveries they are (1)"
    )
    parser.add_argument(
        "--first-id",
        dest="first_event_id",
        type=number(int, 1, _LARGEST_EVENT_ID),
        metavar="N",
        help="of the first event; give one again, with its --transaction, to see that it is handled once (the "
        "milliseconds since 1970)",
    )
    parser.add_argument(
        "--key",
        dest="key_file",
        metavar="FILE",
        help="sign with the RSA key of this PEM file, which is made if there is none: a receiver that knows it fetches "
        "no keys (a new key each time)",
    )
    parser.add_argument("--port", type=number(int, 0, 65_535), default=8798, metavar="N", help="of the keys (8798)")
    add_json(parser, "each response, one per line,")

    parser = add(
        add_parser,
        "listen",
        "print a sandbox's deliveries as they come, and forward them to a receiver",
        run=dispatch.webhooks_listen,
        epilog="example:\n"
        "  jetpay webhooks listen --forward-to http://127.0.0.1:8080/webhooks/jetpay\n\n"
        "It registers a webhook at the sandbox of JETPAY_BASE_URL, and removes it when it ends: by Ctrl-C or SIGTERM,\n"
        f"which are no error here.\n\n{EXIT_STATUSES}",
    )
    parser.add_argument(
        "--forward-to", metavar="URL", help="send each delivery on, unchanged, and answer as the receiver does"
    )
    parser.add_argument("--count", type=number(int, 1), metavar="N", help="end after so many deliveries")
    parser.add_argument(
        "--max-batch-size", type=number(int, 1, 100), default=1, metavar="N", help="events of a delivery, at most (1)"
    )
    add_json(parser, "each delivery, one per line,")
