"""The configuration of a run: frozen dataclasses, one a section of the TOML file, checked when they are made.

A value that makes no sense is refused here, by name, before any weight is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..buckets import place_of, written_url
from ..data.media.decoding import DecodingConfig
from ..spec import AttentionBackend, Quantisation
from .adapter_settings import AdapterSettings
from .configuration_file import SettingChecks, read_settings
from .packing import PackingConfig

BaseDtype = Literal["fp32", "bf16"]
AttentionChoice = Literal["auto", AttentionBackend]
TimestepSampling = Literal["uniform", "logit_normal", "shifted"]
LossReduction = Literal["token", "sample"]
StageKind = Literal["images", "first_frames", "videos", "mixed"]
OptimizerKind = Literal["adamw", "adamw8bit_bitsandbytes", "adamw8bit_torchao", "muon"]
Schedule = Literal["constant", "linear", "cosine"]
Sharding = Literal["ddp", "fsdp2"]
ExportDtype = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu"]


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
    compile: bool = False
    """Compile what of each block works token by token, by torch.compile. Packs are padded to packing.max_tokens, so
    that it compiles once, in the first minutes."""
    reference_cache_gb: float = 0.0
    """Host memory of each process for cached features of the reference pass; 0 runs the pass at every step."""

    def __post_init__(self) -> None:
        with SettingChecks("base", self) as check:
            check.at_least(0, "reference_cache_gb")
            check.check(
                "gradient_checkpointing",
                self.gradient_checkpointing or (self.quantisation == "none" and not self.offload_blocks),
                "needed with quantisation and offloading, which otherwise keep each block's weights until its backward",
            )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Flow matching and its nulls."""

    timestep_sampling: TimestepSampling = "logit_normal"
    """uniform; logit_normal: sigmoid of a normal; shifted: uniform, moved by `shift` as in sampling."""
    logit_mean: float = 0.0
    logit_std: float = 1.0
    shift: float = 5.0
    """s of t -> s t / (1 + (s - 1) t) for "shifted"; Wan samples videos with 5."""
    loss_reduction: LossReduction = "token"
    """token: every token has the same weight; sample: every image or video has, whatever its length."""
    text_dropout: float = 0.1
    """Share of samples that see the empty prompt."""
    identity_dropout: float = 0.1
    """Share that see the null ID and the null reference together, as unconditional guidance does."""
    id_dropout: float = 0.0
    """Share, of the others, that see the null ID only."""
    reference_dropout: float = 0.0
    """Share, of the others, that see the null reference only."""

    def __post_init__(self) -> None:
        with SettingChecks("objective", self) as check:
            check.above_zero("logit_std", "shift")
            check.share("text_dropout", "identity_dropout", "id_dropout", "reference_dropout")


@dataclass(frozen=True)
class StageConfig:
    """One stage of the curriculum."""

    name: str
    kind: StageKind
    """images: targets of one frame; first_frames: all, cut to one; videos: of more; mixed: all."""
    steps: int

    def __post_init__(self) -> None:
        with SettingChecks("stages", self) as check:
            check.at_least(1, "steps")


