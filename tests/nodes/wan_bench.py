"""What the node tests share: a small Wan model on the real host, adapters, and sampling with both.

Everything goes through the host's own code: its model class, its guiders and its samplers, on
stand-in weights in float32, so that two ways to one result can be compared to rounding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from in_process import InProcessComfy
from safetensors.torch import load_file, save_file
from torch import Tensor

T2V = "wan2.1_t2v_14B_fp8_e4m3fn.safetensors"
OTHER_T2V = "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
VACE = "wan2.1_vace_14B_fp16.safetensors"
I2V = "wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors"
RECOGNISER = "facexlib/arcface_ir_se50"
TEXT_DIM, LATENT_CHANNELS = 4096, 16

Conditioning = list[list[Any]]
ONLY_LAST_BLOCK = {"id_strength": 0.0, "ref_blocks": "3"}
"""Nothing after its self-attention mixes tokens: what no person reaches is the base's, to the bit."""


class Applied(NamedTuple):
    """What Lynx Apply gives out."""

    model: Any
    positive: Conditioning
    negative: Conditioning
    middle: Conditioning


def seeded(*shape: int, seed: int) -> Tensor:
    """Normal random numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def max_error(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the size of `b`."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


class WanBench:
    """A user's graph in short: load, apply, sample."""

    def __init__(self, comfy: InProcessComfy) -> None:
        self.comfy = comfy

    # --- what goes in -------------------------------------------------------------------

    def load_base(self, name: str = T2V, dtype: torch.dtype = torch.float32) -> Any:
        """Load a base model with the host's own detection, in `dtype`."""
        import comfy.sd

        path = self.comfy.base_dir / "models" / "diffusion_models" / name
        return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})

    def make_base(self, dim: int, num_blocks: int, name: str) -> Any:
        """Write a T2V model of another size, and load it as a user does; `dim` is a multiple of 128."""
        folder = self.comfy.base_dir / "models" / "diffusion_models"
        tensors = {}
        for key, tensor in load_file(str(folder / T2V)).items():
            if key.startswith("blocks.") and int(key.split(".")[1]) >= num_blocks:
                continue
            sizes = [{256: dim, 6 * 256: 6 * dim}.get(size, size) for size in tensor.shape]
            if key == "time_embedding.0.weight":
                sizes[1] = 256
            noise = seeded(*sizes, seed=zlib.crc32(key.encode()))
            is_norm = "norm" in key and key.endswith("weight")
            tensors[key] = 1 + 0.3 * noise if is_norm else noise * tensor.float().std()
        save_file(tensors, str(folder / name))
        return self.load_base(name)

    def load_lora(self, model: Any, strength: float = 1.0) -> Any:
        """Put the stand-in LoRA on q, k, v and o of every attention."""
        return self.comfy.run(
            "LoraLoaderModelOnly",
            model=model,
            lora_name="Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
            strength_model=strength,
        )[0]

    def open_adapter(self, *names: str) -> Any:
        """Open adapter files or folders under models/lynx."""
        module = self.comfy.pack_module("lynx_core.formats.adapter")
        return module.open_adapter(*(self.comfy.base_dir / "models" / "lynx" / name for name in names))

    def make_text(self, seed: int, num_tokens: int = 16) -> Conditioning:
        return [[seeded(1, num_tokens, TEXT_DIM, seed=seed), {}]]

    def make_id(self, seed: int = 0, recogniser: str = RECOGNISER) -> Any:
        embedding = seeded(512, seed=1000 + seed)
        face_id = self.comfy.pack_module("nodes.host.identity").FaceID
        return face_id(embedding / embedding.norm(), recogniser)

    def make_reference(self, model: Any, adapter: Any, seed: int = 0) -> Any:
        """Make a reference from random 64 px latents of a face and of the null image."""
        face, null = (seeded(1, LATENT_CHANNELS, 1, 8, 8, seed=s) for s in (2000 + seed, 3000))
        make_reference = self.comfy.pack_module("nodes.host.reference_pass").make_reference
        return make_reference(model, adapter, self.make_text(50), face, null)

    # --- what a user does -----------------------------------------------------------------

    def apply(self, model: Any, positive: Conditioning, negative: Conditioning, **inputs: Any) -> Applied:
        """Run Lynx Apply."""
        return Applied(
            *self.comfy.run("LynxApply", model=model, positive=positive, negative=negative, **inputs)
        )

    def sample(self, model: Any, positive: Conditioning, negative: Conditioning, **inputs: Any) -> Tensor:
        """Run the core KSampler: two Euler steps at cfg 3 unless told."""
        defaults = {
            "seed": 5,
            "steps": 2,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "latent_image": self.make_latent(),
        }
        inputs = {"model": model, "positive": positive, "negative": negative, **defaults, **inputs}
        return self.comfy.run("KSampler", **inputs)[0]["samples"]

    def make_latent(self, batch: int = 1, frames: int = 2) -> dict[str, Tensor]:
        return {"samples": torch.zeros(batch, LATENT_CHANNELS, frames, 8, 8)}

    def predict(
        self,
        model: Any,
        conds: Sequence[Conditioning],
        sigma: float = 0.7,
        x: Tensor | None = None,
    ) -> list[Tensor]:
        """Compute the denoised latent of each conditioning, as one step of a sampler would."""
        import comfy.samplers

        x = seeded(1, LATENT_CHANNELS, 2, 8, 8, seed=7) if x is None else x
        found: list[Tensor] = []

        class Predict(comfy.samplers.Sampler):
            def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: Any, *_: Any) -> Tensor:
                found.extend(
                    comfy.samplers.calc_cond_batch(
                        model_wrap.inner_model,
                        [model_wrap.conds[str(i)] for i in range(len(conds))],
                        x,
                        torch.full((len(x),), sigma),
                        extra_args["model_options"],
                    )
                )
                return x

        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({str(i): cond for i, cond in enumerate(conds)})
        zeros = torch.zeros_like(x)
        with torch.inference_mode():
            guider.sample(zeros, zeros, Predict(), torch.zeros(1), disable_pbar=True, seed=0)
        return found

    def record_blocks(self, model: Any, cond: Conditioning, **inputs: Any) -> dict[int, Tensor]:
        """Predict, and give the hidden states after each block."""
        states: dict[int, Tensor] = {}

        def keep(block: int) -> Callable[..., dict[str, Any]]:
            def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                out = extra["original_block"](args)
                states[block] = out["img"].clone()
                return out

            return run

        model = model.clone()
        for block in range(len(model.get_model_object("diffusion_model").blocks)):
            model.set_model_patch_replace(keep(block), "dit", "double_block", block)
        self.predict(model, [cond], **inputs)
        return states

    def record_features(self, model: Any) -> dict[int, Tensor]:
        """Run the reference pass and give what each block's self-attention saw."""
        features: dict[int, Tensor] = {}
        record = self.comfy.pack_module("nodes.host.reference_pass").record_features
        with torch.inference_mode():
            latent = seeded(1, LATENT_CHANNELS, 1, 8, 8, seed=2000)
            record(model, self.make_text(50), latent, features.__setitem__)
        return features


def list_leftovers(model: Any) -> list[str]:
    """List the modules of a MODEL that carry a `forward` of their own, as a patch leaves it behind."""
    return [name for name, module in model.model.named_modules() if "forward" in vars(module)]


def count_batches(model: Any) -> tuple[Any, list[int]]:
    """Clone a MODEL so that the list gets the number of rows of each call of the model."""
    rows: list[int] = []

    def count(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        rows.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(count)
    return clone, rows
