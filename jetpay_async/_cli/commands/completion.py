"""``jetpay completion``: a script for a shell, which asks this command for the words that can follow."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

from jetpay_async._cli.io.console import write_lines
from jetpay_async._cli.io.exit_codes import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["WORDS", "candidates", "completion"]

WORDS = "words"
"""Instead of a shell: complete the words that follow, of which the last one is unfinished."""

# Where nothing can follow but a value, the shell offers files.
_SCRIPTS = {
    "bash": """\
_jetpay() {
    local IFS=$'\\n'
    COMPREPLY=($(jetpay completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _jetpay jetpay
""",
    "zsh": """\
#compdef jetpay
_jetpay() {
    local -a found
    found=(${(f)"$(jetpay completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -- $found; else _files; fi
}
compdef _jetpay jetpay
""",
    "fish": """\
complete -c jetpay -a '(jetpay completion words -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}


def completion(*, parser: argparse.ArgumentParser, shell: str, words: Sequence[str]) -> int:
    """Write the script of a shell, or the words that can follow those that are given."""
    if shell == WORDS:
        write_lines("".join(f"{word}\n" for word in candidates(parser, words)))
    else:
        write_lines(_SCRIPTS[shell])
    return ExitStatus.DONE


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """Return the words that can stand in the place of the last one; none where it is a value of the user's own.

    Args:
        parser: Of the whole program.
        words: What was typed after the program's name; the last one is unfinished, or empty.
    """
    # bash splits `--option=value` into three words.
    *before, last = words or [""]
    before, last = [word for word in before if word != "="], "" if last == "=" else last
    pending: argparse.Action | None = None
    for word in before:
        if pending is not None:
            pending = None  # its value
        elif word.startswith("-"):
            pending = _option(parser, word)
        else:
            parser = _commands(parser).get(word, parser)
    found: Iterable[str]
    if pending is not None:
        found = map(str, pending.choices or ())
    elif last.startswith("--") and "=" in last:
        name, _, _ = last.partition("=")
        option = _option(parser, name)
        found = (f"{name}={choice}" for choice in (() if option is None else option.choices or ()))
    elif last.startswith("-"):
        found = (
            name for action in _actions(parser) for name in action.option_strings if action.help != argparse.SUPPRESS
        )
    else:
        found = _commands(parser) or _choices(parser)
    return sorted(word for word in found if word.startswith(last))


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    # argparse offers no other way; those who generate completions all take it.
    return parser._actions  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see above


def _option(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    """Return the option that a word names, if its value comes in the next word."""
    for action in _actions(parser):
        if word in action.option_strings and action.nargs != 0:
            return action
    return None


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in _actions(parser):
        choices: object = action.choices
        if isinstance(choices, dict):
            return cast("dict[str, argparse.ArgumentParser]", choices)
    return {}


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """Return the values of a positional argument that has only some."""
    positional = [action for action in _actions(parser) if not action.option_strings]
    return [str(choice) for action in positional for choice in action.choices or () if choice != WORDS]
