"""Identity, measured: the shipped Mini Lynx puts held-out people into videos, through the real host.

Loss hardly tells whether an identity is learned, and arithmetic tests cannot see it at all. Here eight people
whom no training saw are put into videos by the real nodes. Then faults are planted in the pack's own code, and the
check must fail for each. `LYNX_RECORD_MINI=1` writes the stored latents anew; needed when assets/mini changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import InProcessComfy
from mini_bench import NUM_PEOPLE, Identities, Likeness, MiniBench
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = pytest.mark.host

STORED = Path(__file__).parent / "mini_latents.safetensors"
NUM_STORED = 2
MAX_DRIFT = 0.03
"""Relative L2 distance from the stored latents; another CPU's rounding stays far below it."""

MIN_LIKENESS = {"conditioning": 0.42, "reader": 0.7}
"""Mean cosine of a video with the person in it."""
MIN_LEAD = {"conditioning": 0.4, "reader": 0.7}
"""By how much that is above the likeness to the others."""
MIN_TOP1 = {"conditioning": 0.875, "reader": 0.875}
"""Seven of eight; one of eight is chance."""
MAX_NULL_LEAD = 0.2
"""What a person leads by in a video of nobody."""

OWN = list(range(NUM_PEOPLE))
NEXT = [*OWN[1:], 0]
FEW = OWN[:4]
"""Enough people to see that a fault is there."""


@dataclass(frozen=True)
class Measures:
    """What the check looks at, likeness by recogniser."""

    people: list[int]
    own: dict[str, Likeness]
    drift: float
    """Relative L2 distance of the first latents from the stored ones."""


def measure(bench: MiniBench, adapter: Any, identities: Identities, people: list[int]) -> Measures:
    """Make a video of each person and read it."""
    latents = bench.sample(adapter, identities, people)
    stored = load_file(STORED)["latents"].float()
    drift = float((latents[:NUM_STORED].float() - stored).norm() / stored.norm())
    found = Measures(people, bench.compare(latents), drift)
    for name, own in found.own.items():
        print(
            f"{name}: likeness {own.to(people):.2f}, to the others {own.to_others(people):.2f}, "
            f"top-1 {own.top1(people):.2f}"
        )
    print(f"drift {drift:.4f}")
    return found


def list_failures(found: Measures) -> list[str]:
    """Say what of the identity is not as it must be."""
    failures = []
    for name, own in found.own.items():
        likeness, top1 = own.to(found.people), own.top1(found.people)
        lead = likeness - own.to_others(found.people)
        if likeness < MIN_LIKENESS[name]:
            failures.append(f"{name}: likeness is {likeness:.2f}")
        if lead < MIN_LEAD[name]:
            failures.append(f"{name}: likeness is only {lead:.2f} above that to the others")
        if top1 < MIN_TOP1[name]:
            failures.append(f"{name}: top-1 of {NUM_PEOPLE} is {top1:.2f}")
    if found.drift > MAX_DRIFT:
        failures.append(f"the latents are {found.drift:.3f} from the stored ones")
    return failures


@pytest.fixture(scope="module")
def bench(comfy: InProcessComfy) -> MiniBench:
    torch.set_num_threads(1)
    return MiniBench(comfy)


@pytest.fixture(scope="module")
def adapter(bench: MiniBench) -> Any:
    return bench.adapter


@pytest.fixture(scope="module")
def identities(bench: MiniBench, adapter: Any) -> Identities:
    return bench.look_at_faces(adapter)


@pytest.fixture(scope="module", autouse=True)
def stored(bench: MiniBench, adapter: Any, identities: Identities) -> None:
    """Write the stored latents anew when that was asked for."""
    if os.environ.get("LYNX_RECORD_MINI") == "1":
        latents = bench.sample(adapter, identities, OWN[:NUM_STORED])
        save_file({"latents": latents.half().contiguous()}, STORED)


def test_shipped_files_carry_identity(bench: MiniBench, adapter: Any, identities: Identities) -> None:
    assert list_failures(measure(bench, adapter, identities, OWN)) == []


def test_likeness_follows_a_swapped_reference(bench: MiniBench, adapter: Any, identities: Identities) -> None:
    """Prompts and noise stay, each video gets the next person."""
    for name, swapped in bench.compare(bench.sample(adapter, identities, NEXT)).items():
        print(f"{name}: likeness {swapped.to(NEXT):.2f}, to the first {swapped.to(OWN):.2f}")
        assert swapped.top1(NEXT) >= MIN_TOP1[name]
        assert swapped.to(NEXT) - swapped.to(OWN) >= MIN_LEAD[name]


def test_the_null_identity_is_nobody(bench: MiniBench, adapter: Any, identities: Identities) -> None:
    for name, null in bench.compare(bench.sample(adapter, identities, OWN, null=True)).items():
        print(f"{name}: likeness {null.to(OWN):.2f}, to the others {null.to_others(OWN):.2f}")
        assert null.to(OWN) - null.to_others(OWN) <= MAX_NULL_LEAD
        assert null.top1(OWN) < MIN_TOP1[name]


