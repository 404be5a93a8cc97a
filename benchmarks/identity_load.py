"""Time to load a saved identity with the keys and values of Wan 14B, from a warm disk: `python benchmarks/identity_load.py`.

Beside it the same bytes are read with nothing done to them, in turn. At most 0.5 s on a quiet machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from shapes import ID_TOKENS, REF_TOKENS, SHAPES

from lynx_core.formats.identity_file import (
    IdentityPhoto,
    MadeFor,
    SavedIdentity,
    open_identity,
    save_identity,
)
from lynx_core.models.kv_cache import BlockKV, KVCache
from lynx_core.spec import EMBEDDING_DIM

NUM_PHOTOS = 4


def make_identity() -> SavedIdentity:
    """Make an identity of random numbers, as large as a real one."""
    shape = SHAPES["14b"]

    def make_kv(tokens: int) -> KVCache:
        size = (1, tokens, shape.dim)
        blocks = range(shape.num_blocks)
        return KVCache(
            [(b, BlockKV(*(torch.randn(size).bfloat16() for _ in range(2)))) for b in blocks], True
        )

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (px, px, 3), dtype=np.uint8) for px in (112, 256)]
    embedding = torch.nn.functional.normalize(torch.randn(EMBEDDING_DIM), dim=0)
    parts = {"id": ID_TOKENS, "ref": REF_TOKENS}
    return SavedIdentity(
        "benchmark",
        "facexlib/arcface_ir_se50",
        embedding,
        embedding[None],
        (IdentityPhoto(*pictures),) * NUM_PHOTOS,
        made_for=MadeFor("full", "0", "Wan 14B", "0", shape.dim, shape.num_blocks),
        kv_caches={f"{part}.{who}": make_kv(n) for part, n in parts.items() for who in ("face", "null")},
    )


def measure(function: object, path: Path) -> tuple[float, float]:
    """Give wall-clock and processor seconds."""
    start, cpu_start = time.perf_counter(), time.process_time()
    function(path)  # type: ignore[operator]
    return time.perf_counter() - start, time.process_time() - cpu_start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=7, help="loads that are measured (default: 7)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "identity.safetensors"
        num_bytes = save_identity(path, make_identity())
        path.read_bytes()
        pairs = [(measure(open_identity, path), measure(Path.read_bytes, path)) for _ in range(runs)]
    print(f"{num_bytes / 1e6:.0f} MB; median of {runs}")
    for number, what in enumerate(("load the identity", "read the bytes alone")):
        wall, cpu = (statistics.median(pair[number][which] for pair in pairs) for which in (0, 1))
        print(f"{what:22s} {wall:6.3f} s, {cpu:.3f} s of processor time")


if __name__ == "__main__":
    main()
