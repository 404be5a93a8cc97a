"""`comfy-lynx train`: train an adapter, or go on with a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .training_arguments import add_config_arguments, run_configured

if TYPE_CHECKING:
    from ..training.configuration import TrainingConfig

_STOPPED = 130
_FIRST_PACKS = 3


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        "train",
        help="train an adapter",
        description="Trains an adapter as a configuration says, or goes on with a run that was stopped: the same "
        "command goes on from the newest complete checkpoint. Ctrl-C saves and leaves. Several GPUs: "
        "torchrun --nproc-per-node 8 -m lynx_core.cli.main train CONFIG.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only show plan, memory estimate and the first packs"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on although data or base have changed since the checkpoint",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    def act(config: TrainingConfig) -> int:
        if arguments.dry_run:
            return show_plan(config)
        from ..training.loop import train

        result = train(config, accept_changes=arguments.accept_changes)
        return _STOPPED if result.ended == "stopped" else 0

    return run_configured(arguments, act)


def show_plan(config: TrainingConfig) -> int:
    """Print what a run would do; opens the data set, loads no weights."""
    import os

    import torch

    from ..training.assembly import make_table, open_source
    from ..training.checkpoint import CheckpointFolder
    from ..training.curriculum import PackStream
    from ..training.estimate import estimate_memory, read_base_shape

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    shape = read_base_shape(config.base.transformer)
    print(f"base {config.base.transformer}: {shape.num_blocks} blocks of width {shape.dim}")
    print(f"adapter {config.adapter.variant}, {world_size} processes, {config.distributed.sharding}")
    print(estimate_memory(config, shape, world_size))
    source = open_source(config, config.data.manifest, torch.device("cpu"))
    table = make_table(source, config)
    print(source.describe())
    print(f"{len(source)} samples, {int(table.lengths.sum())} tokens, {len(source.quarantine)} set aside")
    stream = PackStream(
        table, config.stages, config.packing, config.run.seed, 0, world_size, config.data.kind_weights
    )
    for number, stage in enumerate(config.stages):
        plan = stream.plan(number, 0)
        epochs = stage.steps * config.optimizer.accumulation / max(len(plan), 1)
        print(f"stage {stage.name} ({stage.kind}): {stage.steps} steps, {epochs:.1f} epochs of {plan.report}")
        lengths = table.stage_lengths(stage.kind)
        for pack in range(min(_FIRST_PACKS, len(plan))):
            members = plan.pack(pack, 0)
            shown = ", ".join(f"{source.ids[index]} ({lengths[index]})" for index in members)
            print(f"  pack {pack}: {int(lengths[members].sum())} tokens of {config.packing.budget}: {shown}")
    steps = CheckpointFolder(config.run.output, config.run.keep_last, config.run.keep_every).steps()
    print(
        f"a run would {f'go on after step {steps[-1]}' if steps else 'start at step 0'} in {config.run.output}"
    )
    return 0
