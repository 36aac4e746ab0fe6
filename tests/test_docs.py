"""The pages: links, commands, options, overrides and paths that they name exist, and every page is in the index."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from streamnest.cli import COMMANDS
from streamnest.config.schema import _CHOICES

ROOT = Path(__file__).parents[1]
MANUAL = sorted(ROOT.glob("docs/*.md"))
# Their overrides are composed in `test_recipe_pages.py`.
RECIPES = sorted(ROOT.glob("docs/recipes/*.md"))
NOTES = sorted(ROOT.glob("benchmarks/*.md"))
SINGLE = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
PAGES = [*MANUAL, *RECIPES, *NOTES, *SINGLE, ROOT / "data/sample16k/README.md", ROOT / "tests/fixtures/README.md"]
ABSENT = object()
GROUPS = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()} - {"hydra"}


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def code(page: Path) -> str:
    """Returns the code of a page: fenced and indented blocks, and spans."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text(page), re.S | re.M)
    return "\n".join([*fenced, *re.findall(r"^ {4}.*$", text(page), re.M), *re.findall(r"`([^`\n]+)`", text(page))])


def prose(page: Path) -> str:
    """Returns a page without fenced blocks and spans of code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text(page), flags=re.S | re.M)


@cache
def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_relative_links_lead_to_files_and_headings() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(path), f"{page}: {link}"


def test_commands_and_their_options_exist() -> None:
    for page in PAGES:
        for name, rest in re.findall(r"(?<!from )streamnest ([a-z][a-z-]*)((?:\\\n|[^`\n])*)", code(page)):
            assert name in COMMANDS, f"{page}: streamnest {name}"
            for option in () if name == "train" else options(rest):
                assert option in help_page(name), f"{page}: streamnest {name} {option}"


def options(arguments: str) -> list[str]:
    """Returns the options on a command line, up to a comment."""
    return re.findall(r"(?<=\s)--[a-z][\w-]*", arguments.split(" #", maxsplit=1)[0])


@cache
def help_page(name: str) -> str:
    """Returns what `streamnest NAME --help` prints."""
    module = importlib.import_module(f"streamnest.commands.arguments.{name.replace('-', '_')}")
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        module.parse(argv=["--help"])
    return printed.getvalue()


def test_commands_on_own_data_name_both_manifests() -> None:
    for page in [*MANUAL, *SINGLE]:
        for command in re.findall(r"streamnest train((?:\\\n|[^`\n])*)", code(page)):
            if re.search(r"\bdata=(manifest|shar)\b", command) and "..." not in command:
                assert "data.train_manifest=" in command and "data.val_manifest=" in command, f"{page}: {command}"


def test_scripts_and_their_options_exist() -> None:
    for page in PAGES:
        for path, rest in re.findall(r"python ((?:benchmarks|tools)/\w+\.py)((?:\\\n|[^`\n])*)", code(page)):
            assert (ROOT / path).is_file(), f"{page}: {path}"
            for option in options(rest):
                assert f'"{option}"' in (ROOT / path).read_text(), f"{page}: {path} {option}"


def overrides(page: Path) -> Iterator[tuple[str, str]]:
    """Yields the overrides on a page whose key begins with a config group: key and value; not those that add a key."""
    for key, value in re.findall(r"(?<![\w./+-])~?([a-z_]+(?:\.[a-z_\d]+)*)=([\w,.]*)", code(page)):
        if key.split(".")[0] in GROUPS:
            yield key, value


def test_overrides_name_keys_and_choices_of_the_config(composed: Callable[..., DictConfig]) -> None:
    whole = OmegaConf.to_container(composed("encoder=dynamic", "augment=full", "logger=offline"))
    for page in (page for page in PAGES if page not in RECIPES):
        for key, value in overrides(page):
            if "." in key:
                assert key.endswith("._target_") or known(key, whole), f"{page}: {key}="
                continue
            for choice in value.split(",") if re.fullmatch(r"[a-z0-9_,]+", value) else ():
                assert (ROOT / f"configs/{key}/{choice}.yaml").is_file(), f"{page}: {key}={choice}"


def known(key: str, config: Any) -> bool:
    """Tells if a key is in the config, or in the schema of another choice of its group."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name, ABSENT) if isinstance(node, dict) else ABSENT
    group, *names = key.split(".")
    return node is not ABSENT or any(has(schema, names) for schema in _CHOICES.get(group, {}).values())


def has(schema: type, names: list[str]) -> bool:
    """Tells if a path of fields leads through dataclasses."""
    found = {field.name: field for field in fields(schema)}
    if not names or names[0] not in found:
        return False
    if len(names) == 1:
        return True
    factory = found[names[0]].default_factory
    return is_dataclass(factory) and has(factory, names[1:])  # type: ignore[arg-type]


def test_paths_in_the_manual_exist() -> None:
    places = "tests|src|configs|benchmarks|tools|scripts|notebooks|docs"
    for page in [*MANUAL, *RECIPES, *SINGLE]:
        for path in re.findall(rf"`((?:{places})/[\w./-]+)`", text(page)):
            placeholder = re.search(r"\.ipynb$|my_|DATE|GROUP", path)
            assert placeholder or (ROOT / path).exists(), f"{page}: {path}"


def test_pages_are_in_index_and_site_and_link_the_glossary() -> None:
    index, site = text(ROOT / "docs/index.md"), (ROOT / "docs/zensical.toml").read_text()
    for page in [*MANUAL, *RECIPES]:
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"]({name})" in index, page
        assert f'"docs/{name}"' in site, page
        assert name == "GLOSSARY.md" or "GLOSSARY.md)" in text(page), page
    for note in NOTES:
        assert note.name == "README.md" or f"]({note.name})" in text(ROOT / "benchmarks/README.md"), note


def test_lists_and_tables_begin_after_a_blank_line() -> None:
    """Forges show a list without it, but Markdown, and so the site, does not."""
    item = re.compile(r"(?:- |\d+\. |\| )")
    for page in PAGES:
        lines = re.sub(r"^```.*?^```", "", text(page), flags=re.S | re.M).splitlines()
        for before, line in pairwise(lines):
            starts = item.match(line) and before.strip() and not item.match(before)
            assert not starts or before.startswith("  "), f"{page}: {line}"


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = [term.lower() for term in re.findall(r"^\| \*\*(.*?)\*\*", text(ROOT / "docs/GLOSSARY.md"), re.M)]
    assert len(terms) > 40
    assert terms == sorted(set(terms))
