"""An optional check of what a picture shows: a classifier that the user names, on a few frames of each track.

Any image classifier of transformers will do, as Falconsai/nsfw_image_detection (Apache-2.0) in a local folder. Which
of its labels count is said by the configuration, for each calls them otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..engine.stage import EngineError, Rejected, Stage, StageFunction
from ..faces.errors import import_package
from ..hashing import hash_files
from ..spec import first_line
from .configuration import SafetyConfig, list_values
from .errors import CurationError
from .media import read_jpeg
from .records import TrackId, TrackViews

SAFETY_VERSION = 1


def make_safety_stage(config: SafetyConfig, gpus: float) -> Stage:
    """The stage: from `TrackViews` to `TrackId`.

    Raises:
        CurationError: when there is no such network.
    """
    folder = find_classifier(config)
    settings = list_values(config)
    settings["network"] = hash_files(path for path in folder.iterdir() if path.is_file())
    return Stage(
        "safety",
        SAFETY_VERSION,
        TrackViews,
        TrackId,
        settings=settings,
        open_worker=OpenSafety(config),
        batch_rows=16,
        gpus=gpus,
    )


def find_classifier(config: SafetyConfig) -> Path:
    """The folder of the network.

    Raises:
        CurationError: when it is none.
    """
    assert config.classifier is not None
    folder = config.classifier.expanduser()
    if not (folder / "config.json").is_file():
        raise CurationError(
            f"safety.classifier: {folder} holds no config.json; name the folder of an image classifier of transformers: "
            f"hf download Falconsai/nsfw_image_detection --local-dir {folder}"
        )
    return folder


@dataclass(frozen=True)
class OpenSafety:
    """Opens the network where the work is done."""

    config: SafetyConfig

    def __call__(self) -> StageFunction:
        transformers: Any = import_package("transformers", "the safety check")
        folder = find_classifier(self.config)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
            network = transformers.AutoModelForImageClassification.from_pretrained(
                str(folder), local_files_only=True
            ).eval()
        except (OSError, ValueError) as error:
            raise EngineError(f"safety.classifier: {folder} does not open ({first_line(error)})") from error
        known = {str(label).lower(): int(number) for number, label in network.config.id2label.items()}
        missing = [label for label in self.config.labels if label.lower() not in known]
        if missing:
            raise EngineError(
                f"safety.labels: the classifier has no label {missing[0]!r}; it has: {', '.join(known)}"
            )
        wanted = [known[label.lower()] for label in self.config.labels]

        @torch.inference_mode()
        def rate(views: Sequence[bytes]) -> float:
            inputs = processor(images=[read_jpeg(view) for view in views], return_tensors="pt")
            shares = network(**inputs).logits.float().softmax(-1)
            return float(shares[:, wanted].sum(-1).max())

        return lambda tracks: [[self._judge(track, rate(track.views))] for track in tracks]

    def _judge(self, track: TrackViews, score: float) -> TrackId | Rejected:
        if score <= self.config.max_score:
            return TrackId(track.id)
        detail = f"{'/'.join(self.config.labels)} {score:.2f}, safety.max_score is {self.config.max_score}"
        return Rejected("unsafe picture", detail, track.path)
