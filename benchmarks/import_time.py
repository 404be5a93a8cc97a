"""What the pack adds to the host's start: `python benchmarks/import_time.py`.

In fresh processes the host is imported with its own extra nodes, and then loads the pack with
its own loader; only that load is timed. At most 0.5 s. One more run lists the modules that
take longest.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from host_model import DEFAULT_HOST, REPO

MODULES_SHOWN = 8
CPU_ONLY = ("--cpu", "--disable-api-nodes", "--quick-test-for-ci")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="fresh processes (default: 5)")
    parser.add_argument(
        "--starts",
        type=int,
        default=0,
        help="also: pairs of whole starts without and with the pack (default: 0)",
    )
    parser.add_argument("--comfyui", type=Path, default=DEFAULT_HOST, help="host (default: %(default)s)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def load_pack_here(comfyui_dir: Path, base_dir: Path) -> None:
    """Import the host, then print the seconds of the pack's load."""
    from comfy_host import PACK_NAME, prepare_base_dir
    from in_process import load_comfyui, load_pack

    prepare_base_dir(base_dir, {PACK_NAME: REPO})
    nodes = load_comfyui(comfyui_dir, base_dir)
    print("PACK", file=sys.stderr, flush=True)
    start, cpu_start = time.perf_counter(), time.process_time()
    load_pack(nodes, base_dir / "custom_nodes" / PACK_NAME)
    print(f"loaded in {time.perf_counter() - start} {time.process_time() - cpu_start}")


def run_child(comfyui_dir: Path, *python_options: str) -> tuple[float, float, str]:
    """Load the pack in a fresh process; wall clock and processor seconds, and what it wrote on stderr."""
    with tempfile.TemporaryDirectory() as base_dir:
        command = [sys.executable, *python_options, __file__]
        command += ["--comfyui", str(comfyui_dir), "--child", base_dir]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"loaded in (\S+) (\S+)", done.stdout)
    assert found  # the child prints it last
    return float(found[1]), float(found[2]), done.stderr


def print_heaviest(importtime: str) -> None:
    """List the heaviest of the modules that the pack's load imported, by their own time."""
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", importtime.split("PACK\n")[-1])
    heaviest = sorted(((int(own_us), module) for own_us, module in lines), reverse=True)
    print(
        f"{len(heaviest)} modules, {sum(own_us for own_us, _ in heaviest) / 1e3:.1f} ms of imports; the heaviest:"
    )
    for own_us, module in heaviest[:MODULES_SHOWN]:
        print(f"  {own_us / 1e3:7.1f} ms  {module.rsplit('/', 1)[-1]}")


def time_start(comfyui_dir: Path, with_pack: bool) -> float:
    """Seconds of a whole start of ComfyUI, which then ends by itself."""
    from comfy_host import PACK_NAME, prepare_base_dir

    with tempfile.TemporaryDirectory() as base_dir:
        prepare_base_dir(Path(base_dir), {PACK_NAME: REPO} if with_pack else {})
        command = [sys.executable, "main.py", *CPU_ONLY, "--base-directory", base_dir]
        command += ["--database-url", f"sqlite:///{base_dir}/user/comfyui.db"]
        start = time.perf_counter()
        subprocess.run(command, cwd=comfyui_dir, capture_output=True, check=True)
        return time.perf_counter() - start


def main() -> None:
    arguments = parse_arguments()
    if arguments.child:
        load_pack_here(arguments.comfyui, arguments.child)
        return
    runs = [run_child(arguments.comfyui) for _ in range(arguments.runs)]
    for what, seconds in (("wall clock", [run[0] for run in runs]), ("processor", [run[1] for run in runs])):
        print(
            f"load of the pack, {what:10s} {statistics.median(seconds):6.3f} s, median of {len(seconds)} "
            f"({min(seconds):.3f} to {max(seconds):.3f}); at most 0.5"
        )
    print_heaviest(run_child(arguments.comfyui, "-X", "importtime")[2])
    if arguments.starts:
        pairs = [[time_start(arguments.comfyui, with_pack) for with_pack in (False, True)]
                 for _ in range(arguments.starts)]  # fmt: skip
        added = [with_pack - without for without, with_pack in pairs]
        print(
            f"whole start {statistics.median(pair[0] for pair in pairs):.2f} s without; the pack adds "
            f"{statistics.median(added):+.2f} s, median of {len(added)} ({min(added):+.2f} to {max(added):+.2f})"
        )


if __name__ == "__main__":
    main()
