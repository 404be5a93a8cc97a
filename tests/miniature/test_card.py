"""The model card names the files that ship, as they are."""

from __future__ import annotations

import re
from pathlib import Path

from miniature.card import list_files, make_table

ASSETS = Path(__file__).parents[2] / "assets" / "mini"
FOLDERS = ("diffusion_models", "vae", "text_encoders", "lynx", "lynx/faces", "insightface/models/lynx_mini")


def test_every_folder_of_the_host_has_its_file() -> None:
    """Sizes are checked where the table is made."""
    assert {path.parent.relative_to(ASSETS).as_posix() for path in list_files(ASSETS)} >= set(FOLDERS)


def test_card_has_the_hashes_of_the_files() -> None:
    card = (ASSETS / "README.md").read_text(encoding="utf-8")
    assert make_table(ASSETS) in card, "run: python -m miniature.card"
    assert len(re.findall(r"`[0-9a-f]{64}`", card)) == len(list_files(ASSETS))
