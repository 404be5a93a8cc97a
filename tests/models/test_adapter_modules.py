"""Adapters as trainable modules: variants, files of every layout, InstantID's start, low rank."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_packs import DIM, make_adapter, make_samples, make_transformer, pack, run_pack

from lynx_core.formats.adapter import open_adapter
from lynx_core.formats.adapter_weights import init_resampler, load_modules, save_modules
from lynx_core.formats.conversion import convert_adapter
from lynx_core.formats.tensor_file import AdapterError
from lynx_core.models.adapter_configs import AdapterConfigs, configure_variant
from lynx_core.models.adapter_modules import AdapterModules, LowRankLinear
from lynx_core.models.adapters import RefAdapterConfig
from lynx_core.models.packed_wan import PackedWan
from lynx_core.spec import INSTANTID_RECOGNISER, RELEASE_RECOGNISER, Variant

GOLDEN = (
    Path(os.environ.get("LYNX_GOLDEN_SETS", Path(__file__).resolve().parents[3] / "shared" / "conformance"))
    / "setA"
)


def export_release(modules: AdapterModules, folder: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Write the three files of the release, as `comfy-lynx convert` does."""
    with tempfile.TemporaryDirectory() as beside:
        save_modules(modules, Path(beside) / "adapter.safetensors", dtype=dtype)
        return convert_adapter(open_adapter(Path(beside) / "adapter.safetensors"), "release", folder)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_saved_adapter_opens_as_the_nodes_open_it(variant: Variant, tmp_path: Path) -> None:
    modules = make_adapter(variant)
    save_modules(modules, tmp_path / "mine.safetensors")
    adapter = open_adapter(tmp_path / "mine.safetensors")
    assert adapter.configs == modules.configs
    again = load_modules(adapter)
    assert again.recogniser == modules.recogniser == RELEASE_RECOGNISER
    assert again.state_dict().keys() == modules.state_dict().keys()
    for name, tensor in modules.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert all(p.requires_grad for p in again.parameters())
    for block in modules.configs.id.blocks if modules.configs.id else ():
        assert torch.equal(
            adapter.read_id_layer(block).to_k_ip.weight, modules.state_dict()[f"id.{block}.to_k_ip.weight"]
        )


@pytest.mark.parametrize("variant", get_args(Variant))
def test_exported_release_opens_as_the_same_adapter(variant: Variant, tmp_path: Path) -> None:
    modules = make_adapter(variant)
    files = export_release(modules, tmp_path / "out", dtype=torch.bfloat16)
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "out", *files])
    adapter = open_adapter(tmp_path / "out")
    assert adapter.configs == modules.configs
    for name, tensor in load_modules(adapter).state_dict().items():
        assert torch.equal(tensor, modules.state_dict()[name].bfloat16().float())


@pytest.mark.parametrize("layout", ["release", "kijai", "wan2gp"])
def test_official_layouts_come_out_byte_equal(layout: str, tmp_path: Path) -> None:
    modules = make_adapter("full")
    save_modules(modules, tmp_path / "mine.safetensors", dtype=torch.float16)
    official = convert_adapter(open_adapter(tmp_path / "mine.safetensors"), layout, tmp_path / "official")
    exported = export_release(load_modules(open_adapter(tmp_path / "official")), tmp_path / "out")
    expected = convert_adapter(open_adapter(*official), "release", tmp_path / "expected")
    assert [p.read_bytes() for p in exported] == [p.read_bytes() for p in expected]
    if layout == "release":
        assert [p.read_bytes() for p in exported] == [p.read_bytes() for p in official]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden set in {GOLDEN}")
