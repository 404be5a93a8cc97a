"""A base model whose linear layers hold real GGUF blocks and dequantise when they are called.

The GGUF node pack cannot be installed from a package registry; its way of working can be
shown: own operations, weights of another shape and dtype in place, `forward` overridden.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from wan_bench import T2V, Conditioning, WanBench, max_error

gguf_quants = pytest.importorskip("gguf.quants")
gguf = pytest.importorskip("gguf")

Q8 = gguf.GGMLQuantizationType.Q8_0


def dequantise(raw: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(gguf_quants.dequantize(raw.numpy(), Q8)))


def make_operations() -> Any:
    import comfy.ops

    class GGUFOperations(comfy.ops.manual_cast):
        class Linear(comfy.ops.manual_cast.Linear):
            def _load_from_state_dict(self, *args: Any) -> None:
                super()._load_from_state_dict(*args)
                raw = gguf_quants.quantize(self.weight.float().numpy(), Q8)
                self.weight = torch.nn.Parameter(torch.from_numpy(raw), requires_grad=False)

            def forward(self, x: Tensor) -> Tensor:
                bias = None if self.bias is None else self.bias.to(x)
                return torch.nn.functional.linear(x, dequantise(self.weight).to(x), bias)

    return GGUFOperations


@pytest.fixture(scope="module")
def bases(bench: WanBench) -> tuple[Any, Any]:
    """The base in GGUF blocks, and one that holds the same values as plain float32."""
    import comfy.sd
    import comfy.utils

    path = bench.comfy.base_dir / "models" / "diffusion_models" / T2V
    weights = {name: w.float() for name, w in comfy.utils.load_torch_file(str(path)).items()}
    rounded = {
        name: dequantise(torch.from_numpy(gguf_quants.quantize(w.numpy(), Q8)))
        if w.ndim == 2 and name.endswith(".weight")
        else w
        for name, w in weights.items()
    }

    def load(state: dict[str, Tensor], **options: Any) -> Any:
        options["dtype"] = torch.float32
        return comfy.sd.load_diffusion_model_state_dict(dict(state), model_options=options)

    return load(weights, custom_operations=make_operations()), load(rounded)


def test_a_gguf_base_equals_its_values_in_float32(
    bench: WanBench, bases: tuple[Any, Any], full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    results = []
    for base in bases:
        reference = bench.make_reference(base, full)
        applied = bench.apply(base, prompt, negative, adapter=full, id=bench.make_id(), reference=reference)
        results.append(bench.predict(applied.model, [applied.positive, applied.negative]))
    assert bases[0].model.diffusion_model.blocks[0].self_attn.q.weight.dtype == torch.uint8
    plain = bench.predict(bases[1], [prompt, negative])
    for quantised, rounded, without in zip(*results, plain, strict=True):
        assert max_error(quantised, rounded) < 1e-5
        assert max_error(rounded, without) > 1e-2
