"""Small real encoders with random weights, in the folders of the release: diffusers' VAE,
transformers' UMT5 and the nodes' ArcFace.
"""

from __future__ import annotations

from pathlib import Path

import torch
from standin_faces import write_arcface_weights

from lynx_core.data.encoders import AnalyzerRecogniser, Encoders, UMT5TextEncoder, WanVideoEncoder
from lynx_core.faces.analyzer import FaceAnalyzer
from lynx_core.faces.arcface import ArcFaceConfig

SMALL_ARCFACE = ArcFaceConfig(unit_dims=(8, 8, 12, 16, 24), stem_dim=8, squeeze_dims=(2, 2, 3, 4, 6))


def save_small_models(root: Path, seed: int = 0, vae_dim: int = 4) -> Path:
    """`vae`, `text_encoder` and `tokenizer` in the layout of the diffusers release, and an ArcFace; gives `root`."""
    from diffusers import AutoencoderKLWan
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    AutoencoderKLWan(base_dim=vae_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1).save_pretrained(root / "vae")
    config = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(root / "text_encoder")
    words = ["<pad>", "</s>", "<unk>", "a", "man", "b", "c", "d", "image", "of", "face"]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(root / "tokenizer")
    write_arcface_weights(root / "arcface.pth", seed=1, config=SMALL_ARCFACE)
    return root


def make_small_encoders(root: Path) -> Encoders:
    """New encoders over the files of `save_small_models`, none of them opened; faces come aligned."""
    return Encoders(
        WanVideoEncoder(root / "vae"),
        UMT5TextEncoder(root / "text_encoder", root / "tokenizer", dtype=torch.float32),
        AnalyzerRecogniser(FaceAnalyzer(root, "none", "CPU", root / "arcface.pth"), aligned=True),
    )
