"""Three sets of pairs of the same footage, with the same targets and captions.

first frame     the reference is the target's own first frame, as a script of ten lines takes it
background      `curate`: the target's own scene, another background behind the person
all kinds       `curate`: another scene, another moment of the scene, and edited ones, each kind for each target
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lynx_core.curate.configuration import CurationConfig
from lynx_core.curate.curation import curate
from lynx_core.curate.media import open_footage
from lynx_core.curate.networks import FaceNetworks
from lynx_core.durable_file import write_durably
from lynx_core.faces.crops import crop_for_reference
from lynx_core.training.configuration_file import parse_settings

from ..dataset import write_image
from ..parts.resumable import write_beside

FIRST_FRAME, BACKGROUND, ALL_KINDS = "first_frame", "background", "all_kinds"
ARMS = (FIRST_FRAME, BACKGROUND, ALL_KINDS)
KIND_WEIGHTS = {"single-scene": 21.5, "multi-scene": 7.7, "augmented": 21.0}
"""The paper's millions of pairs."""
Target = tuple[str, tuple[int, ...]]
"""Path and frames."""


def make_sets(work: Path, assets: Path, note: Callable[[str], None]) -> None:
    """Write `sets/<arm>/train.jsonl` and what they name, from the footage in `work`."""
    if all((work / "sets" / arm / "train.jsonl").is_file() for arm in ARMS):
        return
    rows = {arm: _curate(work, assets, arm, note) for arm in (BACKGROUND, ALL_KINDS)}
    common = {_target(row) for row in rows[BACKGROUND]} & {_target(row) for row in rows[ALL_KINDS]}
    captions = {_target(row): row["caption"] for row in rows[BACKGROUND]}
    networks = FaceNetworks(_describe(work, assets, BACKGROUND).faces)
    rows[FIRST_FRAME] = _pair_first_frames(work, sorted(common), captions, networks)
    common &= {_target(row) for row in rows[FIRST_FRAME]}
    for arm in ARMS:
        kept = [row for row in rows[arm] if _target(row) in common]
        path = work / "sets" / arm / "train.jsonl"
        text = "".join(json.dumps(_as_pair(row)) + "\n" for row in kept)
        write_durably(path, text.encode())
        note(f"{arm}: {len(kept)} pairs of {len(common)} targets")


def _curate(work: Path, assets: Path, arm: str, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """Curate into one output, where files are looked at once for all arms; keep the manifest and references."""
    from pyarrow import parquet

    config, kept = _describe(work, assets, arm), work / "sets" / arm
    if not (kept / "train.parquet").is_file():
        report = curate(config)
        note(f"{arm}: {report}")
        shutil.copytree(config.output / "references", kept / "references", dirs_exist_ok=True)
        shutil.copy(config.output / "page.html", kept / "page.html")
        write_beside(
            kept / "train.parquet", lambda beside: shutil.copy(config.output / "train.parquet", beside)
        )
    rows = parquet.read_table(kept / "train.parquet").to_pylist()
    for row in rows:
        row["references"] = [str(kept / path) for path in row["references"]]
    return rows


def _describe(work: Path, assets: Path, arm: str) -> CurationConfig:
    background = {"name": "background", "options": {"folder": str(work / "backgrounds")}}
    references: dict[str, Any] = {"form": "aligned"}
    if arm == BACKGROUND:
        references["kinds"], augmenters = ["augmented"], [background]
    else:
        references["every_kind"], augmenters = True, [background, {"name": "relight"}, {"name": "warp"}]
    values: dict[str, Any] = {
        "output": str(work / "curated"),
        "sources": [{"path": str(work / "footage"), "names": "folder", "licence": "Apache-2.0"}],
        "faces": {
            "detector_models": str(assets / "insightface"),
            "pack": "lynx_mini",
            "recogniser": str(assets / "lynx" / "faces" / "lynx_mini_arcface.safetensors"),
            "looks_per_s": 2.7,
        },
        "identity": {"threshold": 0.6},
        "quality": {"min_face_px": 60},
        "targets": {"min_s": 1.0, "max_s": 1.125, "max_per_shot": 1, "max_crop_shift": 1.0, "min_motion": 0},
        "references": references,
        "augmenters": augmenters,
        "kind_weights": KIND_WEIGHTS if arm == ALL_KINDS else {},
        "splits": {"heldout_share": 0.0},
    }
    return parse_settings(CurationConfig, values)


def _pair_first_frames(
    work: Path, targets: list[Target], captions: dict[Target, str], networks: FaceNetworks
) -> list[dict[str, Any]]:
    rows = []
    for number, (path, frames) in enumerate(targets):
        reference = work / "sets" / FIRST_FRAME / "references" / f"{number:06d}.png"
        if not reference.is_file():
            footage = open_footage(Path(path), 1920)
            first = frames[0] if frames else 0
            pixels = next(pixels for frame, pixels in footage.read() if frame == first)
            faces = networks.detector.detect(pixels)
            if not faces:
                continue
            crop = crop_for_reference(pixels, max(faces, key=lambda face: face.area).landmarks)
            write_beside(reference, partial(write_image, pixels=crop))
        rows.append(
            {
                "id": f"first-{number:06d}",
                "target": path,
                "frame_range": list(frames) or None,
                "references": [str(reference)],
                "caption": captions[path, frames],
                "kind": "single-scene",
            }
        )
    return rows


def _target(row: dict[str, Any]) -> Target:
    return row["target"], tuple(row["frame_range"] or ())


def _as_pair(row: dict[str, Any]) -> dict[str, Any]:
    """The trainer's columns."""
    names = ("id", "target", "references", "caption", "kind", "frame_range")
    return {name: row[name] for name in names if row.get(name) is not None}
