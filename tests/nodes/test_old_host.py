"""A ComfyUI that is too old for the pack: a sentence in the log, and as much as can work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_schema import NODE_IDS
from wan_bench import WanBench

REPO = Path(__file__).resolve().parents[2]
SENTENCE = "ComfyUI-Lynx is made for ComfyUI 0.16.3 and newer, and this is {}"

LOAD = """
import asyncio, importlib, logging, sys, types
from pathlib import Path
host, repo, base, version = sys.argv[1:]
sys.path.insert(0, repo + "/tests/host")
import in_process
from comfy_host import PACK_NAME, default_packs, prepare_base_dir
packs = {PACK_NAME: default_packs()[PACK_NAME]}
prepare_base_dir(Path(base), packs)
nodes = in_process.load_comfyui(Path(host), Path(base))
importlib.import_module("comfyui_version").__version__ = version
from comfy_api.latest import ComfyExtension
if version.startswith("0.3."):  # before the host had a hook for loading
    del ComfyExtension.on_load
    # As the host of that time: entry point, list of nodes, their schemas.
    spec = importlib.util.spec_from_file_location("pack", Path(base) / "custom_nodes" / PACK_NAME / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pack"] = module
    spec.loader.exec_module(module)
    async def list_nodes():
        return await (await module.comfy_entrypoint()).get_node_list()
    found = [node.GET_SCHEMA().node_id for node in asyncio.run(list_nodes())]
else:
    in_process.load_pack(nodes, Path(base) / "custom_nodes" / PACK_NAME)
    found = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("Lynx")]
print("found", len(found))
"""


@pytest.mark.parametrize(("host", "version"), [("0.16.3", "0.3.50"), ("0.30.0", "0.100.1rc2")])
def test_an_old_host_gets_a_sentence_and_all_nodes(
    comfyui_dirs: dict[str, Path], tmp_path: Path, host: str, version: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(comfyui_dirs[host]), str(REPO), str(tmp_path), version],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert f"found {len(NODE_IDS)}" in done.stdout, done.stderr[-2000:]
    assert (SENTENCE.format(version) in done.stderr) == (host == "0.16.3")
    assert "has changed" not in done.stderr, "the oldest and the newest host have all that the pack relies on"


@pytest.mark.parametrize(
    ("version", "is_told"),
    [("0.3.50", True), ("0.16.2", True), ("0.16.3", False), ("0.30.0", False), ("0.100.1rc2", False)],
)
def test_versions_are_compared_as_numbers(
    bench: WanBench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    is_told: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "comfyui_version", SimpleNamespace(__version__=version))
    bench.comfy.pack.warn_of_old_host()
    assert (SENTENCE.format(version) in caplog.text and "update ComfyUI" in caplog.text) == is_told
