"""A packed sample is what it is alone: outputs, gradients, and leaks that must be noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import tiny_packs
import torch
from tiny_packs import (
    TinySample,
    flatten,
    hash_weights,
    make_adapter,
    make_samples,
    pack,
    relative_error,
    run_pack,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lynx_core.models import packed_block
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedInputs, PackedWan
from lynx_core.models.segment_attention import Segments
from lynx_core.spec import Variant
from lynx_core.tokens import count_tokens

TOLERANCE = 1e-5
ORDERS = ((0, 1, 2, 3), (3, 1, 0, 2))


@pytest.fixture(scope="module")
def wan() -> PackedWan:
    return PackedWan(tiny_packs.make_transformer())


def assert_packed_is_alone(wan: PackedWan, adapter: AdapterModules, samples: Sequence[TinySample]) -> None:
    """Compare positions, outputs and adapter gradients of each packed sample with the sample on its own.

    RoPE is relative: a sample shifted as a whole comes out the same, so positions are compared themselves.
    """
    outputs, gradients = run_pack(wan, adapter, samples)
    positions = wan.compute_rope_freqs([sample.latent for sample in samples])
    segments = Segments(tuple(count_tokens(tuple(s.latent.shape[1:])) for s in samples))
    placed = list(zip(*(segments.split(table) for table in positions), strict=True))
    for i, sample in enumerate(samples):
        alone = wan.compute_rope_freqs([sample.latent])
        assert all(map(torch.equal, placed[i], alone)), f"positions of sample {i}"
        (output,), (gradient,) = run_pack(wan, adapter, [sample])
        assert output.shape == sample.latent.shape
        assert relative_error(outputs[i], output) < TOLERANCE, f"output of sample {i}"
        assert flatten(gradient).norm() > 0
        for name in gradient:
            # Measured against all of it: some tensors have next to no gradient of their own.
            error = (gradients[i][name] - gradient[name]).norm() / flatten(gradient).norm()
            assert error < TOLERANCE, f"gradient of {name} from sample {i}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", get_args(Variant))
def test_packed_is_one_by_one(wan: PackedWan, variant: Variant, order: tuple[int, ...]) -> None:
    samples = make_samples()
    if variant == "ref_only":
        samples = [sample for sample in samples if sample.reference is not None]
        order = tuple(i for i in order if i < len(samples))
    assert_packed_is_alone(wan, make_adapter(variant), [samples[i] for i in order])


def _leak_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = packed_block._modulation_of
    monkeypatch.setattr(
        packed_block, "_modulation_of", lambda *args: tuple(t.roll(1, dims=0) for t in honest(*args))
    )


def _leak_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = packed_block.attend_segments

    def leak(
        query: Tensor, key: Tensor, value: Tensor, queries: Segments, keys: Segments, backend: Any
    ) -> Tensor:
        return honest(query, key, value, Segments((queries.total,)), Segments((keys.total,)), backend)

    monkeypatch.setattr(packed_block, "attend_segments", leak)


def _shift_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PackedWan.compute_rope_freqs

    def shift(wan: PackedWan, latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        # Each sample's frames are counted from where the sample before ended.
        placed, frame = [], 0
        for latent in latents:
            frame += latent.shape[1]
            longer = torch.nn.functional.pad(latent, (0, 0, 0, 0, 0, frame))
            num_tokens = count_tokens(tuple(latent.shape[1:]))
            placed.append(
                [table[-num_tokens:] for table in honest(wan, [longer if len(latents) > 1 else latent])]
            )
        cosine, sine = (torch.cat(tables) for tables in zip(*placed, strict=True))
        return cosine, sine

    monkeypatch.setattr(PackedWan, "compute_rope_freqs", shift)


def _misplace_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PackedWan.compute_rope_freqs

    def misplace(wan: PackedWan, latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        cosine, sine = honest(wan, latents)
        return (cosine.roll(1, 0), sine.roll(1, 0)) if len(latents) > 1 else (cosine, sine)

    monkeypatch.setattr(PackedWan, "compute_rope_freqs", misplace)


def _swap_text(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PackedWan._prepare

    def swap(wan: PackedWan, latents: Any, timesteps: Tensor, texts: Sequence[Tensor]) -> Any:
        return honest(wan, latents, timesteps, [*texts[1:], texts[0]])

    monkeypatch.setattr(PackedWan, "_prepare", swap)


@pytest.mark.parametrize(
    ("plant", "noticed"),
    [
        (_leak_timestep, "output of sample 0"),
        (_leak_mask, "output of sample 0"),
        (_shift_positions, "positions of sample 0"),
        (_misplace_tokens, "positions of sample 0"),
        (_swap_text, "output of sample 0"),
    ],
)
def test_planted_leak_is_noticed(
    wan: PackedWan,
    plant: Callable[[pytest.MonkeyPatch], None],
    noticed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = make_samples()
    assert_packed_is_alone(wan, make_adapter("full"), samples)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=noticed):
        assert_packed_is_alone(wan, make_adapter("full"), samples)


def test_no_gradient_crosses_samples(wan: PackedWan) -> None:
    adapter, samples = make_adapter("full"), make_samples()
    inputs = pack(samples)
    latents = [latent.requires_grad_() for latent in inputs.latents]
    embeddings = inputs.embeddings.requires_grad_()
    outputs = wan(inputs, adapter)
    for i, output in enumerate(outputs):
        *from_latents, from_embeddings = torch.autograd.grad(
            output.sum(), [*latents, embeddings], retain_graph=True
        )
        for j in range(len(samples)):
            reached = bool(from_latents[j].any()), bool(from_embeddings[j].any())
            assert reached == (i == j, i == j)


def test_base_equals_diffusers(wan: PackedWan) -> None:
    samples = make_samples()
    with torch.no_grad():
        outputs = wan(pack(samples))
        for sample, output in zip(samples, outputs, strict=True):
            text = torch.nn.functional.pad(sample.text, (0, 0, 0, 512 - len(sample.text)))
            expected = wan.transformer(
                sample.latent[None], torch.tensor([sample.timestep]), text[None], return_dict=False
            )[0][0]
            assert relative_error(output, expected) < TOLERANCE


@pytest.mark.parametrize("variant", get_args(Variant))
def test_zero_initialised_adapter_is_the_base_exactly(wan: PackedWan, variant: Variant) -> None:
    inputs = pack(make_samples())
    with torch.no_grad():
        base = wan(inputs)
        zeroed = wan(inputs, make_adapter(variant, zero_init=True))
        loud = wan(inputs, make_adapter(variant))
    assert all(torch.equal(a, b) for a, b in zip(base, zeroed, strict=True))
    assert any(relative_error(a, b) > 1e-2 for a, b in zip(loud, base, strict=True))


def test_adapter_of_strength_zero_is_the_base_exactly(wan: PackedWan) -> None:
    inputs = pack(make_samples())
    with torch.no_grad():
        base, off = wan(inputs), wan(inputs, make_adapter("full"), id_scale=0.0, ref_scale=0.0)
    assert all(torch.equal(a, b) for a, b in zip(base, off, strict=True))


def test_swapped_references_swap_the_gradients(wan: PackedWan) -> None:
    adapter = make_adapter("full")
    first, second, *_ = make_samples()
    same = [
        TinySample(first.latent, 500.0, first.text, first.embedding, s.reference) for s in (first, second)
    ]
    _, (one, two) = run_pack(wan, adapter, same)
    _, (two_again, one_again) = run_pack(wan, adapter, same[::-1])
    assert relative_error(flatten(one_again), flatten(one)) < TOLERANCE
    assert relative_error(flatten(two_again), flatten(two)) < TOLERANCE
    assert relative_error(flatten(one), flatten(two)) > 0.05


@pytest.mark.parametrize("variant", get_args(Variant))
def test_gradient_reaches_all_of_the_adapter_and_none_of_the_base(variant: Variant) -> None:
    wan, adapter = PackedWan(tiny_packs.make_transformer()), make_adapter(variant)
    before = hash_weights(wan.transformer)
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    loss = sum(output.square().mean() for output in wan(pack(make_samples()), adapter))
    loss.backward()
    silent = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert all(p.grad is None and not p.requires_grad for p in wan.transformer.parameters())
    optimiser.step()
    assert hash_weights(wan.transformer) == before


def test_gradient_checkpointing_changes_nothing(wan: PackedWan) -> None:
    adapter, samples = make_adapter("full"), make_samples()
    runs: list[int] = []
    counter = wan.transformer.blocks[1].ffn.register_forward_hook(lambda *_: runs.append(1))
    outputs, gradients = run_pack(wan, adapter, samples)
    runs_without = len(runs)
    checkpointed = PackedWan(wan.transformer, gradient_checkpointing=True)
    again, gradients_again = run_pack(checkpointed, adapter, samples)
    counter.remove()
    # Once forward, and again in the backward of each of the four losses.
    assert (runs_without, len(runs) - runs_without) == (1, 5)
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))
    for a, b in zip(gradients, gradients_again, strict=True):
        assert torch.equal(flatten(a), flatten(b))


def test_compiled_blocks_give_the_same_and_compile_once(
    wan: PackedWan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs of other numbers and lengths of samples, padded to one length; with the compiler's last stage left out."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(packed_block, "_compile", cache(lambda part: torch.compile(part, backend=counter)))
    compiled = PackedWan(wan.transformer, gradient_checkpointing=True, compiled_tokens=96)
    adapter, samples = make_adapter("full"), make_samples()
    counts = []
    for pack_of in (samples, samples[:1], samples[2:0:-1], [samples[0]] * 5):
        outputs, gradients = run_pack(wan, adapter, pack_of)
        found, found_gradients = run_pack(compiled, adapter, pack_of)
        counts.append(counter.frame_count)
        for a, b in zip(outputs, found, strict=True):
            assert relative_error(b, a) < TOLERANCE
        for mine, other in zip(gradients, found_gradients, strict=True):
            assert relative_error(flatten(other), flatten(mine)) < TOLERANCE
    assert counts[0] > 4 and set(counts) == {counts[0]}, "nothing is compiled again for another pack"
    with torch.no_grad():
        longer = compiled(pack(samples * 3), adapter)
    assert relative_error(longer[0], wan(pack(samples), adapter)[0]) < TOLERANCE, (
        "longer ones run as they are"
    )


def test_recorded_features_stand_for_the_reference_pass(wan: PackedWan) -> None:
    adapter, inputs = make_adapter("full"), pack(make_samples())
    recorded = wan.record_features(inputs.reference_latents, inputs.reference_text)
    assert recorded.segments.lengths == (4, 9, 0, 4)
    assert {f.shape for f in recorded.features.values()} == {(17, tiny_packs.DIM)}
    with torch.no_grad():
        inside = wan(inputs, adapter)
        outside = wan(replace(inputs, reference_latents=None), adapter, recorded=recorded)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_adapter_without_a_part_ignores_its_inputs(wan: PackedWan) -> None:
    samples = make_samples()
    inputs, ref_only = pack(samples), make_adapter("ref_only")
    bare = PackedInputs(inputs.latents, inputs.timesteps, inputs.texts)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(wan(bare, make_adapter("full")), wan(bare), strict=True))
        without_reference = wan(inputs, ref_only)[2]
        assert relative_error(without_reference, wan(inputs)[2]) < TOLERANCE


def test_half_precision_base_trains_a_float32_adapter(wan: PackedWan) -> None:
    samples = make_samples()
    adapter = make_adapter("full")
    _, expected = run_pack(wan, adapter, samples)
    half = tiny_packs.make_transformer()
    rope = copy.deepcopy(half.rope)
    half.to(torch.bfloat16).rope = rope
    outputs, gradients = run_pack(PackedWan(half, gradient_checkpointing=True), adapter, samples)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    for found, wanted in zip(gradients, expected, strict=True):
        assert flatten(found).dtype == torch.float32
        assert torch.cosine_similarity(flatten(found), flatten(wanted), dim=0) > 0.99


def test_bases_and_packs_that_cannot_work_are_refused(wan: PackedWan) -> None:
    sample = make_samples()[0]
    inputs = pack([sample])
    with pytest.raises(ValueError, match=r"one entry for each sample.*'latents': 1, 'timesteps': 2"):
        PackedInputs(inputs.latents, torch.zeros(2), inputs.texts)
    with pytest.raises(ValueError, match="need reference_text"):
        PackedInputs(inputs.latents, torch.zeros(1), inputs.texts, reference_latents=inputs.latents)
    with pytest.raises(ValueError, match=r"\[1, 5, 4\].*multiples of 16"):
        wan(PackedInputs([torch.zeros(16, 1, 5, 4)], torch.zeros(1), inputs.texts))
    with pytest.raises(ValueError, match="513 tokens, more than 512"):
        wan(PackedInputs(inputs.latents, torch.zeros(1), [torch.zeros(513, tiny_packs.TEXT_DIM)]))
    with pytest.raises(ValueError, match=r"wrong base.*at least 2 blocks.*and 1 blocks"):
        PackedWan(tiny_packs.make_transformer(num_blocks=1))(inputs, make_adapter("full"))
    with pytest.raises(ValueError, match=r"position tables.*bfloat16"):
        PackedWan(tiny_packs.make_transformer().to(torch.bfloat16))


def test_numbers_stay_what_they_were() -> None:
    """A golden of our own: weights and inputs by formula, so that it holds wherever it runs."""
    wan, adapter = PackedWan(tiny_packs.make_transformer()), make_adapter("full")
    with torch.no_grad():
        for module in (wan.transformer, adapter):
            for i, (_, parameter) in enumerate(sorted(module.named_parameters())):
                wave = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.7).add(i).sin()
                parameter.copy_(wave.mul(1.5 * max(parameter.shape[-1], 1) ** -0.5).reshape(parameter.shape))
        samples = [
            TinySample(_wave(s.latent), s.timestep, _wave(s.text), _wave(s.embedding), _wave(s.latent[:, :1]))
            for s in make_samples()
        ]
        outputs = wan(pack(samples), adapter, id_scale=0.8, ref_scale=0.6)
    found = torch.stack([torch.stack((o.mean(), o.std(), o[3, 0, 1, 0])) for o in outputs])
    torch.testing.assert_close(found, torch.tensor(GOLDEN), rtol=1e-4, atol=1e-5)


def _wave(like: Tensor) -> Tensor:
    return torch.arange(like.numel(), dtype=torch.float64).mul(0.3).cos().float().reshape(like.shape)


GOLDEN = [
    [0.0103849, 0.6286260, -0.0561285],
    [0.0134552, 1.1675345, 1.2425364],
    [0.0175872, 1.0190532, -0.1134363],
    [0.0117177, 0.6913804, 0.0267048],
]
"""Mean, deviation and one value of each sample's velocity."""
