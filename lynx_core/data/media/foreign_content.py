"""What a file is that is no photo and no video, for the message that refuses it."""

from __future__ import annotations

import shlex
from pathlib import Path

_HEAD_BYTES = 4096
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"v=0", b"<mpd")
_KINDS = (
    (b"%pdf", "a PDF document"),
    (b"pk\3\4", "a ZIP archive or an office document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"mz", "a Windows program"),
    (b"\x7felf", "a Linux program"),
    (b"id3", "sound (MP3)"),
)
_PICTURES = ((b"sdpx", "DPX"), (b"xpds", "DPX"), (b"\x76\x2f\x31\x01", "OpenEXR"), (b"ii*\0", "TIFF or raw"))


def describe_foreign(path: Path) -> str:
    """Says what the content of a refused file is, and the way out."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    lower = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if lower.startswith(_PLAYLISTS) or (lower.startswith(b"<?xml") and b"<mpd" in lower):
        command = ffmpeg_command(path, "-c copy", ".mkv")
        return f"it is a playlist, which names other files; make one file of it first: {command}"
    for start, kind in _KINDS:
        if lower.startswith(start):
            return f"its content is {kind}; choose the photo or the video itself"
    if lower.startswith((b"<!doctype html", b"<html")):
        return "its content is a web page, not the file that the page shows; download that"
    if b"<svg" in lower:
        return "its content is an SVG drawing; save it as PNG"
    if picture := _name_picture(path, lower):
        return f"its content is a picture of the format {picture}, which is not read here; save it as PNG"
    if text := _quote_text(head):
        return f"its content is text, which begins {text!r}; download the file again"
    if not head.strip(b"\0"):
        return "its content is zeros; copy or download it again"
    return "its content is in no known format, or broken at the start; copy or download it again"


def ffmpeg_command(path: Path, options: str, suffix: str = ".mp4") -> str:
    """A command line that makes a usable file of one that is refused."""
    out = path.with_name(f"{path.stem}_converted{suffix}")
    return f"ffmpeg -i {shlex.quote(str(path))} {options} {shlex.quote(str(out))}"


def _name_picture(path: Path, lower: bytes) -> str:
    """A format that Pillow knows, though the project does not read it; nothing is decoded."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.format or ""
    except Exception:  # its plugins raise what they like
        return next((name for start, name in _PICTURES if lower.startswith(start)), "")


def _quote_text(head: bytes) -> str:
    """The first words of a text, "" when the bytes are none."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just cut inside a character
            return ""
        text = head[: error.start].decode("utf-8-sig")
    if not all(sign.isprintable() or sign in "\r\n\t" for sign in text):
        return ""
    return " ".join(text.split())[:40]
