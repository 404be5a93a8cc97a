"""Other nodes run the model on part of the batch: every row keeps its own identity, or the call is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import LATENT_CHANNELS, Applied, Conditioning, WanBench, list_leftovers, max_error, seeded

NUM_BLOCKS = 4
Args = dict[str, Any]
Block = Callable[[Args], Args]


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


@pytest.fixture(scope="module")
def other(bench: WanBench, base: Any, full: Any, negative: Conditioning) -> Applied:
    """Another person."""
    return bench.apply(
        base,
        bench.make_text(3),
        negative,
        adapter=full,
        id=bench.make_id(8),
        reference=bench.make_reference(base, full, seed=8),
    )


def cut_rows(args: Args, rows: slice) -> Args:
    """Give a block's arguments for some rows of the batch."""
    cut = {name: value[rows] for name, value in args.items() if name in ("img", "txt", "vec")}
    return {**args, **cut}


def replace_blocks(model: Any, run: Callable[[Args, Block], Args], *blocks: int) -> Any:
    """Run blocks in another node's way: `run(args, original_block)`."""
    model = model.clone()
    for block in blocks or range(NUM_BLOCKS):
        model.set_model_patch_replace(
            lambda args, extra: run(args, extra["original_block"]), "dit", "double_block", block
        )
    return model


def run_in_parts(num_rows: int) -> Callable[[Args, Block], Args]:
    def run(args: Args, block: Block) -> Args:
        starts = range(0, len(args["img"]), num_rows)
        parts = [block(cut_rows(args, slice(start, start + num_rows)))["img"] for start in starts]
        return {"img": torch.cat(parts)}

    return run


def run_one_row(args: Args, block: Block) -> Args:
    """As a skip-layer node does: the first row skips the block, the second goes through it alone."""
    done = block(cut_rows(args, slice(1, 2)))["img"]
    return {"img": torch.cat([args["img"][:1], done, args["img"][2:]])}


def run_doubled(args: Args, block: Block) -> Args:
    """The batch twice over, and the mean of both."""
    doubled = {name: torch.cat([args[name]] * 2) for name in ("img", "txt", "vec")}
    return {"img": torch.stack(block({**args, **doubled})["img"].chunk(2)).mean(0)}


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5])
def test_blocks_in_parts_equal_each_row_alone(
    bench: WanBench, on: Applied, other: Applied, num_rows: int
) -> None:
    videos = seeded(2, LATENT_CHANNELS, 2, 8, 8, seed=11)
    conds = [on.positive, other.positive, on.negative]
    alone = [
        torch.cat([bench.predict(on.model, [cond], x=videos[i : i + 1])[0] for i in range(2)])
        for cond in conds
    ]
    for a, b in itertools.combinations(alone, 2):
        assert max_error(a, b) > 1e-3, "the rows differ, or the test would prove nothing"
    got = bench.predict(replace_blocks(on.model, run_in_parts(num_rows)), conds, x=videos)
    for prediction, expected in zip(got, alone, strict=True):
        assert max_error(prediction, expected) < 1e-6


def loop_over_rows(model: Any) -> Any:
    """As a node does that puts its own class of model in: the whole network, row by row."""
    import comfy.patcher_extension

    def forward(
        executor: Any, x: Tensor, timestep: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        rows = [slice(i, i + 1) for i in range(len(x))]
        return torch.cat([executor(x[i], timestep[i], context[i], *args, **kwargs) for i in rows])

    model = model.clone()
    model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, forward)
    return model


def test_the_network_row_by_row_equals_each_row_alone(bench: WanBench, on: Applied, other: Applied) -> None:
    conds = [on.positive, on.negative, other.middle]
    got = bench.predict(loop_over_rows(on.model), conds)
    for prediction, cond in zip(got, conds, strict=True):
        assert max_error(prediction, bench.predict(on.model, [cond])[0]) < 1e-7
    sampled = [
        bench.sample(model, on.positive, on.negative) for model in (loop_over_rows(on.model), on.model)
    ]
    assert max_error(*sampled) < 1e-5


