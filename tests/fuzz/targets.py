"""What is fuzzed: real files of each kind, and the function of the pack that opens them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from media_seeds import make_photos, make_videos, open_photo, open_video
from PIL import Image
from seeds import Seed, saved

REPO = Path(__file__).resolve().parents[2]
MEDIA = ("photo", "video")
"""Kinds that are counted apart."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Args:
        open: reads a file of this kind to its end, as its users do.
    """

    kind: str
    seeds: tuple[Seed, ...] = field(repr=False)
    open: Callable[[Path], object]


def make_targets(folder: Path) -> dict[str, Target]:
    """Write real files into a folder and give the targets by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = (
        ("adapter", _make_adapters, _open_adapter),
        ("identity", _make_identities, _open_identity),
        ("recogniser", _make_recognisers, _open_recogniser),
        ("base", _make_bases, _open_base),
        ("configuration", _list_configurations, _open_configuration),
        ("benchmark", lambda f: _list_files(f, "configs/benchmark_*.toml"), _open_benchmark),
        ("curation", lambda f: _list_files(f, "configs/curate_*.toml"), _open_curation),
        ("manifest", _make_manifests, _open_manifest),
        ("index", _make_indices, _open_index),
        ("workflow", lambda f: _list_files(f, "assets/benchmark/workflows/*.json"), _open_workflow),
        ("augmenter", _make_augmenters, _open_augmenter),
        ("subjects", _make_subjects, _open_subjects),
        ("prompts", lambda f: _list_files(f, "assets/benchmark/*.toml"), _open_prompts),
        ("photo", make_photos, open_photo),
        ("video", make_videos, open_video),
    )
    return {kind: Target(kind, tuple(make(folder)), opener) for kind, make, opener in makers}


def _list_files(_: Path, pattern: str) -> list[Seed]:
    return [Seed(path.name, path.read_bytes()) for path in sorted(REPO.glob(pattern))]


def _borrow(name: str) -> ModuleType:
    """Import a file of other tests, for what it makes."""
    spec = importlib.util.spec_from_file_location("borrowed_" + Path(name).stem, REPO / "tests" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- weights -------------------------------------------------------------------------------------


def _make_adapters(folder: Path) -> list[Seed]:
    from safetensors.torch import save_file

    from lynx_core.formats.adapter import open_adapter
    from lynx_core.formats.adapter_weights import load_modules, save_modules

    tiny = _borrow("formats/conftest.py").make_tiny(lite=False, with_ref=True)
    files = {**tiny.release_files(), "module": tiny.wan2gp_module()} | {
        f"kijai_{name}": state for name, state in tiny.kijai_files().items()
    }
    seeds = []
    for name, state in files.items():
        state = {key: tensor.contiguous() for key, tensor in state.items()}
        seeds.append(saved(folder, f"{name}.safetensors", lambda path, s=state: save_file(s, path)))
        if name in ("resampler", "module"):
            seeds.append(saved(folder, f"{name}.pt", lambda path, s=state: torch.save(s, path)))
    release = folder / "release"
    release.mkdir(exist_ok=True)
    for name, state in tiny.release_files().items():
        path = release / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        _companions[name] = path
    modules = load_modules(open_adapter(release))
    seeds.append(saved(folder, "own.safetensors", lambda path: save_modules(modules, path)))
    seeds.append(Seed("old.bin", pickle.dumps({"image_proj": {"latents": [0.0] * 8}})))
    seeds.append(saved(folder, "quantised.gguf", lambda path: _write_gguf(path, tiny.wan2gp_module())))
    return seeds


def _write_gguf(path: Path, state: dict[str, torch.Tensor]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in state.items():
        writer.add_tensor(name, tensor.float().numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_companions: dict[str, Path] = {}
"""Whole files of a release, by name: a part that does not act alone is opened with the other one."""


def _open_adapter(path: Path) -> None:
    from lynx_core.formats.adapter import open_adapter

    is_resampler = "resampler" in path.name or "kijai_a" in path.name
    is_id = any(name in path.name for name in ("ip_layers", "kijai_b", "module", "quantised"))
    others = [_companions["ip_layers"]] if is_resampler else [_companions["resampler"]] if is_id else []
    adapter = open_adapter(path, *others)
    for kind, part in adapter.parts.items():
        for name in part.names:
            adapter.read_tensor(kind, name)


def _make_identities(folder: Path) -> list[Seed]:
    from lynx_core.formats.identity_file import save_identity

    make_identity = _borrow("formats/test_identity_file.py").make_identity
    return [
        saved(
            folder, f"{name}.safetensors", lambda path, kv=kv: save_identity(path, make_identity(with_kv=kv))
        )
        for name, kv in (("plain", False), ("with_kv", True))
    ]


def _open_identity(path: Path) -> None:
    from lynx_core.formats.identity_file import open_identity, read_thumbnail

    read_thumbnail(path)
    open_identity(path)


def _make_recognisers(folder: Path) -> list[Seed]:
    raw = (REPO / "assets/mini/lynx/faces/lynx_mini_arcface.safetensors").read_bytes()
    return [Seed("arcface.safetensors", raw)]


def _open_recogniser(path: Path) -> None:
    from lynx_core.faces.arcface import load_arcface

    load_arcface(path)


def _make_bases(folder: Path) -> list[Seed]:
    from safetensors.torch import save_file

    keys = {
        "patch_embedding.weight": (16, 16, 1, 2, 2),
        "head.modulation": (1, 2, 16),
        "blocks.0.self_attn.q.weight": (16, 16),
        "blocks.0.ffn.0.weight": (32, 16),
        "text_embedding.0.weight": (16, 24),
    }
    state = {name: torch.zeros(shape) for name, shape in keys.items()}
    return [saved(folder, "base.safetensors", lambda path: save_file(state, path))]


def _open_base(path: Path) -> None:
    from lynx_core.formats.base_file import check_base_files, load_transformer

    check_base_files(path)
    load_transformer(path, torch.float32)


# --- text ----------------------------------------------------------------------------------------


def _list_configurations(folder: Path) -> list[Seed]:
    return [
        seed
        for name in ("mini_*", "paper_*", "single_*")
        for seed in _list_files(folder, f"configs/{name}.toml")
    ]


def _open_configuration(path: Path) -> None:
    from lynx_core.training.configuration import read_configuration

    read_configuration(path)


def _open_benchmark(path: Path) -> None:
    from lynx_core.evaluation.configuration import read_benchmark

    read_benchmark(path)


def _open_curation(path: Path) -> None:
    from lynx_core.curate.configuration import CurationConfig
    from lynx_core.training.configuration_file import read_settings

    read_settings(CurationConfig, path)


_ROW = {
    "id": "a", "kind": "single-scene", "caption": "a man", "target": "a.png", "references": ["b.png"],
    "frame_range": [0, 9], "fps": 16, "face_similarity": 0.8, "licence": "CC0", "extra": {"deep": [1, {"x": None}]},
}  # fmt: skip


def _make_manifests(folder: Path) -> list[Seed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**_ROW, "id": name} for name in "abc"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "extra"} for row in rows])
    return [
        Seed("pairs.jsonl", text.encode()),
        Seed("wide.jsonl", text.encode("utf-16")),
        saved(folder, "pairs.parquet", lambda path: pq.write_table(table, path)),
    ]


