"""The frozen networks that turn pixels and captions into what the backbone takes.

Each is opened when it is first used, so a run whose cache is complete never loads them: fingerprints
come from the files on disk. Text goes through the encoder as in inference (at most 512 tokens, padding
removed); latents are the mean of the VAE's posterior in model space, as ComfyUI's encode gives
it, rounded to float16 (half the disk; relative error under 5e-4, below bfloat16 arithmetic).
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..faces.analyzer import FaceAnalyzer
from ..faces.crops import FaceCrop, crop_aligned, crop_face
from ..faces.detection import find_pack_folder
from ..faces.errors import NoFaceError
from ..hashing import hash_file, hash_files, hash_values
from ..spec import RELEASE_RECOGNISER, TEXT_LENGTH
from .errors import DataError, MediaError, first_line

_GPU_BATCH_PIXELS = 4 << 20


class WanVideoEncoder:
    """Wan's VAE through diffusers' `AutoencoderKLWan`.

    Args:
        folder: of `config.json` and the weights, as `vae` of Wan2.1-T2V-14B-Diffusers.
        device: where it runs.
        dtype: float32 as diffusers advises; half precision overflows on some frames.
        batch_pixels: pixels of all frames that `encode_batch` should be given at a time; by default 4 million on a GPU,
            and none on a CPU, where a batch is no faster and changes the last bits (at most 1e-6 before rounding).
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_pixels: int | None = None,
    ) -> None:
        self.folder = _check_folder(folder, "the VAE")
        self.device = torch.device(device)
        self.dtype = dtype
        on_gpu = self.device.type != "cpu"
        self.batch_pixels = (_GPU_BATCH_PIXELS if on_gpu else 0) if batch_pixels is None else batch_pixels
        self._vae: Any = None

    @cached_property
    def fingerprint(self) -> str:
        """Over the files and the precision: equal for encoders that give equal tensors."""
        return hash_values(["wan vae", str(self.dtype), _hash_folder(self.folder)])

    def encode(self, pixels_CTHW: Tensor) -> Tensor:
        """Encode [3, T, H, W] float32, -1 to 1, as [16, t, h, w] float16 on the CPU, in model space.

        Raises:
            DataError: when the files do not open, or memory runs out.
        """
        return self.encode_batch([pixels_CTHW])[0]

    def encode_batch(self, pixels_CTHW: Sequence[Tensor]) -> list[Tensor]:
        """Encode several of one shape together, as `encode` does each.

        Raises:
            DataError: as `encode`.
        """
        if self._vae is None:
            diffusers = _import("diffusers", "the VAE")
            vae = _load(diffusers.AutoencoderKLWan, self.folder, torch_dtype=self.dtype)
            self._vae = vae.to(self.device).eval().requires_grad_(False)
            run_single_frames_in_2d(self._vae)
        vae = self._vae
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        try:
            with torch.no_grad():
                batch = torch.stack(list(pixels_CTHW)).to(self.device, self.dtype)
                posterior = vae.encode(batch).latent_dist
        except torch.OutOfMemoryError as error:
            _, frames, height, width = pixels_CTHW[0].shape
            raise DataError(
                f"the VAE ran out of memory on {frames} frames of {width}x{height} px ({first_line(error)}); lower "
                'decoding.max_px or decoding.max_frames, or set data.vae_dtype = "bf16"'
            ) from error
        return list(((posterior.mode().float() - mean) / std).to("cpu", torch.float16))

    def release(self) -> None:
        """Free the memory; the next use opens it again."""
        self._vae = None


