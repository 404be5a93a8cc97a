"""Everything that only a GPU can tell, in one command: `python benchmarks/gpu.py`.

Takes under 8 minutes on one card of 80 GB, and 20 GB of disk. Each part is a process of its own with a time limit,
prints as it goes, and leaves its figures for the table at the end, so that a run that is cut still tells something.
`--part` runs one, `--device cpu --small` tries all of them in one process, without any figure worth reading.

A machine that has PyTorch, transformers, einops, scipy, psutil and aiohttp needs 57 MB more:

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels av torchsde trampoline comfy-aimdo \\
        comfy-kitchen==0.2.26 pydantic pydantic-core annotated-types typing-inspection pydantic-settings python-dotenv diffusers
    tar czf host.tgz -C .comfyui/0.30.0 --exclude __pycache__ comfy comfy_api comfy_config comfy_execution comfy_extras \\
        app utils middleware api_server alembic_db $(cd .comfyui/0.30.0; ls *.py)

There: `pip install --no-index --no-deps --target site wheels/*.whl`, `mkdir host && tar xzf host.tgz -C host`, and
`PYTHONPATH=site COMFYUI_DIR=host python benchmarks/gpu.py`. (Of comfy-kitchen the wheel that ends in py3-none-any: it
holds no kernels, and the others are larger than all the rest.)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from host_model import DEFAULT_HOST, REPO

RESULT = "RESULT "
"""A part's line that begins so holds one `Figure` as JSON."""


SHORTEST_S = 5.0
"""A part with less time than this is not begun."""


@dataclass(frozen=True)
class Part:
    """One process of the run."""

    name: str
    limit_s: float
    what: str


PARTS = (
    Part("card", 60, "the card, and its bf16 matmul rate"),
    Part("attention", 60, "loop, varlen and flash attention of the trainer: errors and times"),
    Part("mfu", 110, "a training step of 33,600 tokens with full checkpointing"),
    Part(
        "bf16", 170, "14B in bf16: step of base, ours and the published way; memory, encoding, saved identity"
    ),
    Part("fp8", 110, "14B in fp8: step of base and ours, memory"),
    Part("compile", 90, "torch.compile of each block and of the whole model"),
    Part("tests", 60, "the tests marked cuda"),
)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: str
    aim: str = ""
    holds: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "holds", False: "MISSED", None: ""}[self.holds]
        return f"{self.what:58} {self.value:>24}  {self.aim:24} {verdict}".rstrip()


def run_parts(names: list[str], arguments: argparse.Namespace, limit_s: float) -> tuple[str, list[Figure]]:
    """Run parts in a process of their own.

    Returns:
        How it ended in a word or line, and the figures it got to.
    """
    command = [sys.executable, "-u", str(REPO / "benchmarks" / "gpu_parts.py"), *names]
    command += [
        "--device",
        arguments.device,
        "--work",
        str(arguments.work),
        "--comfyui",
        str(arguments.comfyui),
    ]
    command += ["--small"] if arguments.small else []
    path = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    timer = threading.Timer(limit_s, process.kill)
    timer.start()
    figures: list[Figure] = []
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(RESULT):
            figures.append(Figure(**json.loads(line.removeprefix(RESULT))))
            continue
        if line.strip():
            last = line.strip()
        print(line, end="", flush=True)
    is_cut = not timer.is_alive()
    timer.cancel()
    if process.wait() == 0:
        return "done", figures
    return (f"cut after {limit_s:.0f} s" if is_cut else f"failed: {last[:160]}"), figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="default: all")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--small", action="store_true", help="tiny shapes: whether it runs at all")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all parts together (default: 8)")
    parser.add_argument("--work", type=Path, help="keep the random adapter here (8.6 GB) and use it again")
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST, help="host (default: %(default)s)")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = arguments.work or Path(temporary)
        ended: dict[str, str] = {}
        table: list[Figure] = []
        chosen = [part for part in PARTS if not arguments.part or part.name in arguments.part]
        for parts in [chosen] if arguments.small else [[part] for part in chosen]:
            name = ", ".join(part.name for part in parts)
            limit_s = min(sum(part.limit_s for part in parts), deadline - time.monotonic())
            print(
                f"== {'; '.join(f'{p.name}: {p.what}' for p in parts)} (at most {max(limit_s, 0):.0f} s)",
                flush=True,
            )
            if limit_s < SHORTEST_S:
                ended[name] = "no time left"
                continue
            begun = time.monotonic()
            how, figures = run_parts([part.name for part in parts], arguments, limit_s)
            ended[name] = f"{how}, {time.monotonic() - begun:.0f} s"
            table += figures
    print("\n" + "\n".join(map(str, table)))
    print("; ".join(f"{name}: {how}" for name, how in ended.items()))
    return 0 if all(how.startswith("done") for how in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
