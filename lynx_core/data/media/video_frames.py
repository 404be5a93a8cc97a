"""From FFmpeg's decoded frames to upright RGB pixels: what a frame says of itself, and the conversion.

Colours go by each frame's own tags, as in ffmpeg: untagged ones are BT.601 of limited range at any
size. HDR and wide gamut have no RGB of their own without a choice of tones, so they are refused with the
command that makes it (zscale and the mobius curve, which keeps tones of the ordinary range).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...faces.photo import convert_picture
from ..errors import MediaError
from .foreign_content import ffmpeg_command

if TYPE_CHECKING:
    from PIL import Image

SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
"""Flags of swscale; without the last three, colours are off by up to 3 of 255 and chroma is not interpolated."""

_BACKGROUND = 128
"""Mid-grey, as behind the transparent parts of photos."""

# Numbers of ITU-T H.273, as in AVColorSpace, AVColorTransferCharacteristic and AVColorPrimaries.
_MATRICES = {0: "bt601", 1: "bt709", 2: "bt601", 4: "fcc", 5: "bt470", 6: "smpte170m", 7: "smpte240m"}
"""As swscale names them. RGB says 0, and takes no part in this."""
_WIDE_MATRICES = {9: "2020_ncl", 10: "2020_cl", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp"}
_WIDE_PRIMARIES = {4: "bt470m", 8: "film", 9: "bt2020", 10: "smpte428", 11: "smpte431", 12: "smpte432"}
_HDR_TRANSFERS = {8: "linear", 9: "log100", 10: "log316", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67"}
_TRANSFERS = {13: "iec61966-2-1", 14: "2020_10", 15: "2020_12"}
_FULL_RANGE = 2


@dataclass(frozen=True)
class FrameFormat:
    """All that decides how the pixels of a frame are shown; equal in every frame of a usable file."""

    width: int
    height: int
    pixels: str
    matrix: int
    range: int
    primaries: int
    transfer: int
    display_matrix: bytes
    """Nine big numbers of 32 bits, in the order of the machine; empty when upright."""

    @classmethod
    def of(cls, frame: Any) -> FrameFormat:
        """What PyAV's `frame` says."""
        turn = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), b"")
        colours = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        matrix, colour_range, primaries, transfer = (
            int(value) if value is not None else 2 for value in colours
        )
        return cls(
            frame.width, frame.height, frame.format.name, matrix, colour_range, primaries, transfer, turn
        )

    def find_change(self, other: FrameFormat) -> str | None:
        """The first thing in which another frame differs, in words; None when nothing does."""
        if (self.width, self.height) != (other.width, other.height):
            return f"{self.width}x{self.height} px to {other.width}x{other.height} px"
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(other, field.name)
            if before != after:
                turned = isinstance(before, bytes)
                return "another orientation" if turned else f"{field.name} {before} to {after}"
        return None

    @cached_property
    def orientation(self) -> tuple[bool, bool, bool]:
        """Whether rows and columns are swapped, and then left and right, top and bottom.

        Raises:
            ValueError: for a turn that is no multiple of 90 degrees.
        """
        if not self.display_matrix:
            return (False, False, False)
        a, b, _, c, d, *_ = np.frombuffer(self.display_matrix, np.int32).tolist()
        straight, swapped = max(abs(a), abs(d)), max(abs(b), abs(c))
        if min(straight, swapped) > 0.02 * max(straight, swapped):
            raise ValueError("its frames are shown turned by an angle that is no multiple of 90 degrees")
        return (False, a < 0, d < 0) if straight >= swapped else (True, c < 0, b < 0)

    def check(self, path: Path) -> None:
        """Refuse what has no ordinary RGB.

        Raises:
            MediaError: for HDR, wide gamut, unknown colour matrices, and slanted frames, each with the
                command that makes a usable file.
        """
        if (
            self.transfer in _HDR_TRANSFERS
            or self.primaries in _WIDE_PRIMARIES
            or self.matrix in _WIDE_MATRICES
        ):
            raise MediaError(
                path,
                "HDR or wide-gamut colours",
                f"{self._name_colours()}; convert it: {self._to_bt709(path)}",
            )
        if self.matrix not in _MATRICES:
            command = ffmpeg_command(path, "-vf zscale=m=bt709:r=tv,format=yuv420p -crf 12")
            raise MediaError(
                path, "unknown colour matrix", f"number {self.matrix} of H.273; convert it: {command}"
            )
        try:
            _ = self.orientation
        except ValueError as error:
            command = ffmpeg_command(path, "-crf 12")
            raise MediaError(path, "slanted frames", f"{error}; convert it: {command}") from error

    def _name_colours(self) -> str:
        tags = {
            "transfer": _HDR_TRANSFERS.get(self.transfer),
            "primaries": _WIDE_PRIMARIES.get(self.primaries),
            "matrix": _WIDE_MATRICES.get(self.matrix),
        }
        return ", ".join(f"{name} {value}" for name, value in tags.items() if value)

    def _to_bt709(self, path: Path) -> str:
        names = {
            1: "709",
            2: "2020_ncl" if self.primaries == 9 else "709",
            4: "fcc",
            7: "240m",
            **_WIDE_MATRICES,
        }
        matrix = names.get(self.matrix, "170m")
        primaries = _WIDE_PRIMARIES.get(self.primaries) or ("bt709" if self.primaries != 2 else "bt2020")
        transfer = _HDR_TRANSFERS.get(self.transfer) or _TRANSFERS.get(self.transfer, "bt709")
        source = f"min={matrix}:pin={primaries}:tin={transfer}"
        is_hdr = self.transfer in _HDR_TRANSFERS
        tones = "tonemap=mobius," if is_hdr else ""
        filters = (
            f"zscale={source}:t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,{tones}"
            "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
        )
        return ffmpeg_command(path, f"-vf {filters} -crf 12")