REFUSED = {
    "one row of two": (run_one_row, "block 2", "done 1 of the batch's 2 rows when the call ends"),
    "the batch doubled": (run_doubled, "block 2", "done 0 of the batch's 2 rows and gets 4 more"),
    "a row too many": (
        lambda args, block: run_in_parts(1)(cut_rows(args, [0, 1, 0]), block),
        "block 2",
        "done 2 of the batch's 2 rows and gets 1 more",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_do_not_add_up_are_refused(bench: WanBench, base: Any, on: Applied, name: str) -> None:
    run, *words = REFUSED[name]
    model = replace_blocks(on.model, run, 2)
    leftovers = list_leftovers(base)
    before = bench.predict(on.model, [on.positive, on.negative])
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))) as error:
        bench.predict(model, [on.positive, on.negative])
    assert "leave block 2 out of ref_blocks" in str(error.value)
    assert list_leftovers(base) == leftovers
    after = bench.predict(on.model, [on.positive, on.negative])
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_block_without_identity_may_do_what_it_likes(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """The way out that the message names."""
    on = bench.apply(base, prompt, negative, **identity, id_blocks="0-1, 3", ref_blocks="0-1, 3")
    model = replace_blocks(on.model, run_one_row, 2)
    got = bench.predict(model, [on.negative, on.positive])
    skipped = replace_blocks(on.model, lambda args, block: args, 2)
    for prediction, expected in zip(
        got, (*bench.predict(on.model, [on.negative]), *bench.predict(skipped, [on.positive])), strict=True
    ):
        assert max_error(prediction, expected) < 1e-5


@pytest.mark.parametrize("run", [run_doubled, run_in_parts(1)])
def test_rows_of_one_conditioning_need_no_counting(
    bench: WanBench, on: Applied, run: Callable[[Args, Block], Args]
) -> None:
    """At cfg 1 every row has the same identity, however many rows there are."""
    videos = seeded(2, LATENT_CHANNELS, 2, 8, 8, seed=12)
    (got,) = bench.predict(replace_blocks(on.model, run), [on.positive], x=videos)
    assert max_error(got, bench.predict(on.model, [on.positive], x=videos)[0]) < 1e-6


def test_a_block_that_runs_twice_has_the_identity_both_times(bench: WanBench, on: Applied) -> None:
    model = replace_blocks(on.model, lambda args, block: block({**args, **block(args)}), 1)
    got = bench.predict(model, [on.positive, on.negative])
    for prediction, cond in zip(got, (on.positive, on.negative), strict=True):
        assert max_error(prediction, bench.predict(model, [cond])[0]) < 1e-6


def test_a_refusal_that_another_node_catches_still_stops_the_call(bench: WanBench, on: Applied) -> None:
    def run(args: Args, block: Block) -> Args:
        try:
            return run_doubled(args, block)
        except ValueError:
            return args

    with pytest.raises(ValueError, match="block 1"):
        bench.predict(replace_blocks(on.model, run, 1), [on.positive, on.negative])


def double_batch(apply_model: Callable[..., Tensor], args: Args) -> Tensor:
    c = {name: torch.cat([v, v]) if isinstance(v, Tensor) else v for name, v in args["c"].items()}
    return apply_model(torch.cat([args["input"]] * 2), torch.cat([args["timestep"]] * 2), **c)[::2]


def divide_batch(apply_model: Callable[..., Tensor], args: Args) -> Tensor:
    parts = []
    for i in range(len(args["input"])):
        c = {name: v[i : i + 1] if isinstance(v, Tensor) else v for name, v in args["c"].items()}
        parts.append(apply_model(args["input"][i : i + 1], args["timestep"][i : i + 1], **c))
    return torch.cat(parts)


@pytest.mark.parametrize("change", [double_batch, divide_batch])
def test_a_batch_that_changes_on_its_way_to_the_model(
    bench: WanBench, base: Any, on: Applied, change: Callable[..., Tensor]
) -> None:
    model = on.model.clone()
    model.set_model_unet_function_wrapper(change)
    leftovers = list_leftovers(base)
    with pytest.raises(ValueError, match="rows where the sampler made 2 of 2 conditionings"):
        bench.predict(model, [on.positive, on.negative])
    assert list_leftovers(base) == leftovers
    (got,) = bench.predict(model, [on.positive])
    assert max_error(got, bench.predict(on.model, [on.positive])[0]) < 1e-6


def test_a_model_called_within_its_own_call(bench: WanBench, on: Applied, other: Applied) -> None:
    """A wrapper between Lynx and the network that calls the model once more, for another conditioning."""
    import comfy.patcher_extension

    model = on.model.clone()
    inner: list[Tensor] = []

    def again(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not inner:
            inner.append(x)
            cond = other.positive[0][1]["model_conds"]["lynx"]
            rows = cond.process_cond(batch_size=1).concat([])
            inner.append(
                executor.class_obj.apply_model(x[:1], t[:1], args[0], args[1][:1], *args[2:], lynx=rows)
            )
        return executor(x, t, *args, **kwargs)

    model.add_wrapper(comfy.patcher_extension.WrappersMP.APPLY_MODEL, again)
    got = bench.predict(model, [on.positive, on.negative])
    for prediction, expected in zip(got, bench.predict(on.model, [on.positive, on.negative]), strict=True):
        assert torch.equal(prediction, expected)
    (text, _), (_, carried) = on.negative[0], other.positive[0]  # the host puts the last one first
    assert max_error(inner[1], bench.predict(on.model, [[[text, carried]]])[0]) < 1e-5
