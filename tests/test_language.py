"""Wording: the patterns that CONTRIBUTING.md excludes do not occur in code, configs and documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from language import PLACES, files, findings, top_files


@pytest.mark.parametrize("place", [*PLACES, "."])
def test_excluded_wording_does_not_occur(place: str) -> None:
    paths = files([place] if place != "." else [str(path) for path in top_files()])
    found = [f"{path}:{line}: {rule}: {text}" for path in paths for rule, line, text in findings(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("British spelling", "normalised colour of a neighbour"),
        ("is no", "a file that is no checkpoint"),
        ("told", "the user is told"),
        ("hear", "what the encoder heard"),
        ("stem", "the stem of the encoder"),
        ("metaphor", "begin anew"),
    ],
)
def test_each_pattern_finds_its_wording(rule: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    assert rule in [found for found, _, _ in findings(tmp_path / "page.md")]


def test_docstrings_and_test_names_are_checked(tmp_path: Path) -> None:
    name = "test_" + "_".join("abcdefghijk")
    text = f'"""What it is."""\n\n\ndef {name}(x):\n    """Runs.\n\n    Args:\n        x: of f.\n    """\n'
    (tmp_path / "module.py").write_text(text)
    rules = {found for found, _, _ in findings(tmp_path / "module.py")}
    assert rules == {"begins with What, Of, See", "argument begins with of", "long test name"}
