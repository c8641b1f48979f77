"""The command line, ``jetpay``.

Nothing is imported here, and each command imports what it needs when it runs: ``jetpay --help`` is quick, and Ctrl-C in
the first moments ends the program with one line.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer than all that comes before `main`

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
        try:
            # Here, so that Ctrl-C during these imports is handled below.
            from jetpay_async._cli.program import run  # noqa: PLC0415 - see above

            return run(argv)
        finally:
            if argv is None:  # the process ends after this, with the status of what is done
                from jetpay_async._cli.io.signals import ignore_signals  # noqa: PLC0415 - see above

                ignore_signals()
    except KeyboardInterrupt:
        from jetpay_async._cli.io.console import write_message  # noqa: PLC0415 - see above
        from jetpay_async._cli.io.exit_codes import ExitStatus  # noqa: PLC0415 - see above

        write_message("interrupted")
        return ExitStatus.INTERRUPTED
