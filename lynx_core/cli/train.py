"""`comfy-lynx prepare` and `comfy-lynx train`: encode a dataset, train an adapter, resume a run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..buckets import name_addresses
from ..spec import LynxError

if TYPE_CHECKING:
    from ..data.manifest import Manifest
    from ..data.prepare import PreparedDataset, WorkerConfig
    from ..training.configuration import TrainingConfig
    from ..training.curriculum import PackStream
    from ..training.estimate import BaseShape

_STOPPED = 130


def add_parser(verbs: Any) -> None:
    """Add the two verbs."""
    prepare = verbs.add_parser(
        "prepare",
        help="encode a dataset for training",
        description="Fills the cache of a training configuration: faces, captions, latents, one encoder after the "
        "other. What is cached already stays, so a preparation that was stopped resumes. Training "
        "does without, but then holds the encoders in memory.",
    )
    _add_config_arguments(prepare)
    prepare.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=1,
        help="processes for faces and latents; 1, the default, works in this process with all cores",
    )
    prepare.add_argument(
        "--runner",
        choices=("native", "ray"),
        default="native",
        help="native: this machine; ray: the cluster of RAY_ADDRESS, or a local one",
    )
    prepare.set_defaults(run=_run_prepare)
    train = verbs.add_parser(
        "train",
        help="train an adapter",
        description="Trains an adapter as a configuration says, or resumes a run that was stopped: the same "
        "command resumes from the newest complete checkpoint. Ctrl-C saves a checkpoint and stops. Several GPUs: "
        "torchrun --nproc-per-node 8 -m lynx_core.cli.main train CONFIG.",
    )
    _add_config_arguments(train)
    train.add_argument(
        "--dry-run", action="store_true", help="only show plan, memory estimate and the first packs"
    )
    train.add_argument(
        "--card-gb",
        type=float,
        metavar="GB",
        help="with --dry-run: advise on sharding, quantisation and offloading for cards of this memory; by default of "
        "the card that is here",
    )
    train.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="with --dry-run: plan for so many processes; by default for those that there are",
    )
    train.add_argument(
        "--accept-changes",
        action="store_true",
        help="resume although data, base or optimiser have changed since the checkpoint",
    )
    train.add_argument(
        "--resume-from",
        type=int,
        metavar="STEP",
        help="resume from the checkpoint of this step instead of the newest; later ones are moved aside",
    )
    train.set_defaults(run=_run_train)


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as those in configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.KEY=VALUE",
        help="values that replace the file's, such as optimizer.learning_rate=2e-5; an empty value takes the key "
        "out. Before or after options",
    )


def _run_train(arguments: argparse.Namespace) -> int:
    from ..training.configuration_file import ConfigurationError

    def act(config: TrainingConfig) -> int:
        if arguments.dry_run:
            return _show_plan(config, arguments)
        for option in ("card_gb", "processes"):
            if getattr(arguments, option) is not None:
                raise ConfigurationError(
                    f"--{option.replace('_', '-')} is for --dry-run; add that, or leave it out"
                )
        from ..training.loop import train

        result = train(config, accept_changes=arguments.accept_changes, resume_from=arguments.resume_from)
        return _STOPPED if result.ended == "stopped" else 0

    return _run_configured(arguments, act)


def _show_plan(config: TrainingConfig, arguments: argparse.Namespace) -> int:
    """Print what a run would do, after the checks that it would make; loads no weights of base or encoders.

    Raises:
        PreflightError: when a run could not start, with all that is known to be wrong.
        ConfigurationError: when an option makes no sense.
    """
    import torch

    from ..training.assembly import choose_kind_weights, make_table
    from ..training.checkpoint import CheckpointFolder, read_state
    from ..training.curriculum import PackStream
    from ..training.estimate import estimate_memory, read_base_shape
    from ..training.preflight import check_settings, look_for_more, open_data
    from ..training.run_lock import is_held

    resume_from = arguments.resume_from
    world_size = _read_processes(arguments)
    known = check_settings(config, resume_from, world_size)
    if known or is_held(config.run.output):
        look_for_more(config, known)
    shape = read_base_shape(config.base.transformer)
    print(f"base {config.base.transformer}: {shape.num_blocks} blocks of width {shape.dim}")
    print(f"adapter {config.adapter.variant}, {world_size} processes, {config.distributed.sharding}")
    print(estimate_memory(config, shape, world_size))
    _show_advice(config, shape, world_size, arguments.card_gb)
    source = open_data(config, torch.device("cpu"), print, shows=True).training
    table = make_table(source, config)
    print(name_addresses(source.describe()))
    print(f"{len(source)} samples, {int(table.lengths.sum())} tokens, {len(source.quarantine)} skipped")
    checkpoints = CheckpointFolder(config.run.output, config.run.keep_last, config.run.keep_every)
    start = resume_from if resume_from is not None else max(checkpoints.steps(), default=0)
    packs_per_step = config.packs_per_step(world_size)
    if start and not config.optimizer.global_batch_size:
        packs_per_step = read_state(checkpoints.path_of(start))["identity"]["packs_per_step"]
    stream = PackStream(
        table,
        config.stages,
        config.packing,
        config.run.seed,
        packs_per_step,
        choose_kind_weights(config, source.items),
    )
    for number in range(len(config.stages)):
        _show_stage(config, stream, number)
    print(
        f"a run would {f'resume after step {start}' if start else 'start at step 0'} in {config.run.output}"
    )
    return 0


def _read_processes(arguments: argparse.Namespace) -> int:
    from ..training.configuration_file import ConfigurationError
    from ..training.preflight import count_processes

    for option, value in (("--processes", arguments.processes), ("--card-gb", arguments.card_gb)):
        if value is not None and not value > 0:
            raise ConfigurationError(f"{option} is above 0, got {value}")
    return arguments.processes or count_processes()


def _show_advice(config: TrainingConfig, shape: BaseShape, world_size: int, card_gb: float | None) -> None:
    import torch

    from ..training.advice import advise

    if card_gb is None and torch.cuda.is_available():
        card_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    if card_gb is None:
        print("no card is here to advise for; --card-gb 80 tells what a run needs on cards of 80 GB")
        return
    for line in advise(config, shape, world_size, card_gb):
        print(line)


def _show_stage(config: TrainingConfig, stream: PackStream, number: int) -> None:
    stage, plan = config.stages[number], stream.plan(number, 0)
    epochs = stage.steps * stream.packs_per_step / plan.num_packs
    print(
        f"stage {stage.name} ({stage.kind}): {stage.steps} steps of {stream.packs_per_step} packs, "
        f"{epochs:.1f} epochs of {plan}"
    )
    for pack, members in enumerate(plan.first_packs):
        lengths = stream.table.stage_lengths(stage.kind, members)
        named = zip(members, lengths, strict=True)
        shown = ", ".join(f"{stream.table.ids[index]} ({length})" for index, length in named)
        print(f"  pack {pack}: {int(lengths.sum())} tokens of {config.packing.max_tokens}: {shown}")


def _run_prepare(arguments: argparse.Namespace) -> int:
    # Said first: the imports alone take seconds.
    print(f"reading {arguments.config}", file=sys.stderr, flush=True)
    return _run_configured(arguments, lambda config: _prepare(config, arguments))


def _prepare(config: TrainingConfig, arguments: argparse.Namespace) -> int:
    import torch

    from ..data.manifest import read_manifest
    from ..data.prepare import WorkerConfig
    from ..training.configuration_file import ConfigurationError

    if config.data.cache is None:
        raise ConfigurationError("data.cache is missing: the folder that is to be filled")
    paths = [config.data.manifest, config.data.validation_manifest]
    use_gpu = config.run.device == "auto" and torch.cuda.is_available()
    if arguments.workers < 1:
        raise ConfigurationError(f"--workers is 1 or more, got {arguments.workers}")
    workers = WorkerConfig(
        arguments.workers, arguments.runner, 1.0 if use_gpu and arguments.runner == "ray" else 0.0
    )
    # All of them first, so that a wrong name does not show after hours of work.
    manifests = [read_manifest(path, config.data.min_face_similarity) for path in paths if path is not None]
    exceeded = False
    for manifest in manifests:
        print(name_addresses(manifest.summary()), flush=True)
        report = _prepare_manifest(config, manifest, workers, use_gpu)
        print(name_addresses(report), flush=True)
        if report.skipped.share > config.data.max_quarantined:
            exceeded = True
            excess = report.skipped.describe_excess(config.data.max_quarantined)
            print(name_addresses(f"comfy-lynx: a run would stop: {excess}"), file=sys.stderr)
    return 1 if exceeded else 0


def _prepare_manifest(
    config: TrainingConfig, manifest: Manifest, workers: WorkerConfig, use_gpu: bool
) -> PreparedDataset:
    import torch

    from ..data.prepare import prepare_dataset
    from ..data.quarantine import QUARANTINE_NAME, WARNINGS_NAME
    from ..training.assembly import make_encoders, name_run_file
    from ..training.progress import ProgressLine

    assert config.data.cache is not None
    line = ProgressLine()
    return prepare_dataset(
        manifest,
        config.data.cache,
        make_encoders(config.data, torch.device("cuda" if use_gpu else "cpu")),
        lambda progress: line.show(progress.stage, progress.done, progress.total),
        config.decoding,
        quarantine_path=name_run_file(config, manifest.path, QUARANTINE_NAME),
        warnings_path=name_run_file(config, manifest.path, WARNINGS_NAME),
        workers=workers,
        shard_bytes=int(config.data.shard_gb * 1e9),
    )


def _run_configured(arguments: argparse.Namespace, action: Callable[[TrainingConfig], int]) -> int:
    """Read the configuration and act on it; what cannot run is printed, exit code 1."""
    _silence_import_warnings()
    from ..training.configuration import read_configuration
    from ..training.preflight import PreflightError
    from ..training.run_lock import RunLockError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return action(read_configuration(arguments.config, arguments.overrides))
    except LynxError as error:
        # All processes of a run meet these alike.
        if isinstance(error, (PreflightError, RunLockError)) and os.environ.get("RANK", "0") != "0":
            return 1
        print(name_addresses(f"comfy-lynx: {error}"), file=sys.stderr)
        return 1


_NOT_OURS = (
    # 4-bit matrix products on the CPU; the base is 8 bits wide at least.
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    # Checkpoints that were pickled with torchao's tensors; the base is quantised after it is read.
    ("diffusers.quantizers.torchao.torchao_quantizer", "Unable to import `torchao` Tensor objects"),
    # A CUDA compiler without a GPU; nothing is compiled for one.
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),
)


def _silence_import_warnings() -> None:
    """Leave out warnings that libraries print when imported, about things that training never does."""
    for logger, start in _NOT_OURS:
        logging.getLogger(logger).addFilter(_Without(start))
    # Of a checkpoint that a single process writes or reads, which is what it is meant to be.
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


class _Without(logging.Filter):
    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        return not str(record.msg).startswith(self.start)
