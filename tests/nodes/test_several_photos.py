"""A reference of several photos: their tokens side by side, in one attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from wan_bench import WanBench, max_error


@pytest.fixture(scope="module")
def mini(bench: WanBench) -> tuple[Any, ...]:
    return bench.comfy.run("LynxLoadMini")


@pytest.fixture(scope="module")
def crops(bench: WanBench) -> list[Any]:
    module = bench.comfy.pack_module("lynx_core.faces.crops")
    rng = np.random.default_rng(4)
    pictures = [
        np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((32, 32, 1))).astype(np.uint8) for _ in range(3)
    ]
    return [module.FaceCrop(picture[:112, :112], picture, 200.0, 90.0, 0.9) for picture in pictures]


def predict(bench: WanBench, mini: tuple[Any, ...], face: list[Any], **inputs: Any) -> torch.Tensor:
    model, clip, vae, adapter = mini[:4]
    loaders = {"model": model, "clip": clip, "vae": vae, "adapter": adapter}
    (reference,) = bench.comfy.run("LynxEncodeReference", face=face, **loaders, **inputs)
    text = bench.comfy.run("CLIPTextEncode", clip=clip, text="a person smiles")[0]
    applied = bench.apply(model, text, text, adapter=adapter, reference=reference)
    return bench.predict(applied.model, [applied.positive])[0]


def test_the_same_photo_twice_is_that_photo(bench: WanBench, mini: tuple[Any, ...], crops: list[Any]) -> None:
    once = predict(bench, mini, crops[:1])
    twice = predict(bench, mini, [crops[0], crops[0]], photos="all side by side")
    assert max_error(twice, once) < 1e-4


def test_all_photos_act_in_any_order(bench: WanBench, mini: tuple[Any, ...], crops: list[Any]) -> None:
    """One that is left out is missed; since the order says nothing, that holds for each."""
    all_three = predict(bench, mini, crops, photos="all side by side")
    assert max_error(predict(bench, mini, crops[::-1], photos="all side by side"), all_three) < 1e-4
    assert max_error(predict(bench, mini, crops[:2], photos="all side by side"), all_three) > 1e-3


def test_what_does_nothing_and_what_is_too_much_is_said(
    bench: WanBench, mini: tuple[Any, ...], crops: list[Any], notes: list[str]
) -> None:
    predict(bench, mini, crops, photos="all side by side", photo_number=2)
    said = next(note for note in notes if note.startswith("Lynx Encode Reference"))
    assert "photo_number does nothing" in said and "3 photos side by side" in said
    with pytest.raises(ValueError, match="9 photos are connected to face; at most 8"):
        predict(bench, mini, crops * 3, photos="all side by side")
    with pytest.raises(ValueError, match="photos 'some' is none of"):
        predict(bench, mini, crops, photos="some")
