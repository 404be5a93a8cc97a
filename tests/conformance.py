"""Compare the pack with the published implementation: `python tests/conformance.py DIR`.

DIR holds golden data (weights, inputs, outputs, meta.json) that the official code computed
in float32. The path under test is the pack's own: its loading, precomputing, reference pass and
apply code on the host's own WanModel, sampled through the host's samplers. One line for each
golden number with its relative L2 error; ends 1 when any is above 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-4

try:
    import torch
except ImportError:
    venv_python = REPO / ".venv" / "bin" / "python"
    if not venv_python.exists() or Path(sys.prefix) == REPO / ".venv":
        sys.exit("conformance: torch is missing. Run ./scripts/test once; it sets everything up in .venv.")
    os.execv(venv_python, [str(venv_python), *sys.argv])

sys.path.insert(0, str(REPO / "tests" / "host"))

from in_process import InProcessComfy, load_in_process  # noqa: E402

Tensor = torch.Tensor


class Golden:
    """The golden set: inputs, expected numbers, sizes."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.io: dict[str, Tensor] = load_file(str(folder / "io.safetensors"))

    def encode_text(self, name: str) -> Tensor:
        """Pad a prompt with zeros to the text length, as the host's text encoder does."""
        text = self.io[f"in.text_{name}"]
        return torch.nn.functional.pad(text, (0, 0, 0, self.meta["model"]["text_len"] - text.shape[1]))

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.io if name.startswith(prefix))


class Bench:
    """The pack on the golden base model."""

    def __init__(self, golden: Golden, pack: InProcessComfy) -> None:
        import comfy.sd

        self.golden = golden
        self.pack = pack
        self.model = comfy.sd.load_diffusion_model(
            str(golden.folder / "wan_tiny.safetensors"), model_options={"dtype": torch.float32}
        )
        self.text = {name: [[golden.encode_text(name), {}]] for name in ("cond", "uncond", "ref")}

    def open_adapter(self, variant: str) -> Any:
        return self.pack.pack_module("lynx_core.formats.adapter").open_adapter(
            self.golden.folder / f"lynx_{variant}"
        )

    def make_id(self, adapter: Any) -> Any:
        return self.pack.pack_module("nodes.host.identity").FaceID(
            self.golden.io["in.arcface"], adapter.recogniser
        )

    def leave_model_space(self, latent: Tensor) -> Tensor:
        """Turn a golden latent into what the host's VAE gives out."""
        return self.model.model.process_latent_out(latent.clone())

    def make_reference(self, adapter: Any) -> Any:
        face, null = (
            self.leave_model_space(self.golden.io[name]) for name in ("in.ref_latent", "in.ref_latent_uncond")
        )
        return self.pack.pack_module("nodes.host.reference_pass").make_reference(
            self.model, adapter, self.text["ref"], face, null
        )

    def apply(
        self, text: str, adapter: Any, face_id: Any, reference: Any, id_scale: float, ref_scale: float
    ) -> Any:
        """Run the Apply node with `text` as the prompt and the negative text as the negative."""
        return self.pack.run(
            "LynxApply",
            model=self.model,
            positive=self.text[text],
            negative=self.text["uncond"],
            adapter=adapter,
            id=face_id,
            reference=reference,
            id_strength=id_scale,
            ref_strength=ref_scale,
        )

    def predict(self, model: Any, conds: list[Any], timestep: float) -> list[Tensor]:
        """Compute the velocity of each conditioning, all in one batch, by the host's own code."""
        import comfy.samplers

        x = self.golden.io["in.x"]
        sigma = timestep / 1000
        found: list[Tensor] = []

        class Predict(comfy.samplers.Sampler):
            def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: Any, *_: Any) -> Tensor:
                found.extend(
                    (x - denoised) / sigma
                    for denoised in comfy.samplers.calc_cond_batch(
                        model_wrap.inner_model,
                        [model_wrap.conds[str(i)] for i in range(len(conds))],
                        x,
                        torch.tensor([sigma]),
                        extra_args["model_options"],
                    )
                )
                return x

        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({str(i): cond for i, cond in enumerate(conds)})
        guider.sample(
            torch.zeros_like(x), torch.zeros_like(x), Predict(), torch.zeros(1), disable_pbar=True, seed=0
        )
        return found

    def run_loop(self, guider: Any) -> list[Tensor]:
        """Run the golden Euler loop through the host's sampler; latents after each step, in model space."""
        import comfy.samplers

        noise = self.golden.io["in.loop_noise"]
        latents: list[Tensor] = []
        sigmas = torch.tensor(self.golden.meta["loop"]["sigmas"])
        out = guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            callback=lambda step, denoised, x, total: latents.append(x.clone()),
            disable_pbar=True,
            seed=0,
        )
        return [*latents[1:], self.model.model.process_latent_in(out)]


