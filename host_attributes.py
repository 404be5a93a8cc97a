"""What the pack relies on in ComfyUI, attribute by attribute, looked at when the pack is loaded.

ComfyUI promises none of it. When a new version changes one, the log says which, what it breaks and what still works;
without that, a sampler stops in the middle with an error that names no cause.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NEWEST_HOST = "0.30.0"
"""The newest ComfyUI that the pack is tested with."""

APPLY = ("Lynx Apply", "Lynx Person")
GUIDE = ("Lynx Guider", "Lynx Sampler", "Lynx Person")
REFERENCE = ("Lynx Encode Reference", "Lynx Person")
MINI = ("Lynx Load Mini",)
LOADERS = ("Lynx Load Adapter", "Lynx Load Face Analyzer", "Lynx Load Identity", "Lynx Save Identity")
NOTES = ("the notes on the nodes",)
ALL = ("all nodes",)


@dataclass(frozen=True)
class Relied:
    """One attribute of the host.

    Args:
        path: module and names below it.
        used_by: nodes that do not work without it, as users see them.
        takes: names of parameters that it is called with.
        sets: attributes that its `__init__` gives to an instance.
    """

    path: str
    used_by: tuple[str, ...]
    takes: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


RELIED_ON = (
    Relied("comfy_api.latest.io.ComfyNode", ALL),
    Relied("comfy_api.latest.io.Schema", ALL, takes=("node_id", "inputs", "outputs", "hidden", "is_output_node")),
    Relied("comfy_api.latest.ComfyExtension", ALL),
    Relied("folder_paths.folder_names_and_paths", ALL),
    Relied("folder_paths.supported_pt_extensions", ALL),
    Relied("folder_paths.models_dir", ALL),
    Relied("folder_paths.get_folder_paths", LOADERS),
    Relied("folder_paths.get_filename_list", LOADERS),
    Relied("comfy.patcher_extension.WrappersMP.APPLY_MODEL", APPLY),
    Relied("comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL", APPLY),
    Relied("comfy.patcher_extension.WrappersMP.OUTER_SAMPLE", APPLY),
    Relied("comfy.patcher_extension.WrappersMP.init_wrappers", REFERENCE),
    Relied("comfy.patcher_extension.CallbacksMP", APPLY),
    Relied("comfy.model_patcher.ModelPatcher", APPLY, takes=("model", "load_device", "offload_device")),
    Relied("comfy.model_patcher.ModelPatcher.add_wrapper_with_key", APPLY),
    Relied("comfy.model_base.ModelType", APPLY),
    Relied("comfy.ldm.wan.model.WanSelfAttention", APPLY, sets=("q", "k", "v", "o", "norm_q", "norm_k")),
    Relied("comfy.ldm.wan.model.WanAttentionBlock", APPLY, sets=("self_attn", "cross_attn")),
    Relied("comfy.ldm.wan.model.WanModel", APPLY, sets=("blocks",)),
    Relied("comfy.sampler_helpers.convert_cond", APPLY),
    Relied("comfy.sampler_helpers.get_additional_models", APPLY),
    Relied("comfy.model_management.get_torch_device", APPLY),
    Relied("comfy.model_management.unet_offload_device", APPLY),
    Relied("comfy.model_management.free_memory", APPLY, takes=("memory_required", "device")),
    Relied("comfy.model_management.throw_exception_if_processing_interrupted", APPLY),
    Relied("comfy.utils.ProgressBar", APPLY),
    Relied("comfy.samplers.CFGGuider.inner_set_conds", (*GUIDE, *REFERENCE)),
    Relied("comfy.samplers.CFGGuider.sample", (*GUIDE, *REFERENCE), takes=("noise", "latent_image", "sampler", "sigmas")),
    Relied("comfy.samplers.CFGGuider.predict_noise", GUIDE, takes=("x", "timestep", "model_options", "seed")),
    Relied("comfy.samplers.calc_cond_batch", (*GUIDE, *REFERENCE)),
    Relied("comfy.samplers.sampling_function", GUIDE, takes=("uncond", "cond", "cond_scale", "model_options", "seed")),
    Relied("comfy.samplers.Sampler", REFERENCE),
    Relied("comfy.samplers.KSampler", GUIDE),
    Relied("comfy.samplers.SAMPLER_NAMES", GUIDE),
    Relied("comfy.samplers.SCHEDULER_NAMES", GUIDE),
    Relied("comfy.samplers.sampler_object", GUIDE),
    Relied("comfy_extras.nodes_custom_sampler.Noise_RandomNoise", GUIDE),
    Relied("comfy_extras.nodes_custom_sampler.SamplerCustomAdvanced.execute", GUIDE),
    Relied("node_helpers.conditioning_set_values", GUIDE),
    Relied("comfy.sd.load_diffusion_model", MINI),
    Relied("comfy.sd.load_clip", MINI, takes=("ckpt_paths", "clip_type", "model_options")),
    Relied("comfy.sd.CLIPType.WAN", MINI),
    Relied("comfy.sd.VAE", MINI, takes=("sd", "metadata")),
    Relied("comfy.utils.load_torch_file", MINI, takes=("return_metadata",)),
    Relied("comfy_execution.utils.get_executing_context", NOTES),
    Relied("server.PromptServer.send_progress_text", NOTES),
    Relied("server.PromptServer.send_sync", NOTES),
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One attribute that is not as the pack expects it."""

    relied: Relied
    what: str

    def __str__(self) -> str:
        return f"{self.relied.path} {self.what} ({', '.join(dict.fromkeys(self.relied.used_by))})"


