"""Which decoders make the pixels: a part of every key under which something made from pixels is kept.

PyAV 17 gave other colours than 16 for the same file, so an update of a decoder means new pixels until
shown otherwise.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def video_decoder_versions() -> dict[str, str]:
    """Name -> version of what decodes videos; FFmpeg's libraries as PyAV has them."""
    versions = _package_versions("av")
    try:
        import av
    except ImportError:
        return versions
    names = ("libavformat", "libavcodec", "libavfilter", "libswscale")
    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in names}
    return {**versions, **libraries}


def photo_decoder_versions() -> dict[str, str]:
    """Name -> version of what decodes photos and animations, and converts their colours."""
    return _package_versions("pillow", "pillow-heif")


def _package_versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
