"""The words of the project: the field's terms, one name for one class, and units in the names of constants."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jetpay_async"

# Parts of identifiers and of file names: `in_doubt` has the parts `in` and `doubt`.
IDENTIFIERS = {
    "behaviour": "behavior",
    "book": "repository",
    "brake": "AIMDLimiter, CircuitBreaker",
    "buried": "expired",
    "bury": "expire",
    "colour": "color",
    "courier": "sender",
    "crew": "worker pool, pipeline",
    "crews": "worker pools, pipelines",
    "desk": "GroupCommitExecutor",
    "doubt": "unresolved, pending (`in_doubt` may stay)",
    "doubtful": "unresolved",
    "doubts": "unresolved",
    "errand": "operation, call",
    "errands": "operations, calls",
    "fate": "outcome, response",
    "fates": "outcomes, responses",
    "hungry": "waiting, with free capacity",
    "lane": "Slot",
    "lanes": "slots",
    "patience": "timeout",
    "pursue": "execute",
    "pursuit": "Execution",
    "ripe": "due",
    "settle": "resolve",
    "settled": "confirmed_by_status",
    "settler": "resolver",
    "settlers": "resolvers",
    "settles": "resolves",
    "settling": "resolving",
    "shift": "LeasedDispatch",
    "spool": "staging",
    "twin": "duplicate",
}

# As the whole name of a class.
CLASSES = {
    "Bank",
    "Book",
    "Case",
    "Desk",
    "Flights",
    "Gate",
    "Hands",
    "Happened",
    "Means",
    "Pace",
    "Shape",
    "Step",
}

# In prose: comments, docstrings, messages, Markdown.
PROSE = {
    r"crews?": "worker pool, pipeline",
    r"desks?": "group commit",
    r"brakes?": "limiter, circuit breaker",
    r"lanes?": "slot",
    r"errands?": "operation, call",
    r"doubts?|doubtful": "unresolved, unknown (*in doubt* may stay)",
    r"hungry": "waiting",
    r"ripe": "due",
    r"bury|buries|buried": "expire",
    r"pursuits?|pursue[sd]?|pursuing": "execution, execute",
    r"fates?": "outcome",
    r"settlers?": "resolver",
    r"(?<!funds have )(?<!have )settle[sd]?|settling": "resolve, confirm by the status (funds settle, requests don't)",
    r"settle_after|settle time|trust_pending|retry-refused": "resolve_after, restored, retry-rejected",
    r"couriers?": "sender",
    r"spool(s|ed|ing)?": "staging",
    r"behaviours?|colours?|colou?red (?=in)|honours?|favours?|labour|neighbours?|centre|licence": "American spelling",
    r"let it be|in vain|no word on|the books": "say what happens",
    r"told of|tells of": "reported",
}


# What files of older versions are called by.
OLD_NAMES = {"jetpay_async/ledger/migrations/v2.py": "RENAME COLUMN settled"}


@attrs.frozen
class Hit:
    """One word that is not a term of the field."""

    path: str
    line: int
    word: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}: {self.instead}"


def parts_of(identifier: str) -> list[str]:
    """Split an identifier into its words, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def in_identifier(identifier: str) -> Iterator[tuple[str, str]]:
    parts = parts_of(identifier)
    for before, part in zip(["", *parts], parts, strict=False):
        if part in IDENTIFIERS and (before, part) != ("in", "doubt"):
            yield part, IDENTIFIERS[part]
    if parts == ["refused"]:
        yield identifier, "rejected"


def in_prose(text: str) -> Iterator[tuple[int, str, str]]:
    """Find the words, each with its line from 0."""
    for pattern, instead in PROSE.items():
        for found in re.finditer(rf"(?i)\b(?:{pattern})\b", text):
            if found[0] == "doubt" and re.search(r"\b(in|no)[\s#>]+$", text[: found.start()]):
                continue
            yield text.count("\n", 0, found.start()), found[0], instead


def hits_of(path: Path) -> Iterator[Hit]:
    name = str(path.relative_to(ROOT))
    yield from (Hit(name, 0, word, instead) for word, instead in in_identifier(path.stem))
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from (Hit(name, line + 1, word, instead) for line, word, instead in in_prose(text))
        return
    if name in OLD_NAMES:
        text = text.replace(OLD_NAMES[name], "")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.NAME:
            yield from (Hit(name, line, word, instead) for word, instead in in_identifier(token.string))
        elif token.type in {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}:
            yield from (Hit(name, line + below, word, instead) for below, word, instead in in_prose(token.string))

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name.lstrip("_") in CLASSES:
            yield Hit(name, node.lineno, node.name, "a term that says what it is")


