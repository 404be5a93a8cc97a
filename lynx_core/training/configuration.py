"""What a run is told: frozen dataclasses, one a section of the TOML file, checked when they are made.

A value that makes no sense is refused here, by name, before any weight is loaded. Reading the
file is in `configuration_file.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..data.decoding import DecodingConfig
from ..spec import AttentionBackend, Quantisation
from .adapter_settings import AdapterSettings
from .packing import PackingConfig
from .setting_checks import ConfigurationError, SettingChecks

__all__ = ["ConfigurationError"]  # where the rest of the pack looks for it

BaseDtype = Literal["fp32", "bf16"]
AttentionChoice = Literal["auto", AttentionBackend]
Timesteps = Literal["uniform", "logit_normal", "shifted"]
LossReduction = Literal["token", "sample"]
StageKind = Literal["images", "first_frames", "videos", "mixed"]
OptimizerKind = Literal["adamw", "adamw8bit_bitsandbytes", "adamw8bit_torchao", "muon"]
Sharding = Literal["ddp", "fsdp2"]
ExportDtype = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class BaseConfig:
    """The frozen Wan model."""

    transformer: Path
    """A diffusers folder, or a single file as ComfyUI has it."""
    dtype: BaseDtype = "bf16"
    """What the base computes in."""
    quantisation: Quantisation = "none"
    """Weight-only storage of its linear layers; 8 bits take 14.3 instead of 28.6 GB for the 14B."""
    offload_blocks: bool = False
    """Keep the blocks on the CPU and fetch each when it runs."""
    gradient_checkpointing: bool = True
    """Keep each block's input only and compute the rest twice."""
    attention: AttentionChoice = "auto"
    """Kernel of attention inside each sample; auto takes the first that runs here."""
    reference_cache_gb: float = 0.0
    """Host memory of each process for what the base saw in references; 0 looks at them at every step."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("base.dtype", self.dtype, BaseDtype)
            check.choice("base.quantisation", self.quantisation, Quantisation)
            check.choice("base.attention", self.attention, AttentionChoice)
            check.value(
                self.reference_cache_gb >= 0,
                "base.reference_cache_gb",
                self.reference_cache_gb,
                "0 or more",
            )
            check.value(
                self.gradient_checkpointing or (self.quantisation == "none" and not self.offload_blocks),
                "base.gradient_checkpointing",
                self.gradient_checkpointing,
                "needed with quantisation and offloading, which otherwise keep each block's weights until its backward",
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Flow matching and its nulls."""

    timesteps: Timesteps = "logit_normal"
    """uniform; logit_normal: sigmoid of a normal; shifted: uniform, moved by `shift` as in sampling."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 5.0
    """s of t -> s t / (1 + (s - 1) t) for "shifted"; Wan samples videos with 5."""
    loss_reduction: LossReduction = "token"
    """token: every token counts the same; sample: every image or video does, whatever its length."""
    text_dropout: float = 0.1
    """Share of samples that see the empty prompt."""
    identity_dropout: float = 0.1
    """Share that see the null ID and the null reference together, as unconditional guidance does."""
    id_dropout: float = 0.0
    """Share, of the others, that see the null ID only."""
    reference_dropout: float = 0.0
    """Share, of the others, that see the null reference only."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("objective.timesteps", self.timesteps, Timesteps)
            check.choice("objective.loss_reduction", self.loss_reduction, LossReduction)
            check.value(self.logit_std > 0, "objective.logit_std", self.logit_std, "more than 0")
            check.value(self.shift > 0, "objective.shift", self.shift, "more than 0")
            for name in ("text_dropout", "identity_dropout", "id_dropout", "reference_dropout"):
                check.share(f"objective.{name}", getattr(self, name))


@dataclass(frozen=True)
class StageConfig:
    """One stage of the curriculum."""

    name: str
    kind: StageKind
    """images: targets of one frame; first_frames: all, cut to one; videos: of more; mixed: all."""
    steps: int

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("stages.kind", self.kind, StageKind)
            check.value(self.steps >= 1, "stages.steps", self.steps, "1 or more")


