"""Likeness, prompt following and motion of Mini Lynx against the number of predictions, by guidance schedule.

    python benchmarks/guidance.py --cases 96

Every person that no training saw gets one video by each setting, through the real nodes and the host's sampler: the
same noise, photo and caption. Predictions are counted at the first block of the model, so a step that a cache skips
counts nothing. Each video's readings are kept under `--work`; a second call does only what is missing. `--lora` adds the
settings of a distilled LoRA, as miniature.distillation makes it. `--report` writes the table into docs/guidance.md and
the plot beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guidance_report import write_report
from host_model import DEFAULT_HOST, REPO
from in_process import load_in_process
from torch import Tensor

from lynx_core.hashing import hash_file, hash_values
from miniature.experiment.cases import draw_cases, draw_gallery
from miniature.experiment.readers import WEIGHTS_NAME, Readers, load_readers
from miniature.experiment.runs import Rows
from miniature.parts.resumable import save_arrays, write_beside
from miniature.world.clip import FRAME_PX, NUM_FRAMES
from miniature.world.pairs import Pair

ASSETS = REPO / "assets" / "mini"
CFG, IDENTITY_CFG, STEPS, SHIFT = 3.0, 2.0, 20, 5.0
LEAST_PEOPLE = 10
"""Of a setting in the report."""
DISTILLED = "distilled LoRA"
LORA_NAME = "distilled.safetensors"


@dataclass(frozen=True)
class Setting:
    """One way to sample."""

    name: str
    group: str
    """What it is drawn as in the plot."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Of Lynx Sampler, where they are not the defaults above."""
    patch: tuple[str, Mapping[str, Any]] | None = None
    """A node of the host that the model goes through first, and its inputs."""
    apply: Mapping[str, Any] = field(default_factory=dict)
    """Of Lynx Apply, where they are not its defaults."""
    prompt_as_negative: bool = False
    """The negative has the prompt's words, so that guidance is the identity's alone, of two predictions."""
    reference_with_lora: bool = False
    """The model goes into Lynx Encode Reference with the LoRA on."""

    @property
    def is_distilled(self) -> bool:
        return self.group.startswith(DISTILLED)


def _cache(name: str, threshold: float) -> Setting:
    return Setting(f"{name} {threshold:g}", name, patch=(name, {"reuse_threshold": threshold}))


def _distil(
    name: str,
    steps: int = 4,
    cfg: float = 1.0,
    identity_cfg: float = 1.0,
    apply: Mapping[str, Any] | None = None,
    **others: bool,
) -> Setting:
    inputs = {"cfg": cfg, "identity_cfg": identity_cfg, "steps": steps}
    group = f"{DISTILLED}, reference through it" if others.get("reference_with_lora") else DISTILLED
    return Setting(f"distilled, {name}", group, inputs, apply=apply or {}, **others)


SETTINGS = (
    Setting("all predictions", "all"),
    Setting("identity every 2", "every n-th step", {"identity_cfg_every": 2}),
    Setting("identity every 3", "every n-th step", {"identity_cfg_every": 3}),
    Setting("identity every 5", "every n-th step", {"identity_cfg_every": 5}),
    Setting("identity every 10", "every n-th step", {"identity_cfg_every": 10}),
    Setting("identity to 50%", "identity window", {"identity_cfg_end": 0.5}),
    Setting("identity from 50%", "identity window", {"identity_cfg_start": 0.5}),
    Setting("no identity guidance", "identity window", {"identity_cfg": 1.0}),
    Setting("both to 50%", "both windows", {"cfg_end": 0.5, "identity_cfg_end": 0.5}),
    Setting("both to 75%", "both windows", {"cfg_end": 0.75, "identity_cfg_end": 0.75}),
    Setting("both from 25% to 75%", "both windows",
            {"cfg_start": 0.25, "cfg_end": 0.75, "identity_cfg_start": 0.25, "identity_cfg_end": 0.75}),
    Setting("prompt to 75%, identity every 3", "prompt window, identity every n-th step",
            {"cfg_end": 0.75, "identity_cfg_every": 3}),
    Setting("prompt to 50%, identity every 3", "prompt window, identity every n-th step",
            {"cfg_end": 0.5, "identity_cfg_every": 3}),
    Setting("prompt to 25%, identity every 3", "prompt window, identity every n-th step",
            {"cfg_end": 0.25, "identity_cfg_every": 3}),
    *(_cache("EasyCache", threshold) for threshold in (0.05, 0.1, 0.2)),
    Setting("identity every 3, EasyCache 0.1", "identity every n-th step and EasyCache", {"identity_cfg_every": 3},
            ("EasyCache", {"reuse_threshold": 0.1})),
    *(_cache("LazyCache", threshold) for threshold in (0.05, 0.1, 0.2)),
    *(Setting(f"{steps} steps", "fewer steps", {"steps": steps}) for steps in (14, 10, 6, 4)),
    Setting("cfg 1, identity_cfg 1", "one prediction", {"cfg": 1.0, "identity_cfg": 1.0}),
    Setting("4 steps, cfg 1, identity_cfg 1", "one prediction", {"cfg": 1.0, "identity_cfg": 1.0, "steps": 4}),
    *(_distil(f"{steps} steps", steps) for steps in (4, 8)),
    _distil("4 steps, reference at 0.7", apply={"ref_strength": 0.7}),
    _distil("4 steps, ID at 1.2 and reference at 1.1", apply={"id_strength": 1.2, "ref_strength": 1.1}),
    _distil("4 steps, the prompt as negative, both cfg 2", cfg=2.0, identity_cfg=2.0, prompt_as_negative=True),
    _distil("4 steps, reference with the LoRA", reference_with_lora=True),
    _distil("4 steps, reference with the LoRA at 0.7", apply={"ref_strength": 0.7}, reference_with_lora=True),
    Setting("base without a person", "base"),
)  # fmt: skip


