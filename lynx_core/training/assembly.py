"""Puts together what a run needs: the base, the adapter, the samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from ..data.cache.bucket_cache import pull_cache
from ..data.dataset import PairDataset
from ..data.dataset_index import DatasetIndex
from ..data.encoders import AnalyzerRecogniser, Encoders, UMT5TextEncoder, WanVideoEncoder
from ..data.manifest import KINDS, read_manifest
from ..data.pair_table import PairTable
from ..data.prepared_index import name_index, open_index
from ..data.quarantine import QUARANTINE_NAME, WARNINGS_NAME
from ..data.text_files import find_file
from ..faces.analyzer import FaceAnalyzer
from ..formats.adapter import Adapter, open_adapter
from ..formats.adapter_weights import init_resampler, load_modules
from ..formats.base_file import load_transformer
from ..hashing import hash_file, hash_files
from ..models.adapter_configs import AdapterConfigs, configure_variant
from ..models.adapter_modules import AdapterModules
from ..models.frozen_base import BlockOffload, freeze, quantise_base
from ..models.packed_wan import PackedWan
from ..models.segment_attention import choose_backend
from ..rng import derive_seed
from .adapter_settings import AdapterSettings, describe_mix, find_misfits, wanted_parts
from .configuration import DataConfig, TrainingConfig
from .configuration_file import ConfigurationError
from .curriculum import Kinds, SampleTable
from .distributed import DistributedContext, ShardedBlocks
from .packing import PackingConfig, fit_to_budget
from .progress import ProgressLine

_logger = logging.getLogger(__name__)

_NAMED = 3
"""Over-long samples that a message names."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def open_base(run: TrainingConfig, context: DistributedContext) -> PackedWan:
    """Load the frozen base of a run and put it where it will run.

    Raises:
        BaseModelError: when there is no usable base.
    """
    config = run.base
    dtype = DTYPES[config.dtype]
    transformer = load_transformer(config.transformer, dtype)
    quantise_base(transformer, config.quantisation)
    backend = choose_backend(context.device, dtype, config.attention)
    blocks: BlockOffload | None = None
    if run.distributed.shard_base and context.world_size > 1:
        blocks = ShardedBlocks(freeze(transformer), context.device, context.shard_mesh)
    elif config.offload_blocks:
        blocks = BlockOffload(transformer, context.device)
    else:
        transformer.to(context.device)
    if context.device.type == "cpu":
        _align(transformer)
    num_tokens = -(-run.packing.max_tokens // run.distributed.sequence_parallel_size)
    return PackedWan(
        transformer,
        backend,
        config.gradient_checkpointing,
        blocks,
        context.sequence_group,
        compiled_tokens=num_tokens if config.compile else 0,
    )


_ALIGNMENT_BYTES = 64


def _align(module: torch.nn.Module) -> None:
    """Copy weights that lie as in their file to addresses as torch gives them.

    The last bits of a matrix product on the CPU depend on it, and whether the file stays mapped depends on
    the number of processes.
    """
    for parameter in module.parameters():
        is_plain = parameter.device.type == "cpu" and not hasattr(parameter, "__tensor_flatten__")
        if is_plain and parameter.data_ptr() % _ALIGNMENT_BYTES:
            parameter.data = parameter.data.clone()


def hash_base(path: Path) -> str:
    """Fingerprint of the base's files."""
    if path.is_file():
        return hash_file(path)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    return hash_files(file for file in folder.iterdir() if file.is_file())


def make_adapter(
    settings: AdapterSettings, base: PackedWan, seed: int, recogniser: str, note: Callable[[str], None]
) -> AdapterModules:
    """Make the adapter that is trained, in float32 on the CPU.

    Args:
        recogniser: of the samples; a new adapter is for it, another must be for it already.
        note: takes what a user should know.

    Raises:
        ConfigurationError: when `init` has not the parts of the variant, or is for another recogniser or base.
        AdapterError: when a file is no adapter or resampler.
    """
    if settings.init:
        adapter = _continue_adapter(settings, base, recogniser, note)
    else:
        adapter = _start_adapter(settings, base, seed, recogniser, note)
    if settings.lora_rank:
        adapter.add_low_rank(settings.lora_rank, settings.lora_alpha, derive_seed(seed, "low rank"))
    return adapter


def _continue_adapter(
    settings: AdapterSettings, base: PackedWan, recogniser: str, note: Callable[[str], None]
) -> AdapterModules:
    opened = open_adapter(*settings.init)
    misfits = find_misfits(settings, opened, base.dim, base.config.num_layers, recogniser)
    if misfits:
        raise ConfigurationError("; ".join(misfits))
    mix = describe_mix(settings, opened)
    if mix is not None:
        note(mix)
    return load_modules(Adapter(opened.name, [opened.parts[kind] for kind in wanted_parts(settings)]))


def configure_new_adapter(settings: AdapterSettings, dim: int, num_blocks: int) -> AdapterConfigs:
    """The shape of a new adapter for a base of this width and depth."""
    return configure_variant(
        settings.variant,
        dim,
        num_blocks,
        lite_token_dim=settings.lite_token_dim,
        resampler_dim=settings.resampler_dim,
        resampler_depth=settings.resampler_depth,
        resampler_heads=settings.resampler_heads,
    )


def _start_adapter(
    settings: AdapterSettings, base: PackedWan, seed: int, recogniser: str, note: Callable[[str], None]
) -> AdapterModules:
    configs = configure_new_adapter(settings, base.dim, base.config.num_layers)
    adapter = AdapterModules.create(configs, derive_seed(seed, "adapter"), recogniser=recogniser)
    if settings.ref_keys_init == "base":
        adapter.init_ref_keys_from([block.attn1.to_k for block in base.transformer.blocks])
    if settings.resampler_init is not None:
        start = init_resampler(adapter, settings.resampler_init)
        left = f"; not from it: {', '.join(start.left_out)}" if start.left_out else ""
        note(f"the resampler starts from {settings.resampler_init}{left}")
        if start.recogniser != recogniser:
            note(f"it was trained on {start.recogniser}, here it learns {recogniser}, as the paper's did")
    elif settings.has_id:
        note(
            "the resampler starts from random weights; from InstantID's (adapter.resampler_init) it learns faster"
        )
    return adapter


def open_source(
    config: TrainingConfig, manifest: Path, device: torch.device, *, shows: bool = False
) -> PairDataset:
    """Open the samples of a manifest.

    Args:
        shows: show the progress of hashing and probing on standard error.

    Raises:
        DataError: when no usable sample is left, more are quarantined than `data.max_quarantined` allows, or an
            encoder is not there.
    """
    data = config.data
    encoders = make_encoders(data, device)
    line = ProgressLine()
    return PairDataset(
        find_index(config, manifest, encoders) or read_manifest(manifest, data.min_face_similarity),
        encoders,
        config.decoding,
        cache_dir=data.cache,
        quarantine_path=name_run_file(config, manifest, QUARANTINE_NAME),
        warnings_path=name_run_file(config, manifest, WARNINGS_NAME),
        max_quarantined=data.max_quarantined,
        on_count=(lambda done, total: line.show(f"files of {manifest}", done, total)) if shows else None,
    )


def find_index(config: TrainingConfig, manifest: Path, encoders: Encoders) -> DatasetIndex | None:
    """The index that `prepare` has left of a manifest as it is now, for these settings and networks.

    Raises:
        DataError: when there is one that cannot be used, or an encoder is not there.
    """
    if config.data.cache is None:
        return None
    pull_cache(config.data.cache)
    path = find_file(manifest)
    fingerprints = {"decoding": config.decoding.fingerprint(), "encoders": encoders.fingerprint()}
    name = name_index(config.data.cache, path, fingerprints, config.data.min_face_similarity)
    return open_index(name, path)


def name_run_file(config: TrainingConfig, manifest: Path, name: str) -> Path:
    """The file of a run about one of its manifests, as `<output>/train-quarantine.jsonl`.

    A validation manifest that is called as the training one adds `-validation`.
    """
    stem = manifest.stem
    if manifest == config.data.validation_manifest and stem == config.data.manifest.stem:
        stem += "-validation"
    return config.run.output / f"{stem}-{name}"


def make_encoders(data: DataConfig, device: torch.device) -> Encoders:
    """Name the frozen encoders; each is opened when first used."""
    return Encoders(
        WanVideoEncoder(data.vae, device, DTYPES[data.vae_dtype]),
        UMT5TextEncoder(data.text_encoder, data.tokenizer, device),
        AnalyzerRecogniser(make_analyzer(data), aligned=data.faces_aligned),
    )


def make_analyzer(data: DataConfig) -> FaceAnalyzer:
    """Name the face models."""
    # Without a folder the configuration makes sure that neither detector nor pack is asked for.
    return FaceAnalyzer(
        data.face_models or Path(), data.face_model_pack, data.face_provider, data.face_recogniser
    )


def make_table(source: PairDataset, config: TrainingConfig) -> SampleTable:
    """What planning needs of the samples, trimmed to the budget as configured.

    Raises:
        PackingError: for over-long samples that the configuration does not allow.
    """
    table, trimmed = tabulate_items(source.items, config.packing)
    source.trim(trimmed)
    if trimmed:
        _logger.info("%d samples are trimmed to %d tokens", len(trimmed), config.packing.max_tokens)
    return table


def choose_kind_weights(config: TrainingConfig, items: PairTable) -> Mapping[str, float] | None:
    """How often each kind of pair is drawn: as configured, else as the manifest has it, else None."""
    return items.kind_weights if config.data.kind_weights is None else config.data.kind_weights


def tabulate_items(items: PairTable, packing: PackingConfig) -> tuple[SampleTable, dict[int, int]]:
    """What planning needs of the pairs, and the latent frames that each trimmed one keeps.

    Raises:
        PackingError: for over-long samples that the configuration does not allow.
    """
    lengths, frames = items.tokens, items.latent_frames
    trimmed: dict[int, int] = {}
    over = np.flatnonzero(lengths > packing.max_tokens)
    if len(over):
        shapes = np.stack([items.latent_frames, items.latent_heights, items.latent_widths], axis=1)[over]
        fitted = fit_to_budget(shapes, packing, [items.ids[index] for index in over[:_NAMED]], len(items))
        trimmed = {int(over[place]): kept for place, kept in fitted.trimmed.items()}
        lengths, frames = lengths.copy(), frames.copy()
        lengths[over] = fitted.lengths
        frames[over] = [trimmed[int(index)] for index in over]
    return SampleTable(items.ids, Kinds(KINDS, items.kinds), lengths, frames), trimmed
