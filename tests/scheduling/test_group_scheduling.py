"""The suite's own scheduler: a process that crashes loses one test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from group_scheduling import GroupScheduling

def pytest_xdist_make_scheduler(config, log):
    return GroupScheduling(config, log)
"""
PASSING = "def test_{0}(): pass\n"
CRASHING = "import os\ndef test_crash(): os._exit(11)\n"
SLOW = "import time\ndef test_slow_{0}(): time.sleep(0.2)\n"


@pytest.mark.timeout(200)
def test_what_a_crashed_process_had_left_is_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number in range(6):
        text = "".join(PASSING.format(name) for name in "abc")
        (tmp_path / f"test_before_{number}.py").write_text(text)
        (tmp_path / f"test_one_{number}.py").write_text(SLOW.format(number))
    (tmp_path / "test_crash.py").write_text(PASSING.format("first") + CRASHING + PASSING.format("last"))
    command = (sys.executable, "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", ".")
    result = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert "1 failed, 26 passed" in result.stdout
    assert "crashed while running 'test_crash.py::test_crash'" in result.stdout
