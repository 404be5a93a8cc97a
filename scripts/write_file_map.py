"""Writes the map of files in README.md: one line a file, from the first line of each file's own docstring.

python scripts/write_file_map.py            writes the map
python scripts/write_file_map.py --check    ends 1 when the map is not up to date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

REPO_DIR = Path(__file__).resolve().parents[1]
README = REPO_DIR / "README.md"
BEGIN, END = "<!-- file map: scripts/write_file_map.py -->", "<!-- end of file map -->"
FOLDERS = (
    "nodes",
    "web",
    "lynx_core/models",
    "lynx_core/faces",
    "lynx_core/formats",
    "lynx_core/cli",
    "lynx_core/data",
    "lynx_core/training",
    "lynx_core/evaluation",
    "benchmarks",
    "scripts",
)


def first_line(path: Path) -> str:
    """What a file says about itself: its docstring up to the first full line end, or its first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comments = (line.lstrip("#/ ") for line in text.splitlines() if line[:1] in "#/" and line[:2] != "#!")
    return next(comments, "")


def list_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != "__init__.py"
        and (path.suffix in (".py", ".js") or not path.suffix)
        and "__pycache__" not in path.parts
    )


def write_map() -> str:
    lines = [BEGIN]
    for folder in FOLDERS:
        files = list_files(REPO_DIR / folder)
        if not files:
            continue
        lines += ["", f"**{folder}/**", "", "| file | what |", "|---|---|"]
        for path in files:
            name = path.relative_to(REPO_DIR / folder).as_posix()
            lines.append(f"| [{name}]({folder}/{name}) | {first_line(path).replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", END])


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    updated = before + write_map() + after
    if "--check" not in arguments:
        README.write_text(updated, encoding="utf-8")
    elif updated != text:
        print("the file map in README.md is not up to date: run python scripts/write_file_map.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
