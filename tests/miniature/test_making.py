"""The making: from nothing to all files by one command, stopped on the way, and drawn by other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lynx_core.data.encoders import UMT5TextEncoder
from lynx_core.faces.analyzer import ArcFaceRecogniser
from lynx_core.faces.arcface import load_arcface
from lynx_core.spec import REFERENCE_PROMPT
from miniature.adapters import SCRATCH, SEEDS, STAGE_ONE, find_adapter
from miniature.encoders import unpack_encoders
from miniature.experiment.sampling import decode_latents
from miniature.make import UNFINISHED
from miniature.making import REPO_DIR, Making
from miniature.parts import base_data, detector
from miniature.parts.drawing_ahead import draw_ahead
from miniature.parts.resumable import read_part
from miniature.parts.text_encoder import embed_tokens, open_text_encoder
from miniature.parts.vae import open_vae
from miniature.world.caption import list_captions
from miniature.world.draws import caption_of, draw_training_shot

SHIPPED = Making().assets


def start_making(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "miniature.make", "--device", "cpu", "--rehearse", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=REPO_DIR, env=environment, start_new_session=True)


def describe_weights(path: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


@pytest.mark.timeout(900)
def test_everything_is_made_from_nothing(tmp_path: Path) -> None:
    """In little; out of time once, killed once, and then to the end, with the layouts of the shipped files."""
    assert start_making(tmp_path, "--minutes", "0.05").wait() == UNFINISHED
    killed = start_making(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / ".miniature" / "drawings").is_dir():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start_making(tmp_path).wait() == 0
    making = Making(tmp_path)
    for shipped in SHIPPED.rglob("*.safetensors"):
        made = making.assets / shipped.relative_to(SHIPPED)
        assert describe_weights(made) == describe_weights(shipped)
    for shipped in SHIPPED.rglob("*.onnx"):
        assert (making.assets / shipped.relative_to(SHIPPED)).stat().st_size == shipped.stat().st_size
    for name in (*(f"full_seed{seed}" for seed in SEEDS), STAGE_ONE, SCRATCH):
        assert find_adapter(making, name).is_file()


def test_an_unknown_part_and_too_many_processes_are_refused(tmp_path: Path) -> None:
    for options, words in (
        (["--only", "vea"], "no part 'vea'"),
        (["--processes", "8"], "--processes is 1 or 2"),
    ):
        command = [sys.executable, "-m", "miniature.make", "--device", "cpu", *options]
        found = subprocess.run(command, check=False, cwd=REPO_DIR, capture_output=True, text=True)
        assert found.returncode == 2
        assert words in found.stderr


@pytest.mark.parametrize("values", [{"share": 0.0}, {"share": 1.5}, {"num_drawers": -1}])
def test_a_making_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        Making(**values)  # type: ignore[arg-type]


def test_stopped_and_drawn_ahead_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole, parts = (Making(tmp_path / name, share=1 / 500) for name in ("whole", "parts"))
    assert detector.train_detector(whole)
    calls = 0
    while not detector.train_detector(replace(parts, num_drawers=2, stop_at=time.monotonic())):
        calls += 1
    assert calls == whole.count(detector.NUM_STEPS) - 1, "one step at a time"
    first, second = (read_part(making.folder / "detector.pt", "net") for making in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def fail_at(bad: int, number: int) -> np.ndarray:
    if number == bad:
        raise ValueError(f"nobody can draw {number}")
    return np.full(2, number)


@pytest.mark.parametrize("num_drawers", [0, 2])
def test_drawings_come_in_order_and_errors_come_through(num_drawers: int) -> None:
    drawn = draw_ahead(partial(fail_at, 99), [5, 3, 8, 1, 9, 2], num_drawers)
    assert [int(array[0]) for array in drawn] == [5, 3, 8, 1, 9, 2]
    with pytest.raises(ValueError, match="nobody can draw 3"):
        list(draw_ahead(partial(fail_at, 3), [5, 3], num_drawers))


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Making:
    """A few drawings for the base, encoded by the shipped files."""
    root = tmp_path_factory.mktemp("drawings")
    (root / "assets").mkdir()
    (root / "assets" / "mini").symlink_to(SHIPPED)
    making = Making(root, share=1 / 1000)
    unpack_encoders(making.assets, making.folder)
    assert base_data.encode_drawings(making)
    return making


def test_drawings_are_the_pictures_that_their_captions_name(drawings: Making) -> None:
    data = base_data.load_drawings(drawings)
    assert {sort: len(latents) for sort, latents in data.latents.items()} == {
        "images": 24, "clips": 9, "crops": 1,
    }  # fmt: skip
    clips = decode_latents(open_vae(drawings.folder), data.latents["clips"].float())
    captions = [caption for caption, _ in list_captions()]
    for place, number in enumerate(
        range(base_data.FIRST_NUMBERS["clips"], base_data.FIRST_NUMBERS["clips"] + 9)
    ):
        shot = draw_training_shot(number)
        off = np.abs(clips - shot.draw_clip().astype(int)).mean((1, 2, 3, 4))
        assert off.argmin() == place and off[place] < 16
        row = int(data.captions["clips"][place])
        assert captions[row - base_data.REFERENCE - 1] == caption_of(shot, number)
        assert not data.token_ids[row, data.lengths[row] :].any()


def test_captions_are_embedded_as_the_trainer_embeds_them(drawings: Making) -> None:
    data = base_data.load_drawings(drawings)
    rows = torch.tensor([base_data.EMPTY, base_data.REFERENCE, *data.captions["clips"][:3].tolist()])
    found = embed_tokens(open_text_encoder(drawings), data.token_ids[rows])
    encoder = UMT5TextEncoder(drawings.folder / "text_encoder", drawings.folder / "tokenizer")
    captions = ["", REFERENCE_PROMPT, *(caption for caption, _ in list_captions())]
    for row, states in zip(rows, found, strict=True):
        wanted = encoder.encode(captions[row]).float()
        assert len(wanted) == data.lengths[row]
        assert torch.allclose(states[: len(wanted)], wanted, atol=0.05), captions[row]
        assert not states[len(wanted) :].any()


def test_drawn_faces_are_embedded_by_the_shipped_recogniser(drawings: Making) -> None:
    (shard,) = (shard for shard in base_data.list_shards(drawings) if shard.sort == "crops")
    path = SHIPPED / "lynx" / "faces" / "lynx_mini_arcface.safetensors"
    expected = ArcFaceRecogniser(load_arcface(path)).embed(base_data.draw_shard(shard).id_crops)
    assert torch.equal(base_data.load_face_embeddings(drawings), expected)


def test_a_missing_file_of_drawings_is_made_again_alone(drawings: Making) -> None:
    paths = [shard.path for shard in base_data.list_shards(drawings)]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[1].unlink()
    assert base_data.encode_drawings(drawings)
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (data, _) in before.items()}
    assert paths[0].stat().st_mtime_ns == before[paths[0]][1]