Line = tuple[str, Tensor]


def check_tokens(bench: Bench, variant: str) -> Iterator[Line]:
    """Resampler output for the face and for the null identity."""
    embedding = bench.golden.io["in.arcface"][None]
    resampler = bench.open_adapter(variant).load_resampler()
    with torch.no_grad():
        yield f"{variant}.ip_tokens_cond", resampler(embedding)
        yield f"{variant}.ip_tokens_uncond", resampler(torch.zeros_like(embedding))


def check_features(bench: Bench) -> Iterator[Line]:
    """What each block records in the reference pass."""
    for which, latent in (("cond", "in.ref_latent"), ("uncond", "in.ref_latent_uncond")):
        features: dict[int, Tensor] = {}
        bench.pack.pack_module("nodes.host.reference_pass").record_features(
            bench.model,
            bench.text["ref"],
            bench.leave_model_space(bench.golden.io[latent]),
            features.__setitem__,
        )
        for block, value in features.items():
            yield f"full.ref_{which}.{block}", value


def check_full(bench: Bench) -> Iterator[Line]:
    """Single predictions of the full adapter at every timestep; branches of one guidance share a batch."""
    golden = bench.golden
    adapter = bench.open_adapter("full")
    face_id, reference = bench.make_id(adapter), bench.make_reference(adapter)
    scaled = golden.meta["scaled"]
    only_id = bench.apply("cond", adapter, face_id, None, 1.0, 1.0)
    only_ref = bench.apply("cond", adapter, None, reference, 1.0, 1.0)
    both = bench.apply("cond", adapter, face_id, reference, 1.0, 1.0)
    both_scaled = bench.apply("cond", adapter, face_id, reference, scaled["ip_scale"], scaled["ref_scale"])
    # The null identity with the prompt: what Apply makes of the prompt when it is the negative.
    null = bench.pack.pack_module("nodes.host.application").apply_identity(
        bench.model,
        bench.text["uncond"],
        bench.text["cond"],
        adapter,
        face_id,
        reference,
        bench.pack.pack_module("nodes.presets").PRESETS["as published"],
    )
    for timestep in golden.meta["timesteps"]:
        prefix = f"t{timestep}.full"
        base = bench.predict(bench.model, [bench.text["cond"], bench.text["uncond"]], timestep)
        yield from zip((f"{prefix}.base_cond", f"{prefix}.base_uncond"), base, strict=True)
        yield f"{prefix}.ip", bench.predict(only_id[0], [only_id[1]], timestep)[0]
        yield f"{prefix}.ref", bench.predict(only_ref[0], [only_ref[1]], timestep)[0]
        yield f"{prefix}.both_scaled", bench.predict(both_scaled[0], [both_scaled[1]], timestep)[0]
        yield f"{prefix}.both_iduncond", bench.predict(null.model, [null.negative], timestep)[0]
        predictions = bench.predict(both[0], list(both[1:]), timestep)
        yield from zip(
            (f"{prefix}.{x}" for x in ("both", "neg_iduncond", "neg_id")), predictions, strict=True
        )
        c, u, i = predictions
        g, g_id = golden.meta["guidance_scale"], golden.meta["guidance_scale_i"]
        yield f"{prefix}.triple", u + g_id * (i - u) + g * (c - i)
    yield from check_block_outputs(bench, both)


def check_block_outputs(bench: Bench, both: Any) -> Iterator[Line]:
    """Hidden states after every block, where the golden set has them."""
    blocks = bench.model.model.diffusion_model.blocks
    for name in bench.golden.names("t"):
        if name.endswith(".both.block_out.0"):
            outputs: list[Tensor] = []
            hooks = [
                block.register_forward_hook(lambda _m, _args, out, keep=outputs: keep.append(out.clone()))
                for block in blocks
            ]
            bench.predict(both[0], [both[1]], float(name[1:].split(".")[0]))
            for hook in hooks:
                hook.remove()
            yield from ((f"{name[:-2]}.{block}", value) for block, value in enumerate(outputs))


