"""Puts the shipped files with their sizes and hashes into the model card: python -m miniature.card"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from .experiment.report import fill_in

MAX_FILE_BYTES, MAX_BYTES = 16_000_000, 48_000_000
ENDINGS = (".safetensors", ".onnx")


def list_files(assets: Path) -> list[Path]:
    """All weights that ship."""
    return sorted(path for path in assets.rglob("*") if path.suffix in ENDINGS)


def make_table(assets: Path) -> str:
    """Files, sizes and SHA-256, in Markdown.

    Raises:
        ValueError: when a file, or all together, are larger than they may be.
    """
    rows = ["| file | MB | SHA-256 |", "|---|---|---|"]
    total = 0
    for path in list_files(assets):
        size = path.stat().st_size
        total += size
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size} bytes, more than {MAX_FILE_BYTES}")
        rows.append(f"| `{path.relative_to(assets).as_posix()}` | {size / 1e6:.1f} | `{digest}` |")
    if total > MAX_BYTES:
        raise ValueError(f"the files in {assets} have {total} bytes together, more than {MAX_BYTES}")
    return "\n".join([*rows, f"| together | {total / 1e6:.1f} | |"])


def main() -> int:
    assets = Path(__file__).resolve().parents[1] / "assets" / "mini"
    card = assets / "README.md"
    card.write_text(
        fill_in(card.read_text(encoding="utf-8"), {"files": make_table(assets)}), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
