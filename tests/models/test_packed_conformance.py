"""The packed forward reproduces what the published code computes, alone and between strangers."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_packs import relative_error
from torch import Tensor

from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.adapter_weights import load_modules
from lynx_core.formats.base_file import load_transformer
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedInputs, PackedWan

GOLDEN_SETS = Path(
    os.environ.get("LYNX_GOLDEN_SETS", Path(__file__).resolve().parents[3] / "shared" / "conformance")
)
GOLDEN = GOLDEN_SETS / "setA"
TOLERANCE = 1e-4
TIMESTEPS = (999, 500, 37)

pytestmark = pytest.mark.skipif(
    not (GOLDEN / "io.safetensors").is_file(), reason=f"no golden set in {GOLDEN}"
)

FULL_CASES = {
    "base_cond": ("cond", None, None, 1.0, 1.0),
    "base_uncond": ("uncond", None, None, 1.0, 1.0),
    "ip": ("cond", "cond", None, 1.0, 1.0),
    "ref": ("cond", None, "cond", 1.0, 1.0),
    "both": ("cond", "cond", "cond", 1.0, 1.0),
    "both_scaled": ("cond", "cond", "cond", 0.6, 0.35),
    "both_iduncond": ("cond", "uncond", "uncond", 1.0, 1.0),
    "neg_id": ("uncond", "cond", "cond", 1.0, 1.0),
    "neg_iduncond": ("uncond", "uncond", "uncond", 1.0, 1.0),
}
LITE_CASES = {
    "ip": ("cond", "cond", None, 1.0, 1.0),
    "ip_scaled": ("cond", "cond", None, 0.6, 1.0),
    "ip_iduncond": ("cond", "uncond", None, 1.0, 1.0),
    "neg_iduncond": ("uncond", "uncond", None, 1.0, 1.0),
}
"""Text, identity, reference, and the two scales of each golden prediction."""


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def wan() -> PackedWan:
    return PackedWan(load_transformer(GOLDEN / "wan_tiny.safetensors", torch.float32))


@pytest.fixture(scope="module")
def adapters() -> dict[str, AdapterModules]:
    return {variant: load_modules(open_adapter(GOLDEN / f"lynx_{variant}")) for variant in ("full", "lite")}


def make_inputs(
    io: dict[str, Tensor], x: Tensor, timestep: float, branches: list[tuple[str, str | None, str | None]]
) -> PackedInputs:
    """Pack one latent with several texts, identities and references."""
    identities = {"cond": io["in.arcface"], "uncond": torch.zeros(512)}
    references = {"cond": io["in.ref_latent"][0], "uncond": io["in.ref_latent_uncond"][0], None: None}
    ids = [identities[name] for _, name, _ in branches if name]
    return PackedInputs(
        latents=[x] * len(branches),
        timesteps=torch.full((len(branches),), timestep),
        texts=[io[f"in.text_{text}"][0] for text, _, _ in branches],
        embeddings=torch.stack(ids) if ids else None,
        reference_latents=[references[name] for *_, name in branches],
        reference_text=io["in.text_ref"][0],
    )


def put_between_strangers(inputs: PackedInputs) -> PackedInputs:
    """Put a sample in the middle of a pack, the others of other sizes, times, texts and people."""
    random = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    assert inputs.reference_latents is not None
    return PackedInputs(
        latents=[draw(16, 2, 4, 10), *inputs.latents, draw(16, 1, 6, 6)],
        timesteps=torch.cat((torch.tensor([720.0]), inputs.timesteps, torch.tensor([12.5]))),
        texts=[draw(3, 4096), *inputs.texts, draw(20, 4096)],
        embeddings=None
        if inputs.embeddings is None
        else torch.cat((draw(1, 512) / 512**0.5, inputs.embeddings, torch.zeros(1, 512))),
        reference_latents=[draw(16, 1, 8, 4), *inputs.reference_latents, None],
        reference_text=inputs.reference_text,
    )


@torch.no_grad()
@pytest.mark.parametrize("strangers", [False, True], ids=["alone", "between strangers"])
@pytest.mark.parametrize("variant", ["full", "lite"])
def test_predictions(
    io: dict[str, Tensor], wan: PackedWan, adapters: dict[str, AdapterModules], variant: str, strangers: bool
) -> None:
    errors = {}
    for timestep in TIMESTEPS:
        found = {}
        for name, (*branch, id_scale, ref_scale) in (FULL_CASES if variant == "full" else LITE_CASES).items():
            inputs = make_inputs(io, io["in.x"][0], timestep, [tuple(branch)])
            if strangers:
                inputs = put_between_strangers(inputs)
            if not any(branch[1:]):
                outputs = wan(inputs)
            else:
                outputs = wan(inputs, adapters[variant], id_scale, ref_scale)
            found[name] = outputs[1 if strangers else 0][None]
        if variant == "full":
            low, middle, high = found["neg_iduncond"], found["neg_id"], found["both"]
            found["triple"] = low + 2 * (middle - low) + 5 * (high - middle)
        else:
            found["cfg"] = found["neg_iduncond"] + 5 * (found["ip"] - found["neg_iduncond"])
        for name, prediction in found.items():
            errors[f"t{timestep}.{variant}.{name}"] = relative_error(
                prediction, io[f"t{timestep}.{variant}.{name}"]
            )
    expected = {
        name for name in io if name.startswith("t") and f".{variant}." in name and "block_out" not in name
    }
    assert set(errors) == expected
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}
    print(f"largest relative error {max(errors.values()):.1e}")


def test_recorded_reference_features(io: dict[str, Tensor], wan: PackedWan) -> None:
    both = [io["in.ref_latent"][0], None, io["in.ref_latent_uncond"][0]]
    recorded = wan.record_features(both, io["in.text_ref"][0])
    assert recorded.segments.lengths == (16, 0, 16)
    for block, features in recorded.features.items():
        for kind, found in zip(("cond", "uncond"), features.split(16), strict=True):
            assert relative_error(found, io[f"full.ref_{kind}.{block}"][0]) < TOLERANCE


@pytest.mark.parametrize("variant", ["full", "lite"])
def test_identity_tokens(io: dict[str, Tensor], adapters: dict[str, AdapterModules], variant: str) -> None:
    resampler = adapters[variant].resampler
    assert resampler is not None
    tokens = resampler(torch.stack((io["in.arcface"], torch.zeros(512)))).detach()
    for kind, found in zip(("cond", "uncond"), tokens, strict=True):
        assert relative_error(found, io[f"{variant}.ip_tokens_{kind}"][0]) < TOLERANCE


def test_sampling_with_all_branches_in_one_pack(
    io: dict[str, Tensor], wan: PackedWan, adapters: dict[str, AdapterModules]
) -> None:
    meta = json.loads((GOLDEN / "meta.json").read_text())
    sigmas = meta["loop"]["sigmas"]
    branches = [("uncond", "uncond", "uncond"), ("uncond", "cond", "cond"), ("cond", "cond", "cond")]
    x = io["in.loop_noise"][0]
    with torch.no_grad():
        for step, (sigma, after) in enumerate(pairwise(sigmas)):
            low, middle, high = wan(make_inputs(io, x, 1000 * sigma, branches), adapters["full"])
            velocity = low + 2 * (middle - low) + 5 * (high - middle)
            x = x + (after - sigma) * velocity
            assert relative_error(x, io[f"loop.full.latents.{step}"][0]) < TOLERANCE
