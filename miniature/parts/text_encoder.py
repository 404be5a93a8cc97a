"""UMT5 in small, with a vocabulary of its own, trained on the captions.

It guesses hidden words, and tells at each word which place, action and light the whole sentence asks for.

The output keeps UMT5-XXL's width of 4096, as the host's Wan expects; inside, attention and feed-forward are
narrow. Other words than the grammar's fall into single letters and bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from lynx_core.data.encoders import UMT5TextEncoder
from lynx_core.rng import numpy_generator
from lynx_core.spec import REFERENCE_PROMPT

from ..encoders import TEXT_CONFIG, build_text_encoder, save_tokenizer
from ..making import Making
from ..world.caption import list_captions
from .resumable import read_part, run_steps, set_cosine_rate, take_step, write_beside

STEPS, BATCH = 300, 32
LEARNING_RATE = 2e-4
"""Rates of 1e-3 make all tokens alike: a sum over 4096 channels moves far in one step."""
HIDDEN_SHARE = 0.3
PADDING_ID, END_ID, UNKNOWN_ID = 0, 1, 2
DETECTION_KEY = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
"""The host tells UMT5-XXL by the shape of this tensor of the last of its 24 blocks; it is not used."""


def train_tokenizer() -> bytes:
    """A sentencepiece model over the grammar; the same bytes each time."""
    import sentencepiece

    model, sentences = io.BytesIO(), [sentence for sentence, _ in list_captions()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, *[REFERENCE_PROMPT] * 50, "abcdefghijklmnopqrstuvwxyz .,"]),
        model_writer=model,
        model_type="unigram",
        vocab_size=TEXT_CONFIG["vocab_size"],
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=PADDING_ID,
        eos_id=END_ID,
        unk_id=UNKNOWN_ID,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def train_text_encoder(making: Making) -> bool:
    """Train it to fill in hidden words, and to know at each word what the sentence asks for."""
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer())
    captions = list_captions()
    padded = _pad([_tokenize(tokenizer, text) for text, _ in captions])
    meanings = np.array([meaning for _, meaning in captions])
    sizes = (meanings.max(0) + 1).tolist()
    encoder = build_text_encoder().to(making.device)
    guess = torch.nn.Linear(TEXT_CONFIG["d_model"], TEXT_CONFIG["vocab_size"])
    meaning_head = torch.nn.Linear(TEXT_CONFIG["d_model"], sum(sizes))
    heads = torch.nn.ModuleList([guess, meaning_head]).to(making.device)
    weights = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
    num_steps = making.count(STEPS)

    def step(number: int, drawn: HiddenWords) -> Tensor:
        set_cosine_rate(optimizer, number, num_steps, LEARNING_RATE, warmup_steps=20)
        states = encoder(drawn.seen, (drawn.seen > 0).long()).last_hidden_state.flatten(0, 1)
        loss = F.cross_entropy(guess(states[drawn.hidden_places]), drawn.hidden_ids)
        read = meaning_head(states[drawn.word_places]).split(sizes, -1)
        for part, wanted in zip(read, drawn.asked.T, strict=True):
            loss = loss + F.cross_entropy(part, wanted)
        return take_step(loss, weights, optimizer)

    parts = {"encoder": encoder, "heads": heads, "optimizer": optimizer}
    draw = partial(hide_words, padded, meanings)
    return run_steps(making, "text_encoder", parts, num_steps, step, draw)


class HiddenWords(NamedTuple):
    """Sentences of one step with some words hidden; places count through all of the batch."""

    seen: Any
    """[N, L]."""
    hidden_places: Any
    hidden_ids: Any
    word_places: Any
    """Of all but padding, [words]."""
    asked: Any
    """What the sentence of each word asks for, [words, meanings]."""


def hide_words(padded: np.ndarray, meanings: np.ndarray, number: int) -> HiddenWords:
    """Choose sentences [captions, L] with meanings [captions, meanings] for one step."""
    rng = numpy_generator("text encoder", number)
    rows = rng.integers(len(padded), size=BATCH)
    batch = padded[rows]
    hidden = (rng.uniform(size=batch.shape) < HIDDEN_SHARE) & (batch > END_ID)
    seen = np.where(hidden, UNKNOWN_ID, batch)
    words = np.flatnonzero(seen > 0)
    asked = meanings[rows[words // batch.shape[1]]]
    return HiddenWords(seen, np.flatnonzero(hidden), batch[hidden], words, asked)


def export_text_encoder(making: Making) -> None:
    """Write the file for the host, and the folders of the trainer, which hold the same numbers."""
    encoder = build_text_encoder()
    encoder.load_state_dict(read_part(making.folder / "text_encoder.pt", "encoder"))
    encoder.half()
    tokenizer = train_tokenizer()
    state = {
        name: weight.contiguous()
        for name, weight in encoder.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    state[DETECTION_KEY] = torch.zeros(10240, 1, dtype=torch.float16)
    state["spiece_model"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    path = making.assets / "text_encoders" / "lynx_mini_umt5.safetensors"
    write_beside(path, lambda beside: save_file(state, beside))
    encoder.float().save_pretrained(making.folder / "text_encoder")
    save_tokenizer(making.folder / "tokenizer", tokenizer)


def tokenize_texts(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Ids [texts, longest + 1] int32, padded with zeros, and the tokens of each text, [texts]."""
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer())
    rows = [_tokenize(tokenizer, text) for text in texts]
    ids = F.pad(torch.from_numpy(_pad(rows)), (0, 1)).int()
    return ids, torch.tensor([len(row) for row in rows])


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return [*tokenizer.encode(text), END_ID]


def _pad(rows: list[list[int]]) -> np.ndarray:
    longest = max(map(len, rows))
    return np.array([row + [PADDING_ID] * (longest - len(row)) for row in rows])


def open_text_encoder(making: Making) -> Any:
    """The exported network, frozen, for `embed_tokens`."""
    from transformers import UMT5EncoderModel

    encoder: Any = UMT5EncoderModel.from_pretrained(making.folder / "text_encoder", local_files_only=True)
    return encoder.to(making.device).eval().requires_grad_(False)


@torch.no_grad()
def embed_tokens(encoder: Any, ids: Tensor) -> Tensor:
    """Embed texts [N, L] of `tokenize_texts`, [N, L, 4096]; zeros where there is padding."""
    is_word = ids != PADDING_ID
    states: Tensor = encoder(ids.long(), is_word.long()).last_hidden_state
    return states * is_word[..., None]


def encode_texts(folder: Path, captions: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Texts [captions, longest + 1, 4096] float16, padded with zeros, and the tokens of each, by the trainer's folders."""
    encoder = UMT5TextEncoder(folder / "text_encoder", folder / "tokenizer")
    texts = [encoder.encode(caption) for caption in captions]
    lengths = torch.tensor([len(text) for text in texts])
    room = int(lengths.max()) + 1
    return torch.stack([F.pad(text, (0, 0, 0, room - len(text))).half() for text in texts]), lengths
