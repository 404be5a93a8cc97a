"""Time of a step with four people in masks against one person: `python benchmarks/masked_people.py`.

Both run in one process, in turn. The four share the picture, a quarter each with soft edges, as a chain of Lynx Apply
puts them on; the one has it alone. The ratio is what to look at: at most 1.10 on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from adapter_files import write_adapter
from host_model import DEFAULT_HOST, Step, build_base, load_host, make_text, run_step
from shapes import SHAPES, Shape
from step_time import REFERENCE_LATENT, print_ratio

from lynx_core.spec import EMBEDDING_DIM

NUM_PEOPLE = 4
EDGE = 0.05
"""Width of the soft edge, as a share of the picture."""


def make_masks(height: int, width: int) -> list[torch.Tensor]:
    """Make a mask [1, height, width] for each quarter of the picture; neighbours share the edge."""
    rows, columns = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    lower, right = (((line - 0.5) / EDGE + 0.5).clamp(0, 1) for line in (rows, columns))
    return [(y[:, None] * x[None])[None] for y in (1 - lower, lower) for x in (1 - right, right)]


def make_people(pack: Any, model: Any, folder: Path) -> tuple[Any, list[tuple[Any, Any]]]:
    """Open the adapter and encode people of random faces with it."""
    adapter = pack.pack_module("lynx_core.formats.adapter").open_adapter(folder)
    face_id = pack.pack_module("nodes.host.identity").FaceID
    make_reference = pack.pack_module("nodes.host.reference_pass").make_reference
    null = torch.zeros(REFERENCE_LATENT)
    people = []
    for _ in range(NUM_PEOPLE):
        embedding = torch.nn.functional.normalize(torch.randn(EMBEDDING_DIM), dim=0)
        reference = make_reference(model, adapter, make_text(seed=9), torch.randn(REFERENCE_LATENT), null)
        people.append((face_id(embedding, adapter.recogniser), reference))
    return adapter, people


def chain(pack: Any, model: Any, adapter: Any, people: list[tuple[Any, Any]], masks: list[Any]) -> Any:
    """Put people on in a row, as Lynx Apply does it; gives the last one's outputs (`AppliedIdentity`)."""
    apply_identity = pack.pack_module("nodes.host.application").apply_identity
    region = pack.pack_module("nodes.host.region").Region
    settings = pack.pack_module("nodes.presets").PRESETS["as published"]
    positive, negative = make_text(seed=1), make_text(seed=2)
    for (face_id, reference), mask in zip(people, masks, strict=True):
        where = None if mask is None else region(mask)
        applied = apply_identity(
            model, positive, negative, adapter, face_id, reference, settings, region=where
        )
        model, positive, negative = applied.model, applied.positive, applied.negative
    return applied


def run_pairs(one: Any, four: Any, shape: Shape, pairs: int) -> list[tuple[Step, Step]]:
    """Measure steps of both in turn, after one of each to warm up."""
    latent = torch.randn(shape.latent, generator=torch.Generator().manual_seed(0))
    found = []
    for pair in range(pairs + 1):
        a, b = (run_step(on.model, [on.positive], latent, torch.device("cpu")) for on in (one, four))
        if pair:
            found.append((a, b))
            print(
                f"pair {pair}: {a.seconds:.3f} s, {b.seconds:.3f} s, ratio {b.seconds / a.seconds:.4f}",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=SHAPES, default="narrow", help="default: narrow")
    parser.add_argument("--pairs", type=int, default=7, help="measured pairs of steps (default: 7)")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST, help="host (default: %(default)s)")
    arguments = parser.parse_args()
    shape, device = SHAPES[arguments.shape], torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        torch.manual_seed(0)
        pack = load_host(arguments.comfyui, Path(temporary) / "host", device)
        write_adapter(Path(temporary) / "adapter", shape.dim, shape.num_blocks)
        base = build_base(shape, device, torch.float32)
        adapter, people = make_people(pack, base, Path(temporary) / "adapter")
        height, width = (8 * side for side in shape.latent[-2:])
        one = chain(pack, base, adapter, people[:1], [None])
        four = chain(pack, base, adapter, people, make_masks(height, width))
        print(f"{shape}, latent {list(shape.latent)}: one person, and {NUM_PEOPLE} people in masks")
        found = run_pairs(one, four, shape, arguments.pairs)
        print("'without' is one person, 'with' are four")
        print_ratio("step, wall clock", found, lambda step: step.seconds)
        print_ratio("step, processor time", found, lambda step: step.cpu_seconds)
        a, b = (pair.predictions[0] for pair in found[0])
        print(f"the four change the prediction of the one by {float((b - a).norm() / a.norm()):.3f}")


if __name__ == "__main__":
    main()
