"""Containers, order of frames, cuts, damage, streams, times and names. Every case is a file name, how the file is made, and what has to become of it."""

from __future__ import annotations

from media_expectations import Case, Frames, Photo, SetAside
from media_files import (
    cut,
    enclosed,
    encode,
    from_byte,
    joined,
    noise,
    text,
    then,
    void,
    with_cover,
    zero_tail,
)  # fmt: skip

X264 = "-c:v libx264 -preset veryfast -crf 8 -pix_fmt yuv420p"
BFRAMES = f"{X264} -bf 3 -b_strategy 0 -g 12"
X265 = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none:crf=8"
MPEG4 = "-c:v mpeg4 -q:v 2"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 8 -b:v 0"
AS_FFMPEG = Frames()
COUNTED = Frames(has_times=False)
"""For raw streams, whose rate ffmpeg makes up."""

_CONTAINERS = {
    "h264.mp4": X264,
    "hevc.mp4": X265,
    "mpeg4.mp4": MPEG4,
    "av1.mp4": "-c:v libaom-av1 -cpu-used 8 -usage realtime -crf 10",
    "h264.mov": X264,
    "prores.mov": "-c:v prores_ks -profile:v 2",
    "mjpeg.mov": "-c:v mjpeg -q:v 2",
    "qtrle.mov": "-c:v qtrle",
    "png.mov": "-c:v png",
    "h263.3gp": "-c:v h263 -s 128x96 -aspect 4:3 -q:v 2",
    "h264.mkv": X264,
    "hevc.mkv": X265,
    "ffv1.mkv": "-c:v ffv1",
    "mpeg2.mkv": "-c:v mpeg2video -q:v 2 -r 25",
    "rawvideo.mkv": "-c:v rawvideo -pix_fmt yuv420p -allow_raw_vfw 1",
    "vp8.webm": "-c:v libvpx -deadline realtime -cpu-used 8 -crf 8 -b:v 2M",
    "vp9.webm": VP9,
    "av1.webm": "-c:v libaom-av1 -cpu-used 8 -usage realtime -crf 10",
    "mpeg4.avi": MPEG4,
    "mjpeg.avi": "-c:v mjpeg -q:v 2",
    "huffyuv.avi": "-c:v huffyuv",
    "rawvideo.avi": "-c:v rawvideo -pix_fmt bgr24",
    "h264.ts": X264,
    "hevc.ts": X265,
    "mpeg2.ts": "-c:v mpeg2video -q:v 2 -r 25",
    "h264.m2ts": X264,
    "mpeg1.mpg": "-c:v mpeg1video -q:v 2 -r 25",
    "mpeg2.vob": "-c:v mpeg2video -q:v 2 -r 25",
    "flv1.flv": "-c:v flv1 -q:v 2",
    "h264.flv": X264,
    "wmv2.wmv": "-c:v wmv2 -q:v 2",
    "theora.ogv": "-c:v libtheora -q:v 9",
    "mpeg2.mxf": "-c:v mpeg2video -q:v 2 -r 25",
    "h264.nut": X264,
    "vp9.ivf": VP9,
    "dv.dv": "-c:v dvvideo -s 720x576 -r 25 -pix_fmt yuv420p",
    "fragmented.mp4": f"{X264} -movflags frag_keyframe+empty_moov -g 3",
    "live.webm": f"{VP9} -live 1",
}
_RAW_STREAMS = {
    "raw.h264": f"{BFRAMES} -r 25",
    "raw.hevc": f"{X265} -r 25",
    "raw.m2v": "-c:v mpeg2video -q:v 2 -r 25",
    "raw.y4m": "-pix_fmt yuv420p -r 25",
}
_OTHER_EXPECTATIONS = {"dv.dv": Frames(filters="bwdif=mode=send_frame:deint=interlaced")}

CONTAINERS = [
    Case("container", name, encode(options), _OTHER_EXPECTATIONS.get(name, AS_FFMPEG))
    for name, options in _CONTAINERS.items()
] + [Case("raw stream", name, encode(options, rate=25), AS_FFMPEG) for name, options in _RAW_STREAMS.items()]

