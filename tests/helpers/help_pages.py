"""What scripts say to --help, as JSON: `python tests/help_pages.py NAME.py ...`."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def page(name: str) -> str:
    sys.argv, out = [name, "--help"], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return out.getvalue()


if __name__ == "__main__":
    sys.path.insert(0, str(SCRIPTS))
    print(json.dumps({name: page(name) for name in sys.argv[1:]}))
