from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")], ids=str
)
def test_waiting_threads_spin_briefly_unless_the_user_decides(chosen, spins):
    code = "import streamnest.console.starting, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    rest = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=rest | chosen, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(spins)
