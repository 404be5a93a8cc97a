"""Runs: the videos of all cases by one adapter under one setting, and what is read in them.

A run is done in chunks of 16 cases, each kept in files named by all that they depend on. So the experiment can be
stopped at any moment, and does only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lynx_core.formats.adapter import Adapter, open_adapter
from lynx_core.formats.adapter_weights import load_modules
from lynx_core.formats.base_file import load_transformer
from lynx_core.hashing import hash_file, hash_files, hash_values
from lynx_core.models.adapter_configs import PartKind
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedWan

from ..making import CPU
from ..parts.resumable import save_arrays, write_beside
from ..world.pairs import Pair
from .cases import NUM_PEOPLE, EncodedCases, draw_cases, encode_cases
from .quality import FaceProbe, Faces
from .readers import WEIGHTS_NAME, Rows, load_readers
from .sampling import (
    BatchSampler,
    Conditions,
    SamplingSettings,
    decode_latents,
    draw_noise,
    reconstruct,
    record_references,
)

CHUNK = 16
Photo = Literal["own", "swapped", "null"]


@dataclass(frozen=True)
class Run:
    """One adapter under one setting."""

    name: str
    seed: int
    """Of the adapter's training, and of the noise."""
    adapter: Path | None
    """None for the base alone."""
    parts: tuple[PartKind, ...] = ("resampler", "id", "ref")
    """Those of the adapter that are used, if it has them."""
    photo: Photo = "own"
    strength: float = 1.0
    zero_init: bool = False
    """Take an untrained adapter of the same shape."""


