"""A drawn world of thousands of files; LYNX_SCALE=1 runs it, in some minutes."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

import pytest
from drawn import draw, draw_frames, make_config, write_clip, write_photo
from test_curation import read_rejections, read_rows
from test_people import peak_mb

from lynx_core.curate.curation import curate

NUM_PEOPLE, NUM_CLIPS = 1500, 300


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not os.environ.get("LYNX_SCALE"), reason="some minutes; LYNX_SCALE=1 runs it")
def test_each_of_thousands_of_files_is_in_a_pair_or_has_a_reason(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    for person in range(NUM_PEOPLE):
        for seed in range(2):
            write_photo(footage / f"{person:04d}" / f"{seed}.png", draw(person, seed, seed))
    for person in range(NUM_CLIPS):
        write_clip(footage / f"{person:04d}" / "clip.mp4", draw_frames(draw(person, 2, 4, "turn left"), 12))
    source = {"path": str(footage), "names": "folder", "consent": "drawn", "licence": "Apache-2.0"}
    config = make_config(footage, tmp_path / "set", sources=[source])
    started, before_mb = time.process_time(), peak_mb()
    report = curate(config)

    rows, rejected = read_rows(config.output), read_rejections(config.output)
    of_person: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        of_person[row["person"]].add(Path(row["target"]).parent.name)
    files = {str(path) for path in footage.rglob("*") if path.suffix in (".png", ".mp4")}
    lost = files - {row["target"] for row in rows} - {item["subject"].split(", ")[0] for item in rejected}
    print(
        f"{len(files)} files, {len(rows)} pairs of {len(of_person)} people, {dict(report.reasons)}, "
        f"{(time.process_time() - started) / 60:.1f} min of processor, "
        f"{peak_mb():.0f} MB, {before_mb:.0f} before"
    )
    assert not lost, sorted(lost)[:5]
    assert len(of_person) > 0.8 * NUM_PEOPLE
    assert all(len(names) == 1 for names in of_person.values())
