"""Wan's transformer over a packed sequence: the tokens of many videos and images.

NaViT's "Patch n' Pack" (arXiv 2307.06304), as Lynx trains (paper section 3.4). The sub-modules
are those of diffusers' WanTransformer3DModel, the forward is ours: attention stays inside each
sample, positions start from zero in each, and timestep, text, identity and reference belong to
each.

Shapes: N samples, S tokens of the packed sequence, R reference tokens of all samples, D model dim; C
latent channels, T H W latent frames, height and width, L tokens of a text (at most TEXT_LENGTH).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..spec import TEXT_LENGTH, AttentionBackend, LynxError
from ..tokens import PATCH_SIZE, count_tokens
from .adapter_configs import describe_base_misfit
from .adapter_modules import AdapterModules
from .frozen_base import BlockOffload, WanTransformer, freeze
from .packed_block import (
    AdapterInputs,
    AdapterLayers,
    PackContext,
    modulate,
    modulated_input,
    pad_rows,
    run_block,
)
from .segment_attention import Segments, SequenceGroup


@dataclass(frozen=True)
class PackedInputs:
    """The samples of a packed sequence.

    Raises:
        LynxError: when the fields do not describe the same number of samples, or references
            come without the text of the reference pass.
    """

    latents: Sequence[Tensor]
    """[C, T, H, W] of each sample: noisy, in model space."""
    timesteps: Tensor
    """[N], 0 to 1000."""
    texts: Sequence[Tensor]
    """[L, D] of each sample, not padded."""
    embeddings: Tensor | None = None
    """[N, EMBEDDING_DIM]; zeros are the null identity. None: no identity at all."""
    reference_latents: Sequence[Tensor | None] | None = None
    """[C, 1, H, W] of each sample, None for a sample without a reference."""
    reference_text: Tensor | None = None
    """[L, D]: REFERENCE_PROMPT, encoded."""

    def __post_init__(self) -> None:
        counts = {
            name: len(value)
            for name in ("latents", "timesteps", "texts", "embeddings", "reference_latents")
            if (value := getattr(self, name)) is not None
        }
        if len(set(counts.values())) != 1 or not self.latents:
            raise LynxError(f"a packed sequence needs one entry for each sample in every field, got {counts}")
        if self.reference_latents is not None and self.reference_text is None:
            raise LynxError("reference_latents need reference_text, the encoded prompt of the reference pass")

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> PackedInputs:
        """Give the same with each tensor changed, as moved to a device."""
        references, embeddings, text = self.reference_latents, self.embeddings, self.reference_text
        return PackedInputs(
            latents=[change(latent) for latent in self.latents],
            timesteps=change(self.timesteps),
            texts=[change(text) for text in self.texts],
            embeddings=None if embeddings is None else change(embeddings),
            reference_latents=None
            if references is None
            else [None if latent is None else change(latent) for latent in references],
            reference_text=None if text is None else change(text),
        )


def count_latent_tokens(latents: Sequence[Tensor | None]) -> Segments:
    """Count the tokens of each latent [C, T, H, W]; 0 for None.

    Raises:
        LynxError: when a side is not a whole number of patches.
    """
    shapes = [None if latent is None else latent.shape[1:] for latent in latents]
    return Segments(tuple(count_tokens((s[0], s[1], s[2])) if s else 0 for s in shapes))


def patchify(latents: Sequence[Tensor]) -> Tensor:
    """Lay the patches of all samples in one sequence, [tokens, channels * patch volume]."""
    pt, ph, pw = PATCH_SIZE
    pattern = "c (t pt) (h ph) (w pw) -> (t h w) (c pt ph pw)"
    return torch.cat([rearrange(latent, pattern, pt=pt, ph=ph, pw=pw) for latent in latents])


def unpatchify(patches: Tensor, tokens: Segments, like: Sequence[Tensor]) -> list[Tensor]:
    """Turn a sequence of predicted patches into one latent for each sample, shaped as in `like`.

    The model's head puts the channels last in a patch: [tokens, patch volume * channels].
    """
    pt, ph, pw = PATCH_SIZE
    pattern = "(t h w) (pt ph pw c) -> c (t pt) (h ph) (w pw)"
    return [
        rearrange(piece, pattern, pt=pt, ph=ph, pw=pw, h=latent.shape[2] // ph, w=latent.shape[3] // pw)
        for piece, latent in zip(tokens.split(patches), like, strict=True)
    ]


def index_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Lay out texts padded with zeros to TEXT_LENGTH tokens, with the padding stored once.

    All padding gives the same key and value, so it need not be projected 500 times a text.

    Args:
        texts: [at most 512, text_dim] each.

    Returns:
        Distinct tokens [tokens + 1, text_dim], the last of them zeros, and the row of each padded
        token, [len(texts) * TEXT_LENGTH].

    Raises:
        LynxError: when a text is longer.
    """
    num_tokens = sum(len(text) for text in texts)
    device = texts[0].device
    rows = torch.full((len(texts), TEXT_LENGTH), num_tokens, device=device)
    first = 0
    for row, text in zip(rows, texts, strict=True):
        if len(text) > TEXT_LENGTH:
            raise LynxError(f"a text has {len(text)} tokens, more than {TEXT_LENGTH}; shorten the caption")
        row[: len(text)] = torch.arange(first, first + len(text), device=device)
        first += len(text)
    return F.pad(torch.cat(list(texts)), (0, 0, 0, 1)), rows.flatten()


