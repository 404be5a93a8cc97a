import sys
from pathlib import Path

import pytest
import torch
from in_process import InProcessComfy


def test_import_nodes_means_comfyui(comfy: InProcessComfy) -> None:
    import nodes

    assert nodes is comfy.nodes
    assert hasattr(nodes, "KSampler")


def test_core_nodes_sample_on_standin_models(comfy: InProcessComfy) -> None:
    (model,) = comfy.run("UNETLoader", unet_name="wan2.1_t2v_14B_fp8_e4m3fn.safetensors")
    (clip,) = comfy.run("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (positive,) = comfy.run("CLIPTextEncode", clip=clip, text="a person smiles")
    (negative,) = comfy.run("CLIPTextEncode", clip=clip, text="blurry")
    (latent,) = comfy.run("EmptyHunyuanLatentVideo", width=64, height=64, length=5)
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent, "cfg": 5.0}
    outputs = [comfy.run("KSampler", **inputs, seed=seed, steps=2)[0]["samples"] for seed in (1, 1, 2)]
    assert outputs[0].shape == (1, 16, 2, 8, 8)
    assert 0.1 < outputs[0].std() < 10
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_pack_is_loaded_by_the_hosts_own_loader(comfy: InProcessComfy) -> None:
    assert sys.modules[comfy.pack.__name__] is comfy.pack
    assert Path(comfy.pack.__file__ or "").parent.name == "ComfyUI-Lynx"


def test_missing_node_is_a_key_error(comfy: InProcessComfy) -> None:
    with pytest.raises(KeyError):
        comfy.run("NoSuchNode")
