"""`comfy-lynx train`: train an adapter, or go on with a run."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as those in configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.KEY=VALUE",
        help="values that replace the file's, such as optimizer.learning_rate=2e-5",
    )
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
    from ..data.errors import DataError
    from ..faces.errors import FaceError
    from ..models.frozen_base import BaseModelError
    from ..models.segment_attention import BackendError
    from ..training.checkpoint import CheckpointError
    from ..training.configuration import ConfigurationError
    from ..training.configuration_file import read_configuration
    from ..training.packing import PackingError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    refusals = (
        ConfigurationError,
        DataError,
        FaceError,
        PackingError,
        BaseModelError,
        BackendError,
        CheckpointError,
    )
    try:
        config = read_configuration(arguments.config, arguments.overrides)
        if arguments.dry_run:
            show_plan(config)
            return 0
        return _train(config, arguments.accept_changes)
    except refusals as error:
        print(f"comfy-lynx: {error}", file=sys.stderr)
        return 1


def _train(config: TrainingConfig, accept_changes: bool) -> int:
    from ..training.loop import TrainingError, train

    try:
        result = train(config, accept_changes=accept_changes)
    except TrainingError as error:
        print(f"comfy-lynx: {error}", file=sys.stderr)
        return 1
    return _STOPPED if result.ended == "stopped" else 0


def show_plan(config: TrainingConfig) -> None:
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
