"""Seeded numbers and content hashes stay what they are: checkpoints and caches on disk depend on them."""

from __future__ import annotations

from pathlib import Path

import torch

from lynx_core.hashing import (
    WHOLE_FILE_BYTES,
    hash_every_byte,
    hash_file,
    hash_files,
    hash_tensors,
    hash_values,
)
from lynx_core.rng import (
    ORDER_OF_SAMPLES,
    ORDER_OF_STEPS,
    RNGKey,
    derive_seed,
    numpy_generator,
    random_bits,
    shuffled,
)


def test_orders() -> None:
    assert random_bits(2, 7, ORDER_OF_STEPS, 3, 1).tolist() == [10602017233186459526, 13872438032996392702]
    assert shuffled(6, 7, ORDER_OF_SAMPLES, 3).tolist() == [2, 4, 0, 5, 1, 3]


def test_generators() -> None:
    seeds = [derive_seed(7, word) for word in ("adapter", 1, "1")]
    assert seeds == [5755204208848186653, 1047870896159698275, 690504839773215905]
    noise = torch.randn(2, generator=RNGKey(7, "images", 2, "a.mp4", 1).generator("noise"))
    assert noise.tolist() == [2.47261643409729, 0.8673574924468994]
    assert numpy_generator("identity", 5).integers(1000, size=4).tolist() == [922, 14, 9, 455]


def test_hashes(tmp_path: Path) -> None:
    small, large = tmp_path / "s", tmp_path / "l"
    small.write_bytes(bytes(range(256)) * 4)
    large.write_bytes(bytes(i * i % 251 for i in range(5000)) * 1000)
    assert small.stat().st_size < WHOLE_FILE_BYTES < large.stat().st_size
    assert hash_file(small).startswith("1b7ff7000e1cedc1")
    assert hash_file(large).startswith("5d6470228bb05588")
    assert hash_every_byte(small).startswith("785b0751fc2c53dc")
    assert hash_files([small, large]).startswith("2e0e7484e65d8291")
    assert hash_values([1, "1", None, {"b": 1.5, "a": []}]).startswith("99f75e2793d1315f")
    tensors = {"b": torch.arange(4.0), "a": torch.ones(2, dtype=torch.bfloat16)}
    assert hash_tensors(tensors).startswith("0a482b34e792488a")
