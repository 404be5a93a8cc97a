"""`comfy-lynx train`: train an adapter, or go on with a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .training_arguments import add_config_arguments, run_configured

if TYPE_CHECKING:
    from ..training.configuration import TrainingConfig
    from ..training.curriculum import PackStream

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
        help="go on although data, base or optimiser have changed since the checkpoint",
    )
    parser.add_argument(
        "--resume-from",
        type=int,
        metavar="STEP",
        help="go on from the checkpoint of this step instead of the newest; later ones are moved aside",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    def act(config: TrainingConfig) -> int:
        if arguments.dry_run:
            return show_plan(config, arguments.resume_from)
        from ..training.loop import train

        result = train(config, accept_changes=arguments.accept_changes, resume_from=arguments.resume_from)
        return _STOPPED if result.ended == "stopped" else 0

    return run_configured(arguments, act)


def show_plan(config: TrainingConfig, resume_from: int | None = None) -> int:
    """Print what a run would do, after the checks that it would make; loads no weights of base or encoders.

    Raises:
        PreflightError: when a run could not start, with all that is known to be wrong.
    """
    import os

    import torch

    from ..training.assembly import make_table
    from ..training.checkpoint import CheckpointFolder
    from ..training.curriculum import PackStream
    from ..training.estimate import estimate_memory, read_base_shape
    from ..training.preflight import check_settings, look_for_more, open_data
    from ..training.run_lock import is_held

    known = check_settings(config, resume_from)
    if known or is_held(config.run.output):
        look_for_more(config, known)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    shape = read_base_shape(config.base.transformer)
    print(f"base {config.base.transformer}: {shape.num_blocks} blocks of width {shape.dim}")
    print(f"adapter {config.adapter.variant}, {world_size} processes, {config.distributed.sharding}")
    print(estimate_memory(config, shape, world_size))
    source = open_data(config, torch.device("cpu"), world_size, print, shows=True).training
    table = make_table(source, config)
    print(source.describe())
    print(f"{len(source)} samples, {int(table.lengths.sum())} tokens, {len(source.quarantine)} set aside")
    stream = PackStream(
        table, config.stages, config.packing, config.run.seed, 0, world_size, config.data.kind_weights
    )
    for number in range(len(config.stages)):
        _show_stage(config, stream, number)
    steps = CheckpointFolder(config.run.output, config.run.keep_last, config.run.keep_every).steps()
    start = resume_from if resume_from is not None else max(steps, default=0)
    print(f"a run would {f'go on after step {start}' if start else 'start at step 0'} in {config.run.output}")
    return 0


def _show_stage(config: TrainingConfig, stream: PackStream, number: int) -> None:
    stage, plan = config.stages[number], stream.plan(number, 0)
    epochs = stage.steps * config.optimizer.gradient_accumulation_steps / max(len(plan), 1)
    print(f"stage {stage.name} ({stage.kind}): {stage.steps} steps, {epochs:.1f} epochs of {plan.report}")
    lengths = stream.table.stage_lengths(stage.kind)
    for pack in range(min(_FIRST_PACKS, len(plan))):
        members = plan.pack(pack, 0)
        shown = ", ".join(f"{stream.table.ids[index]} ({lengths[index]})" for index in members)
        print(f"  pack {pack}: {int(lengths[members].sum())} tokens of {config.packing.max_tokens}: {shown}")