def deinterlace(frames: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Frames with their stamps; those flagged as interlaced go through bwdif, one for one.

    The filter starts with the first interlaced frame, and sees the one before it, as when it had run
    from the start of the file.
    """
    graph = None
    before: tuple[int, Any] | None = None
    waiting: deque[int] = deque()
    for stamp, frame in frames:
        if graph is None and not frame.interlaced_frame:
            before = (stamp, frame)
            yield before
            continue
        fed = [(stamp, frame)]
        if graph is None:
            graph = _filter_graph(frame, ("bwdif", {"mode": "send_frame", "deint": "interlaced"}))
            fed = [before, *fed] if before else fed
        for fed_stamp, fed_frame in fed:
            waiting.append(fed_stamp)
            graph.push(fed_frame)
        for done in _pull(graph, waiting):
            if before is None or done[0] != before[0]:  # that one has been given already
                yield done
    if graph is not None:
        graph.push(None)
        yield from _pull(graph, waiting)


def _filter_graph(frame: Any, *filters: tuple[str, dict[str, str]]) -> Any:
    from av.filter import Graph

    graph = Graph()
    colours = {"colorspace": str(int(frame.colorspace)), "range": str(int(frame.color_range))}
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base or "1/1000"),
            **colours,
        )
    ]
    nodes += [graph.add(name, **options) for name, options in filters]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _pull(graph: Any, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
    import av

    while waiting:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield waiting.popleft(), frame


class RGBConverter:
    """Frames of one format to upright RGB of one size.

    Args:
        path: the file, for messages.
        format: of all its frames.
        width_px, height_px: of the result, upright.
    """

    def __init__(self, path: Path, format: FrameFormat, width_px: int, height_px: int) -> None:
        self.path = path
        self.format = format
        self.size = (width_px, height_px)
        self._graph: Any = None

    def convert(self, frame: Any) -> np.ndarray:
        """[height, width, 3] uint8 RGB, alpha composited on mid-grey."""
        from PIL import Image

        has_alpha = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
        if self._graph is None:
            self._graph = self._build(frame, has_alpha)
        self._graph.push(frame)
        pixels = self._graph.vpull().to_ndarray()
        swaps, flips_x, flips_y = self.format.orientation
        if swaps:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if flips_y else 1, :: -1 if flips_x else 1]
        if not has_alpha:
            return pixels
        return flatten_picture(self.path, Image.fromarray(np.ascontiguousarray(pixels)), self.size)

    def _build(self, frame: Any, has_alpha: bool) -> Any:
        width, height = self.size[::-1] if self.format.orientation[0] else self.size
        if has_alpha:  # scaled after compositing, or else colours of hidden pixels bleed in
            width, height = frame.width, frame.height
        scale = {"w": str(width), "h": str(height), "flags": SCALING, "out_range": "full"}
        if not frame.format.is_rgb:
            scale["in_color_matrix"] = _MATRICES[self.format.matrix]
            scale["in_range"] = "full" if self._is_full_range(frame) else "limited"
        pixels = {"pix_fmts": "rgba" if has_alpha else "rgb24"}
        return _filter_graph(frame, ("scale", scale), ("format", pixels))

    def _is_full_range(self, frame: Any) -> bool:
        """Grey and the old "yuvj" formats are of full range whatever is said, as in ffmpeg."""
        name = frame.format.name
        return self.format.range == _FULL_RANGE or name.startswith(("yuvj", "gray"))


def flatten_picture(path: Path, picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """A decoded picture as [H, W, 3] uint8 RGB of (width, height), converted as a photo is.

    A frame may be transparent all over, as where an animation begins; a photo is refused then.
    """
    from PIL import Image

    if picture.has_transparency_data and not picture.convert("RGBA").getchannel("A").getextrema()[1]:
        return np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    flat = convert_picture(picture, path)
    if size == flat.shape[1::-1]:
        return flat
    return np.array(Image.fromarray(flat).resize(size, Image.Resampling.LANCZOS))
