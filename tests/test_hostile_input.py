"""Names that leave the model folders, and small files that claim or hold too much."""

from __future__ import annotations

import io
import multiprocessing
import resource
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_host import REPO_DIR
from in_process import InProcessComfy

from lynx_core.evaluation.model_files import count_parameters
from lynx_core.faces.photo import load_photo
from lynx_core.formats.tensor_file import AdapterError, open_tensor_file
from lynx_core.spec import LynxError

OUTSIDE = (
    "../secret.safetensors", "../../secret.safetensors", "x/../../secret.safetensors", "..\\secret.safetensors", "..", "../",
    "/etc/passwd", "//server/share/x", "\\\\server\\share\\x", "C:\\x.safetensors", "C:/x.safetensors", "C:x.safetensors",
    "..\\..\\x", "lynx_full/..\\..\\x", "a\0b", "/dev/zero",
)  # fmt: skip
FILE_INPUTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("LynxLoadAdapter", "adapter", {}),
    ("LynxLoadAdapter", "resampler", {"adapter": "none"}),
    ("LynxLoadAdapter", "id_layers", {"adapter": "none"}),
    ("LynxLoadAdapter", "ref_layers", {"adapter": "none"}),
    ("LynxLoadFaceAnalyzer", "detector_pack", {}),
    ("LynxLoadFaceAnalyzer", "encoder", {}),
    ("LynxLoadIdentity", "identity", {}),
)
MOST_SECONDS, MOST_MB = 10, 400


@pytest.mark.parametrize(("node", "name", "others"), FILE_INPUTS)
def test_names_that_leave_the_folder_are_refused(
    comfy: InProcessComfy, node: str, name: str, others: dict[str, Any]
) -> None:
    secret = comfy.base_dir / "models" / "secret.safetensors"
    secret.write_bytes((REPO_DIR / "assets/mini/lynx/lynx_mini.safetensors").read_bytes())
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    try:
        for hostile in OUTSIDE:
            opened.clear()
            with pytest.raises(ValueError, match=r"is not there|is not under|name") as refusal:
                comfy.run(node, **{name: hostile, **others})
            assert str(secret) not in "".join(opened), hostile
            assert "Traceback" not in str(refusal.value)
    finally:
        secret.unlink()


@pytest.mark.parametrize("hostile", [*OUTSIDE, "", " ", ".", "CON?", "a:b"])
def test_names_to_save_under_stay_in_the_folder(comfy: InProcessComfy, hostile: str) -> None:
    choose_path = comfy.pack_module("nodes.host.identity_files").choose_path
    with pytest.raises(ValueError, match="cannot be a file's name"):
        choose_path(hostile)


def test_links_that_the_owner_placed_are_followed(comfy: InProcessComfy, tmp_path: Path) -> None:
    """Or else the refusals say nothing. A broken link, and one to its own folder, stop no list."""
    files = comfy.pack_module("nodes.host.model_files")
    lynx, packs = (comfy.base_dir / "models" / name for name in ("lynx", "insightface/models"))
    assert files.locate_lynx_file("lynx_full/ip_layers.safetensors") is not None
    disk = tmp_path / "disk"
    shutil.copytree(lynx / "lynx_full", disk / "adapter")
    shutil.copytree(packs / "buffalo_l", disk / "pack")
    links = {
        lynx / "linked": disk / "adapter",
        lynx / "linked.safetensors": disk / "adapter" / "ip_layers.safetensors",
        packs / "linked": disk / "pack",
        lynx / "broken.safetensors": disk / "gone",
        packs / "loop": packs,
    }
    for link, target in links.items():
        link.symlink_to(target)
    try:
        assert {"linked", "linked.safetensors"} <= set(files.list_adapters())
        assert {"linked", "buffalo_l"} <= set(files.list_detectors())
        assert files.locate_lynx_file("linked/ip_layers.safetensors") is not None
        assert files.locate_lynx_file("linked.safetensors") is not None and files.list_detector_files(
            "linked"
        )
        assert files.locate_lynx_file("broken.safetensors") is None
        assert files.locate_lynx_file("linked/../../disk/adapter/ip_layers.safetensors") is None
    finally:
        for link in links:
            link.unlink()


