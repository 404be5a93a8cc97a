"""Which part may know which: the engine knows no stage, and only the commands know curation."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "lynx_core"


def list_parts(path: Path) -> set[str]:
    """The parts of lynx_core that a file imports, anywhere in it, and packages by their own names."""
    package = ("lynx_core", *path.relative_to(CORE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            parts = [*above[1:], *(node.module or "").split(".")]
            found |= {parts[0]} if parts[0] else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_parts_are_read_from_relative_imports() -> None:
    assert list_parts(CORE / "curate" / "scan.py") >= {"engine", "faces", "curate", "data"}
    assert list_parts(CORE / "curate" / "augment" / "background.py") >= {"hashing", "engine", "curate"}
    assert "daft" in list_parts(CORE / "engine" / "daft_runner.py")


@pytest.mark.parametrize("path", sorted((CORE / "engine").glob("*.py")), ids=lambda path: path.name)
def test_the_engine_knows_no_stage(path: Path) -> None:
    assert not list_parts(path) & {"curate", "training", "data", "faces", "models", "formats", "cli"}
    if path.name != "daft_runner.py":
        assert not list_parts(path) & {"daft", "ray"}


@pytest.mark.parametrize("path", sorted((CORE / "curate").rglob("*.py")), ids=lambda path: path.stem)
def test_curation_knows_no_trainer(path: Path) -> None:
    assert not list_parts(path) & {"training", "cli", "evaluation", "daft", "ray"}


def test_only_the_commands_know_curation() -> None:
    others = [path for path in CORE.rglob("*.py") if path.relative_to(CORE).parts[0] not in ("curate", "cli")]
    assert len(others) > 50 and not [path for path in others if "curate" in list_parts(path)]
