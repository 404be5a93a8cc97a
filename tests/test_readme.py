"""The README points at things that are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[1]
PAGES = [
    *(REPO_DIR / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "miniature/README.md")),
    *sorted((REPO_DIR / "docs").rglob("*.md")),
    *sorted((REPO_DIR / "web" / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    gone = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert gone == []


def test_the_readme_is_a_landing_page() -> None:
    assert len((REPO_DIR / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_contributing_names_every_folder_of_code() -> None:
    text = (REPO_DIR / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=REPO_DIR, capture_output=True, text=True, check=False
    )
    files = [Path(line) for line in listed.stdout.splitlines()]
    folders = {
        f"{file.parent}/" for file in files if file.parts[0] != "tests" and file.name != "__init__.py"
    } - {"./"}
    assert folders
    assert sorted(folder for folder in folders if f"`{folder}`" not in text) == []