# --- planted faults: each a change of the pack's own code, seen from the nodes alone --------------


def rotate_reference_query(bench: MiniBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query of the reference attention gets Wan's rotary positions."""
    from comfy.ldm.flux.math import apply_rope1

    hook_type = bench.comfy.pack_module("nodes.host.attention_hooks").AttentionHook
    attend = hook_type.attend
    freqs = bench.model.model.diffusion_model.rope_encode(3, 8, 8, device="cpu", dtype=torch.float32)

    def attend_rotated(self: Any, query: Tensor, injection: Any) -> Tensor:
        if self.kind == "ref":
            heads = query.unflatten(-1, (self.attention.num_heads, -1))
            query = apply_rope1(heads, freqs).flatten(-2).to(query)
        return attend(self, query, injection)

    monkeypatch.setattr(hook_type, "attend", attend_rotated)


def leave_out_null(bench: MiniBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative stays without the null identity."""
    node = bench.comfy.pack_module("nodes.nodes_apply")
    apply_identity = node.apply_identity

    def apply_without_null(model: Any, positive: Any, negative: Any, *args: Any) -> Any:
        return replace(apply_identity(model, positive, negative, *args), negative=negative)

    monkeypatch.setattr(node, "apply_identity", apply_without_null)


def use_wrong_timestep(bench: MiniBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference pass is modulated for timestep 500, not 0."""
    module = bench.comfy.pack_module("nodes.host.reference_pass")
    samplers = module.comfy.samplers
    calc_cond_batch = samplers.calc_cond_batch

    def sample(
        _: Any,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: Any,
        callback: Any,
        noise: Any,
        x: Tensor,
        *__: Any,
    ) -> Tensor:
        sigma = sigmas.new_full((len(x),), 0.5)
        calc_cond_batch(
            model_wrap.inner_model, [model_wrap.conds["positive"]], x, sigma, extra_args["model_options"]
        )
        return x

    monkeypatch.setattr(module.OneCall, "sample", sample)


def leave_out_modulation(bench: MiniBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference pass records the features before scale and shift."""
    module = bench.comfy.pack_module("nodes.host.reference_pass")
    attention_hooks = bench.comfy.pack_module("nodes.host.attention_hooks")

    def make_recorder(on_features: Callable[[int, Tensor], None]) -> Callable[..., Any]:
        def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
            modules = []
            for i, block in enumerate(executor.class_obj.diffusion_model.blocks):

                def hook_norm(x: Tensor, i: int = i, original: Any = block.norm1.forward) -> Tensor:
                    out = original(x)
                    on_features(i, out)
                    return out

                modules.append((block.norm1, hook_norm))
            with attention_hooks.swap_forwards(modules):
                return executor(*args, **kwargs)

        return apply_model

    monkeypatch.setattr(module, "make_recorder", make_recorder)


FAULTS = [rotate_reference_query, leave_out_null, use_wrong_timestep, leave_out_modulation]
REFERENCE_FAULTS = (use_wrong_timestep, leave_out_modulation)


@pytest.fixture
def no_cache(bench: MiniBench, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No keys and values from before are found, and none made with a fault are kept."""
    identity_kv = bench.comfy.pack_module("nodes.host.identity").IdentityKVCache
    monkeypatch.setattr(
        bench.comfy.pack_module("nodes.host.reference_pass"),
        "_null_reference_kv_cache",
        identity_kv(max_entries=2),
    )
    monkeypatch.setattr(
        bench.comfy.pack_module("nodes.host.application"), "_id_kv_cache", identity_kv(max_entries=4)
    )
    yield


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_fails_the_check(
    bench: MiniBench,
    adapter: Any,
    identities: Identities,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[MiniBench, pytest.MonkeyPatch], None],
) -> None:
    plant(bench, monkeypatch)
    if plant in REFERENCE_FAULTS:
        references = [bench.encode_reference(adapter, face) for face in identities.faces]
        identities = replace(identities, references=references)
    assert list_failures(measure(bench, adapter, identities, FEW)) != []


def test_an_adapter_of_another_seed_fails_the_check(
    bench: MiniBench, identities: Identities, briefly_trained: Path
) -> None:
    path = bench.comfy.base_dir / "models" / "lynx" / "other_mini.safetensors"
    shutil.copyfile(briefly_trained, path)
    try:
        adapter = bench.open_adapter(path.name)
        references = [bench.encode_reference(adapter, face) for face in identities.faces]
        found = measure(bench, adapter, replace(identities, references=references), FEW)
    finally:
        path.unlink()
    failures = list_failures(found)
    assert any("likeness" in failure for failure in failures)
    assert any("stored" in failure for failure in failures)
