"""`comfy-lynx prepare`: encode a data set before it is trained on."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .training_arguments import add_config_arguments, run_configured

if TYPE_CHECKING:
    from ..data.manifest import Manifest
    from ..data.prepare import PreparedDataset
    from ..training.configuration import TrainingConfig


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        "prepare",
        help="encode a data set for training",
        description="Fills the cache of a training configuration: faces, captions, latents, one encoder after the "
        "other. What is there already stays; a preparation that was stopped goes on where it stopped. Training "
        "does without, but then holds the encoders in memory.",
    )
    add_config_arguments(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    # Said first: the imports alone take seconds.
    print(f"reading {arguments.config}", file=sys.stderr, flush=True)
    return run_configured(arguments, _prepare)


def _prepare(config: TrainingConfig) -> int:
    from ..data.manifest import read_manifest
    from ..training.configuration_file import ConfigurationError

    if config.data.cache is None:
        raise ConfigurationError("data.cache is missing: the folder that is to be filled")
    paths = [config.data.manifest, config.data.validation_manifest]
    # All of them first, so that a wrong name does not show after hours of work.
    manifests = [read_manifest(path, config.data.min_face_similarity) for path in paths if path is not None]
    exceeded = False
    for manifest in manifests:
        print(manifest.summary(), flush=True)
        report = _prepare_manifest(config, manifest)
        print(report, flush=True)
        if report.left_out.share > config.data.max_quarantined:
            exceeded = True
            excess = report.left_out.describe_excess(config.data.max_quarantined)
            print(f"comfy-lynx: a run would stop: {excess}", file=sys.stderr)
    return 1 if exceeded else 0


def _prepare_manifest(config: TrainingConfig, manifest: Manifest) -> PreparedDataset:
    import torch

    from ..data.prepare import prepare_dataset
    from ..data.quarantine import QUARANTINE_NAME, WARNINGS_NAME
    from ..training.assembly import make_encoders, name_run_file
    from ..training.progress import ProgressLine

    assert config.data.cache is not None
    use_gpu = config.run.device == "auto" and torch.cuda.is_available()
    line = ProgressLine()
    return prepare_dataset(
        manifest,
        config.data.cache,
        make_encoders(config.data, torch.device("cuda" if use_gpu else "cpu")),
        lambda progress: line.show(progress.stage, progress.done, progress.total),
        config.decoding,
        quarantine_path=name_run_file(config, manifest.path, QUARANTINE_NAME),
        warnings_path=name_run_file(config, manifest.path, WARNINGS_NAME),
    )