@dataclass(frozen=True)
class OptimizerConfig:
    """The trained weights and their mean are float32 with each kind."""

    kind: OptimizerKind = "adamw"
    """The 8-bit kinds keep AdamW's moments in 8 bits: 2 instead of 8 bytes a weight. muon: for small models
    from random weights."""
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its value."""
    decay_steps: int = 0
    """Last steps of the run, over which it falls to 0."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this; 0 never does."""
    accumulation: int = 1
    """Packs of each process that make one step."""
    ema_decay: float = 0.0
    """Decay of the EMA of the weights, which is validated and exported; it warms up: min(decay, (1 + n) / (10 + n))
    at update n. 0 keeps none."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("optimizer.kind", self.kind, OptimizerKind)
            check.value(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "more than 0")
            check.value(self.eps > 0, "optimizer.eps", self.eps, "more than 0")
            check.value(self.accumulation >= 1, "optimizer.accumulation", self.accumulation, "1 or more")
            for name in ("weight_decay", "warmup_steps", "decay_steps", "max_grad_norm"):
                check.value(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "0 or more")
            for name in ("beta1", "beta2", "ema_decay"):
                value = getattr(self, name)
                check.value(0 <= value < 1, f"optimizer.{name}", value, "0 or more and below 1")


@dataclass(frozen=True)
class RunConfig:
    """Where a run writes, how often, and when it stops."""

    output: Path
    """Folder of checkpoints, logs, validation and the exported adapter."""
    seed: int = 0
    checkpoint_every: int = 1000
    """Steps between checkpoints; one is written at the end and at Ctrl-C as well."""
    keep_last: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints whose step is a multiple of this are kept for good; 0: none."""
    log_every: int = 10
    """Steps between lines of figures."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Of accelerate: tensorboard, wandb, comet_ml, aim, mlflow, clearml, swanlab, trackio; none: []."""
    max_skipped_in_row: int = 10
    """The run stops after this many steps in a row with a loss or gradient that is not finite."""
    export_dtype: ExportDtype = "bf16"
    """Of the adapter written at the end."""
    device: str = "auto"
    """auto: the GPU if there is one; cpu."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.value(0 <= self.seed < 2**63, "run.seed", self.seed, "0 or more")
            check.choice("run.export_dtype", self.export_dtype, ExportDtype)
            check.value(self.device in ("auto", "cpu"), "run.device", self.device, "auto or cpu")
            for name in ("checkpoint_every", "keep_last", "log_every", "max_skipped_in_row"):
                check.value(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "1 or more")
            check.value(self.keep_every >= 0, "run.keep_every", self.keep_every, "0 or more")


@dataclass(frozen=True)
class ValidationConfig:
    """Held-out loss, and short videos, on a schedule."""

    every: int = 0
    """Steps between validations; 0: never."""
    num_samples: int = 4
    """Held-out samples: the first of the validation manifest."""
    video_samples: int = 1
    """How many of them are also sampled from noise."""
    video_steps: int = 20
    """Euler steps of each video."""
    shift: float = 5.0
    guidance: float = 5.0
    """Classifier-free guidance of the prompt."""
    identity_guidance: float = 2.0
    """Guidance of ID and reference."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.value(self.every >= 0, "validation.every", self.every, "0 or more")
            check.value(self.num_samples >= 1, "validation.num_samples", self.num_samples, "1 or more")
            check.value(self.video_steps >= 1, "validation.video_steps", self.video_steps, "1 or more")
            check.value(
                0 <= self.video_samples <= self.num_samples,
                "validation.video_samples",
                self.video_samples,
                "at most validation.num_samples",
            )
            check.value(self.shift > 0, "validation.shift", self.shift, "more than 0")


