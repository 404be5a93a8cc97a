"""Cached references give what a new reference pass gives, within the size that is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny_packs
import torch
from tiny_packs import TinySample, make_adapter, make_samples, pack, relative_error
from torch import Tensor

from lynx_core.models.packed_wan import PackedWan, RecordedReferences
from lynx_core.training.reference_cache import ReferenceFeatureCache


class CountingWan(PackedWan):
    """Counts the faces of its reference passes."""

    num_passes = 0

    def record_features(self, latents: Sequence[Tensor | None], text: Tensor) -> RecordedReferences:
        self.num_passes += len(latents)
        return super().record_features(latents, text)


@pytest.fixture
def wan() -> CountingWan:
    return CountingWan(tiny_packs.make_transformer())


def predict_both(wan: PackedWan, cache: ReferenceFeatureCache, samples: Sequence[TinySample]) -> list[float]:
    adapter, inputs = make_adapter("full"), pack(samples)
    with torch.no_grad():
        expected = wan(inputs, adapter)
        found = wan(inputs, adapter, recorded=cache.get(inputs))
    return [relative_error(a, b) for a, b in zip(found, expected, strict=True)]


def test_cached_references_change_nothing(wan: CountingWan) -> None:
    cache, samples = ReferenceFeatureCache(wan, 1e9), make_samples()
    num_faces = len([s for s in samples if s.reference is not None])
    assert 0 < num_faces < len(samples)
    assert max(predict_both(wan, cache, samples)) < 1e-5
    assert wan.num_passes == num_faces
    assert max(predict_both(wan, cache, samples[::-1])) < 1e-5
    assert wan.num_passes == num_faces, "they were there already"


def test_a_full_cache_drops_the_oldest(wan: CountingWan) -> None:
    faces = [s for s in make_samples() if s.reference is not None][:2]
    room_for_one = ReferenceFeatureCache(wan, 1)
    assert max(predict_both(wan, room_for_one, faces)) < 1e-5
    assert wan.num_passes == 2
    room_for_one.get(pack(faces[1:]))
    assert wan.num_passes == 2, "the newest is kept"
    room_for_one.get(pack(faces[:1]))
    assert wan.num_passes == 3


def test_a_pack_without_references_needs_none(wan: CountingWan) -> None:
    none = [s for s in make_samples() if s.reference is None]
    recorded = ReferenceFeatureCache(wan, 1e9).get(pack(none))
    assert recorded is not None and recorded.segments.total == 0
    assert max(predict_both(wan, ReferenceFeatureCache(wan, 1e9), none)) < 1e-5
