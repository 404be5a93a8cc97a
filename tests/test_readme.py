"""The README points at things that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[1]
PAGES = [REPO_DIR / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/log.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    gone = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert gone == []


def test_file_map_is_up_to_date() -> None:
    command = [sys.executable, str(REPO_DIR / "scripts" / "write_file_map.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
