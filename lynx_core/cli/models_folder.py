"""Where ComfyUI keeps its models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .hub_files import DownloadError

_PACK_DIR = Path(__file__).resolve().parents[2]


def add_models_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--models DIR`, whose default follows from where this pack is installed."""
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="ComfyUI's models folder (default: that of the ComfyUI this pack is installed in)",
    )


def resolve_models_folder(chosen: Path | None, pack_dir: Path = _PACK_DIR) -> Path:
    """Give the models folder: the chosen one, or ComfyUI's around custom_nodes/<this pack>.

    Raises:
        DownloadError: when it is not there.
    """
    if chosen is None:
        if pack_dir.parent.name != "custom_nodes":
            raise DownloadError(
                f"{pack_dir} is not in a ComfyUI's custom_nodes, so its models folder is unknown; "
                "name it with --models DIR."
            )
        chosen = pack_dir.parents[1] / "models"
    if not chosen.is_dir():
        raise DownloadError(f"The models folder {chosen} does not exist; name ComfyUI's with --models DIR.")
    return chosen
