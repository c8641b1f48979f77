"""The command line, ``jetpay``.

Nothing is imported here, and each command imports what it needs when it runs: ``jetpay --help`` is quick, and Ctrl-C in
the first moments ends the program with one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``jetpay``.

    Args:
        argv: The arguments after the program's name; those of the process if None.

    Returns:
        The exit status; ``jetpay --help`` lists what each one means.

    Raises:
        SystemExit: For ``--help``, ``--version``, and invalid arguments.
    """
    try:
        # Here, so that Ctrl-C during these imports is handled below.
        from jetpay_async._cli.program import run  # noqa: PLC0415 - see above

        return run(argv)
    except KeyboardInterrupt:
        from jetpay_async._cli.io.console import write_message  # noqa: PLC0415 - see above
        from jetpay_async._cli.io.exit_codes import ExitStatus  # noqa: PLC0415 - see above

        write_message("interrupted")
        return ExitStatus.INTERRUPTED
