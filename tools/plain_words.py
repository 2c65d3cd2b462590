"""Find words that dsmops no longer uses in the texts that people read.

    python -m tools.plain_words                   # counts per package
    python -m tools.plain_words dsmops/logs       # each place in one folder or file
    python -m tools.plain_words --most 300        # fail only above this count

The words are in the second table of runbooks/glossary.md. Checked are docstrings, comments and
string literals that hold a space (help texts, messages, hints), and Markdown outside of backticks.
In tests only docstrings and comments are checked: their strings are data. So is a string that its
module splits into words or lines: a word list, or sentences to be spoken.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "runbooks" / "glossary.md"
CHECKED = ("dsmops", "tools", "tests", "runbooks", "README.md", "CHANGELOG.md")
SKIPPED = ("runbooks/glossary.md", "runbooks/commands.md")
"""The list itself, and a page that is generated from help texts."""

_CODE = re.compile(r"^( *)```.*?^\1```|``.+?``|`[^`]*`", re.MULTILINE | re.DOTALL)
_ANY_WORDS = r"(?:\s+[^\s.;]+){1,3}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: what matches, what is allowed all the same, and what to write."""

    pattern: re.Pattern[str]
    allowed: re.Pattern[str] | None
    instead: str

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the places in `text` that break this rule."""
        # Python's `None` is not the English word `none`.
        text = re.sub(r"\bNone\b", "____", text)
        allowed = [match.span() for match in self.allowed.finditer(text)] if self.allowed else []
        for match in self.pattern.finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in allowed):
                yield match


@dataclass(frozen=True, slots=True)
class Hit:
    """One place: a path relative to the repository, its line, the words, and what to write."""

    path: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words!r}; write: {self.instead}"


def read_rules(page: str) -> list[Rule]:
    """Return the rules of a glossary page, one per row of its table of words not to use."""
    table = page.partition("| Do not write |")[2]
    rules = []
    for row in table.splitlines()[2:]:
        words, allowed, instead = (cell.strip() for cell in row.strip("| ").split("|"))
        pattern = _any_of(re.findall("`([^`]+)`", words))
        if pattern is None:
            raise ValueError(f"a row of the glossary has no words in backticks: {row}")
        rules.append(Rule(pattern, _any_of(re.findall("`([^`]+)`", allowed)), instead))
    return rules


def _any_of(phrases: list[str]) -> re.Pattern[str] | None:
    """Compile phrases to one pattern. Spaces also match line breaks, `…` up to three words."""
    if not phrases:
        return None
    parts = [
        re.escape(phrase).replace(r"\ …", _ANY_WORDS).replace(r"\ ", r"\s+") for phrase in phrases
    ]
    # A hyphen, a tilde or a slash beside it makes the word a part of a name: `open-door`,
    # `~nobody`.
    return re.compile(rf"(?<![\w~/-])(?:{'|'.join(parts)})(?![\w/-])", re.IGNORECASE)


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the page with code and quotes blanked out, line breaks kept."""
    yield 1, _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def prose_of_python(text: str, *, strings: bool) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of docstrings and comment blocks.

    With `strings`, also of other strings.
    """
    tree = ast.parse(text)
    data = _split_strings(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in data:
            continue
        if " " in node.value and (strings or _is_docstring(text, node)):
            yield node.lineno, next(prose_of_markdown(node.value))[1]
    first, block = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] == first + block.count("\n") + 1:
                block += "\n" + token.string.lstrip("# ")
                continue
            if block:
                yield first, next(prose_of_markdown(block))[1]
            first, block = token.start[0], token.string.lstrip("# ")
    if block:
        yield first, next(prose_of_markdown(block))[1]


def _split_strings(tree: ast.AST) -> set[ast.AST]:
    """Return the string constants that are split, directly or by the name they are assigned to."""
    split = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("split", "splitlines")
    }
    names = {node.id for node in split if isinstance(node, ast.Name)}
    assigned = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id in names for target in node.targets)
    }
    return {node for node in split | assigned if isinstance(node, ast.Constant)}


def _is_docstring(text: str, node: ast.Constant) -> bool:
    line = text.splitlines()[node.lineno - 1]
    # ast counts columns in UTF-8 bytes; nothing but spaces stands before a docstring.
    return line.strip().startswith(('"""', 'r"""')) and line[: node.col_offset].strip() == ""


def find_hits(path: Path, rules: list[Rule]) -> Iterator[Hit]:
    """Yield the places in one file."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    pieces = (
        prose_of_markdown(text)
        if path.suffix == ".md"
        else prose_of_python(text, strings=not name.startswith("tests/"))
    )
    for first, piece in pieces:
        for rule in rules:
            for match in rule.find(piece):
                line = first + piece.count("\n", 0, match.start())
                yield Hit(name, line, " ".join(match[0].split()), rule.instead)


def files_under(paths: list[Path]) -> list[Path]:
    """Return the Python files and pages under `paths`, without those that are skipped."""
    found: set[Path] = set()
    for path in paths:
        found |= {path} if path.is_file() else {*path.rglob("*.py"), *path.rglob("*.md")}
    return sorted(
        file
        for file in found
        if file.relative_to(ROOT).as_posix() not in SKIPPED
        and "data" not in file.relative_to(ROOT).parts
    )


def main() -> int:
    """Print the places, or with no path the counts per package, and return 1 if there are any."""
    parser = argparse.ArgumentParser(description="Find words that the glossary retires.")
    parser.add_argument("path", nargs="*", type=lambda word: Path(word).resolve())
    parser.add_argument("--most", type=int, default=0, help="how many places are accepted")
    options = parser.parse_args()
    named = options.path
    rules = read_rules(GLOSSARY.read_text(encoding="utf-8"))
    files = files_under(named or [ROOT / name for name in CHECKED])
    hits = [hit for file in files for hit in find_hits(file, rules)]
    failed = len(hits) > options.most
    if named or failed:
        for hit in sorted(hits, key=lambda hit: (hit.path, hit.line)):
            print(hit)
    if not named:
        counts = Counter("/".join(hit.path.split("/")[:2]) for hit in hits)
        for group, count in sorted(counts.items()):
            print(f"{count:5} {group}")
    print(f"{len(hits)} places use words of the second table of runbooks/glossary.md")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