class RecordedReferences(NamedTuple):
    """The inputs of the blocks' self-attention in a reference pass."""

    features: dict[int, Tensor]
    """Block number to [R, D]."""
    segments: Segments
    """Reference tokens of each sample; 0 for one without a reference."""


class PackedWan(nn.Module):
    """A frozen Wan base that predicts the velocities of a packed sequence.

    Args:
        transformer: a text-to-video Wan; it is frozen here.
        backend: from `choose_backend`.
        gradient_checkpointing: keep only each block's input, compute the rest again.
        offload: fetches blocks from the CPU; without it they lie where the transformer is.
            Wants gradient checkpointing, and PackedWan not to be moved afterwards.
        group: processes that share each sequence. They give the same inputs and get the same outputs; the gradients
            of the adapter are then the group's together, those of one process are of its tokens.
        compiled_tokens: compile what of a block works token by token, for sequences of so many tokens on this process, to which
            shorter ones are padded; 0 compiles nothing. Longer ones and those without gradients run as they are.

    Raises:
        LynxError: when the base is of another kind, or its position tables were rounded.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        backend: AttentionBackend = "loop",
        gradient_checkpointing: bool = False,
        offload: BlockOffload | None = None,
        group: SequenceGroup | None = None,
        compiled_tokens: int = 0,
    ) -> None:
        super().__init__()
        _check_base(transformer)
        self.transformer = freeze(transformer)
        self.config: Any = transformer.config
        self.backend: AttentionBackend = backend
        self.gradient_checkpointing = gradient_checkpointing
        self.offload = offload
        self.group = group
        self.compiled_tokens = compiled_tokens

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.config.num_attention_heads * self.config.attention_head_dim

    @property
    def dtype(self) -> torch.dtype:
        """What the hidden states are kept in; quantised weights are dequantised to it."""
        return self.transformer.patch_embedding.weight.dtype

    def check_adapter(self, adapter: AdapterModules) -> None:
        """Check that an adapter was made for a base of this width and depth.

        Raises:
            LynxError: when it was not.
        """
        misfit = describe_base_misfit(adapter.configs, self.dim, self.config.num_layers)
        if misfit:
            raise LynxError(
                f"wrong base for this adapter: {misfit}; use the base that the adapter was made for"
            )

    def forward(
        self,
        inputs: PackedInputs,
        adapter: AdapterModules | None = None,
        id_scale: float = 1.0,
        ref_scale: float = 1.0,
        recorded: RecordedReferences | None = None,
    ) -> list[Tensor]:
        """Predict the velocity of each sample of a packed sequence.

        Args:
            adapter: inputs that it has no part for are not used.
            recorded: from `record_features`, instead of a reference pass here.

        Returns:
            [C, T, H, W] for each sample, in the base's dtype.
        """
        time, context = self._prepare(inputs.latents, inputs.timesteps, inputs.texts)
        context = context.share(self.group)
        adapter_inputs, reference_walk = self._prepare_adapter(inputs, adapter, id_scale, ref_scale, recorded)
        hidden = self._embed(inputs.latents, self.group)
        if torch.is_grad_enabled() and len(hidden) <= self.compiled_tokens:
            context = context.pad(self.compiled_tokens)
            hidden = pad_rows(hidden, self.compiled_tokens)
        for index in range(self.config.num_layers):
            features = next(reference_walk, None)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(
                    self._run_block,
                    *(index, hidden, context, adapter_inputs, features),
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing in a block is random
                )
            else:
                hidden = self._run_block(index, hidden, context, adapter_inputs, features)
        return self._predict(hidden, time, context, inputs.latents)

    def record_features(self, latents: Sequence[Tensor | None], text: Tensor) -> RecordedReferences:
        """Run the reference pass: timestep 0, no adapter, no gradient.

        Args:
            latents: [C, 1, H, W] of each sample's face, None where there is none.
            text: REFERENCE_PROMPT, encoded.
        """
        walk = self._walk_reference(latents, text, self.config.num_layers)
        return RecordedReferences(dict(enumerate(walk)), count_latent_tokens(latents))

    @torch.no_grad()
    def _walk_reference(
        self, latents: Sequence[Tensor | None], text: Tensor, num_blocks: int
    ) -> Iterator[Tensor]:
        """Yield the input of the self-attention of each of the first blocks, [R, D].

        A generator, so that it advances block by block with the pass it is for, and offloaded blocks
        are fetched once for both.
        """
        present = [latent for latent in latents if latent is not None]
        if not present:
            return
        timesteps = torch.zeros(len(present), device=text.device)
        _, context = self._prepare(present, timesteps, [text])
        # All samples have the same text, so it need not be there once for each.
        context = context._replace(text_queries=Segments((context.tokens.total,)))
        hidden = self._embed(present)
        for index in range(num_blocks):
            block = self._fetch(index)
            attn_input = modulated_input(block, hidden, context)
            yield attn_input
            if index + 1 < num_blocks:
                hidden = run_block(block, AdapterLayers(), hidden, attn_input, context)

    def _prepare(
        self, latents: Sequence[Tensor], timesteps: Tensor, texts: Sequence[Tensor]
    ) -> tuple[Tensor, PackContext]:
        """Compute what no block changes: the timesteps' embedding [N, D] and the context."""
        tokens = count_latent_tokens(latents)
        embedder = self.transformer.condition_embedder
        time_dtype = embedder.time_embedder.linear_1.weight.dtype
        time = embedder.time_embedder(embedder.timesteps_proj(timesteps).to(time_dtype)).to(self.dtype)
        distinct, rows = index_text([text.to(self.dtype) for text in texts])
        context = PackContext(
            tokens=tokens,
            freqs_cis=self.compute_rope_freqs(latents),
            modulation=embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1)),
            text=embedder.text_embedder(distinct),
            text_rows=rows,
            text_queries=tokens,
            text_keys=Segments((TEXT_LENGTH,) * len(texts)),
            num_heads=self.config.num_attention_heads,
            backend=self.backend,
            sequence=tokens,
        )
        return time, context

    def _prepare_adapter(
        self,
        inputs: PackedInputs,
        adapter: AdapterModules | None,
        id_scale: float,
        ref_scale: float,
        recorded: RecordedReferences | None,
    ) -> tuple[AdapterInputs | None, Iterator[Tensor | None]]:
        """Give the adapter's inputs, and the reference features block by block."""
        if adapter is None:
            return None, iter(())
        self.check_adapter(adapter)
        id_tokens = None
        if adapter.resampler is not None and inputs.embeddings is not None:
            id_tokens = adapter.resampler(inputs.embeddings.float())
        ref = adapter.configs.ref
        reference: Segments | None = None
        walk: Iterator[Tensor | None] = iter(())
        if ref and recorded:
            reference = recorded.segments
            walk = (recorded.features.get(index) for index in range(self.config.num_layers))
        elif ref and inputs.reference_latents is not None:
            assert inputs.reference_text is not None  # PackedInputs refuses references without it
            reference = count_latent_tokens(inputs.reference_latents)
            walk = self._walk_reference(inputs.reference_latents, inputs.reference_text, ref.blocks[-1] + 1)
        return AdapterInputs(adapter, id_tokens, reference, id_scale, ref_scale), walk

    def _embed(self, latents: Sequence[Tensor], group: SequenceGroup | None = None) -> Tensor:
        # The patches do not overlap, so their convolution is one matrix product for the whole sequence.
        embedding = self.transformer.patch_embedding
        patches = patchify(latents).to(self.dtype)
        patches = group.take_own(patches) if group else patches
        return F.linear(patches, embedding.weight.flatten(1), embedding.bias)

    def compute_rope_freqs(self, latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Look up cosine and sine of every token's position, which starts from zero in each sample."""
        tables = [self.transformer.rope(latent[None]) for latent in latents]
        # diffusers repeats each angle for both numbers of a pair; one is enough here.
        cosine, sine = (torch.cat([table[i][0, ..., ::2] for table in tables]) for i in (0, 1))
        return cosine, sine

    def _fetch(self, index: int) -> Any:
        return self.offload.fetch(index) if self.offload else self.transformer.blocks[index]

    def _run_block(
        self,
        index: int,
        hidden: Tensor,
        context: PackContext,
        adapter_inputs: AdapterInputs | None,
        features: Tensor | None,
    ) -> Tensor:
        layers = AdapterLayers()
        if adapter_inputs is not None:
            adapter = adapter_inputs.adapter
            layers = AdapterLayers(adapter.find_id_layer(index), adapter.find_ref_layer(index))
        block = self._fetch(index)
        attn_input = modulated_input(block, hidden, context)
        return run_block(block, layers, hidden, attn_input, context, adapter_inputs, features)

    def _predict(
        self, hidden: Tensor, time: Tensor, context: PackContext, latents: Sequence[Tensor]
    ) -> list[Tensor]:
        shift, scale = (self.transformer.scale_shift_table + time[:, None].float()).unbind(1)
        hidden, context = hidden[: context.tokens.total], context._replace(rows=None)
        normed = modulate(self.transformer.norm_out, hidden, shift, scale, context)
        out = self.transformer.proj_out(normed)
        if context.group is not None:
            out = context.group.gather_sequence(out, context.sequence.total)
        return unpatchify(out, context.sequence, latents)


def _check_base(transformer: WanTransformer) -> None:
    config = transformer.config
    takes_image = config.image_dim is not None or config.added_kv_proj_dim is not None
    if takes_image or config.in_channels != config.out_channels:
        raise LynxError(
            f"this base takes an image beside its prompt (in_channels {config.in_channels}, image_dim "
            f"{config.image_dim}); Lynx adapters are trained on a text-to-video Wan"
        )
    if tuple(config.patch_size) != PATCH_SIZE:
        raise LynxError(
            f"this base has patches of {list(config.patch_size)}, a Wan that Lynx works on {list(PATCH_SIZE)}"
        )
    dtype = transformer.rope.freqs_cos.dtype
    if dtype != torch.float32:
        raise LynxError(
            f"the position tables of this base were cast to {dtype}, which blurs positions; load it with "
            "load_transformer instead of casting it"
        )
