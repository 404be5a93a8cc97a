"""A packed sequence that gloo processes share, as each of them runs it."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_packs import TinySample, make_adapter, make_samples, make_transformer, pack
from torch import Tensor

from lynx_core.models.packed_wan import PackedWan
from lynx_core.models.segment_attention import SequenceGroup

NUM_HEADS = 4


def draw_samples(which: str) -> list[TinySample]:
    """`several`: of four sizes, whose 57 tokens no number of processes divides; `one token`: less than one each."""
    if which == "several":
        return make_samples()
    sample = make_samples()[0]
    return [TinySample(sample.latent[:, :, :2, :2], 500.0, sample.text, sample.embedding, sample.reference)]


def run_shared(
    samples: list[TinySample], group: SequenceGroup | None, checkpointing: bool
) -> dict[str, Tensor]:
    """Outputs, and the adapter's gradients of one loss."""
    wan = PackedWan(make_transformer(num_heads=NUM_HEADS), gradient_checkpointing=checkpointing, group=group)
    adapter = make_adapter("full")
    outputs = wan(pack(samples), adapter)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    found = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return found | {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}


def run_processes(size: int, which: str, checkpointing: bool, folder: Path) -> list[dict[str, Tensor]]:
    """What each of several processes finds that share a sequence."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "diffusers.models.transformers.transformer_wan"])
    paths = [folder / f"{rank}.pt" for rank in range(size)]
    processes = [
        context.Process(target=_run_process, args=(rank, size, port, which, checkpointing, str(path)))
        for rank, path in enumerate(paths)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    return [torch.load(path) for path in paths]


def _run_process(rank: int, size: int, port: int, which: str, checkpointing: bool, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.save(
        run_shared(draw_samples(which), SequenceGroup(dist.group.WORLD, rank, size), checkpointing), path
    )
    dist.destroy_process_group()