@dataclass(frozen=True)
class OptimizerConfig:
    """The trained weights and their EMA are float32 with each kind."""

    kind: OptimizerKind = "adamw"
    """The 8-bit kinds keep AdamW's moments in 8 bits: 2 instead of 8 bytes a weight. muon: for small models
    from random weights."""
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule = "constant"
    """Learning rate after its warm-up: constant; linear, cosine: falling to 0 over the whole run (diffusers')."""
    warmup_steps: int = 0
    """Linear warm-up of the learning rate from 0."""
    decay_steps: int = 0
    """Linear decay to 0 over this many last steps of a run with a constant rate."""
    max_grad_norm: float = 1.0
    """Gradient clipping by global norm; 0: none."""
    global_batch_size: int = 0
    """Packs of all processes together in one optimizer step, dealt out to however many there are. 0: those of
    the checkpoint that is resumed; without one, gradient_accumulation_steps for each process."""
    gradient_accumulation_steps: int = 1
    """Packs of each process (of each group with distributed.sequence_parallel_size) in one optimizer step of a new run, where global_batch_size is 0."""
    ema_decay: float = 0.0
    """Decay of the EMA of the weights, which is validated and exported; it warms up: min(decay, (1 + n) / (10 + n))
    at update n. 0 keeps none."""

    def __post_init__(self) -> None:
        with SettingChecks("optimizer", self) as check:
            check.above_zero("learning_rate", "eps")
            check.at_least(1, "gradient_accumulation_steps")
            check.at_least(
                0, "weight_decay", "warmup_steps", "decay_steps", "max_grad_norm", "global_batch_size"
            )
            check.check(
                "gradient_accumulation_steps",
                not self.global_batch_size or self.gradient_accumulation_steps == 1,
                "an alternative to optimizer.global_batch_size; unset one of the two",
            )
            check.check(
                "decay_steps",
                not self.decay_steps or self.schedule == "constant",
                f'only for optimizer.schedule = "constant"; "{self.schedule}" falls all along',
            )
            for name in ("beta1", "beta2", "ema_decay"):
                check.check(name, 0 <= getattr(self, name) < 1, "0 or more and below 1")


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
    push_to_hub: str = ""
    """Repository on the Hugging Face Hub, as "name/adapter", that the adapter is uploaded to at the end."""
    device: Device = "auto"
    """auto: the GPU if there is one; cpu."""

    def __post_init__(self) -> None:
        with SettingChecks("run", self) as check:
            check.check("seed", 0 <= self.seed < 2**63, "0 or more")
            check.at_least(1, "checkpoint_every", "keep_last", "log_every", "max_skipped_in_row")
            check.at_least(0, "keep_every")


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
        with SettingChecks("validation", self) as check:
            check.at_least(0, "every", "video_samples")
            check.at_least(1, "num_samples", "video_steps")
            check.check(
                "video_samples", self.video_samples <= self.num_samples, "at most validation.num_samples"
            )
            check.above_zero("shift")