_PACKED = "-c:v libxvid -bf 2 -q:v 2 -g 12"
ORDER_OF_FRAMES = [
    Case("b-frames", "h264.avi", encode(BFRAMES, count=30), COUNTED),
    Case("b-frames", "packed.avi", encode(_PACKED, count=30), Frames(time_limit_s=0.07)),
    Case("b-frames", "mpeg4.avi", encode(f"{MPEG4} -bf 2 -g 12", count=30), COUNTED),
    Case("b-frames", "packed.mkv", then(encode(_PACKED, count=30), ".avi", "-fflags +genpts -i {in} -c copy -bsf:v mpeg4_unpack_bframes"), SetAside("^no usable timestamps", remedy_frames=29)),
    *[
        Case("b-frames", f"h264.{suffix}", encode(BFRAMES, count=30), AS_FFMPEG)
        for suffix in ("mp4", "mkv", "ts", "flv", "mov")
    ],
    Case("b-frames", "hevc.mp4", encode(X265.replace("crf=8", "crf=8:bframes=3"), count=30), AS_FFMPEG),
    Case("b-frames", "mpeg2.ts", encode("-c:v mpeg2video -bf 2 -q:v 2 -r 25", count=30), AS_FFMPEG),
    Case("b-frames", "skipped.avi", encode(f"-vf setpts='N+5*gt(N\\,3)' -fps_mode passthrough {MPEG4}"), Frames(inputs="")),
]  # fmt: skip

