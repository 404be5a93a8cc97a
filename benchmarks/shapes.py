"""Sizes of model and video that the benchmarks run at.

The adapters add work in proportion to 288 keys, the base model in proportion to its width and
to the video's length. Every shape that is smaller than the 14B is therefore harder on the
adapters: `added_work` says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

ID_TOKENS, REF_TOKENS, TEXT_TOKENS = 32, 256, 512
HEAD_DIM = 128


@dataclass(frozen=True)
class Shape:
    """A Wan base model and the video it denoises."""

    dim: int
    num_blocks: int
    width_px: int
    height_px: int
    num_frames: int

    @property
    def ffn_dim(self) -> int:
        """2.7 times the width, as in the 14B."""
        return self.dim * 27 // 10

    @property
    def latent(self) -> tuple[int, int, int, int, int]:
        """Shape of the latent, [1, 16, frames, height, width]."""
        return 1, 16, (self.num_frames - 1) // 4 + 1, self.height_px // 8, self.width_px // 8

    @property
    def num_tokens(self) -> int:
        """Video tokens: patches of 2 x 2 latents."""
        _, _, frames, height, width = self.latent
        return frames * -(-height // 2) * -(-width // 2)

    @property
    def added_work(self) -> float:
        """Multiply-adds of the extra attention over those of a block."""
        linear = 6 * self.dim + 2 * self.ffn_dim
        return 2 * (ID_TOKENS + REF_TOKENS) / (linear + 2 * (self.num_tokens + TEXT_TOKENS))

    def __str__(self) -> str:
        return (
            f"dim {self.dim}, {self.num_blocks} blocks, {self.width_px}x{self.height_px}, {self.num_frames} "
            f"frames, {self.num_tokens} tokens"
        )


SHAPES = {
    "14b": Shape(5120, 40, 832, 480, 81),
    "14b-block": Shape(5120, 1, 416, 240, 81),
    "narrow": Shape(1024, 2, 416, 240, 81),
    "tiny": Shape(256, 4, 64, 64, 5),
}
"""The published model, one block of it on a quarter of the tokens, one a fifth as wide, a trial."""
