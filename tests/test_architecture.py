"""The shape of the code: which part may know which, how long things get, what importing costs."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
HOST_MODULES = {
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "execution", "folder_paths", "latent_preview", "node_helpers", "server",
}  # fmt: skip
HEAVY = (
    "insightface",
    "onnxruntime",
    "onnx",
    "cv2",
    "gguf",
    "huggingface_hub",
    "diffusers",
    "facexlib",
    "matplotlib",
)
SOURCES = [
    path
    for folder in ("lynx_core", "nodes", "tests", "benchmarks", "scripts")
    for path in sorted((REPO / folder).rglob("*.py"))
]


SHARED = {path.stem for path in (REPO / "lynx_core").glob("*.py")} - {"__init__"}
"""Modules beside the packages, such as `spec`: every package may know them, and they know no package."""


def list_imports(path: Path) -> Iterator[str]:
    """Give every module that a file imports, anywhere in it, relative names resolved within the repository."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            parts = [*above, *((node.module or "").split(".") if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def test_imports_are_read_as_python_resolves_them() -> None:
    found = set(list_imports(REPO / "nodes" / "host" / "attention_hooks.py"))
    assert {"torch.Tensor", "comfy.model_management", "nodes.host.conditioning.COND_KEY"} <= found
    assert "lynx_core.models.kv_cache.attend_extra" in found


@pytest.mark.parametrize(
    "path", sorted((REPO / "lynx_core").rglob("*.py")), ids=lambda p: str(p.relative_to(REPO))
)
def test_the_core_knows_neither_host_nor_nodes(path: Path) -> None:
    tops = {name.split(".")[0] for name in list_imports(path)}
    assert not tops & (HOST_MODULES | {"nodes", "custom_nodes"})


