from pathlib import Path

import pytest
from safetensors.torch import load_file
from standin_models import KINDS, PUBLISHED_FILES, make_tensors, write_standin_models


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_finite_and_not_zero(kind: str) -> None:
    for name, tensor in make_tensors(kind, seed=0).items():
        assert tensor.float().isfinite().all(), name
        assert tensor.float().abs().max() > 0, name


def test_numbers_depend_on_the_path_alone(tmp_path: Path) -> None:
    files = {"a/high.safetensors": "wan_lora", "a/low.safetensors": "wan_lora"}
    first = [load_file(path) for path in write_standin_models(tmp_path / "first", files)]
    again = [load_file(path) for path in write_standin_models(tmp_path / "again", files)]
    name = "diffusion_model.blocks.0.self_attn.q.lora_up.weight"
    assert first[0][name].equal(again[0][name])
    assert not first[0][name].equal(first[1][name])


def test_only_writes_what_was_asked_for(tmp_path: Path) -> None:
    paths = write_standin_models(tmp_path, only=["lynx/lynx_lite"])
    assert sorted(path.name for path in paths) == ["ip_layers.safetensors", "resampler.safetensors"]
    assert len(PUBLISHED_FILES) > len(paths)