class UMT5TextEncoder:
    """Wan's text encoder through transformers' `UMT5EncoderModel`.

    Args:
        folder: of the weights, as `text_encoder` of Wan2.1-T2V-14B-Diffusers.
        tokenizer_folder: as `tokenizer` of the same.
        device: where it runs.
        dtype: of the network and of what it gives.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_folder: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.folder = _check_folder(folder, "the text encoder")
        self.tokenizer_folder = _check_folder(tokenizer_folder, "the tokenizer")
        self.device = torch.device(device)
        self.dtype = dtype
        self._model: Any = None
        self._tokenizer: Any = None

    @cached_property
    def fingerprint(self) -> str:
        """Over the files and the precision: equal for encoders that give equal tensors."""
        files = [_hash_folder(self.folder), _hash_folder(self.tokenizer_folder)]
        return hash_values(["umt5", str(self.dtype), *files])

    def encode(self, caption: str) -> Tensor:
        """Encode a caption as its real tokens only, [tokens, text_dim] on the CPU, at most 512.

        Raises:
            DataError: when the files do not open.
        """
        self._open_tokenizer()
        if self._model is None:
            transformers = _import("transformers", "the text encoder")
            model = _load(transformers.UMT5EncoderModel, self.folder, dtype=self.dtype)
            self._model = model.to(self.device).eval().requires_grad_(False)
        tokens = self._tokenizer(
            clean_caption(caption), truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        )
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        with torch.no_grad():
            hidden = self._model(ids, mask).last_hidden_state[0]
        return hidden.to("cpu", self.dtype)

    def count_tokens(self, caption: str) -> int:
        """Count the tokens of a caption before truncation; opens the tokenizer only.

        Raises:
            DataError: when its files do not open.
        """
        self._open_tokenizer()
        return len(self._tokenizer(clean_caption(caption)).input_ids)

    def _open_tokenizer(self) -> None:
        if self._tokenizer is None:
            transformers = _import("transformers", "the text encoder")
            self._tokenizer = _load(transformers.AutoTokenizer, self.tokenizer_folder)

    def release(self) -> None:
        """Free the memory; the next use opens it again."""
        self._model = self._tokenizer = None


class AnalyzerRecogniser:
    """The nodes' face detector and recogniser: the same crops and embeddings as in inference.

    Args:
        analyzer: detector and recogniser.
        order: which face of a photo, one of `FACE_ORDERS`.
        aligned: the references are square aligned crops already; no detector runs.
    """

    def __init__(self, analyzer: FaceAnalyzer, order: str = "largest", *, aligned: bool = False) -> None:
        self.analyzer = analyzer
        self.order = order
        self.aligned = aligned

    @property
    def recogniser_name(self) -> str:
        """Canonical name, which the trained adapter carries."""
        return self.analyzer.recogniser.name

    @cached_property
    def crop_fingerprint(self) -> str:
        """Over the detector's files and the choice of the face: equal for equal crops."""
        return hash_values(["aligned"] if self.aligned else ["detected", self.order, self._hash_pack()])

    @cached_property
    def embed_fingerprint(self) -> str:
        """Over the recogniser's file: equal for equal embeddings of equal crops."""
        path = self.analyzer.recogniser_path
        return hash_values([RELEASE_RECOGNISER, hash_file(path)] if path else ["pack", self._hash_pack()])

    def crop(self, photo: np.ndarray, path: Path) -> FaceCrop:
        """Crop [H, W, 3] uint8 RGB to an ID crop [112, 112, 3] and a reference crop [256, 256, 3], uint8 RGB.

        Args:
            path: of the photo, for messages.

        Raises:
            MediaError: when there is no face in the photo.
            FaceError: when the detector does not work, or its files are missing or damaged.
        """
        if self.aligned:
            height, width = photo.shape[:2]
            if height != width:
                detail = f"{width}x{height} px, but aligned crops are square; crop it, or set data.faces_aligned = false"
                raise MediaError(path, "no face", detail)
            return crop_aligned(photo)
        try:
            return crop_face(photo, self.analyzer.detector, self.order, 0)[0]
        except NoFaceError as error:
            raise MediaError(path, "no face", first_line(error)) from error

    def embed(self, id_crop: np.ndarray) -> Tensor:
        """Embed an ID crop, [112, 112, 3] uint8 RGB -> unit [512] float32 on the CPU."""
        return self.analyzer.recogniser.embed([id_crop])[0]

    def _hash_pack(self) -> str:
        detector = self.analyzer.detector
        return hash_files(find_pack_folder(detector.root, detector.pack).glob("*.onnx"))


@dataclass(frozen=True)
class Encoders:
    """All encoders of a dataset."""

    video: WanVideoEncoder
    text: UMT5TextEncoder
    faces: AnalyzerRecogniser

    def fingerprint(self) -> str:
        """Equal for encoders that give equal samples."""
        faces = [self.faces.crop_fingerprint, self.faces.embed_fingerprint]
        return hash_values([self.video.fingerprint, self.text.fingerprint, faces])


def clean_caption(caption: str) -> str:
    """HTML entities and runs of white space resolved, as Wan's own pipelines do."""
    return " ".join(html.unescape(html.unescape(caption)).split())


def _check_folder(folder: Path, name: str) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{name} is not at {folder}; name the folder of its config.json and weights, as in "
            "Wan-AI/Wan2.1-T2V-14B-Diffusers"
        )
    return folder


def _hash_folder(folder: Path) -> str:
    return hash_files(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _import(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{name} needs the package {package}: python -m pip install 'comfyui-lynx[train]'"
        ) from error


def _load(model_class: Any, folder: Path, **options: Any) -> Any:
    try:
        return model_class.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # diffusers, transformers and safetensors each have errors of their own
        raise DataError(
            f"{folder} does not open as {model_class.__name__} ({first_line(error)}); fetch the folder again"
        ) from error


def run_single_frames_in_2d(vae: Any) -> None:
    """Make a diffusers `AutoencoderKLWan` do so, in place; clips go through as before."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.stride == (1, 1, 1):
            module.forward = partial(_convolve, module)  # type: ignore[method-assign]


def _convolve(conv: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    if x.shape[2] > 1 or cache_x is not None:
        return type(conv).forward(conv, x, cache_x)
    across, down = conv._padding[0], conv._padding[2]  # pairs of width, height, time, as F.pad takes them
    return F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=(down, across))[:, :, None]