@pytest.mark.parametrize("path", sorted((REPO / "nodes").rglob("*.py")), ids=lambda p: p.name)
def test_the_nodes_know_the_core_and_no_training(path: Path) -> None:
    imports = list(list_imports(path))
    core = {name.split(".")[1] for name in imports if name.startswith("lynx_core.")}
    assert core <= SHARED | {"models", "faces", "formats", "evaluation"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    absolute = {
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert not [name for name in absolute if name.split(".")[0] in ("nodes", "lynx_core")], (
        "imports in the pack are relative"
    )


MAY_KNOW: dict[str, set[str]] = {
    "models": set(),
    "formats": {"models"},
    "faces": set(),
    "engine": set(),
    "data": {"engine", "faces"},
    "curate": {"data", "engine", "faces"},
    "evaluation": {"data", "faces"},
    "training": {"data", "evaluation", "faces", "formats", "models"},
    "cli": {"curate", "data", "evaluation", "faces", "formats", "models", "training"},
}
"""Packages of lynx_core, and which others each may import: spec <- models <- formats, engine, faces <- data <- the rest."""


def map_core_imports() -> dict[str, set[str]]:
    """Give the modules of lynx_core that each of its modules imports, anywhere in it."""
    files = {
        ".".join(path.relative_to(REPO).with_suffix("").parts): path
        for path in (REPO / "lynx_core").rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names = {name if name in files else name.rpartition(".")[0] for name in list_imports(path)}
        found[module] = names & files.keys() - {module}
    return found


def find_wrong_directions(imports: dict[str, set[str]]) -> list[str]:
    wrong = []
    for module, known in imports.items():
        package = module.split(".")[1] if "." in module else ""
        for other in {name.split(".")[1] for name in known if "." in name} - {package}:
            allowed = SHARED if package in SHARED else SHARED | MAY_KNOW.get(package, set())
            if package and other not in allowed:
                wrong.append(f"{module} imports {other}")
    return sorted(wrong)


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """Give modules that import each other in a circle; empty when there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_packages_of_the_core_know_each_other_in_one_direction() -> None:
    imports = map_core_imports()
    assert "lynx_core.spec" in imports["lynx_core.formats.layouts"], "imports are read"
    packages = {path.name for path in (REPO / "lynx_core").iterdir() if (path / "__init__.py").is_file()}
    assert packages <= MAY_KNOW.keys(), "say in MAY_KNOW what a new package may import"
    assert find_wrong_directions(imports) == []


def test_no_files_of_the_core_import_each_other_in_a_circle() -> None:
    assert find_circle(map_core_imports()) == []


@pytest.mark.parametrize(
    ("module", "known", "wrong"),
    [
        ("models.kv_cache", "formats.adapter", "models.kv_cache imports formats"),
        ("data.sample", "training.loop", "data.sample imports training"),
        ("spec", "models.adapters", "spec imports models"),
        ("newcomer.thing", "faces.crops", "newcomer.thing imports faces"),
    ],
)
def test_a_wrong_direction_is_seen(module: str, known: str, wrong: str) -> None:
    imports = map_core_imports()
    imports.setdefault(f"lynx_core.{module}", set()).add(f"lynx_core.{known}")
    assert find_wrong_directions(imports) == [f"lynx_core.{wrong}"]


def test_a_circle_of_files_is_seen() -> None:
    imports = map_core_imports()
    imports["lynx_core.formats.tensor_file"].add("lynx_core.formats.parts")
    assert set(find_circle(imports)) >= {"lynx_core.formats.tensor_file", "lynx_core.formats.parts"}


@pytest.mark.parametrize(
    "path", sorted((REPO / "lynx_core").rglob("*.py")), ids=lambda p: str(p.relative_to(REPO))
)
def test_errors_of_the_core_are_lynx_errors(path: Path) -> None:
    builtin = {"Exception", "ValueError", "RuntimeError", "TypeError", "KeyError", "OSError"}
    found = {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & builtin
    }
    assert {name for name in found if not name.startswith("_")} <= {"LynxError"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > 60
        and not is_card(node)
    ]
    assert not long


def is_card(function: ast.AST) -> bool:
    """Tell a node's schema, which is a table and not code."""
    return isinstance(function, ast.FunctionDef) and function.name == "define_schema"


def run_python(code: str, *arguments: str, cwd: Path) -> str:
    """Run code in a fresh interpreter, away from this repository; give what it prints last."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240, cwd=cwd, env=environment, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_root_and_core_load_without_comfyui(tmp_path: Path) -> None:
    code = """
import importlib.util, json, pkgutil, sys
spec = importlib.util.spec_from_file_location("pack", sys.argv[1], submodule_search_locations=[])
pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
assert hasattr(pack, "comfy_entrypoint") and not hasattr(pack, "NODE_CLASS_MAPPINGS")
import lynx_core
from importlib import import_module
names = [m.name for m in pkgutil.walk_packages(lynx_core.__path__, "lynx_core.")]
for name in names:
    import_module(name)
print(json.dumps([sorted(names), [n for n in sys.argv[2].split() if n in sys.modules]]))
"""
    names, heavy = json.loads(
        run_python(code, str(REPO / "__init__.py"), " ".join((*HEAVY, "comfy")), cwd=tmp_path)
    )
    assert "lynx_core.formats.adapter" in names
    assert heavy == []


LOAD_IN_HOST = """
import json, sys
from pathlib import Path
host, tests_host, base, blocked, heavy = sys.argv[1:]
sys.path.insert(0, tests_host)
import in_process
from comfy_host import default_packs, PACK_NAME, prepare_base_dir
packs = {PACK_NAME: default_packs()[PACK_NAME]}
prepare_base_dir(Path(base), packs)
nodes = in_process.load_comfyui(Path(host), Path(base))
before = set(sys.modules)
missing = [n for n in blocked.split() if n not in sys.modules]
sys.modules.update(dict.fromkeys(missing))  # None there makes an import fail as if it were not installed
pack = in_process.load_pack(nodes, Path(base) / "custom_nodes" / PACK_NAME)
new = [n for n in heavy.split() if n in sys.modules and n not in before]
comfy = in_process.InProcessComfy(Path(base), nodes, pack)
schemas = [comfy.node_classes[n].INPUT_TYPES() for n in comfy.node_classes if n.startswith("Lynx")]
message = ""
if blocked:
    import torch
    (Path(base) / "models" / "buffalo_l").mkdir(parents=True)
    (Path(base) / "models" / "buffalo_l" / "det_10g.onnx").touch()
    analyzer = comfy.pack_module("lynx_core.faces.analyzer").FaceAnalyzer(Path(base), "buffalo_l", "CPU", None)
    try:
        comfy.run("LynxCropFace", image=torch.rand(1, 64, 64, 3), face_analyzer=analyzer)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
print(json.dumps([sorted(n for n in comfy.node_classes if n.startswith("Lynx")), new, message]))
"""


def load_in_host(comfyui_dir: Path, base_dir: Path, blocked: str) -> tuple[list[str], list[str], str]:
    """Load the pack in a fresh host process; give its nodes, its heavy imports, and what a face node says."""
    return tuple(
        json.loads(
            run_python(
                LOAD_IN_HOST, str(comfyui_dir), str(REPO / "tests" / "host"), str(base_dir), blocked, " ".join(HEAVY), cwd=base_dir
            )
        )
    )  # fmt: skip


def test_loading_the_pack_imports_nothing_heavy(comfyui_dirs: dict[str, Path], tmp_path: Path) -> None:
    names, heavy, _ = load_in_host(comfyui_dirs["0.30.0"], tmp_path, "")
    assert len(names) >= 8
    assert heavy == []


def test_a_missing_package_disables_only_what_needs_it(comfyui_dirs: dict[str, Path], tmp_path: Path) -> None:
    names, _, message = load_in_host(comfyui_dirs["0.30.0"], tmp_path, "insightface cv2 gguf huggingface_hub")
    assert len(names) >= 8
    assert "insightface" in message
    assert "pip install" in message
