"""Picture files through Pillow and pillow-heif: which format, how many frames, and the decoding.

Formats are told apart by their content. Those that run other programs (EPS), or that are recognised by
almost nothing (TGA, MPEG), are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spec import first_line
from .errors import FaceError, import_package

if TYPE_CHECKING:
    from PIL import Image

FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "DIB", "JPEG2000", "PPM", "PSD", "QOI", "ICO",
)  # fmt: skip
_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Here a second frame is one in time. Further pictures of a JPEG or HEIC are depth, gain maps and the like."""

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MAX_PX = 178_956_970
"""Pixels of a photo at most: where Pillow suspects a file made to fill the memory."""

_NEW_SUBFILE_TYPE, _DNG_VERSION, _ORIENTATION = 254, 50706, 274


class UnknownPictureError(FaceError):
    """The content of a file is in no picture format that is read here."""


@dataclass(frozen=True)
class PhotoInfo:
    """What a picture file is."""

    width_px: int
    """Of the upright picture."""
    height_px: int
    num_frames: int
    """More than 1 in an animation only."""
    format: str
    """Pillow's name of the format, as "JPEG" or "HEIF"."""
    orientation: int
    """EXIF's number of the turn that makes the decoded pixels upright, 1 to 8."""


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture at its main frame; nothing is decoded yet.

    Raises:
        UnknownPictureError: when the content is in no picture format.
        FaceError: when the file is missing, empty, damaged, or needs a package that is not there.
    """
    image_module = import_package("PIL.Image", "reading photos")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        reason = (
            "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise FaceError(f"the photo {path.name} {reason}") from error
    if not head:
        raise FaceError(f"{path.name} is empty (0 bytes); copy or download it again")
    with decoder_errors(path):
        if _has_brand(head, _HEIF_BRANDS) and not _has_brand(head, _AVIF_BRANDS):
            picture = _import_heif(path.name).HeifImageFile(path)
        else:
            image_module.init()
            if _has_brand(head, _AVIF_BRANDS) and "AVIF" not in image_module.OPEN:
                raise FaceError(
                    f"{path.name} is AVIF, which needs Pillow 11.3: python -m pip install -U pillow"
                )
            formats = [name for name in FORMATS if name in image_module.OPEN]
            picture = image_module.open(path, formats=formats)
    with picture:
        if picture.width * picture.height > _MAX_PX:
            _refuse_size(path, f"has {picture.width}x{picture.height} px")
        yield picture


def _import_heif(name: str) -> Any:
    """Import pillow-heif for the photo `name`.

    Raises:
        FaceError: when it is not installed, with both ways out.
    """
    try:
        return import_package("pillow_heif", "reading HEIC photos")
    except FaceError as error:
        raise FaceError(f"{name} is HEIC: {error}. Or save the photo as JPEG") from error


@contextmanager
def decoder_errors(path: Path) -> Iterator[None]:
    """Turn what decoders raise into one sentence. On damage each format raises what it likes.

    Raises:
        UnknownPictureError, FaceError: as `open_picture`.
    """
    from PIL import Image

    try:
        yield
    except FaceError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnknownPictureError(
            f"{path.name} cannot be read as a photo: its content is in no known picture format, or broken at "
            "the start; save it again as JPEG or PNG"
        ) from error
    except Image.DecompressionBombError:
        _refuse_size(path, "is too large")
    except Exception as error:
        raise FaceError(
            f"{path.name} cannot be read as a photo, it is damaged or breaks off ({first_line(error)}); copy or "
            "download it again, or save it again as JPEG or PNG"
        ) from error


def read_info(picture: Image.Image, path: Path) -> PhotoInfo:
    """Read size, turn and frames of an open picture.

    Raises:
        FaceError: for a damaged file, a document of several pages and a camera's raw file.
    """
    with decoder_errors(path):
        num_frames = getattr(picture, "n_frames", 1) if picture.format in _ANIMATED_FORMATS else 1
        if picture.format == "TIFF":
            _check_pages(picture, path)
            orientation = 1  # Pillow turns TIFF when it decodes, and gives the upright size
        else:
            orientation = picture.getexif().get(_ORIENTATION, 1)
    if orientation not in range(1, 9):
        orientation = 1
    width_px, height_px = picture.size[::-1] if orientation >= 5 else picture.size
    return PhotoInfo(width_px, height_px, num_frames, str(picture.format), orientation)


def decode_picture(picture: Image.Image, path: Path) -> None:
    """Decode the pixels of the frame at which a picture is.

    Raises:
        FaceError: when the file is damaged or breaks off.
    """
    with decoder_errors(path):
        picture.load()


def _check_pages(picture: Any, path: Path) -> None:
    """Smaller copies of the picture are no pages; where the first is one, the picture itself is not readable."""
    if _DNG_VERSION in picture.tag_v2 or picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1:
        raise FaceError(f"{path.name} is a camera's raw file; develop it and save it as JPEG or PNG")
    num_pages = 0
    for page in range(getattr(picture, "n_frames", 1)):
        picture.seek(page)
        num_pages += not picture.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & 1
    picture.seek(0)
    if num_pages > 1:
        raise FaceError(f"{path.name} has {num_pages} pages; save the one that shows the person as PNG")


def _refuse_size(path: Path, found: str) -> None:
    raise FaceError(
        f"{path.name} {found}, and {_MAX_PX / 1e6:.0f} megapixels are the limit; scale it down, or crop it to the person"
    )


def _has_brand(head: bytes, brands: frozenset[bytes]) -> bool:
    """Whether an ISO media file (HEIF, AVIF) says in its first box that it is of these brands."""
    if head[4:8] != b"ftyp":
        return False
    end = min(struct.unpack(">I", head[:4])[0], len(head))
    return any(head[start : start + 4] in brands for start in (8, *range(16, end - 3, 4)))