def find_changes() -> list[Change]:
    """Compare the running host with the list."""
    return [Change(relied, what) for relied in RELIED_ON for what in _compare(relied)]


def _compare(relied: Relied) -> Iterator[str]:
    try:
        found = find_attribute(relied.path)
    except (ImportError, AttributeError):
        yield "is not there"
        return
    if relied.takes:
        parameters = inspect.signature(found).parameters
        takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        missing = [name for name in relied.takes if name not in parameters and not takes_any]
        if missing:
            yield f"takes no {', '.join(missing)}"
    if relied.sets:
        # The names that a class's `__init__` stores: making one would allocate a model.
        names = {name for each in found.__mro__ for name in _names_of(each)}
        missing = [name for name in relied.sets if name not in names]
        if missing:
            yield f"has no {', '.join(missing)}"


def _names_of(kind: type) -> tuple[str, ...]:
    code = getattr(vars(kind).get("__init__"), "__code__", None)
    return code.co_names if code is not None else ()


def find_attribute(path: str) -> Any:
    """Import as much of a path as is a module, and look up the rest.

    Raises:
        ImportError, AttributeError: when it is not there.
    """
    parts = path.split(".")
    module = importlib.import_module(parts[0])
    for number, name in enumerate(parts[1:], start=2):
        if not hasattr(module, name):
            try:
                importlib.import_module(".".join(parts[:number]))
            except ImportError as error:
                raise AttributeError(path) from error
        module = getattr(module, name)
    return module


def describe_changes(changes: list[Change], version: str) -> str:
    """Say what changed, what it breaks, and what still works."""
    broken = {name for change in changes for name in change.relied.used_by}
    others = dict.fromkeys(name for relied in RELIED_ON for name in relied.used_by if name not in broken)
    others.pop(ALL[0], None)
    works = "No node of it works." if ALL[0] in broken else f"These still work: {', '.join(others)}."
    return (
        f"ComfyUI-Lynx is tested with ComfyUI up to {NEWEST_HOST}, and in this one ({version}) something that it relies on "
        f"has changed: {'; '.join(map(str, changes))}. {works if others or ALL[0] in broken else ''} Update ComfyUI-Lynx, or "
        f"go back to ComfyUI {NEWEST_HOST}."
    )