@dataclass(frozen=True)
class DistributedConfig:
    """How several processes share the work."""

    sharding: Sharding = "ddp"
    """ddp: each process holds all trained weights; fsdp2: weights, gradients and optimiser are sharded."""
    shard_base: bool = False
    """Shard the blocks of the frozen base as well; each block is gathered while the one before it runs."""
    shard_size: int = 0
    """Processes that one copy of what is sharded is divided among; 0: all. On many nodes the processes of one (HSDP):
    weights are gathered within a node, and only gradients go between nodes."""
    sequence_parallel_size: int = 1
    """Processes that share each pack, a part of its tokens each (Ulysses), for videos that are too long for one: 8 for
    1280x720x81, 75,600 tokens. It divides the processes and the base's attention heads."""

    def __post_init__(self) -> None:
        with SettingChecks("distributed", self) as check:
            check.at_least(1, "sequence_parallel_size")
            check.at_least(0, "shard_size")
            check.check(
                "shard_size",
                not self.shard_size or self.sharding == "fsdp2" or self.shard_base,
                'only for what is sharded: with distributed.sharding = "fsdp2" or distributed.shard_base = true',
            )


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from, and the networks that encode them."""

    manifest: Path
    """Parquet or JSONL of pairs, see docs/training.md; this, the validation manifest and the cache may be s3://, gs:// and
    the like."""
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
    """The ArcFace file of the release; unset: the model pack's own recogniser (antelopev2)."""
    face_provider: str = "CPU"
    """CPU, CUDA, CoreML or DirectML."""
    faces_aligned: bool = False
    """The references are square aligned crops already; no detector runs."""
    min_face_similarity: float | None = None
    """Pairs below it are skipped."""
    max_quarantined: float = 0.2
    """Share of the rows that may be quarantined for a fault; with more, a run stops. 1 never does."""
    validation_manifest: Path | None = None
    """Pairs of people that are in no training pair."""
    cache: Path | None = None
    """Folder of encoded samples; unset: everything is encoded each time."""
    shard_gb: float = 1.0
    """Size of the files that `prepare` packs them into, about."""
    kind_weights: dict[str, float] | None = None
    """Share of each kind of pair, any scale; unset: as the manifest's column `weight` has it, else each pair once an
    epoch."""

    def __post_init__(self) -> None:
        for name in ("manifest", "validation_manifest", "cache"):
            path = getattr(self, name)
            if path is not None and (url := written_url(path)) is not None:
                object.__setattr__(self, name, place_of(url, stays=name == "cache"))
        with SettingChecks("data", self) as check:
            check.check(
                "face_models",
                self.face_models is not None or (self.faces_aligned and self.face_recogniser is not None),
                "needed to find faces, and for the recogniser of a model pack; only data.faces_aligned = true "
                "together with data.face_recogniser does without",
            )
            check.share("max_quarantined")
            check.above_zero("shard_gb")
            for kind, weight in (self.kind_weights or {}).items():
                is_weight = weight >= 0 and math.isfinite(weight)
                check.check(f"kind_weights.{kind}", is_weight, "0 or more", weight)


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
        with SettingChecks("", self) as check:
            check.check("stages", bool(self.stages), "a list of at least one stage: [[stages]]")
            names = [stage.name for stage in self.stages]
            check.check("stages.name", len(set(names)) == len(names), "different for each stage", names)
            check.check(
                "validation.every",
                not self.validation.every or self.data.validation_manifest is not None,
                "only possible with data.validation_manifest, the pairs to validate on",
                self.validation.every,
            )
            check.check(
                "optimizer.decay_steps",
                self.optimizer.decay_steps <= self.total_steps,
                f"at most {self.total_steps}, the steps of all stages",
                self.optimizer.decay_steps,
            )
            check.check(
                "optimizer.kind",
                self.distributed.sharding == "ddp" or self.optimizer.kind == "adamw",
                'only "adamw" with distributed.sharding = "fsdp2", which shards its state already',
                self.optimizer.kind,
            )
            self._check_sharded_base(check)

    def _check_sharded_base(self, check: SettingChecks) -> None:
        is_sharded, is_quantised = self.distributed.shard_base, self.base.quantisation != "none"
        check.check(
            "distributed.shard_base",
            not (is_sharded and is_quantised),
            'only possible with base.quantisation = "none"',
            True,
        )
        check.check(
            "distributed.shard_base",
            not (is_sharded and self.base.offload_blocks),
            "an alternative to base.offload_blocks; unset one of the two",
            True,
        )
        check.check(
            "base.gradient_checkpointing",
            self.base.gradient_checkpointing or not is_sharded,
            "needed with distributed.shard_base, which frees a block's weights before its backward",
            False,
        )
        check.check(
            "base.reference_cache_gb",
            not (is_sharded and self.base.reference_cache_gb),
            "0 with distributed.shard_base, where all processes must run the reference pass together",
            self.base.reference_cache_gb,
        )
        check.check(
            "adapter.ref_keys_init",
            self.adapter.ref_keys_init == "random" or not (is_sharded or is_quantised),
            'only "random" with a quantised or sharded base',
            self.adapter.ref_keys_init,
        )

    def packs_per_step(self, world_size: int) -> int:
        """Packs of all processes in one optimizer step of a new run."""
        optimizer, groups = self.optimizer, world_size // self.distributed.sequence_parallel_size
        return optimizer.global_batch_size or groups * optimizer.gradient_accumulation_steps

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


def read_configuration(path: Path | str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a run's TOML file and put `section.key=value` on top, as `read_settings`."""
    return read_settings(TrainingConfig, path, overrides)
