"""The reference pass: runs the base model on the face crop at timestep 0 and caches each block's keys and values.

It runs through the host's own guider and conditioning code, on a clean clone of the model:
loading, dtypes, LoRAs and clean-up are the host's. The input of each block's self-attention
becomes keys and values at once, while the pass runs; the features are never collected.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...lynx_core.formats.adapter import Adapter
from ...lynx_core.models.kv_cache import KVCache, ReferenceKVBuilder, join_kv
from ...lynx_core.spec import REFERENCE_PROMPT, null_image
from .attention_hooks import make_recorder
from .base_model import check_adapter_fits, describe_base
from .identity import IdentityKV, IdentityKVCache, Reference, register_kv
from .mini_lynx import explain_text_encoder


class OneCall(comfy.samplers.Sampler):
    """A sampler that calls the model once at sigma 0 and keeps nothing."""

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any,
               noise: Tensor, latent_image: Tensor, *_: Any) -> Tensor:  # fmt: skip
        conds = [model_wrap.conds["positive"]]
        sigma = sigmas.new_zeros(len(latent_image))
        comfy.samplers.calc_cond_batch(
            model_wrap.inner_model, conds, latent_image, sigma, extra_args["model_options"]
        )
        return latent_image


def clean_clone(model: Any) -> Any:
    """Clone a MODEL with its weights and LoRAs, but without what other nodes do to its calls."""
    clone = model.clone()
    clone.model_options = {"transformer_options": {}}
    clone.wrappers = comfy.patcher_extension.WrappersMP.init_wrappers()
    clone.callbacks = comfy.patcher_extension.CallbacksMP.init_callbacks()
    clone.object_patches = {
        name: patch for name, patch in clone.object_patches.items() if name.split(".")[0] != "diffusion_model"
    }
    return clone


def record_features(
    model: Any, conditioning: list[Any], latent: Tensor, on_features: Callable[[int, Tensor], None]
) -> None:
    """Run the reference pass.

    Args:
        conditioning: host CONDITIONING of the reference prompt.
        latent: [1, 16, 1, height, width] as the host's VAE gives it.
        on_features: gets (block, [1, tokens, dim]).
    """
    clone = clean_clone(model)
    clone.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, make_recorder(on_features))
    # A VACE model would otherwise add what its control branch makes of an empty video.
    conditioning = [[embedding, {**options, "vace_strength": [0.0]}] for embedding, options in conditioning]
    guider = comfy.samplers.CFGGuider(clone)
    guider.inner_set_conds({"positive": conditioning})
    guider.sample(torch.zeros_like(latent), latent, OneCall(), torch.zeros(1), disable_pbar=True, seed=0)


def compute_reference_kv(model: Any, adapter: Adapter, conditioning: list[Any], latent: Tensor) -> KVCache:
    """Run the reference pass and compute each block's keys and values during it."""
    if adapter.ref is None:
        raise ValueError(f"Adapter {adapter.name!r} has no reference part: give it reference layers.")
    builder = ReferenceKVBuilder(
        adapter.ref.blocks, adapter.read_ref_layer, model.model.get_dtype_inference()
    )
    progress = comfy.utils.ProgressBar(len(model.model.diffusion_model.blocks))

    def add_block(block: int, features: Tensor) -> None:
        builder.add_block(block, features)
        progress.update(1)

    record_features(model, conditioning, latent, add_block)
    return builder.finish()


_null_reference_kv_cache = IdentityKVCache(max_entries=2)
"""Shared by every identity on the same adapter and base; Wan 2.2 has two experts."""


def get_null_kv(
    model: Any, adapter: Adapter, conditioning: list[Any], latent: Tensor, checksum: str
) -> IdentityKV:
    """Compute the keys and values of the null reference, or take them from the cache."""
    inputs = hashlib.sha256()
    for tensor in (conditioning[0][0], latent):
        inputs.update(tensor.detach().cpu().float().numpy().tobytes())
    dtype = str(model.model.get_dtype_inference())
    key = (adapter.fingerprint, checksum, str(model.patches_uuid), dtype, inputs.hexdigest())
    return _null_reference_kv_cache.get_or_compute(
        key, lambda: compute_reference_kv(model, adapter, conditioning, latent)
    )


