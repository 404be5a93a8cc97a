"""Colours, turns, opacity, interlacing and animations. Every case is a kind, a file name, how the file is
made, and what has to become of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from media_expectations import Case, Drawn, Frames, Photo, SetAside
from media_files import NUM_FRAMES, Recipe, changed, cut, draw_frames, encode, joined, then, turned
from PIL import Image

X264 = "-c:v libx264 -preset veryfast -crf 6"
AS_FFMPEG = Frames()

# What scale calls a matrix, and what the tag is called.
_MATRICES = {
    "bt709": "bt709", "smpte170m": "smpte170m", "bt470": "bt470bg", "smpte240m": "smpte240m", "fcc": "fcc",
}  # fmt: skip


def tagged(matrix: str, full: bool = False, pixels: str = "yuv420p", codec: str = X264) -> Recipe:
    """Converted with a matrix and range, and tagged so."""
    colour_range = "pc" if full else "tv"
    convert = (
        f"-vf scale=out_color_matrix={matrix}:out_range={colour_range}:flags=accurate_rnd,format={pixels}"
    )
    tag = _MATRICES[matrix]
    primaries = tag if tag in ("bt709", "smpte170m", "bt470bg") else "bt709"
    return encode(
        f"{convert} {codec} -colorspace {tag} -color_range {colour_range} -color_primaries {primaries} "
        f"-color_trc {'smpte170m' if tag == 'smpte170m' else 'bt709'}"
    )


_H264_SIZES = {"sd.mp4": (96, 64), "hd.mp4": (1280, 720), "tall.mp4": (720, 1280)}
COLOURS = [
    *[
        Case("colour", f"{matrix}_{'full' if full else 'limited'}.mp4", tagged(matrix, full), AS_FFMPEG)
        for matrix in _MATRICES
        for full in (False, True)
    ],
    *[Case("colour", f"untagged_{name}", encode(f"{X264} -pix_fmt yuv420p", count=1, size=size), AS_FFMPEG) for name, size in _H264_SIZES.items()],
    *[
        Case("depth", f"{pixels}.{suffix}", tagged("bt709", pixels=pixels, codec=codec), AS_FFMPEG)
        for pixels, suffix, codec in (
            ("yuv420p10le", "mp4", X264),
            ("yuv422p", "mp4", X264),
            ("yuv444p", "mp4", X264),
            ("yuv422p10le", "mov", "-c:v prores_ks -profile:v 3"),
            ("yuv420p12le", "mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:crf=6"),
            ("yuv444p16le", "mkv", "-c:v ffv1"),
            ("yuv411p", "mkv", "-c:v ffv1"),
            ("yuv410p", "mkv", "-c:v ffv1"),
        )
    ],
    Case("depth", "nclx.mov", tagged("bt709", codec="-c:v prores_ks -profile:v 2", pixels="yuv422p10le"), AS_FFMPEG),
    Case("depth", "vp9.webm", tagged("bt709", codec="-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 8 -b:v 0"), AS_FFMPEG),
    Case("depth", "vp9_full.webm", tagged("bt709", True, codec="-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 8 -b:v 0"), AS_FFMPEG),
    Case("depth", "av1.mp4", tagged("bt709", codec="-c:v libaom-av1 -usage realtime -cpu-used 8 -crf 10"), AS_FFMPEG),
    Case("depth", "mpeg2.ts", tagged("bt709", codec="-c:v mpeg2video -q:v 2 -r 25"), AS_FFMPEG),
    Case("depth", "grey.mkv", encode("-c:v ffv1 -pix_fmt gray"), AS_FFMPEG),
    Case("depth", "grey.mp4", encode(f"{X264} -pix_fmt gray"), AS_FFMPEG),
    Case("depth", "grey10.mkv", encode("-c:v ffv1 -pix_fmt gray10le"), AS_FFMPEG),
    Case("depth", "rgb.mp4", encode("-c:v libx264rgb -preset veryfast -crf 6"), AS_FFMPEG),
    Case("depth", "gbrp10.mkv", encode("-c:v ffv1 -pix_fmt gbrp10le"), AS_FFMPEG),
    Case("depth", "mjpeg_full.avi", encode("-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"), AS_FFMPEG),
    Case("depth", "palette.avi", encode("-c:v rawvideo -pix_fmt pal8"), AS_FFMPEG),
    Case("depth", "bgr555.avi", encode("-c:v rawvideo -pix_fmt rgb555le"), AS_FFMPEG),
]  # fmt: skip


def wide(primaries: str, transfer: str, matrix: str, codec: str = "", tags: str | None = None) -> Recipe:
    """The drawn frames, which are BT.709, in another colour space of ten bits."""
    convert = (
        "-vf format=gbrpf32le,zscale=min=gbr:pin=bt709:tin=bt709:rin=pc:p=bt709:m=gbr:t=linear:npl=203,"
        f"zscale=p={primaries}:t={transfer}:m={matrix}:r=tv:npl=203,format=yuv420p10le"
    )
    names = {"2020_ncl": "bt2020nc", "2020": "bt2020", "709": "bt709", "2020_10": "bt2020-10"}
    tag = [names.get(name, name) for name in (primaries, transfer, matrix)]
    default = f"-color_primaries {tag[0]} -color_trc {tag[1]} -colorspace {tag[2]}"
    x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:crf=6"
    return encode(f"{convert} {codec or x265} {default if tags is None else tags}")


_SKIN = (224, 172, 140)
_WIDE = SetAside("^HDR or wide-gamut colours", remedy_frames=NUM_FRAMES, remedy_colour=_SKIN)
WIDE = [
    Case("wide colours", "hlg.mov", wide("2020", "arib-std-b67", "2020_ncl"), _WIDE),
    Case("wide colours", "hlg.mkv", wide("2020", "arib-std-b67", "2020_ncl"), _WIDE),
    Case("wide colours", "hlg.ts", wide("2020", "arib-std-b67", "2020_ncl"), _WIDE),
    Case("wide colours", "pq.mp4", wide("2020", "smpte2084", "2020_ncl"), _WIDE),
    Case("wide colours", "pq_vp9.webm", wide("2020", "smpte2084", "2020_ncl", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 8 -b:v 0"), _WIDE),
    Case("wide colours", "bt2020.mp4", wide("2020", "bt709", "2020_ncl"), _WIDE),
    Case("wide colours", "bt2020_10.mp4", wide("2020", "2020_10", "2020_ncl"), _WIDE),
    Case("wide colours", "matrix_alone.mp4", wide("2020", "bt709", "2020_ncl", tags="-colorspace bt2020nc"), _WIDE),
    Case("wide colours", "transfer_alone.mp4", wide("2020", "arib-std-b67", "709", tags="-color_trc arib-std-b67"), SetAside("^HDR or wide-gamut colours", remedy_frames=NUM_FRAMES)),
    Case("wide colours", "display_p3.mov", wide("smpte432", "bt709", "709"), _WIDE),
    Case("wide colours", "display_p3_srgb.mov", wide("smpte432", "iec61966-2-1", "709"), _WIDE),
    Case("wide colours", "dci_p3.mov", wide("smpte431", "bt709", "709"), SetAside("^HDR or wide-gamut colours", remedy_frames=NUM_FRAMES)),
    Case("unknown matrix", "ycgco.mp4", encode(f"{X264} -pix_fmt yuv444p -colorspace ycgco -color_primaries bt709 -color_trc bt709"), SetAside("^unknown colour matrix", remedy_frames=NUM_FRAMES)),
]  # fmt: skip

_TURNS = {
    "upright": (1, 0, 0, 1), "hflip": (-1, 0, 0, 1), "vflip": (1, 0, 0, -1), "half": (-1, 0, 0, -1),
    "right": (0, 1, -1, 0), "left": (0, -1, 1, 0), "transpose": (0, 1, 1, 0), "transverse": (0, -1, -1, 0),
}  # fmt: skip
_MP4 = encode(f"{X264} -pix_fmt yuv420p")
TURNS = [
    *[Case("turn", f"{name}.mp4", turned(_MP4, *matrix), AS_FFMPEG) for name, matrix in _TURNS.items()],
    *[
        Case("turn", f"{name}.mov", turned(encode("-c:v prores_ks -profile:v 2"), *_TURNS[name]), AS_FFMPEG)
        for name in ("hflip", "left", "transpose")
    ],
    *[
        Case("turn", f"{name}_hevc.mp4", turned(encode("-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none"), *_TURNS[name]), AS_FFMPEG)
        for name in ("vflip", "right", "transverse")
    ],
    *[
        Case("turn", f"{name}_anamorphic.mp4", turned(encode(f"{X264} -pix_fmt yuv420p -aspect 3:1"), *_TURNS[name]), Frames(inputs="-noautorotate", filters=f"scale=192:64,setsar=1,{turn}"))
        for name, turn in {"left": "transpose=cclock", "hflip": "hflip"}.items()
    ],
    Case("slant", "slanted.mp4", turned(_MP4, 0.7071, 0.7071, -0.7071, 0.7071), SetAside("^slanted frames", remedy_frames=NUM_FRAMES)),
]  # fmt: skip

_ALPHA_VP9 = "-c:v libvpx-vp9 -pix_fmt yuva420p -auto-alt-ref 0 -deadline realtime -cpu-used 8 -crf 8 -b:v 0"
_ALPHA_VP8 = "-c:v libvpx -pix_fmt yuva420p -auto-alt-ref 0 -deadline realtime -cpu-used 8 -crf 8 -b:v 2M"
ALPHA = [
    Case("alpha", name, encode(options, alpha=True), Frames(alpha=True, inputs=inputs))
    for name, options, inputs in (
        ("vp9.webm", _ALPHA_VP9, "-c:v libvpx-vp9"),
        ("vp9.mkv", _ALPHA_VP9, "-c:v libvpx-vp9"),
        ("vp8.webm", _ALPHA_VP8, "-c:v libvpx"),
        ("prores4444.mov", "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le", ""),
        ("qtrle.mov", "-c:v qtrle -pix_fmt argb", ""),
        ("png.mov", "-c:v png -pix_fmt rgba", ""),
        ("ffv1.mkv", "-c:v ffv1 -pix_fmt yuva420p", ""),
        ("ffv1_rgb.mkv", "-c:v ffv1 -pix_fmt bgra", ""),
        ("huffyuv.avi", "-c:v ffvhuff -pix_fmt yuva444p", ""),
        ("utvideo.avi", "-c:v utvideo -pix_fmt gbrap", ""),
        ("magicyuv.mov", "-c:v magicyuv -pix_fmt yuva444p", ""),
    )
]

_MOVED = draw_frames(24)
_WOVEN = np.where(np.arange(64)[None, :, None, None] % 2 == 0, _MOVED[::2], _MOVED[1::2])
"""Two moments in each frame: even lines of the first, odd lines of the second."""
_WOVEN_BOTTOM = np.where(np.arange(64)[None, :, None, None] % 2 == 1, _MOVED[::2], _MOVED[1::2])
_INTERLACED = f"{X264} -pix_fmt yuv420p -flags +ildct+ilme"
_BWDIF = Frames(filters="bwdif=mode=send_frame:deint=interlaced", count=12)
INTERLACED = [
    Case("interlaced", "top.mp4", encode(f"-vf setfield=tff {_INTERLACED} -x264-params tff=1", frames=_WOVEN), _BWDIF),
    Case("interlaced", "bottom.mp4", encode(f"-vf setfield=bff {_INTERLACED} -x264-params bff=1", frames=_WOVEN_BOTTOM), _BWDIF),
    Case("interlaced", "top.ts", encode(f"-vf setfield=tff {_INTERLACED} -x264-params tff=1", frames=_WOVEN), _BWDIF),
    Case("interlaced", "top.mkv", encode(f"-vf setfield=tff {_INTERLACED} -x264-params tff=1", frames=_WOVEN), _BWDIF),
    Case("interlaced", "mpeg2.ts", encode("-vf setfield=tff -c:v mpeg2video -q:v 2 -flags +ildct+ilme -bf 2 -r 25", frames=_WOVEN, rate=25), _BWDIF),
    Case("interlaced", "mpeg2.mxf", encode("-vf setfield=tff -c:v mpeg2video -q:v 2 -flags +ildct+ilme -r 25", frames=_WOVEN, rate=25), _BWDIF),
    Case("interlaced", "prores.mov", encode("-vf setfield=tff -c:v prores_ks -profile:v 2 -flags +ildct", frames=_WOVEN), _BWDIF),
    Case("interlaced", "alpha.mov", encode("-vf setfield=tff -c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le -flags +ildct", frames=np.concatenate([_WOVEN, np.full_like(_WOVEN[..., :1], 200)], -1)), Frames(filters="bwdif=mode=send_frame:deint=interlaced", alpha=True)),
    Case("interlaced", "progressive_first.ts", then(joined(encode(f"{X264} -pix_fmt yuv420p -bf 0 -f h264", frames=_MOVED[:6], rate=25), encode(f"-vf setfield=tff {_INTERLACED} -x264-params tff=1 -bf 0 -f h264", frames=_WOVEN, rate=25)), ".h264", "-r 25 -fflags +genpts -i {in} -c copy"), Frames(filters="bwdif=mode=send_frame:deint=interlaced", count=18)),
]  # fmt: skip


def animate(durations: tuple[int, ...], mode: str = "RGB", **options: object) -> Recipe:
    """An animation by Pillow; milliseconds of each frame."""

    def make(path: Path) -> None:
        pictures = [Image.fromarray(frame) for frame in draw_frames(len(durations), alpha=mode == "RGBA")]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=list(durations), **options)

    return make


_DELAYS = (100, 50, 40, 200, 60)
_STARTS = (0, 0.1, 0.15, 0.19, 0.39)
_DRAWN = Drawn(draw_frames(5), _STARTS)
_DRAWN_ALPHA = Drawn(draw_frames(5, alpha=True), _STARTS)
ANIMATIONS = [
    *[Case("animation", f"a.{suffix}", animate(_DELAYS, **options), _DRAWN) for suffix, options in {"webp": {"lossless": True}, "avif": {"quality": 95}, "png": {}, "gif": {}}.items()],
    *[Case("animation", f"alpha.{suffix}", animate(_DELAYS, "RGBA", **options), _DRAWN_ALPHA) for suffix, options in {"webp": {"lossless": True}, "avif": {"quality": 95}, "png": {}}.items()],
    Case("animation", "ffmpeg.gif", encode("-r 10", rate=10), AS_FFMPEG),
    Case("animation", "ffmpeg.apng", encode("-f apng -plays 0"), AS_FFMPEG),
    Case("animation", "alpha.apng", encode("-f apng -plays 0", alpha=True), Frames(alpha=True)),
    Case("animation", "ffmpeg.webp", encode("-c:v libwebp_anim -lossless 1 -loop 0"), Drawn(draw_frames(), tuple(np.arange(NUM_FRAMES) / 16))),
    Case("animation", "no_delay.gif", animate((0, 0, 0, 0, 0)), Drawn(draw_frames(5), (0, 0.1, 0.2, 0.3, 0.4))),
    Case("animation", "cover.png", animate((100,) * 6, default_image=True), Drawn(draw_frames(6)[1:], (0, 0.1, 0.2, 0.3, 0.4))),
    *[Case("cut animation", f"cut.{suffix}", cut(animate(_DELAYS, **options), 0.6), SetAside("^(truncated|does not decode)")) for suffix, options in {"webp": {"lossless": True}, "avif": {"quality": 95}, "png": {}, "gif": {}}.items()],
]  # fmt: skip


def still(**options: object) -> Recipe:
    """A photo in the format of the name."""

    def make(path: Path) -> None:
        import pillow_heif

        pillow_heif.register_heif_opener()
        Image.fromarray(draw_frames(1)[0]).resize((800, 600)).save(path, **options)

    return make


def _rename_brand(raw: bytearray) -> bytearray:
    """The brands of a video file: what a decoder of videos would take for one of its own."""
    raw[8:12] = b"mif1"
    return raw


STILLS = [
    Case("still", "a.heic", still(), Photo()),
    Case("still", "a.avif", still(), Photo()),
    Case("still", "brand_mif1.heic", changed(still(), _rename_brand), Photo()),
    Case("still", "cut.heic", cut(still(), 0.7), SetAside("^(truncated|does not decode)")),
    Case("still", "cut.avif", cut(still(), 0.7), SetAside("^(truncated|does not decode)")),
    Case("still", "cut.jpg", cut(still(), 0.7), SetAside("^does not decode")),
]

CASES = [*COLOURS, *WIDE, *TURNS, *ALPHA, *INTERLACED, *ANIMATIONS, *STILLS]