# Everything but this list of words.
PLACES = sorted(
    path
    for pattern in ("*.md", "*.py", "benchmarks", "docs", "jetpay_async/*", "tests/*")
    for path in ROOT.glob(pattern)
    if (path.is_dir() and path.name != "__pycache__") or (path.suffix in {".md", ".py"} and path != Path(__file__))
)


@pytest.mark.parametrize("place", PLACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_terms_of_the_field_are_used(place: Path) -> None:
    """No identifier, file name, comment, docstring, message or page has a word that only this project understands."""
    paths = [path for kind in ("*.py", "*.md") for path in sorted(place.rglob(kind))] if place.is_dir() else [place]

    assert [str(hit) for path in paths for hit in hits_of(path)] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("class CaptureCrew: pass", ["crew"]),
        ("SETTLE_TIME = 1", ["settle"]),
        ("in_doubt = 1; mark_in_doubt()", []),
        ("doubts = []", ["doubts"]),
        ("class Desk: pass", ["desk", "Desk"]),
        ("refused = ConnectionRefusedError", ["refused"]),
        ("# told of each unknown outcome", ["told of"]),
        ('"""Settles what is in doubt."""', ["Settles"]),
        ('"""The funds have settled."""', []),
        ('"""Nothing in\n    doubt, in doubt, or no doubt; a doubt."""', ["doubt"]),
        ("f'{1} buried in the grounds'", ["buried"]),
        ("spoiled = ripened = 1  # shifts, planes and bookings", []),
    ],
)
def test_the_words_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: list[str]) -> None:
    """A word is found as a part of an identifier and as a word of a sentence, and not inside another word."""
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(source)

    assert [hit.word for hit in hits_of(tmp_path / "module.py")] == words


def test_no_class_name_stands_twice_in_the_package() -> None:
    """A class is found by its name alone."""
    names = Counter(
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )

    assert [name for name, count in names.items() if count > 1] == []


# --- units ------------------------------------------------------------------------------------------------------------

DURATIONS = {
    *("BACKOFF", "COOLDOWN", "DELAY", "INTERVAL", "KEEPALIVE", "LATENCY", "LEEWAY", "LIFETIME", "PAUSE", "RETENTION"),
    *("TIMEOUT", "WAIT"),
}


def numbers_of(path: Path) -> Iterator[tuple[str, str, int]]:
    """Return the constants that hold a number, each with what is said about it and with its line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for scope in ast.walk(ast.parse(text)):
        if not isinstance(scope, ast.Module | ast.ClassDef):
            continue
        for node, following in zip(scope.body, [*scope.body[1:], None], strict=True):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ) if name.isupper() and is_number(value):
                    above = node.lineno - 1
                    while lines[above - 1].startswith("#"):
                        above -= 1
                    said = " ".join(line.lstrip("# ") for line in lines[above : node.lineno - 1])
                    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                        said += str(following.value.value)
                    yield name, said, node.lineno
                case _:
                    pass


def is_number(value: ast.expr) -> bool:
    match value:
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.Constant(value=constant):
            return isinstance(constant, int | float) and not isinstance(constant, bool)
        case _:
            return False


def is_duration(name: str, said: str) -> bool:
    return said.startswith(("Seconds", "How long", "How many seconds")) or not DURATIONS.isdisjoint(name.split("_"))


def test_constants_in_seconds_say_so() -> None:
    """A constant that holds a duration ends in _SECONDS."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
        for name, said, line in numbers_of(path)
        if is_duration(name, said) and not name.endswith("_SECONDS")
    ]

    assert wrong == []


def test_durations_are_found(tmp_path: Path) -> None:
    """A duration is known by its name, by the comment above it or by the docstring below it."""
    (tmp_path / "module.py").write_text(
        "# Seconds\n# to wait.\n_LONGEST = 2 * 60.0\n"
        'RETRY_WAIT = 1\nclass A:\n    POLL: float = 2\n    """Seconds between two reads."""\n'
        "LIMIT = 3\nFLAG = True\nNAME = 'Seconds'\n"
    )

    found = list(numbers_of(tmp_path / "module.py"))

    assert [name for name, _, _ in found] == ["_LONGEST", "RETRY_WAIT", "LIMIT", "POLL"]
    assert [name for name, said, _ in found if is_duration(name, said)] == ["_LONGEST", "RETRY_WAIT", "POLL"]
