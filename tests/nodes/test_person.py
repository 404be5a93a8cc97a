"""Lynx Person gives what the chain of parts gives, and says as much."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from wan_bench import WanBench, max_error


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

    def parts(self, **settings: Any) -> tuple[Any, ...]:
        run = self.bench.comfy.run
        face = run("LynxCropFace", image=self.photo, face_analyzer=self.analyzer)[0]
        inputs = {"clip": self.clip, "vae": self.vae, "model": self.model}
        return run(
            "LynxApply",
            model=self.model,
            adapter=self.adapter,
            id=run("LynxEncodeID", face_analyzer=self.analyzer, face=face)[0],
            reference=run("LynxEncodeReference", adapter=self.adapter, face=face, **inputs)[0],
            **self.texts,
            **settings,
        )

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
