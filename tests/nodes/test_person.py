"""Lynx Person gives what the chain of parts gives, and says as much."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from wan_bench import I2V, OTHER_T2V, WanBench, max_error, seeded


class Mini:
    """Mini Lynx, a portrait, and both ways to put its person on."""

    def __init__(self, bench: WanBench) -> None:
        self.bench = bench
        self.model, self.clip, self.vae, self.adapter, self.analyzer, self.photo = bench.comfy.run(
            "LynxLoadMini"
        )
        encode = lambda text: bench.comfy.run("CLIPTextEncode", clip=self.clip, text=text)[0]  # noqa: E731
        self.texts = {"positive": encode("a person smiles"), "negative": encode("")}

    def person(self, **inputs: Any) -> tuple[Any, ...]:
        defaults = {
            "image": self.photo,
            "model": self.model,
            "clip": self.clip,
            "vae": self.vae,
            "loaded_adapter": self.adapter,
        }
        return self.bench.comfy.run("LynxPerson", **{**defaults, **self.texts, **inputs})

    def parts(self, model: Any = None, through: Any = None, **settings: Any) -> tuple[Any, ...]:
        """The same through Lynx Apply on `model`, the reference encoded with `through`."""
        model, run = model or self.model, self.bench.comfy.run
        face = run("LynxCropFace", image=self.photo, face_analyzer=self.analyzer)[0]
        inputs = {"clip": self.clip, "vae": self.vae, "model": through or model}
        return run(
            "LynxApply",
            model=model,
            adapter=self.adapter,
            id=run("LynxEncodeID", face_analyzer=self.analyzer, face=face)[0],
            reference=run("LynxEncodeReference", adapter=self.adapter, face=face, **inputs)[0],
            **self.texts,
            **settings,
        )

    def load_lora(self, model: Any, name: str = "q", seed: int = 60) -> Any:
        """Put a LoRA on one projection of every self-attention."""
        import comfy.sd

        network = model.get_model_object("diffusion_model")
        lora = {}
        for block in range(len(network.blocks)):
            key = f"diffusion_model.blocks.{block}.self_attn.{name}"
            for i, (half, shape) in enumerate((("up", (network.dim, 4)), ("down", (4, network.dim)))):
                lora[f"{key}.lora_{half}.weight"] = 0.2 * seeded(*shape, seed=seed + 2 * block + i)
        return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]

    def list_kv(self, applied: tuple[Any, ...], part: str = "ref") -> list[torch.Tensor]:
        """Keys and values that positive and negative carry of one part, the null identity's last."""
        find = self.bench.comfy.pack_module("nodes.host.conditioning").find_injections
        entries = [entry for conditioning in applied[1:3] for entry in conditioning]
        caches = [i.kv.kv_cache for entry in entries for i in find(entry) if i.kind == part]
        return [numbers for cache in caches for numbers in cache.parameters()]

    def predict(self, applied: tuple[Any, ...], cond: int = 1) -> torch.Tensor:
        return self.bench.predict(applied[0], [applied[cond]])[0]


@pytest.fixture(scope="module")
def mini(bench: WanBench) -> Mini:
    return Mini(bench)


def test_it_is_the_chain_of_parts(mini: Mini) -> None:
    short, long = mini.person(), mini.parts()
    for cond in (1, 2, 3):
        assert torch.equal(mini.predict(short, cond), mini.predict(long, cond))
    plain = mini.bench.predict(mini.model, [mini.texts["positive"]])[0]
    assert max_error(mini.predict(short), plain) > 0.01


def test_a_strength_is_times_the_preset(mini: Mini) -> None:
    short = mini.person(preset="softer reference", id_strength=0.5, ref_strength=2.0)
    long = mini.parts(id_strength=0.5, ref_strength=1.2, ref_start=0.1, ref_end=0.8)
    assert torch.equal(mini.predict(short), mini.predict(long))


@pytest.mark.parametrize("left_out", ["id", "ref"])
def test_a_part_of_strength_0_is_left_out(mini: Mini, left_out: str, notes: list[str]) -> None:
    short = mini.person(**{f"{left_out}_strength": 0.0})
    assert "left out, its strength is 0" in notes[-1]
    assert torch.equal(mini.predict(short), mini.predict(mini.parts(**{f"{left_out}_strength": 0.0})))


def test_nobody_is_said(mini: Mini, notes: list[str]) -> None:
    model, positive, negative, middle = mini.person(id_strength=0.0, ref_strength=0.0)
    assert (model, positive, negative, middle) == (mini.model, *mini.texts.values(), mini.texts["negative"])
    assert "the video is the base model's" in notes[-1]


def test_an_adapter_without_reference_says_that_the_strength_is_idle(mini: Mini, notes: list[str]) -> None:
    adapter_type = type(mini.adapter)
    parts = [part for kind, part in mini.adapter.parts.items() if kind != "ref"]
    id_alone = adapter_type("my lite", parts)
    short = mini.person(loaded_adapter=id_alone)
    assert "my lite has no reference layers, so ref_strength does nothing" in notes[-1]
    assert "nothing is connected" not in notes[-1]
    assert torch.equal(mini.predict(short), mini.predict(mini.parts(ref_strength=0.0)))


