"""The tree: how many files a folder holds, and that imports between packages point downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/streamnest"
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
# From low to high: a package or module of the root imports, at the top of its files, only what stands before it.
LAYERS = (
    *("errors", "randomness", "samples", "locations", "code_usage", "cached_value"),
    *("files", "console", "plotting", "normalization", "quantizer", "frontend", "muon", "optim", "encoder", "masking"),
    *("targets", "objectives", "latency", "formatting", "flops", "curves"),
    *("data", "config", "pieces", "encoder_task", "pretraining"),
    *("loggers", "callbacks", "streaming", "downstream", "probing"),
    *(
        "build",
        "checkpoint",
        "distributed",
        "corpus_statistics",
        "interop",
        "reporting",
        "training",
        "frontier",
        "serving",
    ),
    *("commands", "cli", "__main__"),
)
# Imports that point upwards, inside a function or for types only, with the reason.
UPWARDS = {
    ("", "checkpoint"): "`from streamnest import from_pretrained` imports torch only when it is asked for",
    ("", "config"): "the same for `allow_class`",
    ("", "streaming"): "the same for `StreamingSession`",
    ("config", "downstream"): "the table of tasks, which import this table",
    ("config", "pretraining"): "the same for pretraining",
    ("encoder_task", "streaming"): "the type of a head, which `exported_head` returns",
}

# Packages of optional extras, which must not be needed to import a module; `serving` as a whole is such an extra.
EXTRAS = {"huggingface_hub", "s3prl", "transformers", "onnx", "onnxruntime", "onnxscript", "pyannote", "sklearn"}
EXTRAS |= {"sentencepiece", "kenlm", "mlflow", "tensorboard"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yields what a file imports from this package, and whether it does so as it is loaded."""
    tree = ast.parse(path.read_text())
    late = {id(inner) for outer in ast.walk(tree) if _is_late(outer) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
        else:
            continue
        yield from ((name.split(".")[1], id(node) not in late) for name in names if name.startswith("streamnest."))


def _is_late(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))


def place(module: str) -> str:
    """Returns the package or root module that a module belongs to; the package itself is empty."""
    return "" if module == "__init__" else module.split(".", maxsplit=1)[0]


def test_imports_between_packages_point_downwards() -> None:
    upwards = set()
    for module, path in FILES.items():
        own = place(module)
        for other, at_once in imports(path):
            if other not in LAYERS or other == own:
                continue
            if own == "" or LAYERS.index(other) > LAYERS.index(own):
                assert not at_once, f"{path} imports {other}, which is above {own}"
                upwards.add((own, other))
    assert upwards == set(UPWARDS)


def test_every_package_has_a_layer() -> None:
    assert {place(module) for module in FILES} == {"", *LAYERS}


def test_the_manual_lists_every_package() -> None:
    tree = (ROOT / "docs/EXTENDING.md").read_text().partition("## The tree")[2].partition("\n## ")[0]
    assert [name for name in LAYERS if (PACKAGE / name).is_dir() and f"`{name}/`" not in tree] == []


@pytest.mark.parametrize("top", ["src/streamnest", "scripts", "benchmarks", "tools", "tests", "notebooks"])
def test_no_folder_holds_more_than_20_files(top: str) -> None:
    folders = [ROOT / top, *(path for path in (ROOT / top).rglob("*") if path.is_dir())]
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert max(sizes.values()) <= (22 if top == "src/streamnest" else 20), sizes


def test_the_encoder_imports_no_framework() -> None:
    heavy = ("import lightning", "import hydra", "import lhotse", "from lightning", "from hydra", "from lhotse")
    for path in (PACKAGE / "encoder").glob("*.py"):
        assert not any(line.startswith(heavy) for line in path.read_text().splitlines()), path


def test_packages_of_extras_are_imported_only_when_used() -> None:
    for path in FILES.values():
        tree = ast.parse(path.read_text())
        late = {id(inner) for outer in ast.walk(tree) if _is_late(outer) for inner in ast.walk(outer)}
        nodes = [node for node in ast.walk(tree) if id(node) not in late]
        names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert EXTRAS.isdisjoint(name.split(".")[0] for name in names), path


def test_importing_streamnest_needs_no_other_package() -> None:
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import streamnest; print(streamnest.__version__)"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, capture_output=True)
