"""The index that `prepare` leaves: opening it against looking at every file, memory of a pair, planning an epoch.

    python benchmarks/index.py                           # 1,000,000 pairs; 2,000 files for the other way
    python benchmarks/index.py --pairs 50000000 --files 0   # 12 GB of disk, 3 GB of memory

The pairs are synthetic: lengths as in `packing.py`, paths and captions of usual lengths, no media. Each part runs in a
process of its own. Looking at every file (the start without an index, with all probes in the cache) is timed on
`--files` pictures and counted up to the number of pairs, as both ways cost the same for each pair. Aims: 1 M pairs
opened in 5 s and 50 times faster than by files, 50 M in 60 s and 3 GB; 40 bytes a pair; an epoch of 50 M planned in
120 s and 4 GB, fill 97 %.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from packing import generate_shapes
from peak_memory import PeakMemory, read_resident
from PIL import Image

from lynx_core.data.cache.tensor_cache import TensorCache
from lynx_core.data.dataset_index import build_index
from lynx_core.data.manifest import KINDS, Pair, read_manifest
from lynx_core.data.media.decoding import ClipPlan, DecodingConfig
from lynx_core.data.pair_table import BATCH_ROWS, IndexEntry, PairTable, make_table
from lynx_core.data.prepared_index import open_index, write_index
from lynx_core.rng import ORDER_OF_SAMPLES, shuffled_part
from lynx_core.training.curriculum import PART_SAMPLES
from lynx_core.training.packing import PackingConfig, fit_to_budget, plan_part

MIN_RATIO, MAX_BYTES, MIN_FILL = 50.0, 40.0, 0.97
_SEED = 0


def write_synthetic_index(folder: Path, num_pairs: int) -> None:
    """An index in the format of `write_index`, without making each row in Python."""
    folder.mkdir(parents=True)
    manifest = folder / "pairs.jsonl"
    manifest.write_text("{}\n")
    write_index(folder / "index" / "pairs.json", _describe(manifest, num_pairs), (), ())
    stated = json.loads((folder / "index" / "pairs.json").read_text())
    files = {name: folder / "index" / table["file"] for name, table in stated["tables"].items()}
    with pa.memory_map(str(files["pairs"])) as mapped:
        batch = pa.ipc.open_file(mapped).get_batch(0)
        aside = files["pairs"].with_suffix(".new")
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            for start in range(0, num_pairs, BATCH_ROWS):
                file.write_batch(batch.slice(0, min(BATCH_ROWS, num_pairs - start)))
    aside.replace(files["pairs"])
    _write_plan(files["plan"], num_pairs)
    for name, file in files.items():
        stated["tables"][name]["bytes"] = file.stat().st_size
    (folder / "index" / "pairs.json").write_text(json.dumps(stated))


def _describe(manifest: Path, num_pairs: int) -> Any:
    """An index of one batch, whose rows are repeated."""
    from lynx_core.data.dataset_index import DatasetIndex

    size = ClipPlan.restore((480, 832, 480, 832), None)
    entries = [
        IndexEntry(
            Pair(
                f"pair-{row:012d}", manifest.parent / f"clips/{row:012d}.mp4", (manifest.parent / f"faces/{row:012d}.jpg",),
                "A woman in a red coat laughs in the rain.", KINDS[row % 3], row,
                row_hash=f"{row:064x}",
            ),
            size, f"{row:064x}", (f"{row + 1:064x}",), ((10**7, 1), (10**5, 1)),
        )
        for row in range(min(num_pairs, BATCH_ROWS))
    ]  # fmt: skip
    table = make_table(entries, manifest.parent)
    return DatasetIndex(table, (), (), "0" * 64, manifest, num_pairs, "")


def _write_plan(path: Path, num_pairs: int) -> None:
    config = PackingConfig()
    tokens, frames = np.zeros(num_pairs, np.int32), np.zeros(num_pairs, np.int16)
    for start in range(0, num_pairs, PART_SAMPLES):
        shapes = generate_shapes(min(PART_SAMPLES, num_pairs - start), 0.3, start)
        tokens[start : start + len(shapes)] = fit_to_budget(shapes, config).lengths
        frames[start : start + len(shapes)] = shapes[:, 0]
    side = np.full(num_pairs, 60, np.int16)
    columns = {
        "line": np.arange(num_pairs, dtype=np.int32), "tokens": tokens, "kind": (np.arange(num_pairs) % 3).astype(np.int8),
        "latent_frames": frames, "latent_height": side, "latent_width": side,
    }  # fmt: skip
    batch = pa.record_batch({name: pa.array(column) for name, column in columns.items()})
    schema = batch.schema.with_metadata({"num_absent": "0", "kind_weights": "null"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        file.write_batch(batch.replace_schema_metadata(schema.metadata))


def open_it(folder: Path, small: Path) -> dict[str, float]:
    """Time to open and to tabulate, the memory of both, and what a thousand samples add to the process's own."""
    open_index(small / "index" / "pairs.json", small / "pairs.jsonl")  # the libraries are no part of it
    before = read_resident()
    start = time.perf_counter()
    index = open_index(folder / "index" / "pairs.json", folder / "pairs.jsonl")
    assert index is not None
    items: PairTable = index.items
    total = int(items.tokens.sum()) + int((items.latent_frames == 1).sum()) + int(items.lines[-1])
    counts = np.bincount(items.kinds, minlength=len(KINDS))
    seconds = time.perf_counter() - start
    assert total and counts.sum() == len(items)
    own, shared = ((now - then) / len(items) for now, then in zip(read_resident(), before, strict=True))
    for row in np.random.default_rng(_SEED).integers(len(items), size=1000).tolist():
        assert items[row].pair.id
    drawn = (read_resident()[0] - before[0]) / len(items)
    return {"seconds": seconds, "own_bytes": own, "shared_bytes": shared, "drawn_bytes": drawn}