@dataclass(frozen=True)
class DistributedConfig:
    """How the work of several processes is divided."""

    sharding: Sharding = "ddp"
    """ddp: each holds all trained weights; fsdp2: weights, gradients and optimiser are divided."""
    shard_base: bool = False
    """Divide the blocks of the frozen base as well; each block is gathered when it runs."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("distributed.sharding", self.sharding, Sharding)


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from, and the networks that encode them."""

    manifest: Path
    """Parquet or JSONL of pairs, see docs/training.md."""
    vae: Path
    """Folder of Wan's VAE, as in Wan2.1-T2V-14B-Diffusers."""
    text_encoder: Path
    """Folder of UMT5, of the same."""
    tokenizer: Path
    """Folder of its tokenizer, of the same."""
    vae_dtype: BaseDtype = "fp32"
    """What the VAE computes in; bf16 is several times faster, and about 1 % off."""
    face_models: Path | None = None
    """Folder that holds `models/<face_model_pack>`, as ComfyUI's models/insightface; aligned crops need none."""
    face_model_pack: str = "buffalo_l"
    face_recogniser: Path | None = None
    """The ArcFace file of the release; unset: the pack's own recogniser (antelopev2)."""
    face_provider: str = "CPU"
    """CPU, CUDA, CoreML or DirectML."""
    faces_aligned: bool = False
    """The references are square aligned crops already; no detector runs."""
    min_face_similarity: float | None = None
    """Pairs below it are set aside."""
    max_quarantined: float = 0.2
    """Share of the rows that may be set aside for a fault; with more, a run stops. 1 never does."""
    validation_manifest: Path | None = None
    """Pairs of people that are in no training pair."""
    cache: Path | None = None
    """Folder of encoded samples; unset: everything is encoded each time."""
    kind_weights: dict[str, float] | None = None
    """Share of each kind of pair, any scale; unset: each pair once an epoch."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.value(
                self.face_models is not None or (self.faces_aligned and self.face_recogniser is not None),
                "data.face_models",
                None,
                "needed to find faces, and for the recogniser of a pack; only data.faces_aligned = true together "
                "with data.face_recogniser does without",
            )
            check.choice("data.vae_dtype", self.vae_dtype, BaseDtype)
            check.share("data.max_quarantined", self.max_quarantined)
            for kind, weight in (self.kind_weights or {}).items():
                check.value(
                    weight >= 0 and math.isfinite(weight), f"data.kind_weights.{kind}", weight, "0 or more"
                )


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run."""

    base: BaseConfig
    data: DataConfig
    run: RunConfig
    stages: tuple[StageConfig, ...]
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    packing: PackingConfig = field(default_factory=PackingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.value(bool(self.stages), "stages", self.stages, "a list of at least one stage: [[stages]]")
            names = [stage.name for stage in self.stages]
            check.value(len(set(names)) == len(names), "stages.name", names, "different for each stage")
            check.value(
                not self.validation.every or self.data.validation_manifest is not None,
                "validation.every",
                self.validation.every,
                "only possible with data.validation_manifest, the pairs to validate on",
            )
            total = self.total_steps
            check.value(
                self.optimizer.decay_steps <= total,
                "optimizer.decay_steps",
                self.optimizer.decay_steps,
                f"at most {total}, the steps of all stages",
            )
            check.value(
                self.distributed.sharding == "ddp" or self.optimizer.kind == "adamw",
                "optimizer.kind",
                self.optimizer.kind,
                'only "adamw" with distributed.sharding = "fsdp2", which divides its state already',
            )
            check.value(
                not (self.distributed.shard_base and self.base.quantisation != "none"),
                "distributed.shard_base",
                True,
                'only possible with base.quantisation = "none"',
            )
            check.value(
                not (self.distributed.shard_base and self.base.offload_blocks),
                "distributed.shard_base",
                True,
                "an alternative to base.offload_blocks; unset one of the two",
            )
            check.value(
                not (self.distributed.shard_base and self.base.reference_cache_gb),
                "base.reference_cache_gb",
                self.base.reference_cache_gb,
                "0 with distributed.shard_base, where all processes must look at references together",
            )
            check.value(
                self.adapter.ref_keys_init == "random"
                or not (self.distributed.shard_base or self.base.quantisation != "none"),
                "adapter.ref_keys_init",
                self.adapter.ref_keys_init,
                'only "random" with a quantised or divided base',
            )

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)
