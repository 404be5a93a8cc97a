"""`comfy-lynx prepare`: encode a data set before it is trained on."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .training_arguments import add_config_arguments, run_configured

if TYPE_CHECKING:
    from ..data.prepare import Progress
    from ..training.configuration import TrainingConfig

_SHOWN_EVERY = 100


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
    return run_configured(arguments, _prepare)


def _prepare(config: TrainingConfig) -> int:
    import torch

    from ..data.manifest import read_manifest
    from ..data.prepare import prepare_dataset
    from ..training.assembly import make_encoders
    from ..training.configuration import ConfigurationError

    if config.data.cache is None:
        raise ConfigurationError("data.cache is missing: the folder that is to be filled")
    use_gpu = config.run.device == "auto" and torch.cuda.is_available()
    encoders = make_encoders(config.data, torch.device("cuda" if use_gpu else "cpu"))
    manifests = [config.data.manifest, config.data.validation_manifest]
    for path in (path for path in manifests if path is not None):
        manifest = read_manifest(path, config.data.min_face_similarity)
        print(manifest.summary())
        print(prepare_dataset(manifest, config.data.cache, encoders, _show, config.decoding))
    return 0


def _show(progress: Progress) -> None:
    if progress.done % _SHOWN_EVERY == 0 or progress.done == progress.total:
        print(f"{progress.stage}: {progress.done} of {progress.total}", file=sys.stderr, flush=True)