_OPEN_GOP = encode(
    f"{X264} -bf 3 -b_strategy 0 -g 12 -x264-params open-gop=1:keyint=12:min-keyint=12", count=40
)
_OPEN_GOP_265 = encode(X265.replace("crf=8", "crf=8:open-gop=1:keyint=12:min-keyint=12:bframes=3"), count=40)
_OPEN_GOP_MPEG2 = encode("-c:v mpeg2video -bf 2 -q:v 2 -g 12 -r 25", count=40)
CUTS = [
    Case("cut", "open_gop.mkv", then(_OPEN_GOP, ".mkv", "-ss 1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "open_gop.ts", then(_OPEN_GOP, ".ts", "-ss 1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "open_gop_hevc.mkv", then(_OPEN_GOP_265, ".mkv", "-ss 1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "open_gop_mpeg2.ts", then(_OPEN_GOP_MPEG2, ".ts", "-ss 1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "amid_a_gop.ts", from_byte(_OPEN_GOP, 0.4, 188), AS_FFMPEG),
    Case("cut", "amid_a_gop_mpeg2.ts", from_byte(_OPEN_GOP_MPEG2, 0.4, 188), AS_FFMPEG),
    Case("cut", "edit_list.mp4", then(encode(BFRAMES, count=40), ".mp4", "-ss 1.1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "edit_list.mov", then(encode(BFRAMES, count=40), ".mov", "-ss 1.1 -i {in} -c copy"), AS_FFMPEG),
    Case("cut", "last_part.avi", then(encode(BFRAMES, count=40), ".avi", "-ss 1 -i {in} -c copy"), COUNTED),
]  # fmt: skip

_LONG = {"count": 60}
_TRUNCATED = SetAside("^truncated")
_BROKEN = SetAside("^(truncated|damaged|no frames|does not decode|no usable timestamps)")
DAMAGE = [
    *[
        Case("truncated", f"{share}_{name}", cut(encode(options, **_LONG), share), _TRUNCATED)
        for name, options in {
            "front.mp4": f"{X264} -movflags faststart",
            "back.mp4": X264,
            "h264.mkv": X264,
            "vp9.webm": VP9,
            "h264.mov": X264,
            "mpeg4.avi": MPEG4,
            "h264.flv": X264,
            "theora.ogv": "-c:v libtheora -q:v 9",
            "fragmented.mp4": f"{X264} -movflags frag_keyframe+empty_moov -g 12",
            "live.webm": f"{VP9} -live 1",
        }.items()
        for share in (0.5, 0.97)
    ],
    *[
        Case("truncated", f"{share}_{name}", cut(encode(options, **_LONG), share), _BROKEN)
        for name, options in {"h264.ts": X264, "mpeg2.ts": "-c:v mpeg2video -q:v 2 -r 25", "wmv2.wmv": "-c:v wmv2"}.items()
        for share in (0.51, 0.97)
    ],
    *[
        Case("damaged", f"noise_{name}", noise(encode(options, **_LONG), 0.6), _BROKEN)
        for name, options in {"h264.mp4": X264, "hevc.mp4": X265, "h264.mkv": X264, "mpeg4.avi": MPEG4, "h264.ts": X264, "prores.mov": "-c:v prores_ks"}.items()
    ],
    *[
        Case("damaged", f"zeros_{name}", zero_tail(encode(options, **_LONG), 0.6), _BROKEN)
        for name, options in {"front.mp4": f"{X264} -movflags faststart", "h264.mkv": X264, "h264.ts": X264, "mpeg4.avi": MPEG4, "vp9.webm": VP9}.items()
    ],
    Case("no media", "empty.mp4", lambda path: void(path.touch()), SetAside("^empty file")),
    Case("no media", "text.mp4", text("this is no video " * 40), SetAside("^does not decode")),
    Case("no media", "zeros.mp4", lambda path: void(path.write_bytes(bytes(5000))), SetAside("^does not decode")),
]  # fmt: skip

_TWO_SIZES = joined(encode(f"{X264} -f h264"), encode(f"{X264} -f h264", size=(128, 96)))
_BY_NUMBER = (
    "-c:v libx264 -preset veryfast -crf 8 -pix_fmt yuv420p -bf 0 -fps_mode passthrough -enc_time_base 1/1000"
)
STREAMS_AND_TIMES = [
    Case("streams", "cover_first.mp4", with_cover(encode(X264), "-i {cover} -i {clip} -map 0 -map 1 -c copy -disposition:v:0 attached_pic"), AS_FFMPEG),
    Case("streams", "cover_last.mp4", with_cover(encode(X264), "-i {clip} -i {cover} -map 0 -map 1 -c copy -disposition:v:1 attached_pic"), AS_FFMPEG),
    Case("streams", "attached_cover.mkv", with_cover(encode(X264), "-i {clip} -c copy -attach {cover} -metadata:s:t mimetype=image/jpeg"), AS_FFMPEG),
    Case("streams", "unmarked_cover.mkv", with_cover(encode(X264), "-i {cover} -i {clip} -map 0 -map 1 -c copy"), Frames(outputs="-map 0:v:1")),
    Case("streams", "unmarked_cover.mp4", with_cover(encode(X264), "-i {cover} -i {clip} -map 0 -map 1 -c copy"), Frames(outputs="-map 0:v:1")),
    Case("streams", "small_first.mkv", encode(f"-map 1:v -map 0:v {X264} -disposition:v 0 -t 0.5", inputs="-f lavfi -i color=c=orange:s=32x32:r=16"), AS_FFMPEG),
    Case("streams", "small_first.mp4", encode(f"-map 1:v -map 0:v {X264} -t 0.5", inputs="-f lavfi -i color=c=orange:s=32x32:r=16"), AS_FFMPEG),
    Case("streams", "sound.mp4", encode(f"-map 0:v -map 1:a {X264} -c:a aac -t 0.5", inputs="-f lavfi -i sine"), AS_FFMPEG),
    Case("streams", "sound_and_cover.m4a", encode("-map 1:a -map 0:v -c:a aac -c:v mjpeg -frames:v 1 -disposition:v attached_pic -t 1", inputs="-f lavfi -i sine"), SetAside("^no video .*only a cover")),
    Case("format changes", "size.h264", _TWO_SIZES, SetAside("^format changes on the way .96x64 px to 128x96 px at frame 9", remedy_frames=18)),
    Case("format changes", "size.ts", joined(encode(X264), encode(f"{X264} -output_ts_offset 1", size=(128, 96))), SetAside("^(format changes on the way|damaged)")),
    Case("aspect", "anamorphic.mp4", encode(f"{X264} -aspect 3:1"), AS_FFMPEG),
    Case("aspect", "anamorphic.mkv", encode(f"{X264} -aspect 3:1"), AS_FFMPEG),
    Case("times", "variable.mp4", encode(f"-vf settb=1/1000,setpts=N*N*12 {_BY_NUMBER}"), AS_FFMPEG),
    Case("times", "variable.mkv", encode(f"-vf settb=1/1000,setpts=N*N*12 {_BY_NUMBER}"), AS_FFMPEG),
    Case("times", "variable.webm", encode(f"-vf settb=1/1000,setpts=N*N*12 {VP9} -fps_mode passthrough -enc_time_base 1/1000"), AS_FFMPEG),
    Case("times", "late_start.mp4", encode(f"{X264} -output_ts_offset 3"), AS_FFMPEG),
    Case("times", "late_start.ts", encode(f"{X264} -output_ts_offset 3000"), AS_FFMPEG),
    Case("times", "negative_start.mkv", encode(f"{X264} -output_ts_offset -0.25 -avoid_negative_ts disabled"), SetAside("^no usable timestamps .4 of 9", remedy_frames=9)),
    Case("times", "negative_start.mp4", encode(f"{X264} -output_ts_offset -0.25 -avoid_negative_ts disabled"), AS_FFMPEG),
    Case("times", "ntsc.mp4", encode(f"-vf setpts=N*1001/(30000*TB) -r 30000/1001 {X264}"), AS_FFMPEG),
    Case("times", "backwards.ts", joined(encode(X264), encode(X264)), SetAside("^(no usable timestamps .they do not rise|damaged)")),
]  # fmt: skip

_MP4 = encode(f"{X264} -f mp4")
_OK = "file 'named.mp4'\n"
NAMES = [
    Case("name", name, _MP4, AS_FFMPEG)
    for name in ("%03d.png", "50%.mp4", "pipe:0", "concat:a|b", "a 'b' \"c\" $d.mp4", "photo.heic", "http:", "日本.mp4")
] + [
    Case("list", "ffconcat.mp4", text("ffconcat version 1.0\n" + _OK), SetAside("^no photo or video", remedy_frames=9)),
    Case("list", "concat.mp4", text(_OK), SetAside("^does not decode")),
    Case("list", "hls.mp4", text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nnamed.mp4\n#EXT-X-ENDLIST\n"), SetAside("^(no photo or video|does not decode)")),
    Case("list", "hls.m3u8", text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nnamed.mp4\n#EXT-X-ENDLIST\n"), SetAside("^(no photo or video|does not decode)")),
    Case("list", "dash.mp4", text('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>named.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>'), SetAside("^(no photo or video|does not decode)")),
    Case("list", "picture.svg", text('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="64" height="64"><image xlink:href="{dir}/named.mp4"/></svg>'), SetAside("^(no photo or video|does not decode)")),
    Case("list", "session.sdp", text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), SetAside("^no photo or video")),
    Case("list", "image_%d.png", text("named.mp4"), SetAside("^does not decode")),
]  # fmt: skip

SINGLE = [
    Case("one picture", "one.mp4", encode(X264, count=1, rate=1), Frames(count=1, has_times=False)),
    Case("one picture", "one.webm", encode(VP9, count=1, rate=1), Frames(count=1, has_times=False)),
    Case("one picture", "one.mov", encode("-c:v mjpeg -q:v 2", count=1, rate=1), Frames(count=1, has_times=False)),
    Case("one picture", "one.gif", encode("", count=1), Photo()),
    Case("one picture", "one.png", encode("-frames:v 1", count=1), Photo()),
    Case("one picture", "one.jpg", encode("-frames:v 1 -q:v 2", count=1), Photo()),
    Case("one picture", "one.webp", encode("-c:v libwebp -frames:v 1", count=1), Photo()),
    Case("one picture", "one.bmp", encode("-frames:v 1", count=1), Photo()),
    Case("one picture", "one.dpx", encode("-frames:v 1", count=1), SetAside("^no photo or video")),
    Case("one picture", "one.exr", encode("-frames:v 1 -pix_fmt gbrpf32le", count=1), SetAside("^no photo or video")),
]  # fmt: skip

FOREIGN = [
    Case("foreign", "slides.pdf", enclosed(b"%PDF-1.7\n"), SetAside("a PDF document")),
    Case("foreign", "office.jpg", enclosed(b"PK\3\4" + bytes(400)), SetAside("an office document")),
    Case("foreign", "program.mp4", enclosed(b"MZ" + bytes(3000)), SetAside("a Windows program")),
    Case("foreign", "song.mp4", enclosed(b"ID3" + bytes(200) + b"APIC"), SetAside("sound")),
    Case("foreign", "page.jpg", text("<!DOCTYPE html><html>404</html>"), SetAside("a web page")),
    Case("foreign", "denied.mp4", text("AccessDenied: ask the owner"), SetAside("text, which begins 'AccessDenied")),
    Case("foreign", "empty_disk.jpg", text("\0" * 5000), SetAside("is zeros")),
    Case("foreign", "targa.tga", encode("-frames:v 1", count=1), SetAside("TGA.*save it as PNG")),
    Case("foreign", "old.pcx", encode("-frames:v 1", count=1), SetAside("PCX.*save it as PNG")),
]  # fmt: skip

CASES = [*CONTAINERS, *ORDER_OF_FRAMES, *CUTS, *DAMAGE, *STREAMS_AND_TIMES, *NAMES, *SINGLE, *FOREIGN]