class Bench:
    """Mini Lynx in the host, and what reads its videos.

    Args:
        host_dir: ComfyUI.
        work: readings are kept here.
        lora: of the distilled settings.
    """

    def __init__(self, host_dir: Path, work: Path, lora: Path | None = None) -> None:
        self.comfy = load_in_process(host_dir, work / "host")
        import comfy.utils

        comfy.utils.set_progress_bar_enabled(False)
        self.work = work
        self.cases = draw_cases()
        self.readers: Readers = load_readers(ASSETS / WEIGHTS_NAME)
        model, self.clip, self.vae, self.adapter, self.analyzer, _ = self.run("LynxLoadMini")
        self.model = self.run("ModelSamplingSD3", model=model, shift=SHIFT)[0]
        self.lora_key = None if lora is None else hash_file(lora)
        if lora is not None:
            loras = work / "host" / "models" / "loras"
            write_beside(loras / LORA_NAME, lambda beside: beside.write_bytes(lora.read_bytes()))
            (self.distilled,) = self.run("LoraLoaderModelOnly", model=self.model, lora_name=LORA_NAME)
        self.count = 0
        self.model.model.diffusion_model.blocks[0].register_forward_pre_hook(self._count)
        files = ["diffusion_models/lynx_mini_wan_t2v.safetensors", "lynx/lynx_mini.safetensors", WEIGHTS_NAME]
        self.key = hash_values(
            [CFG, IDENTITY_CFG, STEPS, SHIFT, *(hash_file(ASSETS / name) for name in files)]
        )

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        return tuple(self.comfy.run(node, **inputs))

    def _count(self, block: Any, args: tuple[Tensor, ...], *_: Any) -> None:
        self.count += len(args[0])

    def read(self, number: int, settings: tuple[Setting, ...]) -> None:
        """Make and read what is missing of one person's videos."""
        missing = [s for s in settings if not self.path(number, s).is_file()]
        if not missing:
            return
        case = self.cases[number]
        prompt, negative = (self.run("CLIPTextEncode", clip=self.clip, text=t)[0] for t in (case.caption, ""))
        encode = cache(partial(self._encode, case))
        for setting in missing:
            words = prompt, prompt if setting.prompt_as_negative else negative
            model = self.distilled if setting.is_distilled else self.model
            conds = (model, *words, negative)
            if setting.group != "base":
                identity = encode(model if setting.reference_with_lora else self.model)
                conds = self._apply(model, *words, identity, setting)
            self.count = 0
            latent = self._sample(setting, conds, seed=number)
            count = self.count
            (images,) = self.run("VAEDecode", samples=latent, vae=self.vae)
            clip = (images.clamp(0, 1) * 255).round().byte().numpy()[None]
            reading = self.readers.read_clips(clip)
            rows = {f"factor {name}": values for name, values in reading.factors.items()}
            rows |= {name: getattr(reading, name) for name in ("embedding", "background", "action", "poses")}
            rows |= {
                "predictions": np.array([count]),
                "latent": latent["samples"].numpy().astype(np.float16),
            }
            write_beside(self.path(number, setting), lambda beside, rows=rows: save_arrays(beside, rows))

    def _encode(self, case: Pair, model: Any) -> dict[str, Any]:
        """ID and reference of a person, as inputs of Lynx Apply."""
        image = torch.from_numpy(case.draw_reference().copy())[None].float() / 255
        (face, *_) = self.run("LynxCropFace", image=image, already_aligned=True)
        inputs = {"adapter": self.adapter, "face": face, "model": model, "clip": self.clip, "vae": self.vae}
        return {
            "id": self.run("LynxEncodeID", face_analyzer=self.analyzer, face=face)[0],
            "reference": self.run("LynxEncodeReference", **inputs)[0],
        }

    def _apply(
        self, model: Any, positive: Any, negative: Any, identity: dict[str, Any], setting: Setting
    ) -> tuple[Any, ...]:
        inputs = {"adapter": self.adapter, **identity, **setting.apply}
        return self.run("LynxApply", model=model, positive=positive, negative=negative, **inputs)

    def _sample(self, setting: Setting, conds: tuple[Any, ...], seed: int) -> dict[str, Tensor]:
        model, positive, negative, middle = conds
        if setting.patch is not None:
            node, inputs = setting.patch
            (model,) = self.run(node, model=copy_input(model), **inputs)
        (latent,) = self.run("EmptyHunyuanLatentVideo", width=FRAME_PX, height=FRAME_PX, length=NUM_FRAMES)
        inputs = {"cfg": CFG, "identity_cfg": IDENTITY_CFG, "steps": STEPS, **setting.inputs}
        (sampled,) = self.run(
            "LynxSampler", model=model, positive=positive, negative=negative, middle=middle, latent_image=latent,
            seed=seed, sampler_name="euler", scheduler="simple", **inputs,
        )  # fmt: skip
        return sampled

    def path(self, number: int, setting: Setting) -> Path:
        patch = None if setting.patch is None else [setting.patch[0], dict(setting.patch[1])]
        values = [self.key, number, dict(setting.inputs), patch, setting.group == "base"]
        # Behind the others, so that what was read before a setting had these keeps its name.
        if setting.is_distilled:
            values += [
                self.lora_key,
                dict(setting.apply),
                setting.prompt_as_negative,
                setting.reference_with_lora,
            ]
        key = hash_values(values)
        return self.work / "readings" / f"{key[:24]}.npz"

    def collect(self, setting: Setting, count: int) -> Rows | None:
        """The readings of the first people, at most `count`, up to the first that is missing; None where there is none."""
        opened = []
        for path in (self.path(number, setting) for number in range(count)):
            if not path.is_file():
                break
            opened.append(dict(np.load(path)))
        return (
            {name: np.concatenate([rows[name] for rows in opened]) for name in opened[0]} if opened else None
        )