class Bench:
    """Everything that videos are made and read with, each opened when it is first used.

    Args:
        work: folder of the making, `.miniature`.
        assets: folder of the shipped files.
        settings: of sampling; its scales are set by the runs.
        device: that the base and the VAE compute on; the readers stay on the CPU.
    """

    def __init__(
        self, work: Path, assets: Path, settings: SamplingSettings, device: torch.device = CPU
    ) -> None:
        from diffusers import AutoencoderKLWan

        base = assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"
        readers = assets / WEIGHTS_NAME
        self.folder = work / "experiment"
        self.settings = settings
        self.cases: list[Pair] = draw_cases()
        self.encoded: EncodedCases = encode_cases(self.cases, work, assets)
        self.wan = PackedWan(load_transformer(base, torch.float32).to(device))
        vae: Any = AutoencoderKLWan.from_pretrained(str(work / "vae"))
        self.vae = vae.eval().requires_grad_(False).to(device)
        self.readers = load_readers(readers)
        self._video_key = [
            hash_file(base),
            self.encoded.key,
            settings.steps,
            settings.guidance,
            settings.shift,
        ]
        self._reading_key = [hash_file(readers), hash_files((work / "vae").glob("*.safetensors"))]
        self._grey = record_references(self.wan, [self.encoded.grey_reference], self.encoded.reference_text)
        self._features: dict[int, dict[int, Tensor]] = {}

    def run(self, run: Run, num_cases: int, note: Callable[[str], None]) -> Rows:
        """Give the rows of the first cases, made now or before."""
        sampler: BatchSampler | None = None
        chunks = []
        for first in range(0, num_cases, CHUNK):
            numbers = range(first, min(first + CHUNK, num_cases))
            path = self._path("readings", run, numbers, self._reading_key)
            if not path.is_file():
                sampler = sampler or BatchSampler(self.wan, open_parts(run))
                clips = decode_latents(self.vae, self._sample(sampler, run, numbers))
                _save(path, self.read(clips))
                note(f"{run.name}, seed {run.seed}: {numbers[-1] + 1} of {num_cases} videos")
            with np.load(path) as file:
                chunks.append({name: file[name] for name in file.files})
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def inspect(self, run: Run, num_cases: int, probe: Callable[[], FaceProbe]) -> Faces:
        """The faces in the videos of the first cases, found now or before."""
        parts = []
        for first in range(0, num_cases, CHUNK):
            numbers = range(first, min(first + CHUNK, num_cases))
            path = self._path("faces", run, numbers, self._reading_key)
            if not path.is_file():
                clips = decode_latents(self.vae, self._sample(None, run, numbers))
                people = [self.cases[number].target.identity for number in numbers]
                _save(path, probe().probe(clips, people, self.read(clips)["poses"]))
            with np.load(path) as file:
                parts.append({name: file[name] for name in file.files})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def inspect_drawn(self, num_cases: int, probe: Callable[[], FaceProbe]) -> dict[str, tuple[Rows, Faces]]:
        """What is read and found in the drawn targets of the first cases, and in those after the VAE."""
        found: dict[str, tuple[Rows, Faces]] = {}
        people = [case.target.identity for case in self.cases[:num_cases]]
        drawn = np.stack([case.draw_target() for case in self.cases[:num_cases]])
        for sort in ("drawn", "vae"):
            clips = drawn if sort == "drawn" else reconstruct(self.vae, drawn)
            rows = self.read(clips)
            path = self.folder / "faces" / f"{hash_values([self._reading_key, sort, num_cases])[:24]}.npz"
            if not path.is_file():
                _save(path, probe().probe(clips, people, rows["poses"]))
            with np.load(path) as file:
                found[sort] = rows, {name: file[name] for name in file.files}
        return found

    def show(self, run: Run, numbers: range) -> np.ndarray:
        """The videos of some cases of a chunk, [cases, T, H, W, 3] uint8 RGB."""
        chunk = range(numbers[0] // CHUNK * CHUNK, numbers[0] // CHUNK * CHUNK + CHUNK)
        latents = self._sample(None, run, chunk)[numbers[0] - chunk[0] :][: len(numbers)]
        return decode_latents(self.vae, latents)

    def _sample(self, sampler: BatchSampler | None, run: Run, numbers: range) -> Tensor:
        """Latents of the cases, [cases, 16, t, h, w], kept."""
        path = self._path("videos", run, numbers, [])
        if not path.is_file():
            sampler = sampler or BatchSampler(self.wan, open_parts(run))
            noise = torch.stack([draw_noise(number, run.seed) for number in numbers])
            settings = replace(self.settings, id_scale=run.strength, ref_scale=run.strength)
            latents = sampler.sample(noise, *self.conditions(run, numbers), settings)
            _save(path, {"latents": latents.half().cpu().numpy()})
        with np.load(path) as file:
            return torch.from_numpy(file["latents"]).float()

    def conditions(self, run: Run, numbers: range) -> tuple[Conditions, Conditions]:
        encoded = self.encoded
        texts = [encoded.texts[number] for number in numbers]
        nothing = torch.zeros(1, encoded.embeddings.shape[1])
        null = Conditions([encoded.empty_text], nothing, self._grey)
        if run.adapter is None:
            return Conditions(texts, None, None), null
        if run.photo == "null":
            return Conditions(texts, nothing, self._grey), null
        people = [swap_person(number) if run.photo == "swapped" else number for number in numbers]
        return Conditions(texts, encoded.embeddings[people], self._look_up_features(people)), null

    def _look_up_features(self, people: list[int]) -> dict[int, Tensor]:
        missing = [person for person in people if person not in self._features]
        if missing:
            latents = [self.encoded.references[person] for person in missing]
            made = record_references(self.wan, latents, self.encoded.reference_text)
            for place, person in enumerate(missing):
                self._features[person] = {block: features[place].clone() for block, features in made.items()}
        return {block: torch.stack([self._features[p][block] for p in people]) for block in self._grey}

    def read(self, clips: np.ndarray) -> Rows:
        """Read clips [cases, T, H, W, 3] uint8 RGB."""
        reading = self.readers.read_clips(clips)
        rows = {f"factor {name}": values for name, values in reading.factors.items()}
        rows |= {name: getattr(reading, name) for name in ("embedding", "background", "action", "poses")}
        return {**rows, "frame_embeddings": reading.frame_embeddings.astype(np.float16)}

    def _path(self, sort: str, run: Run, numbers: range, more: list[str]) -> Path:
        adapter = None if run.adapter is None else hash_file(run.adapter)
        depends_on = [
            adapter,
            list(run.parts),
            run.photo,
            run.strength,
            run.zero_init,
            run.seed,
            list(numbers),
        ]
        return self.folder / sort / f"{hash_values([self._video_key, depends_on, more])[:24]}.npz"


def swap_person(number: int) -> int:
    """Whose photo a case gets when the photos are swapped."""
    return (number + NUM_PEOPLE // 2) % NUM_PEOPLE


def open_parts(run: Run) -> AdapterModules | None:
    """Open the parts of a run's adapter."""
    if run.adapter is None:
        return None
    opened = open_adapter(run.adapter)
    kept = [part for kind, part in opened.parts.items() if kind in run.parts]
    modules = load_modules(Adapter(opened.name, kept))
    if run.zero_init:
        modules = AdapterModules.create(modules.configs, run.seed)
    return modules.eval().requires_grad_(False)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    write_beside(path, lambda beside: save_arrays(beside, arrays))