@pytest.mark.parametrize("variant", ["full", "lite"])
def test_published_files_come_out_byte_equal(variant: str, tmp_path: Path) -> None:
    folder = GOLDEN / f"lynx_{variant}"
    files = export_release(load_modules(open_adapter(folder)), tmp_path / variant)
    assert {file.name for file in files} == {file.name for file in folder.iterdir()}
    for file in files:
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_same_seed_same_adapter() -> None:
    state, again, other = (make_adapter("full", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert not torch.equal(other["id.0.registers"], state["id.0.registers"])
    before = torch.random.get_rng_state()
    make_adapter("full", 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_release_sizes() -> None:
    with torch.device("meta"):
        counts = {
            variant: sum(p.numel() for p in AdapterModules(configure_variant(variant)).parameters())
            for variant in get_args(Variant)
        }
    assert round(counts["full"] / 1e9, 2) == 4.28
    assert round(counts["ref_only"] / 1e9, 3) == 2.098
    assert counts["id_only"] == counts["full"] - counts["ref_only"]
    assert 0.49e9 < counts["lite"] < 0.51e9


def test_wrong_configurations_are_refused() -> None:
    full, lite = configure_variant("full", DIM, 2), configure_variant("lite", DIM, 2)
    with pytest.raises(ValueError, match="no variant 'half'; choose full"):
        configure_variant("half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="puts out width 2048, but the ID layers take 256"):
        AdapterConfigs(lite.resampler, full.id)
    with pytest.raises(ValueError, match="belong together"):
        AdapterConfigs(full.resampler)
    with pytest.raises(ValueError, match="needs ID layers"):
        AdapterConfigs()
    with pytest.raises(ValueError, match="width 256, the reference layers for 128"):
        AdapterConfigs(full.resampler, full.id, RefAdapterConfig(128, (0,), True))


def test_unusable_weights_are_not_saved(tmp_path: Path) -> None:
    modules = make_adapter("ref_only")
    path = tmp_path / "mine.safetensors"
    with torch.no_grad():
        modules.state_dict()["ref.1.to_k_ref.bias"][0] = 1e5
    with pytest.raises(AdapterError, match=r"ref.1.to_k_ref.bias holds values.*torch.float16.*wider dtype"):
        save_modules(modules, path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    save_modules(modules, path)
    with pytest.raises(AdapterError, match="already there"):
        save_modules(modules, path)
    save_modules(modules, path, read=lambda name: modules.canonical_tensor(name) * 0, overwrite=True)
    assert not open_adapter(path).read_ref_layer(0).to_k_ref.weight.any()


def _write_instantid(path: Path, source: AdapterModules) -> None:
    assert source.resampler is not None
    attention = {"1.to_k_ip.weight": torch.ones(8, 8)}
    torch.save({"image_proj": source.resampler.state_dict(), "ip_adapter": attention}, path)


def test_resampler_starts_from_instantid(tmp_path: Path) -> None:
    lite, full = make_adapter("lite", seed=5), make_adapter("full", seed=6)
    _write_instantid(tmp_path / "ip-adapter.bin", lite)
    same = make_adapter("lite", seed=7)
    start = init_resampler(same, tmp_path / "ip-adapter.bin")
    assert (start.left_out, start.recogniser) == ((), INSTANTID_RECOGNISER)
    assert torch.equal(same.resampler.proj_out.weight, lite.resampler.proj_out.weight)

    before = full.resampler.proj_out.weight.clone()
    start = init_resampler(full, tmp_path / "ip-adapter.bin")
    assert start.left_out == ("proj_out.weight", "proj_out.bias", "norm_out.weight", "norm_out.bias")
    assert torch.equal(full.resampler.latents, lite.resampler.latents)
    assert torch.equal(full.resampler.proj_out.weight, before)


def test_resampler_starts_from_a_release(tmp_path: Path) -> None:
    source, target = make_adapter("full", seed=5), make_adapter("full", seed=6)
    export_release(source, tmp_path)
    start = init_resampler(target, tmp_path / "resampler.safetensors")
    assert (start.left_out, start.recogniser) == ((), RELEASE_RECOGNISER)
    assert torch.equal(target.resampler.proj_in.weight, source.resampler.proj_in.weight)


def test_resampler_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = make_adapter("full")
    export_release(source, tmp_path)
    wider = AdapterModules.create(
        configure_variant("full", 512, 1, resampler_dim=32, resampler_depth=1, resampler_heads=1), seed=0
    )
    with pytest.raises(AdapterError, match=r"nothing of the resampler in .* fits"):
        init_resampler(wider, tmp_path / "resampler.safetensors")
    with pytest.raises(AdapterError, match="holds no resampler"):
        init_resampler(source, tmp_path / "ref_layers.safetensors")
    with pytest.raises(AdapterError, match="reference only"):
        init_resampler(make_adapter("ref_only"), tmp_path / "resampler.safetensors")


def test_reference_keys_start_as_the_bases() -> None:
    adapter = AdapterModules.create(configure_variant("full", 8, 3), seed=0)
    own = [torch.nn.Linear(8, 8) for _ in range(3)]
    adapter.init_ref_keys_from(own)
    for layer, linear in zip(adapter.ref.values(), own, strict=True):
        assert torch.equal(layer.to_k_ref.weight, linear.weight)
        assert not layer.to_v_ref.weight.any(), "it still adds nothing"


def test_low_rank_starts_as_the_adapter_and_trains_alone(tmp_path: Path) -> None:
    wan, adapter, samples = PackedWan(make_transformer()), make_adapter("full"), make_samples()
    before = adapter.canonical_state()
    plain, _ = run_pack(wan, adapter, samples)
    adapter.add_low_rank(rank=4, alpha=8.0, seed=0)
    outputs, _ = run_pack(wan, adapter, samples)
    assert all(torch.equal(a, b) for a, b in zip(outputs, plain, strict=True))

    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    assert {name.split(".")[-1] for name in trained} == {"lora_down", "lora_up"}
    assert len(trained) == 2 * 4 * 2
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        sum(output.square().mean() for output in wan(pack(samples), adapter)).backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in trained.values())

    save_modules(adapter, tmp_path / "merged.safetensors")
    merged = load_modules(open_adapter(tmp_path / "merged.safetensors"))
    changed = {n for n, t in merged.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n in before if ".to_" in n and n.endswith("weight") and "resampler" not in n}
    with torch.no_grad():
        for a, b in zip(wan(pack(samples), merged), wan(pack(samples), adapter), strict=True):
            torch.testing.assert_close(a, b)


def test_low_rank_is_refused_where_it_makes_no_sense() -> None:
    adapter = make_adapter("lite")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        adapter.add_low_rank(0, 1.0, 0)
    adapter.add_low_rank(2, 1.0, 0)
    assert isinstance(adapter.find_id_layer(0).to_k_ip, LowRankLinear)
    with pytest.raises(ValueError, match="already"):
        adapter.add_low_rank(2, 1.0, 0)
