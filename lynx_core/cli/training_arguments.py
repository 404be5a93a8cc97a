"""What `comfy-lynx prepare` and `comfy-lynx train` share: the configuration, and what they refuse."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .library_warnings import silence_import_warnings

if TYPE_CHECKING:
    from ..training.configuration import TrainingConfig


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and the overrides."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as those in configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.KEY=VALUE",
        help="values that replace the file's, such as optimizer.learning_rate=2e-5; an empty value takes the key out",
    )


def run_configured(arguments: argparse.Namespace, action: Callable[[TrainingConfig], int]) -> int:
    """Read the configuration and act on it; what cannot run is printed, exit code 1."""
    silence_import_warnings()
    from ..data.errors import DataError
    from ..faces.errors import FaceError
    from ..formats.base_file import BaseModelError
    from ..formats.tensor_file import AdapterError
    from ..models.segment_attention import BackendError
    from ..training.checkpoint import CheckpointError
    from ..training.configuration import ConfigurationError
    from ..training.configuration_file import read_configuration
    from ..training.loop import TrainingError
    from ..training.packing import PackingError
    from ..training.preflight import PreflightError
    from ..training.run_lock import RunLockError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    refusals = (
        ConfigurationError,
        DataError,
        FaceError,
        AdapterError,
        PackingError,
        BaseModelError,
        BackendError,
        CheckpointError,
        TrainingError,
        PreflightError,
        RunLockError,
    )
    try:
        return action(read_configuration(arguments.config, arguments.overrides))
    except refusals as error:
        # All processes of a run meet these alike.
        if isinstance(error, (PreflightError, RunLockError)) and os.environ.get("RANK", "0") != "0":
            return 1
        print(f"comfy-lynx: {error}", file=sys.stderr)
        return 1