def check_lite(bench: Bench) -> Iterator[Line]:
    """Single predictions of the lite adapter."""
    golden = bench.golden
    adapter = bench.open_adapter("lite")
    face_id = bench.make_id(adapter)
    model, positive, negative, _ = bench.apply("cond", adapter, face_id, None, 1.0, 1.0)
    scaled = bench.apply("cond", adapter, face_id, None, golden.meta["scaled"]["ip_scale"], 1.0)
    null = bench.pack.pack_module("nodes.host.application").apply_identity(
        bench.model, bench.text["uncond"], bench.text["cond"], adapter, face_id, None,
        bench.pack.pack_module("nodes.presets").PRESETS["as published"],
    )  # fmt: skip
    for timestep in golden.meta["timesteps"]:
        prefix = f"t{timestep}.lite"
        c, u = bench.predict(model, [positive, negative], timestep)
        yield f"{prefix}.ip", c
        yield f"{prefix}.neg_iduncond", u
        yield f"{prefix}.cfg", u + golden.meta["guidance_scale"] * (c - u)
        yield f"{prefix}.ip_scaled", bench.predict(scaled[0], [scaled[1]], timestep)[0]
        yield f"{prefix}.ip_iduncond", bench.predict(null.model, [null.negative], timestep)[0]


def check_loops(bench: Bench) -> Iterator[Line]:
    """The Euler loops: triple guidance through LynxGuider, plain guidance through the host's own guider."""
    import comfy.samplers

    golden = bench.golden
    cfg, identity_cfg = golden.meta["guidance_scale"], golden.meta["guidance_scale_i"]

    def make_plain(model: Any, positive: Any, negative: Any) -> Any:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return guider

    full, lite = bench.open_adapter("full"), bench.open_adapter("lite")
    conds = bench.apply("cond", full, bench.make_id(full), bench.make_reference(full), 1.0, 1.0)
    names = ("model", "positive", "negative", "middle")
    (triple,) = bench.pack.run(
        "LynxGuider", **dict(zip(names, conds, strict=True)), cfg=cfg, identity_cfg=identity_cfg
    )
    model, positive, negative, _ = bench.apply("cond", lite, bench.make_id(lite), None, 1.0, 1.0)
    guiders = {
        "full": triple,
        "lite": make_plain(model, positive, negative),
        "base": make_plain(bench.model, bench.text["cond"], bench.text["uncond"]),
    }
    for variant, guider in guiders.items():
        yield from ((f"loop.{variant}.latents.{k}", x) for k, x in enumerate(bench.run_loop(guider)))


def compare(golden: Golden, computed: Iterator[Line]) -> dict[str, float]:
    """Print a line for each computed number that the golden set has; give the errors by name."""
    errors = {}
    for name, value in computed:
        if name in golden.io:
            expected = golden.io[name].double()
            error = float((value.double() - expected).norm() / expected.norm())
            errors[name] = error
            print(
                f"{name:32s} {error:.2e}{'' if error <= TOLERANCE else '  ABOVE ' + format(TOLERANCE, '.0e')}"
            )
    return errors


def run_checks(bench: Bench) -> dict[str, float]:
    """Compare everything; the errors by name."""
    errors: dict[str, float] = {}
    for computed in (
        check_tokens(bench, "full"),
        check_tokens(bench, "lite"),
        check_features(bench),
        check_full(bench),
        check_lite(bench),
        check_loops(bench),
    ):
        errors |= compare(bench.golden, computed)
    return errors


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="golden set: meta.json, io.safetensors, weights")
    default_host = os.environ.get("COMFYUI_DIR", REPO / ".comfyui" / "0.30.0")
    parser.add_argument("--comfyui", type=Path, default=default_host, help="host (default: %(default)s)")
    arguments = parser.parse_args(argv)
    golden = Golden(arguments.folder)
    with tempfile.TemporaryDirectory() as base_dir, torch.inference_mode():
        errors = run_checks(Bench(golden, load_in_process(Path(arguments.comfyui), Path(base_dir))))
    missed = [name for name in golden.io if not name.startswith("in.") and name not in errors]
    bad = [name for name, error in errors.items() if not error <= TOLERANCE]
    for name in missed:
        print(f"{name:32s} NOT COMPARED")
    print(f"{len(errors)} numbers compared, {len(bad)} above {TOLERANCE:.0e}, {len(missed)} not compared")
    return 1 if bad or missed else 0


if __name__ == "__main__":
    sys.exit(main())