def _open_manifest(path: Path) -> None:
    from lynx_core.data.manifest import read_manifest

    read_manifest(path).summary()


def _make_indices(folder: Path) -> list[Seed]:
    lines = [
        {"row": f"{number:064x}", "files": [["/x/a.png", "0" * 64], ["/x/b.png", None]]}
        for number in range(4)
    ]
    return [Seed("index.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())]


def _open_index(path: Path) -> None:
    """The index of a cache: lines that say nothing are passed over, and the files are looked at again."""
    from lynx_core.data.cache.tensor_cache import TensorCache
    from lynx_core.data.dataset_index import INDEX_NAME, build_index
    from lynx_core.data.manifest import read_manifest
    from lynx_core.data.media.decoding import DecodingConfig

    with tempfile.TemporaryDirectory() as root:
        shutil.copy(path, Path(root) / INDEX_NAME)
        manifest = Path(root) / "pairs.jsonl"
        manifest.write_text(json.dumps(_ROW) + "\n")
        build_index(read_manifest(manifest), DecodingConfig(), TensorCache(Path(root)))


def _open_workflow(path: Path) -> None:
    """With places that the file has, so that one whose nodes changed is read all the same."""
    from lynx_core.evaluation.configuration import Inputs, Method
    from lynx_core.evaluation.workflow import load_workflow

    node, key = "prompt", "text"
    with contextlib.suppress(Exception):
        nodes = json.loads(path.read_bytes())
        node, key = next(
            (node, key)
            for node, content in nodes.items()
            for key, value in content["inputs"].items()
            if isinstance(value, str)
        )
    place = f"{node}.{key}"
    inputs = Inputs(prompt=place, seed=place, output=node)
    template = load_workflow(Method(name="fuzzed", conditioned_by=(), workflow=path, inputs=inputs))
    template.list_texts()
    template.fill("photo.png", "a man", 1)


def _make_augmenters(_: Path) -> list[Seed]:
    from lynx_core.curate.augment.comfyui import INPUT, OUTPUT

    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": INPUT}},
        "2": {"class_type": "KSampler", "inputs": {"seed": 3, "image": ["1", 0]}, "_meta": {"title": "seed"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}, "_meta": {"title": OUTPUT}},
    }
    return [Seed("augment.json", json.dumps(nodes).encode())]


def _open_augmenter(path: Path) -> None:
    from lynx_core.curate.augment.comfyui import fill_workflow, read_workflow

    fill_workflow(read_workflow(path), "a.png", 3)


def _make_subjects(folder: Path) -> list[Seed]:
    photos = [folder / f"photo{number}.png" for number in range(2)]
    for number, photo in enumerate(photos):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(photo)
    row = {
        "id": "a", "photos": [str(photos[0])], "kind": "drawn", "consent": "not needed", "licence": "CC0", "source": "drawn",
        "split": "main",
    }  # fmt: skip
    rows = [row, {**row, "id": "b", "photos": [str(photos[1])]}]
    return [Seed("subjects.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())]


def _open_subjects(path: Path) -> None:
    from lynx_core.evaluation.subjects import load_subjects

    load_subjects(path, "main")


def _open_prompts(path: Path) -> None:
    from lynx_core.evaluation.prompts import load_prompts

    load_prompts(path)
