"""Cache of the reference pass: the frozen base's features of each face, instead of a pass at every step.

It never changes: timestep 0, no adapter, the same prompt. For a base of width 5120 and 40 blocks a face is
105 MB, so this is for few people or small bases.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.packed_wan import PackedInputs, PackedWan, RecordedReferences
from ..models.segment_attention import Segments


class ReferenceFeatureCache:
    """Keeps the features of references on the CPU; the one that was used longest ago goes first.

    Args:
        base: runs the reference pass.
        max_bytes: of all features together.
    """

    def __init__(self, base: PackedWan, max_bytes: float) -> None:
        self.base, self.max_bytes = base, max_bytes
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self._num_bytes = 0

    def get(self, inputs: PackedInputs) -> RecordedReferences | None:
        """Give the features of a pack's references; None when it has none."""
        latents, text = inputs.reference_latents, inputs.reference_text
        if latents is None or text is None:
            return None
        text_key = _hash_tensor(text)
        found = [[] if latent is None else self._find(latent, text, text_key) for latent in latents]
        present = [features for features in found if features]
        features = {
            index: torch.cat(list(seen)).to(inputs.timesteps.device)
            for index, seen in enumerate(zip(*present, strict=True))
        }
        return RecordedReferences(features, Segments(tuple(len(f[0]) if f else 0 for f in found)))

    def _find(self, latent: Tensor, text: Tensor, text_key: bytes) -> list[Tensor]:
        key = text_key + _hash_tensor(latent)
        features = self._kept.pop(key, None)
        if features is None:
            # Alone, since the rest of a pack changes the last bits, and a resumed run caches others.
            recorded = self.base.record_features([latent], text).features
            features = [recorded[index].cpu() for index in sorted(recorded)]
            self._num_bytes += _count_bytes(features)
        self._kept[key] = features
        while self._num_bytes > self.max_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= _count_bytes(oldest)
        return features


def _hash_tensor(tensor: Tensor) -> bytes:
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()


def _count_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
