"""Counts wording that the style rules exclude: `python tests/helpers/language.py [PATH ...]`.

CONTRIBUTING.md has the rules. The patterns are the ones that a regular expression can decide.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("src", "scripts", "benchmarks", "tools", "tests", "notebooks", "configs", "docs", ".github")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".html", ".toml", ".cff", ".sh"}
# The patterns themselves, texts of others, and files that keep old names.
EXEMPT = ("tests/helpers/language.py", "tests/test_language.py", "tests/fixtures", "src/streamnest/config/aliases.py")
LONGEST_NAME = 10  # words of the name of a test, without the first one

# Stems of British spellings; "-ise" words one by one, as many end so in American English too.
_ISE = "normal|recogn|diar|quant|optim|initial|vector|organ|summar|synchron|general|regular|token|real|util|final"
_ISE += "|character|categor|emphas|minim|maxim|parallel|priorit|random|standard|serial|local|special|modern|apolog"
_BRITISH = (
    rf"\b(?:\w*_|un|re|de|pre)?(?:{_ISE})is(?:e|es|ed|er|ers|ing|ation|ations|able)(?:\b|_)",
    r"\w*behaviour|\bcolou?red?\b(?<!colored)(?<!color)|colours?\b|neighbours?|favour|honour|\bcentre[sd]?\b|\bmetres?\b",
    r"(?<!\")\blicences?\b|\bdefence\b|\blearnt\b|\bspelt\b|\bwhilst\b|\bgrey\b|\bartefact|\bjudgement|\banalys(?:e|ed|es|ing)\b",
    r"labell(?:ed|ing)(?!_data)|modell(?:ed|ing)|(?-i:cancell(?:ed|ing))|signall(?:ed|ing)|travell(?:ed|ing)|\bcatalogue",
)
PROSE: dict[str, str] = {
    "British spelling": "|".join(_BRITISH),
    "is no": r"(?<!there )\b(?:is|was) no (?!longer|more|later|less|other|better|different|worse)",
    "told": r"\b(?:is|are|was|were|be|been) told\b|\btold (?:by|from|apart|in)\b|\btells?\b (?:what|how|who|which)",
    "hear": r"(?<!\")\b(?:un)?hear(?:s|d|ing)?\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "metaphor": r"\bwitness|\bat hand\b|signs of life|\balive\b|\bdied\b|\bparted\b|\bby heart\b|\banew\b",
    "cannot be had": r"can(?:not| be) (?:be )?had\b",
    "stem": r"(?<![.\w\"])stem(?![\w\"]|: str)",
    "he, she": r"(?-i:\b(?:he|him|she|her|himself|herself)\b)",
}
DOCSTRING: dict[str, str] = {
    "begins with What, Of, See": r"(?:What|Of|See|Who|Whose|Where|Which|How|That|Whether)\b",
    "argument begins with of": "",
}
_ARGUMENT = re.compile(r"^\s{4,}\w+(?: \([^)]*\))?: (?:of|see|what|where|whether|how) ", re.M)
_LITERAL = re.compile(r"`[^`\n]*`|https?://\S+")


def top_files() -> list[Path]:
    """Returns the files in the root of the repository."""
    return [path for path in ROOT.iterdir() if path.is_file()]


def files(paths: list[str]) -> Iterator[Path]:
    """Yields the text files under some paths, by default of the whole project."""
    top = [ROOT / place for place in paths or PLACES]
    top += [] if paths else top_files()
    for place in top:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
            known = path.suffix in SUFFIXES or path.name == "Makefile"
            if path.is_file() and known and "__pycache__" not in name and not name.startswith(EXEMPT):
                yield path


def findings(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yields the rule, the line number and the text of each finding in a file."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        plain = _LITERAL.sub("", line)
        for rule, pattern in PROSE.items():
            if found := re.search(pattern, plain, re.I):
                yield rule, number, found.group()
    if path.suffix == ".py":
        yield from _of_python(text)


def _of_python(text: str) -> Iterator[tuple[str, int, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        name = getattr(node, "name", None) or ""
        if name.startswith("test_") and len(name.split("_")) - 1 > LONGEST_NAME:
            yield "long test name", node.lineno, name
        if not isinstance(node, kinds):
            continue
        documentation, line = ast.get_docstring(node) or "", getattr(node, "lineno", 1)
        if re.match(DOCSTRING["begins with What, Of, See"], documentation):
            yield "begins with What, Of, See", line, documentation.split("\n")[0]
        for found in _ARGUMENT.finditer(documentation):
            yield "argument begins with of", line, found.group().strip()


def main(paths: list[str]) -> int:
    """Prints the findings of some paths, or the number of findings by rule for the whole project."""
    counts: dict[str, int] = {}
    for path in files(paths):
        for rule, line, text in findings(path):
            counts[rule] = counts.get(rule, 0) + 1
            if paths:
                print(f"{path}:{line}: {rule}: {text}")
    for rule, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{count:6d}  {rule}")
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
