"""Where the model files come from, as data.

A revision is a commit where one is publicly on record; `main` is resolved at the first
download and then kept in the lock file. A sha256 is given where it is publicly on record;
otherwise the one counts that the hub reports for the revision, and is kept likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNPINNED = "main"


@dataclass(frozen=True)
class Source:
    """One file on the hub and its place below ComfyUI's models folder."""

    repo: str
    revision: str
    file: str
    target: str
    num_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Bundle:
    """What one word of `comfy-lynx download` fetches."""

    title: str
    license: str
    sources: tuple[Source, ...]


_LYNX = "ByteDance/lynx"
_WAN, _WAN_REVISION = "Comfy-Org/Wan_2.1_ComfyUI_repackaged", "123acf1cc74bccbb9bfff8ac1ee72edc08c2341d"
_INSIGHTFACE, _INSIGHTFACE_REVISION = "Aitrepreneur/insightface", "fd887cdef0c73f32251198b8160d6771ac413fc0"


def _lynx(path: str) -> Source:
    return Source(_LYNX, UNPINNED, path, f"lynx/{path}")


def _wan(path: str, num_bytes: int | None = None, sha256: str | None = None) -> Source:
    return Source(_WAN, _WAN_REVISION, f"split_files/{path}", path, num_bytes, sha256)


def _insightface(path: str, num_bytes: int, sha256: str) -> Source:
    target = f"insightface/models/{path}"
    return Source(_INSIGHTFACE, _INSIGHTFACE_REVISION, f"models/{path}", target, num_bytes, sha256)


def _pack(name: str, *own: Source) -> tuple[Source, ...]:
    """A whole insightface model pack: other nodes that share the folder expect all five networks."""
    shared = (
        ("1k3d68.onnx", 143_607_619, "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc"),
        ("2d106det.onnx", 5_030_888, "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf"),
        ("genderage.onnx", 1_322_532, "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb"),
    )
    return (*own, *(_insightface(f"{name}/{file}", num_bytes, sha256) for file, num_bytes, sha256 in shared))


_SCRFD = (16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91")

_ARCFACE = Source(
    "camenduru/PuLID",
    UNPINNED,
    "facexlib/recognition_arcface_ir_se50.pth",
    "lynx/faces/recognition_arcface_ir_se50.pth",
    175_367_323,
    "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
)
"""A copy of the file facexlib publishes at GitHub; the sha256 is that of the original."""

_YUNET = Source(
    "opencv/face_detection_yunet",
    UNPINNED,
    "face_detection_yunet_2023mar.onnx",
    "lynx/faces/face_detection_yunet_2023mar.onnx",
    232_589,
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)

_BUFFALO_L = _pack(
    "buffalo_l",
    _insightface("buffalo_l/det_10g.onnx", *_SCRFD),
    _insightface(
        "buffalo_l/w600k_r50.onnx",
        174_383_860,
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
)
_ANTELOPEV2 = _pack(
    "antelopev2",
    _insightface("antelopev2/scrfd_10g_bnkps.onnx", *_SCRFD),
    _insightface(
        "antelopev2/glintr100.onnx",
        260_665_334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    ),
)
_TEXT_ENCODER_AND_VAE = (
    _wan(
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        6_735_906_897,
        "c3355d30191f1f066b26d93fba017ae9809dce6c627dda5f6a66eaa651204f68",
    ),
    _wan(
        "vae/wan_2.1_vae.safetensors",
        253_815_318,
        "2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b",
    ),
)

BUNDLES: Mapping[str, Bundle] = {
    "lynx_full": Bundle(
        "Lynx, full: ID and reference layers",
        "Apache-2.0",
        tuple(_lynx(f"lynx_full/{part}.safetensors") for part in ("resampler", "ip_layers", "ref_layers")),
    ),
    "lynx_lite": Bundle(
        "Lynx, lite: ID layers only, every second block",
        "Apache-2.0",
        tuple(_lynx(f"lynx_lite/{part}.safetensors") for part in ("resampler", "ip_layers")),
    ),
    "wan": Bundle(
        "Wan2.1 T2V 14B in fp8, UMT5 text encoder in fp8, VAE",
        "Apache-2.0",
        (_wan("diffusion_models/wan2.1_t2v_14B_fp8_e4m3fn.safetensors"), *_TEXT_ENCODER_AND_VAE),
    ),
    "wan_fp16": Bundle(
        "Wan2.1 T2V 14B in fp16, UMT5 text encoder in fp16, VAE",
        "Apache-2.0",
        (
            _wan("diffusion_models/wan2.1_t2v_14B_fp16.safetensors"),
            _wan(
                "text_encoders/umt5_xxl_fp16.safetensors",
                11_366_399_385,
                "7b8850f1961e1cf8a77cca4c964a358d303f490833c6c087d0cff4b2f99db2af",
            ),
            _TEXT_ENCODER_AND_VAE[1],
        ),
    ),
    "yunet": Bundle("YuNet, a face detector of OpenCV's zoo for every use", "MIT", (_YUNET,)),
    "faces": Bundle(
        "Face detector (insightface buffalo_l) and the ArcFace network of the Lynx release",
        "insightface's networks: non-commercial research only",
        (*_BUFFALO_L, _ARCFACE),
    ),
    "antelopev2": Bundle(
        "Face detector and glintr100 of insightface antelopev2, for adapters with InstantID's resampler",
        "insightface's networks: non-commercial research only",
        _ANTELOPEV2,
    ),
}
