"""A short training on the shipped base, from drawn people to videos: what is learned is likeness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mini_training import ASSETS, NUM_PEOPLE

from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.adapter_weights import load_modules
from lynx_core.formats.base_file import load_transformer
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedWan
from miniature.dataset import PAIRS_PER_IDENTITY
from miniature.experiment.cases import EncodedCases, encode_cases
from miniature.experiment.readers import WEIGHTS_NAME, load_readers
from miniature.experiment.sampling import (
    BatchSampler,
    Conditions,
    SamplingSettings,
    decode_latents,
    draw_noise,
    record_references,
)
from miniature.parts.vae import open_vae
from miniature.world.draws import draw_shot
from miniature.world.pairs import Pair, draw_pair

GALLERY_PICTURES = 3
BASE = ASSETS / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"
SETTINGS = SamplingSettings(steps=10)


@pytest.fixture(scope="module")
def people() -> list[Pair]:
    """The people that were trained on, with their photos, in videos that were not."""
    return [
        draw_pair(10**6 + i, "multi-scene", is_video=True, held_out_captions=True, identity_number=i)
        for i in range(NUM_PEOPLE)
    ]


def sample_clips(wan: PackedWan, adapter: AdapterModules, cases: EncodedCases, work: Path) -> np.ndarray:
    """A video of each person, [people, 9, 64, 64, 3] uint8 RGB."""
    features = record_references(wan, list(cases.references), cases.reference_text)
    grey = record_references(wan, [cases.grey_reference], cases.reference_text)
    wanted = Conditions(cases.texts, cases.embeddings, features)
    unwanted = Conditions([cases.empty_text], torch.zeros_like(cases.embeddings[:1]), grey)
    noise = torch.stack([draw_noise(number, 0) for number in range(NUM_PEOPLE)])
    latents = BatchSampler(wan, adapter).sample(noise, wanted, unwanted, SETTINGS)
    return decode_latents(open_vae(work), latents)


def test_a_short_training_carries_likeness(briefly_trained: Path, people: list[Pair]) -> None:
    """Against the same adapter before its first step, which adds nothing to the base."""
    assert PAIRS_PER_IDENTITY * NUM_PEOPLE < 10**6, "the videos' scenes are none of the training's"
    work = briefly_trained.parents[1]
    wan = PackedWan(load_transformer(BASE, torch.float32))
    cases = encode_cases(people, work, ASSETS)
    readers = load_readers(ASSETS / WEIGHTS_NAME)
    gallery = np.stack(
        [
            readers.embed(
                np.stack(
                    [draw_shot(p.target.identity, 10**7 + k).draw_frame(4) for k in range(GALLERY_PICTURES)]
                )
            ).mean(0)
            for p in people
        ]
    )
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    trained = load_modules(open_adapter(briefly_trained))
    likeness, top1 = [], []
    for adapter in (AdapterModules.create(trained.configs, 0), trained):
        adapter.eval().requires_grad_(False)
        scores = readers.read_clips(sample_clips(wan, adapter, cases, work)).embedding @ gallery.T
        likeness.append(np.diag(scores).mean() - scores[~np.eye(len(scores), dtype=bool)].mean())
        top1.append((scores.argmax(1) == np.arange(len(scores))).mean())
    print(
        f"lead in likeness {likeness[0]:.3f} before, {likeness[1]:.3f} after; top-1 {top1[0]:.2f}, {top1[1]:.2f}"
    )
    assert likeness[1] > likeness[0] + 0.1
    assert top1[1] > top1[0]
