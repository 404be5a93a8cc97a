"""The layouts of Lynx checkpoints, as data: how each names the tensors of an adapter.

One table serves both directions: a form's template is turned into a pattern for reading and
filled in for writing. The canonical names are those of this pack's own single file:
`resampler.*`, `id.{block}.*`, `ref.{block}.*`. A file is recognised by its keys; the shapes
are checked where the parts are put together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from ..spec import INSTANTID_RECOGNISER, RELEASE_RECOGNISER

if TYPE_CHECKING:  # that file imports torch, and comfy-lynx shows its help without
    from ..models.adapter_configs import PartKind

Numbering = Literal["blocks", "entries", "none"]
"""What the number in a key counts: blocks of the base model, or entries of the adapter (the
lite release numbers its entries 0, 1, 2 for blocks 0, 2, 4), or nothing (resampler)."""

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
"""May stand in front of any key; the longest first."""

_LEAVES: dict[PartKind, str] = {
    "resampler": (
        r"latents|(?:proj_in|proj_out|norm_out)\.(?:weight|bias)"
        r"|layers\.\d+\.0\.(?:norm1|norm2)\.(?:weight|bias)|layers\.\d+\.0\.(?:to_q|to_kv|to_out)\.weight"
        r"|layers\.\d+\.1\.0\.(?:weight|bias)|layers\.\d+\.1\.(?:1|3)\.weight"
    ),
    "id": r"(?:to_k_ip|to_v_ip)\.(?:weight|bias)|registers",
    "ref": r"(?:to_k_ref|to_v_ref)\.(?:weight|bias)",
}
"""Patterns of the last part of a key: a tensor's name inside the resampler or one block."""


@dataclass(frozen=True)
class KeyForm:
    """How one layout names the tensors of one part."""

    layout: str
    part: PartKind
    template: str
    numbering: Numbering = "none"
    recogniser: str = RELEASE_RECOGNISER

    def key(self, number: int | None, leaf: str) -> str:
        """Name a tensor of this layout."""
        return self.template.format(number=number, leaf=leaf)


OWN_LAYOUT = "comfy-lynx"

_KEY_FORMS = (
    KeyForm("release", "resampler", "{leaf}"),
    KeyForm("release", "id", "{number}.{leaf}", "entries"),
    KeyForm("release", "ref", "{number}.{leaf}", "entries"),
    KeyForm("kijai", "resampler", "{leaf}"),
    KeyForm("kijai", "id", "blocks.{number}.cross_attn.ip_adapter.{leaf}", "blocks"),
    KeyForm("kijai", "ref", "blocks.{number}.self_attn.ref_adapter.{leaf}", "blocks"),
    KeyForm("wan2gp", "resampler", "{leaf}"),
    KeyForm("wan2gp", "id", "blocks.{number}.cross_attn.{leaf}", "blocks"),
    KeyForm("wan2gp", "ref", "blocks.{number}.self_attn.{leaf}", "blocks"),
    KeyForm(OWN_LAYOUT, "resampler", "resampler.{leaf}"),
    KeyForm(OWN_LAYOUT, "id", "id.{number}.{leaf}", "blocks"),
    KeyForm(OWN_LAYOUT, "ref", "ref.{number}.{leaf}", "blocks"),
    KeyForm("instantid", "resampler", "image_proj.{leaf}", recogniser=INSTANTID_RECOGNISER),
)

WRITABLE_LAYOUTS = ("release", "kijai", "wan2gp", OWN_LAYOUT)

_IGNORED_KEYS = r"ip_adapter\.\d+\.to_[kv]_ip\.weight"
"""InstantID's attention layers for SDXL, in the same file as the resampler that Lynx shares."""

_QUANTISED_KEYS = (
    (r".*\._(data|scale|shift)|.*\.(input_scale|output_scale)", "quanto int8 (as Wan2GP uses)"),
    (r".*\.(scale_weight|scale_input|weight_scale|comfy_quant)|scaled_fp8", "scaled fp8"),
)
"""Keys of quantised tensors whose scales lie beside them; reading those without is nonsense."""

_LOOKALIKES = (
    (
        r".*\.(lora_up|lora_down|lora_A|lora_B|alpha|hada_w1_a|lokr_w1)(\..*)?",
        "a LoRA; use a LoRA loader for it",
    ),
    (
        r"(patch_embedding\.weight|head\.modulation|blocks\.\d+\.(self_attn|cross_attn)\.(q|k|v|o)\.weight"
        r"|blocks\.\d+\.attn[12]\.to_[qkv]\.weight)",
        "a Wan base model; load it with the node Load Diffusion Model",
    ),
    (r"(decoder|encoder)\.(conv1|middle|head)\..*", "a VAE; load it with the node Load VAE"),
    (r"(shared|token_embedding)\.weight", "a text encoder; load it with the node Load CLIP"),
    (r"(body\.\d+\.res_layer|output_layer)\..*", "an ArcFace network; it belongs to the face analyzer"),
    (_IGNORED_KEYS, "an image IP-Adapter for another base model"),
    (r"(vace_blocks|control_layers|face_adapter)\..*", "another add-on for Wan"),
)
"""What a file may be that was given by mistake: pattern of a key, and what to say."""


@dataclass(frozen=True)
class KeyMatch:
    """Where a key of a file belongs."""

    form: KeyForm
    number: int | None
    leaf: str


def match_key(key: str) -> KeyMatch | None:
    """Find the place of a file's key in an adapter, or None when it has none."""
    bare = strip_prefix(key)
    for form in _KEY_FORMS:
        match = _pattern(form).fullmatch(bare)
        if match:
            groups = match.groupdict()
            number = groups.get("number")
            return KeyMatch(form, None if number is None else int(number), groups["leaf"])
    return None


def strip_prefix(key: str) -> str:
    """Take off the prefix that some tools put in front of every key."""
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            return key[len(prefix) :]
    return key


def key_form(layout: str, part: PartKind) -> KeyForm:
    """Find how a layout names a part."""
    return next(form for form in _KEY_FORMS if form.layout == layout and form.part == part)


def canonical_name(part: PartKind, block: int | None, leaf: str) -> str:
    """Name a tensor as this pack's own file does."""
    return key_form(OWN_LAYOUT, part).key(block, leaf)


def name_quantisation(keys: Iterable[str]) -> str | None:
    """Tell how a file is quantised, when its keys show that; else None."""
    return _first_match(_QUANTISED_KEYS, keys)


def name_lookalike(keys: Iterable[str]) -> str | None:
    """Tell what a file looks like that is no adapter; None when nothing fits."""
    return _first_match(_LOOKALIKES, [strip_prefix(key) for key in keys])


def is_ignored(key: str) -> bool:
    """Whether a key may be in a file without meaning anything for Lynx."""
    return re.fullmatch(_IGNORED_KEYS, key) is not None


def _first_match(table: Iterable[tuple[str, str]], keys: Iterable[str]) -> str | None:
    keys = list(keys)
    for pattern, meaning in table:
        if any(re.fullmatch(pattern, key) for key in keys):
            return meaning
    return None


@cache
def _pattern(form: KeyForm) -> re.Pattern[str]:
    template = re.escape(form.template).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(template.format(number=r"(?P<number>\d+)", leaf=f"(?P<leaf>{_LEAVES[form.part]})"))