def make_reference(
    model: Any, adapter: Adapter, conditioning: list[Any], face: Tensor, null: Tensor
) -> Reference:
    """Encode a face and the null face with one base model.

    The tokens of several photos of the face stand side by side. The null face's need not: several times the same
    tokens give what they give once.

    Args:
        conditioning: host CONDITIONING of the reference prompt.
        face: [photos, 16, 1, height, width], latents of the 256 px crops.
        null: [1, 16, 1, height, width], latent of a mid-grey image.

    Raises:
        ValueError: when adapter and base model do not fit, or the adapter has no reference part.
    """
    base = describe_base(model)
    check_adapter_fits(adapter, base)
    return Reference(
        face=register_kv(
            join_kv([compute_reference_kv(model, adapter, conditioning, photo[None]) for photo in face])
        ),
        null=get_null_kv(model, adapter, conditioning, null, base.checksum),
        base=base,
    )


def encode_reference(model: Any, adapter: Adapter, clip: Any, vae: Any, crops: Tensor) -> Reference:
    """Encode the reference crops of one person with MODEL, CLIP and VAE.

    Args:
        crops: [photos, 256, 256, 3] in 0..1.

    Raises:
        ValueError: when CLIP or VAE are not Wan's, or the adapter does not fit the model.
    """
    base = describe_base(model)
    check_adapter_fits(adapter, base)
    misfit = explain_text_encoder(model, clip)
    if misfit:
        raise ValueError(misfit)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(REFERENCE_PROMPT))
    text_dim = model.model.diffusion_model.text_dim
    if conditioning[0][0].shape[-1] != text_dim:
        raise ValueError(
            f"This CLIP gives text of width {conditioning[0][0].shape[-1]}, but {base.name} takes {text_dim}. "
            "Load umt5_xxl with Load CLIP, type wan."
        )
    # One by one: the host's VAE takes a batch for the frames of a video.
    *faces, null = (vae.encode(image[None]) for image in (*crops, null_image()))
    face = torch.cat(faces)
    channels = model.model.latent_format.latent_channels
    if face.ndim != 5 or face.shape[1] != channels:
        raise ValueError(
            f"This VAE gives latents of shape {tuple(face.shape)}, but {base.name} takes {channels} channels with a "
            "time axis. Load wan_2.1_vae with Load VAE."
        )
    return make_reference(model, adapter, conditioning, face, null)


def check_reference_model(reference_model: Any, model: Any) -> list[str]:
    """Check the MODEL that a reference is encoded through against the one that is sampled.

    Returns:
        A remark when a LoRA of the first is missing from the second, as with crossed wires.

    Raises:
        ValueError: when they are of two bases, or the first is none that Lynx works on.
    """
    if reference_model is model:
        return []
    sampled = describe_base(model)
    try:
        through = describe_base(reference_model)
    except ValueError as error:
        raise ValueError(f"reference_model: {error}") from error
    if through.checksum != sampled.checksum:
        raise ValueError(
            f"reference_model is {through.name} ({through.checksum}), and model is {sampled.name} ({sampled.checksum}): "
            "what one base sees in a face means nothing to another. Connect the model of the same loader, before its "
            "distilled LoRA, to reference_model, or leave it open."
        )
    lacks = any(len(model.patches.get(key, ())) < len(put) for key, put in reference_model.patches.items())
    if not lacks:
        return []
    return [
        "reference_model has a LoRA that model has not: are the two crossed? model is sampled, the reference is encoded "
        "through reference_model."
    ]


class ReferenceCache:
    """The last references that were encoded, for a node that encodes and applies in one: a changed strength
    computes nothing anew."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries: list[tuple[tuple[str, ...], tuple[weakref.ref[Any], ...], Reference]] = []

    def encode(self, model: Any, adapter: Adapter, clip: Any, vae: Any, crops: Tensor) -> Reference:
        """Encode reference crops, or give what was encoded from the same.

        Raises:
            ValueError: as `encode_reference`.
        """
        key = (
            adapter.fingerprint,
            describe_base(model).checksum,
            str(model.patches_uuid),
            str(model.model.get_dtype_inference()),
            hashlib.sha256(crops.numpy().tobytes()).hexdigest(),
        )
        for place, (known, loaders, reference) in enumerate(self.entries):
            # CLIP and VAE are told by the object: the host gives the same one until it is loaded anew.
            if known == key and [loader() for loader in loaders] == [clip, vae]:
                self.entries.append(self.entries.pop(place))
                return reference
        reference = encode_reference(model, adapter, clip, vae, crops)
        self.entries.append((key, (weakref.ref(clip), weakref.ref(vae)), reference))
        del self.entries[: -self.max_entries]
        return reference