# --- files that claim or hold too much -----------------------------------------------------------


def _header(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _long_header() -> bytes:
    """A true header of 100 MB: a million tensors of nothing."""
    entry = b'"%060d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return _header(b"{" + b",".join(entry % number for number in range(860_000)) + b"}")


def _gguf(num_tensors: int, num_fields: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_fields) + rest


def _zip_bomb() -> bytes:
    """A PyTorch archive of 2 MB whose storage unpacks to 2 GB of zeros."""
    raw = io.BytesIO()
    whole = io.BytesIO()
    torch.save({"latents": torch.zeros(4)}, whole)
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for name in source.namelist():
            if not name.endswith("data/0"):
                bomb.writestr(name, source.read(name))
                continue
            with bomb.open(name, "w", force_zip64=True) as storage:
                for _ in range(2000):
                    storage.write(bytes(10**6))
    return raw.getvalue()


def _png(width: int, height: int) -> bytes:
    """A picture of zeros of any size, a thousandth of what it unpacks to."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    line = bytes(1 + width // 8)
    packed = b"".join(packer.compress(line * 100) for _ in range(height // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


HOSTILE: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any]]] = {
    "a header of 100 MB": (_long_header, open_tensor_file),
    "a header that claims 100 MB": (lambda: struct.pack("<Q", 10**8) + b"{" + bytes(10**8), open_tensor_file),
    "a header that claims 2^63": (lambda: struct.pack("<Q", 2**63) + b"{}", open_tensor_file),
    "a header nested deeply": (lambda: _header(b'{"a":' + b"[" * 10**6), open_tensor_file),
    "a tensor of 2^60 values": (
        lambda: _header(b'{"a":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,0]}}'), open_tensor_file,
    ),
    "gguf of 2^63 tensors": (lambda: _gguf(2**63, 0), open_tensor_file),
    "gguf of 2^63 fields": (lambda: _gguf(0, 2**63), open_tensor_file),
    "gguf with a name of 2^62 bytes": (lambda: _gguf(1, 1, struct.pack("<Q", 2**62) + b"abc"), open_tensor_file),
    "gguf with an array of 2^62": (
        lambda: _gguf(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**62)), open_tensor_file,
    ),
    "gguf with an array of 2^24": (
        lambda: _gguf(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**24) + bytes(2**24)), open_tensor_file,
    ),
    "a zip bomb": (_zip_bomb, open_tensor_file),
    "a picture of 900 megapixels": (lambda: _png(30_000, 30_000), load_photo),
    "a picture of 2^31 lines": (lambda: _png(8, 100).replace(struct.pack(">II", 8, 100), struct.pack(">II", 8, 2**31 - 1)), load_photo),
}  # fmt: skip


def _open_alone(name: str, path: Path, pipe: Any) -> None:
    """In a process of its own, whose peak of memory is this file's."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    try:
        HOSTILE[name][1](path)
        said = ""
    except LynxError as error:
        said = str(error)
    except BaseException as error:
        said = f"!{error!r}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pipe.send((said, time.process_time() - begun, grown))


@pytest.mark.parametrize("name", HOSTILE)
def test_small_files_that_claim_or_hold_too_much_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.bin"
    path.write_bytes(HOSTILE[name][0]())
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_open_alone, args=(name, path, there), daemon=True
    )
    process.start()
    there.close()
    try:
        assert here.poll(120), "it hangs"
        said, seconds, grown_mb = here.recv()
    finally:
        process.kill()
        process.join()
    assert path.name in said and not said.startswith("!"), said or "it opens"
    assert seconds < MOST_SECONDS
    assert grown_mb < MOST_MB


def test_counting_parameters_of_a_damaged_model_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for raw in (b"", b"abc", struct.pack("<Q", 2**63) + b"{}", _header(b"[]"), _header(b'{"a": 1}')):
        path.write_bytes(raw)
        assert count_parameters(path) is None


def test_a_small_picture_of_the_same_making_opens(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    path.write_bytes(_png(800, 800))
    assert load_photo(path).shape == (800, 800, 3)
    with pytest.raises(AdapterError):
        open_tensor_file(path)
