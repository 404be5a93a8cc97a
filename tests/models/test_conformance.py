"""Golden numbers of the published implementation, where a golden set lies beside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
GOLDEN_SETS = Path(os.environ.get("LYNX_GOLDEN_SETS", REPO.parent / "shared" / "conformance"))


@pytest.mark.parametrize("version", ["0.30.0", "0.16.3"])
def test_golden_sets(version: str, comfyui_dirs: dict[str, Path]) -> None:
    folders = sorted(path.parent for path in GOLDEN_SETS.glob("*/meta.json"))
    if not folders:
        pytest.skip(f"no golden set in {GOLDEN_SETS}")
    for folder in folders:
        done = subprocess.run(
            [sys.executable, str(REPO / "tests" / "conformance.py"), str(folder), "--comfyui", str(comfyui_dirs[version])],
            capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
        assert ", 0 above 1e-04, 0 not compared" in done.stdout
