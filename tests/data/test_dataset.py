"""The dataset: cached or not the same bits, and every bad file skipped, never a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoders import make_small_encoders, save_small_models
from small_media import count_sample_tokens, list_ids, quarantine_sample, write_image, write_rows, write_video

from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.sample import Sample
from lynx_core.hashing import hash_values
from lynx_core.training.curriculum import plan_epoch_items
from lynx_core.training.packing import PackingConfig, plan_epoch

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)
Row = dict[str, Any]
OpenSource = Callable[..., PairDataset]


@pytest.fixture
def open_source(folder: Path, rows: list[Row], encoders: Encoders) -> OpenSource:
    def build(**options: Any) -> PairDataset:
        manifest = read_manifest(write_rows(folder / "pairs.jsonl", rows))
        return PairDataset(
            manifest, options.pop("encoders", encoders), options.pop("decoding", DECODING), **options
        )

    return build


def tensors(sample: Sample) -> list[torch.Tensor]:
    return [sample.latents, sample.text, sample.embedding, sample.reference_latents]


def write_broken_image(path: Path, seed: int = 0) -> Path:
    """A JPEG cut off in the middle: a probe reads its header, the decoder not all of its pixels."""
    write_image(path, seed=seed, format="JPEG")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) - 200])
    return path


def test_samples_hold_what_a_step_needs(open_source: OpenSource) -> None:
    source = open_source()
    assert (list_ids(source), len(source)) == (["a", "b", "c", "d"], 4)
    assert count_sample_tokens(source) == [2 * 3 * 4, 2 * 3 * 4, 12, 12]
    for index, sample in enumerate(map(source.load, range(4))):
        assert sample.latents.shape == (16, *source.items[index].plan.latent_shape)
        assert sample.num_tokens == count_sample_tokens(source)[index]
        assert sample.text.shape == (4, 16)
        assert sample.embedding.norm() == pytest.approx(1)
        assert sample.reference_latents.shape == (16, 1, 32, 32)
        assert sample.latents.dtype == sample.reference_latents.dtype == torch.float32
    nulls = source.nulls()
    assert nulls.empty_text.shape == (1, 16) and nulls.reference_text.shape == (5, 16)
    assert nulls.grey_reference.shape == (16, 1, 32, 32)


def test_cached_and_made_samples_are_equal_to_the_bit(open_source: OpenSource, tmp_path: Path) -> None:
    plain = open_source()
    filling = open_source(cache_dir=tmp_path / "cache")
    for index in range(4):
        filling.load(index)
    cached = open_source(cache_dir=tmp_path / "cache")
    for index in range(4):
        for made, first, read in zip(
            *(tensors(source.load(index)) for source in (plain, filling, cached)), strict=True
        ):
            assert torch.equal(made, read) and torch.equal(first, read)
    assert cached.features.cache.counts.made == 0


def test_equal_names_do_not_collide(open_source: OpenSource, folder: Path, rows: list[Row]) -> None:
    for name, seed in (("x", 1), ("y", 2)):
        (folder / name).mkdir()
        write_image(folder / name / "photo.png", seed=seed)
    rows[2]["target"], rows[3]["target"] = "x/photo.png", "y/photo.png"
    source = open_source(cache_dir=folder / "cache")
    assert not torch.equal(source.load(2).latents, source.load(3).latents)


def test_one_file_decoded_in_two_ways_does_not_collide(open_source: OpenSource, folder: Path) -> None:
    for max_frames, fps in ((5, 16.0), (1, 16.0), (5, 32.0)):
        config = DecodingConfig(max_px=64 * 64, max_frames=max_frames, fps=fps)
        cached = open_source(decoding=config, cache_dir=folder / "cache").load(0)
        assert torch.equal(cached.latents, open_source(decoding=config).load(0).latents)


def test_references_are_averaged(open_source: OpenSource, rows: list[Row]) -> None:
    alone = [open_source().load(index) for index in (0, 1)]
    rows[0]["references"] = ["face_a.png", "face_b.png"]
    both = open_source().load(0)
    mean = (alone[0].embedding + alone[1].embedding) / 2
    torch.testing.assert_close(both.embedding, mean / mean.norm())
    assert torch.equal(both.reference_latents, alone[0].reference_latents)


def test_trimmed_samples_keep_their_first_frames(open_source: OpenSource) -> None:
    source = open_source()
    whole = source.load(0)
    source.trim({0: 1})
    trimmed = source.load(0)
    assert trimmed.num_tokens == 12
    assert torch.equal(trimmed.latents, whole.latents[:, :1])


@pytest.mark.parametrize("fault", ["probe", "decode", "no face", "gone later"])
def test_bad_samples_are_quarantined(
    open_source: OpenSource, folder: Path, rows: list[Row], fault: str
) -> None:
    if fault == "probe":
        (folder / "a.mp4").write_bytes(b"no video" * 100)
    elif fault == "decode":
        write_broken_image(folder / "c.png")
    elif fault == "no face":
        write_image(folder / "face_c.png", (100, 60))  # not square, so not aligned
    source = open_source(quarantine_path=folder / "run" / "quarantine.jsonl")
    if fault == "gone later":
        (folder / "c.png").unlink()
    if fault == "probe":
        assert list_ids(source) == ["b", "c", "d"]
    else:
        with pytest.raises(MediaError):
            source.load(2)
    (line,) = (folder / "run" / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    expected = {"no face": "no face", "gone later": "file is gone"}
    assert entry["reason"] == expected.get(fault, "does not decode")
    assert (entry["id"], entry["line"]) == (("a", 1) if fault == "probe" else ("c", 3))
    assert f"1 skipped: {entry['reason']}" in source.quarantine.summary()


def test_packs_replace_bad_samples_by_a_fixed_rule(
    folder: Path, rows: list[Row], open_source: OpenSource
) -> None:
    """Of its kind and not longer first; then of any kind; else the place stays empty."""
    for name in "efg":
        write_image(folder / f"{name}.png", seed=ord(name))
        rows.append({**rows[2], "id": name, "target": f"{name}.png"})
    write_image(folder / "g.png", (32, 32))
    rows[6]["kind"] = "multi-scene"
    write_broken_image(folder / "c.png")
    source = open_source(quarantine_path=folder / "quarantine.jsonl")
    assert [sample.id for sample in source.load_pack([2, 3])] == ["e", "d"]
    quarantine_sample(source, 4, "nan at step 3")
    assert [sample.id for sample in source.load_pack([2, 3])] == ["f", "d"]
    quarantine_sample(source, 5, "nan at step 4")
    assert [sample.id for sample in source.load_pack([2])] == ["d"], "another kind of the same length"
    quarantine_sample(source, 6, "nan at step 5")
    assert [sample.id for sample in source.load_pack([6, 3])] == ["d"], "nothing is as short as g"
    assert [sample.id for sample in source.load_pack([6])] == ["d"], "a pack is never empty"
    again = open_source(quarantine_path=folder / "quarantine.jsonl")
    assert len(again.quarantine) == 4
    assert [sample.id for sample in again.load_pack([2])] == ["d"]


def test_nothing_left_says_why(folder: Path, open_source: OpenSource) -> None:
    for name in "ab":
        (folder / f"{name}.mp4").write_bytes(b"no video" * 100)
    for name in "cd":
        write_broken_image(folder / f"{name}.png", seed=ord(name))
    source = open_source()
    with pytest.raises(DataError, match="no usable sample is left") as caught:
        source.load_pack([0])
    assert "4 skipped: does not decode; first: line 1, id a" in str(caught.value)
    for name in "cd":
        (folder / f"{name}.png").write_bytes(b"no image" * 100)
    with pytest.raises(DataError, match=r"no usable sample is left of .*pairs.jsonl"):
        open_source()


def test_full_disk_is_not_the_fault_of_a_sample(
    open_source: OpenSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(cache_dir=tmp_path / "cache")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lynx_core.data.cache.tensor_cache.write_durably", fail)
    with pytest.raises(DataError, match="the disk is full"):
        source.load_pack([0])
    assert not len(source.quarantine)


CHANGES: dict[str, Callable[[Path, list[Row]], Any]] = {
    "caption": lambda folder, rows: rows[0].update(caption="a man c"),
    "target": lambda folder, rows: write_video(folder / "a.mp4", num_frames=6, seed=9),
    "reference": lambda folder, rows: write_image(folder / "face_a.png", (112, 112), seed=9),
    "order": lambda folder, rows: rows.reverse(),
    "fewer": lambda folder, rows: rows.pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_noticed(
    folder: Path, rows: list[Row], open_source: OpenSource, change: str
) -> None:
    before = open_source().fingerprints
    assert open_source().fingerprints == before, "nothing has changed yet"
    CHANGES[change](folder, rows)
    assert list_changes(open_source(), before) in (["dataset"], ["num_samples", "dataset"])


def list_changes(source: PairDataset, before: dict[str, int | str]) -> list[str]:
    """What a resumed run would name, see plan_resume."""
    assert source.fingerprints.keys() == before.keys()
    return [name for name, value in source.fingerprints.items() if before[name] != value]


def test_changed_settings_are_noticed(open_source: OpenSource, tmp_path: Path) -> None:
    before = open_source().fingerprints
    path = tmp_path / "quarantine.jsonl"
    quarantine_sample(open_source(quarantine_path=path), 0)
    other = open_source(decoding=DecodingConfig(max_px=64 * 64, max_frames=1), quarantine_path=path)
    assert list_changes(other, before) == ["decoding"]
    assert not len(other.quarantine), "with other settings it is tried again"
    save_small_models(tmp_path / "models", seed=1)
    assert list_changes(open_source(encoders=make_small_encoders(tmp_path / "models")), before) == [
        "encoders"
    ]


def test_moved_data_are_the_same(folder: Path, open_source: OpenSource, encoders: Encoders) -> None:
    before = open_source().fingerprints
    (folder / "moved").mkdir()
    for path in [*folder.glob("*.mp4"), *folder.glob("*.png"), folder / "pairs.jsonl"]:
        path.rename(folder / "moved" / path.name)
    manifest = read_manifest(folder / "moved" / "pairs.jsonl")
    assert PairDataset(manifest, encoders, DECODING).fingerprints == before


def read_epochs(folder: Path) -> list[str]:
    """What a run would print: the samples of each step of three weighted epochs, and the fingerprint."""
    source = PairDataset(
        read_manifest(folder / "pairs.jsonl"),
        make_small_encoders(folder / "models"),
        DECODING,
        cache_dir=folder / "cache",
        quarantine_path=folder / "quarantine.jsonl",
    )
    weights = {"single-scene": 1.0, "multi-scene": 1.0, "augmented": 2.0}
    lines = []
    for epoch in range(3):
        kinds = [item.pair.kind for item in source.items]
        items = plan_epoch_items(kinds, weights, seed=1, epoch=epoch)
        config = PackingConfig(max_tokens=40)
        plan = plan_epoch(
            count_sample_tokens(source), config, seed=1, epoch=epoch, packs_per_step=1, items=items
        )
        for step in range(len(plan)):
            samples = source.load_pack(plan.pack(step))
            lines += [f"{epoch} {step} {s.id} {hash_values(s.latents.tolist())}" for s in samples]
    return [*lines, json.dumps(source.fingerprints)]


READ_EPOCHS = """
import sys
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_dataset import read_epochs
print("\\n".join(read_epochs(Path(sys.argv[1]))))
assert "diffusers" not in sys.modules, "an encoder was opened in spite of the cache"
"""


def test_same_samples_in_another_process(folder: Path, rows: list[Row], models_dir: Path) -> None:
    """Also when the other one finds all in the cache, and knows from the start what this one found out."""
    write_broken_image(folder / "c.png")
    write_rows(folder / "pairs.jsonl", rows)
    (folder / "models").symlink_to(models_dir)
    here = read_epochs(folder)
    assert {line.split()[2] for line in here[:-1]} == {"a", "b", "d"}
    assert json.loads((folder / "quarantine.jsonl").read_text())["id"] == "c"
    tests = Path(__file__).parent
    there = subprocess.run(
        [sys.executable, "-c", READ_EPOCHS, str(folder), str(tests), str(tests.parent / "host")],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert there == here
