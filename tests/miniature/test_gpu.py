"""All trainings on a GPU, without one: PyTorch's fake tensors know devices and shapes, and refuse to mix them.

They do not compute, so the backward pass is left out and every weight gets a gradient of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from lynx_core.formats.base_file import load_transformer
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedWan
from miniature.adapters import configure_adapter
from miniature.encoders import build_text_encoder
from miniature.experiment import reader_training
from miniature.experiment.readers import Readers
from miniature.experiment.sampling import (
    BatchSampler,
    Conditions,
    SamplingSettings,
    draw_noise,
    record_references,
)
from miniature.making import Making
from miniature.parts import (
    base_training,
    detector,
    landmarks,
    recogniser,
    recogniser_crops,
    resampler,
    text_encoder,
    vae,
)
from miniature.parts.base_data import EncodedSet
from miniature.parts.drawing_ahead import send_drawn

TRAINED = (vae, text_encoder, recogniser, detector, base_training, resampler, reader_training)
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")
SHARE = 1 / 500
STEPS = {"vae": [0, 8, 9, 10, 12], "base": list(range(len(base_training.COURSES[0].turns)))}
"""Those of each stage and turn, when that share is made; of the others the first two."""
BASE = Making().assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tensor]]:
    """Of the steps that were done on the pretended GPU, by name of the training."""
    done: dict[str, list[Tensor]] = {}

    def move(network: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As `Module._apply`, which swaps what fake weights cannot swap."""
        for module in network.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(change(weight.detach()), weight.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = change(buffer)
        return network

    def run_steps(
        making: Making,
        name: str,
        parts: dict[str, Any],
        num_steps: int,
        step: Callable[[int, Any], Tensor],
        draw: Callable[[int], Any] | None = None,
    ) -> bool:
        optimizers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
        weights = [w for optimizer in optimizers for group in optimizer.param_groups for w in group["params"]]
        monkeypatch.setattr(Tensor, "backward", lambda loss: give_zeros(weights))
        for number in STEPS.get(name, [0, 1]):
            with unset_fake_temporarily():
                drawn = draw(number) if draw else None
            done.setdefault(name, []).append(step(number, send_drawn(drawn, making.device)))
        return False  # not finished: what would come next reads numbers, which fake tensors have none of

    def give_zeros(weights: list[Tensor]) -> None:
        for weight in weights:
            weight.grad = torch.zeros_like(weight)

    def refuse_copies(mode: FakeTensorMode, memo: dict[int, Any]) -> None:
        # A deep copy of a fake buffer copies its mode, weak references to storages included: freed twice, they
        # corrupt the heap, and a later test crashes.
        raise AssertionError("a network on the pretended GPU is copied deeply: build another, load its state")

    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", refuse_copies, raising=False)
    monkeypatch.setattr(nn.Module, "_apply", move)
    for module in TRAINED:
        monkeypatch.setattr(module, "run_steps", run_steps)
    return done


def draw_encoded_set() -> EncodedSet:
    """Noise in the shapes of drawings."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"clips": (3, 8, 8), "images": (1, 8, 8), "crops": (1, 32, 32)}
    latents = {sort: torch.randn(6, 16, *shape, generator=generator).half() for sort, shape in shapes.items()}
    captions = {sort: torch.arange(6) for sort in shapes}
    lengths = torch.tensor([1, 9, 4, 12, 7, 5])
    token_ids = torch.where(torch.arange(13) < lengths[:, None], 5, text_encoder.PADDING_ID).int()
    return EncodedSet(latents, captions, token_ids, lengths)


def train_base(making: Making) -> bool:
    with unset_fake_temporarily():
        data = draw_encoded_set()
    encoder = build_text_encoder().to(making.device).requires_grad_(False)
    whole = base_training.COURSES[0]
    read = replace(whole, name="base_that_reads", turns=base_training.READ_SORTS, reading_weight=0.1)
    return any(base_training.train_course(making, data, encoder, course) for course in (whole, read))


def train_resampler(making: Making) -> bool:
    config = configure_adapter(making).resampler
    assert config is not None
    with unset_fake_temporarily():
        embeddings = torch.eye(8, config.embedding_dim)
    return resampler.train_resampler(making, config, embeddings)


def train_recogniser(making: Making) -> bool:
    with unset_fake_temporarily():
        recogniser_crops.open_crops(making).draw_missing(making)
    return recogniser.train_recogniser(making)


def train_readers(making: Making) -> bool:
    reader_training._train_action(Readers().to(making.device).eval().requires_grad_(False), making)
    return reader_training.train_readers(making)


TRAININGS = {
    "vae": vae.train_vae,
    "text_encoder": text_encoder.train_text_encoder,
    "recogniser": train_recogniser,
    "detector": detector.train_detector,
    "landmarks": landmarks.train_landmarks,
    "base": train_base,
    "resampler": train_resampler,
    "readers": train_readers,
}


@pytest.mark.parametrize("name", TRAININGS)
def test_every_step_stays_on_the_device(tmp_path: Path, losses: dict[str, list[Tensor]], name: str) -> None:
    making = Making(tmp_path, torch.device("cuda"), share=SHARE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert not TRAININGS[name](making)
    assert name in losses
    for training, found in losses.items():
        assert {loss.device.type for loss in found} == {"cuda"}
        assert len(found) == len(STEPS.get(training, "ab"))


def test_videos_are_sampled_on_the_device(losses: dict[str, list[Tensor]]) -> None:
    transformer = load_transformer(BASE, torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        wan = PackedWan(transformer.to("cuda"))
        faces = torch.randn(2, 16, 1, 32, 32)
        features = record_references(wan, list(faces), torch.randn(4, 4096))
        wanted = Conditions([torch.randn(5, 4096), torch.randn(7, 4096)], torch.randn(2, 512), features)
        unwanted = Conditions([torch.randn(1, 4096)], None, None)
        noise = torch.stack([draw_noise(number, 0) for number in range(2)])
        sampler = BatchSampler(wan, AdapterModules.create(configure_adapter(Making()), 0))
        latents = sampler.sample(noise, wanted, unwanted, SamplingSettings(steps=2))
    assert latents.device.type == "cuda"
    assert latents.shape == noise.shape


def test_a_forgotten_device_is_seen(
    tmp_path: Path, losses: dict[str, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself: targets left on the CPU fail it."""
    monkeypatch.setattr(
        landmarks.F, "l1_loss", lambda read, truth: (read - torch.zeros(read.shape)).abs().mean()
    )
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(RuntimeError, match=r"different devices|Unhandled FakeTensor Device"),
    ):
        landmarks.train_landmarks(Making(tmp_path, torch.device("cuda"), share=SHARE))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_real_gpu_gets_near_the_cpu(tmp_path: Path) -> None:
    weights = []
    for device in ("cpu", "cuda"):
        making = Making(tmp_path / device, torch.device(device), num_drawers=2, share=SHARE)
        assert detector.train_detector(making)
        weights.append(detector.load_trained_detector(making.folder).state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name].float(), value.float(), atol=0.02), name