def plan_it(folder: Path) -> dict[str, float]:
    """Time and memory of planning a whole epoch, part by part as a run does."""
    index = open_index(folder / "index" / "pairs.json", folder / "pairs.jsonl")
    assert index is not None
    lengths, config = index.items.tokens, PackingConfig()
    num_parts = -(-len(lengths) // PART_SAMPLES)
    tokens = packs = 0
    start, start_cpu = time.perf_counter(), time.process_time()
    with PeakMemory(torch.device("cpu")) as memory:
        for part in range(num_parts):
            places = shuffled_part(len(lengths), part, num_parts, _SEED, ORDER_OF_SAMPLES, 0)
            plan = plan_part(
                places, lengths[places], config, seed=_SEED, epoch=0, packs_per_step=128, part=part
            )
            tokens, packs = tokens + int(lengths[places].sum()), packs + plan.report.num_packs
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - start_cpu,
        "gb": memory.anonymous / 1e9,
        "fill": tokens / (packs * config.max_tokens),
    }


def look_at_files(folder: Path, num_files: int) -> dict[str, float]:
    """Seconds for each pair when a start hashes and probes its two files, all probes cached."""
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "one.png")
    picture = (folder / "one.png").read_bytes()
    rows = []
    for number in range(num_files):
        for name in (f"{number}.png", f"face{number}.png"):
            (folder / name).write_bytes(
                picture + name.encode()
            )  # bytes of its own after the end of the picture
        rows.append(
            {"id": str(number), "target": f"{number}.png", "references": [f"face{number}.png"], "caption": "a", "kind": KINDS[0]}
        )  # fmt: skip
    manifest = folder / "pairs.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n")

    def start() -> float:
        begin = time.perf_counter()
        index = build_index(read_manifest(manifest), DecodingConfig(), TensorCache(folder / "cache"))
        assert len(index.items) == num_files
        return time.perf_counter() - begin

    start()
    return {"seconds": start() / num_files}


def run_apart(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    found: dict[str, float] = ours.recv()
    process.join()
    return found


def _answer(pipe: Connection, work: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> None:
    pipe.send(work(*arguments))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=2000, help="looked at for the other way; 0: none")
    parser.add_argument("--folder", type=Path, help="of the synthetic index; a temporary one otherwise")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="lynx-index-"))
    try:
        write_synthetic_index(folder / "set", arguments.pairs)
        write_synthetic_index(folder / "small", 10)
        size = sum(path.stat().st_size for path in (folder / "set" / "index").iterdir())
        print(f"{arguments.pairs} pairs, {size / 1e9:.2f} GB of index", flush=True)
        opened = run_apart(open_it, folder / "set", folder / "small")
        bytes_a_pair = opened["own_bytes"] + opened["shared_bytes"]
        print(
            f"opened in {opened['seconds']:.2f} s; resident {bytes_a_pair:.1f} bytes a pair, {opened['own_bytes']:.1f} of "
            f"them the process's own ({opened['drawn_bytes']:.1f} after 1,000 samples), the others mapped and shared"
        )
        is_right = bytes_a_pair <= MAX_BYTES or arguments.pairs < 1_000_000
        if arguments.files:
            each = run_apart(look_at_files, folder / "files", arguments.files)["seconds"]
            ratio = each * arguments.pairs / opened["seconds"]
            print(
                f"by looking at the files {each * 1e3:.2f} ms a pair (timed on {arguments.files}), "
                f"{each * arguments.pairs:.0f} s for all: {ratio:.0f} x"
            )
            is_right &= ratio >= MIN_RATIO
        planned = run_apart(plan_it, folder / "set")
        print(
            f"epoch planned in {planned['seconds']:.1f} s ({planned['cpu']:.1f} s of processor), "
            f"{planned['gb']:.2f} GB, fill {planned['fill']:.2%}"
        )
        return int(not is_right or planned["fill"] < MIN_FILL)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