def test_a_changed_strength_encodes_nothing_anew(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mini.bench.comfy.pack_module("nodes.host.reference_pass")
    calls = []
    encode = module.encode_reference
    monkeypatch.setattr(module, "encode_reference", lambda *args: calls.append(1) or encode(*args))
    fresh = module.ReferenceCache(max_entries=2)
    monkeypatch.setattr(mini.bench.comfy.pack_module("nodes.nodes_person"), "_references", fresh)
    first = mini.person()
    mini.person(ref_strength=0.5)
    assert len(calls) == 1
    assert torch.equal(mini.predict(first), mini.predict(mini.person()))
    assert len(calls) == 1
    mini.person(image=mini.photo.flip(2))
    assert len(calls) == 2
    Mini(mini.bench).person()
    assert len(calls) == 3, "another CLIP and VAE may encode in another way"


def test_the_reference_is_encoded_through_the_model_before_a_lora(mini: Mini) -> None:
    with_lora = mini.load_lora(mini.model)
    mini.bench.predict(with_lora, [mini.texts["positive"]])  # the shared weights hold the LoRA now
    through_lora = mini.person(model=with_lora)
    before_lora = mini.person(model=with_lora, reference_model=mini.model)
    predictions = []
    for short, through in ((before_lora, mini.model), (through_lora, with_lora)):
        long = mini.parts(model=with_lora, through=through)
        numbers, expected = mini.list_kv(short), mini.list_kv(long)
        assert len(numbers) == len(expected) > 0
        assert all(map(torch.equal, numbers, expected))
        predictions.append(mini.predict(short))
        assert torch.equal(predictions[-1], mini.predict(long))
    assert max_error(*predictions) > 1e-3
    assert max_error(predictions[0], mini.predict(mini.person())) > 0.01, "the LoRA is sampled"


def test_a_style_lora_before_both_is_in_the_reference(mini: Mini, notes: list[str]) -> None:
    style = mini.load_lora(mini.model, "v")
    distilled = mini.load_lora(style, "q")
    short = mini.person(model=distilled, reference_model=style)
    assert all(map(torch.equal, mini.list_kv(short), mini.list_kv(mini.parts(model=style))))
    assert "reference_model" not in notes[-1]


def test_a_lora_on_the_reference_model_alone_is_said(mini: Mini, notes: list[str]) -> None:
    with_lora = mini.load_lora(mini.model)
    mini.person(reference_model=with_lora)
    assert "reference_model has a LoRA that model has not" in notes[-1]


def put_on_file(mini: Mini) -> Any:
    """Mini Lynx with one weight of every block changed, as a LoRA merged into the file does."""
    other = Mini(mini.bench).model
    with torch.inference_mode():
        for block in other.get_model_object("diffusion_model").blocks:
            block.self_attn.q.weight.add_(0.1)
    return other


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda mini: mini.bench.load_base(OTHER_T2V), rf"reference_model is {OTHER_T2V}.*, and model is "),
        (put_on_file, r"reference_model is (.*) \(\w{16}\), and model is \1 \(\w{16}\)"),
        (lambda mini: mini.bench.load_base(I2V), rf"reference_model: This MODEL, {I2V}.* image-to-video"),
    ],
    ids=["another size", "other weights", "no base of Lynx"],
)
def test_a_reference_model_of_another_base_is_refused(mini: Mini, load: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mini.person(reference_model=load(mini))


def test_models_that_are_gone_are_not_kept(mini: Mini) -> None:
    module = mini.bench.comfy.pack_module("nodes.host.reference_pass")
    cache = module.ReferenceCache(max_entries=2)
    other = Mini(mini.bench)
    with torch.inference_mode():
        cache.encode(other.model, other.adapter, other.clip, other.vae, torch.full((1, 256, 256, 3), 0.4))
    (_, loaders, _) = cache.entries[0]
    del other
    gc.collect()
    assert [loader() for loader in loaders] == [None, None]


def test_missing_files_are_named_before_anything_runs(bench: WanBench) -> None:
    node = bench.comfy.node_classes["LynxPerson"]
    faces = Path(bench.comfy.base_dir) / "models" / "lynx" / "faces" / "recognition_arcface_ir_se50.pth"
    hidden = faces.with_suffix(".away")
    assert node.validate_inputs(adapter="lynx_full") is True
    assert "my_adapter" in str(node.validate_inputs(adapter="my_adapter"))
    faces.rename(hidden)
    try:
        fault = str(node.validate_inputs(adapter="lynx_full"))
        assert "recognition_arcface_ir_se50.pth" in fault and "download" in fault
        # A linked analyzer or adapter is not known yet, and takes the default's place.
        assert node.validate_inputs(adapter="lynx_full", face_analyzer=None) is True
        assert node.validate_inputs(adapter="nothing there", loaded_adapter=None) is True
    finally:
        hidden.rename(faces)


def test_a_photo_without_a_face_is_refused(mini: Mini) -> None:
    with pytest.raises(ValueError, match="no face found in photo 2 of 2"):
        mini.person(image=torch.cat([mini.photo, torch.full_like(mini.photo, 0.5)]))