def copy_input(model: Any) -> Any:
    """Let the network get a copy of its input.

    EasyCache adds to that input in place. In float32 it is the latent that the host still needs, and the video is
    spoilt; in any other format the host's conversion has made a copy.
    """
    import comfy.patcher_extension

    def copy(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(x.clone(), *args, **kwargs)

    model = model.clone()
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "copy", copy)
    return model


def mean_gallery(readers: Readers) -> np.ndarray:
    """The mean embedding of each person in pictures elsewhere, [128, 128]."""
    pictures = draw_gallery()
    flat = readers.embed(pictures.reshape(-1, *pictures.shape[2:]))
    mean = flat.reshape(*pictures.shape[:2], -1).mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=96, help="people, at most 128 (default: 96)")
    parser.add_argument("--work", type=Path, default=Path(".guidance"), help="folder of what is kept")
    parser.add_argument("--lora", type=Path, help="a distilled LoRA; without it, its settings are left out")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="settings by name (default: all)")
    parser.add_argument("--report", action="store_true", help="write docs/guidance.md and its plot, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.comfyui, arguments.work, arguments.lora)
    known = [s for s in SETTINGS if arguments.lora is not None or not s.is_distilled]
    settings = tuple(s for s in known if arguments.only is None or s.name in arguments.only)
    if not arguments.report:
        begun = time.monotonic()
        for number in range(arguments.cases):
            bench.read(number, settings)
            print(f"{number + 1} of {arguments.cases} people, {time.monotonic() - begun:.0f} s", flush=True)
        return
    rows = [(setting, bench.collect(setting, arguments.cases)) for setting in known]
    found = [
        (setting, each)
        for setting, each in rows
        if each is not None and len(each["embedding"]) >= LEAST_PEOPLE
    ]
    write_report(found, bench.cases, mean_gallery(bench.readers), REPO / "docs")


if __name__ == "__main__":
    main()
