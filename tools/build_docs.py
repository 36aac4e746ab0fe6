"""Builds the documentation site in build/docs: `python tools/build_docs.py`.

Copies the Markdown files of the repository to build/site/pages with their relative places, so that links that work on a
forge also work on the site. Adds an API reference, one page for each package, and the executed notebooks in
build/notebooks, which `python tools/run_notebooks.py --html build/notebooks` makes.

Dead links and docstrings that cannot be read are errors. Docstrings are parsed, not imported: torch is not needed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/streamnest"
SITE = ROOT / "build/site"
OUT = ROOT / "build/docs"
FOLDERS = ("docs", "benchmarks")
SINGLE = ("data/sample16k/README.md", "tests/fixtures/README.md")
NOTEBOOKS = ROOT / "build/notebooks"
RUN_NOTEBOOKS = "python tools/run_notebooks.py --html build/notebooks"


def main() -> int:
    """Builds the site and returns the exit status of the builder."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    shutil.rmtree(SITE, ignore_errors=True)
    pages = SITE / "pages"
    copy_pages(pages)
    write_api(pages / "api")
    write_notebooks(pages)
    shutil.copy(ROOT / "docs/zensical.toml", SITE / "zensical.toml")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=SITE, capture_output=True, text=True, check=False)
    # The last lines are the stack of the builder, which says nothing about the pages.
    print((done.stdout + done.stderr).split("Traceback (most recent call last)")[0])
    if done.returncode == 0:
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(SITE / "site", OUT)
        print(f"{OUT}/index.html")
    return done.returncode


def copy_pages(pages: Path) -> None:
    """Copies the Markdown files of the repository and their images; a README becomes the index of its folder."""
    files = [*ROOT.glob("*.md"), *(ROOT / name for name in SINGLE)]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".png")]
    for path in files:
        place = pages / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            place = place.with_name("index.md") if place.name == "README.md" else place
            text = re.sub(r"(\]\([^)\s]*)README\.md([)#])", r"\1index.md\2", path.read_text(encoding="utf-8"))
            place.write_text(text, encoding="utf-8")
        else:
            shutil.copy(path, place)


def packages() -> Iterator[tuple[str, list[str]]]:
    """Yields the title of each page of the API reference and the modules on it."""
    root = [path.stem for path in sorted(PACKAGE.glob("*.py")) if not path.stem.startswith("__")]
    yield "streamnest", [f"streamnest.{name}" for name in root]
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE):
        package = ".".join(folder.relative_to(PACKAGE.parent).parts)
        names = [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
        yield package, [package, *(f"{package}.{name}" for name in names)]


def write_api(folder: Path) -> None:
    """Writes a page for each package, with a directive for each of its modules."""
    folder.mkdir(parents=True)
    rows = []
    for title, modules in packages():
        name = f"{title}.md"
        rows.append(f"- [`{title}`]({name})")
        parts = [f"## {module}\n\n::: {module}\n    options:\n      show_root_heading: false\n" for module in modules]
        (folder / name).write_text(f"# {title}\n\n" + "\n".join(parts), encoding="utf-8")
    intro = "# API reference\n\nMade from the docstrings, one page for each package.\n\n"
    (folder / "index.md").write_text(intro + "\n".join(rows) + "\n", encoding="utf-8")


def write_notebooks(pages: Path) -> None:
    """Copies executed notebooks, if there are any, and links them from a page of their own and from the manual."""
    folder = pages / "notebooks"
    folder.mkdir(parents=True)
    executed = sorted(NOTEBOOKS.glob("*.html"))
    for path in executed:
        shutil.copy(path, folder / path.name)
    if executed:
        links = "".join(f"- [{title(path)}]({{folder}}{path.name})\n" for path in executed)
    else:
        links = f"This site was built without them. Run `{RUN_NOTEBOOKS}`, then `make docs` again.\n"
        print(f"no executed notebooks in {NOTEBOOKS.relative_to(ROOT)}: make them with {RUN_NOTEBOOKS}")
    intro = "# Executed notebooks\n\nThe notebooks are described in [Notebooks](../docs/NOTEBOOKS.md).\n\n"
    (folder / "index.md").write_text(intro + links.replace("{folder}", ""), encoding="utf-8")
    with (pages / "docs/NOTEBOOKS.md").open("a", encoding="utf-8") as manual:
        manual.write("\n## Executed notebooks\n\n" + links.replace("{folder}", "../notebooks/"))


def title(page: Path) -> str:
    """Returns the title of an HTML page, or its name."""
    match = re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"))
    return match[1] if match else page.stem


if __name__ == "__main__":
    sys.exit(main())
