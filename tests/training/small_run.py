"""A whole training set-up in small: a folder of media, encoders, a base, and the configuration file.

Everything is real code on small random weights: diffusers' Wan and VAE, transformers' UMT5, the nodes'
ArcFace. The folder can be used by other processes, so that a run can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Started by itself, this file is no part of a pytest run, which knows these folders.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))

from small_encoders import save_small_models
from small_media import write_image, write_rows, write_video

from lynx_core.training.configuration import TrainingConfig, read_configuration
from lynx_core.training.configuration_file import as_plain, parse_settings
from lynx_core.training.trained_state import read_weights


def parse_configuration(values: Mapping[str, Any]) -> TrainingConfig:
    """The configuration that a file of these values gives."""
    return parse_settings(TrainingConfig, values)


REPO_DIR = Path(__file__).resolve().parents[2]
TEXT_DIM = 16
PRELOADED = [
    "lynx_core.training.loop",
    "accelerate",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "transformers.models.umt5.modeling_umt5",
    "av",
]
"""What a run imports, 10 s of it."""

MINI_CONFIG = REPO_DIR / "configs" / "mini_cpu.toml"
DATA_PATHS = (
    "manifest",
    "validation_manifest",
    "cache",
    "vae",
    "text_encoder",
    "tokenizer",
    "face_recogniser",
)
KINDS = ("single-scene", "multi-scene", "augmented")


def save_small_base(folder: Path, num_layers: int = 2) -> None:
    """A diffusers folder of a Wan of width 32."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(5)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=48,
        num_layers=num_layers,
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    transformer.save_pretrained(folder)


def save_small_dataset(folder: Path, num_each: int = 7) -> None:
    """`train.jsonl` of images and clips of several sizes, and `heldout.jsonl` of two more people."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = ((48, 32), (32, 32), (32, 48))
    rows: list[dict[str, Any]] = []
    for number in range(num_each):
        for medium in ("image", "clip"):
            name = f"{medium}{number}"
            size = sizes[number % len(sizes)]
            if medium == "image":
                target = write_image(folder / f"{name}.png", size, seed=number)
            else:
                target = write_video(folder / f"{name}.mp4", 5 + 4 * (number % 2), size, seed=number)
            write_image(folder / f"face_{name}.png", (112, 112), seed=100 + number)
            rows.append(
                {
                    "id": name,
                    "target": target.name,
                    "references": [f"face_{name}.png"],
                    "caption": f"a man {'abcd'[number % 4]}",
                    "kind": KINDS[number % len(KINDS)],
                }
            )
    write_rows(folder / "train.jsonl", rows[:-2])
    write_rows(folder / "heldout.jsonl", rows[-2:])
    write_rows(folder / "images.jsonl", [row for row in rows if row["target"].endswith(".png")][:5])


def save_small_world(root: Path) -> None:
    """All files of a run below one folder."""
    save_small_models(root / "models")
    save_small_base(root / "base")
    save_small_dataset(root / "data")


def plain_configuration(root: Path, output: Path) -> dict[str, Any]:
    """configs/mini_cpu.toml on other folders: four steps on images, and four on videos."""
    values = as_plain(read_configuration(MINI_CONFIG))
    for section, keys in (("base", ["transformer"]), ("data", DATA_PATHS)):
        for key in keys:
            values[section][key] = str(root / Path(values[section][key]).relative_to("mini"))
    values["run"]["output"] = str(output)
    return values


def make_configuration(root: Path, output: Path, **changes: Mapping[str, Any]) -> TrainingConfig:
    """The configuration with some keys of sections changed."""
    values = plain_configuration(root, output)
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, Mapping) else keys
    return parse_configuration(values)


class Run:
    """`train` in processes of its own, on one thread each, which can be killed.

    They are forked from a server that has imported everything once, so that each starts in a moment.

    Args:
        values: of `plain_configuration`.
        plant: name of a function of this module that is called in each process first.
    """

    def __init__(
        self, values: Mapping[str, Any], num_processes: int = 1, plant: str = "", argument: Any = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = _free_port()
        self.processes = []
        for rank in range(num_processes):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
                "OMP_NUM_THREADS": "1",  # accelerate sets the threads by it
            }
            process = context.Process(
                target=_run_in_child,
                args=(dict(values), environment if num_processes > 1 else {}, plant, argument),
                daemon=True,
            )
            process.start()
            self.processes.append(process)

    def kill(self) -> None:
        """End all processes as `kill -9` does."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def interrupt(self) -> None:
        """Send Ctrl-C to the first process only."""
        pid = self.processes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGINT)

    def join(self, timeout: float = 120) -> list[int | None]:
        """Wait; gives the exit codes, negative for a signal."""
        for process in self.processes:
            process.join(timeout)
            if process.is_alive():
                self.kill()
                raise AssertionError(f"a process was still running after {timeout} s")
        return [process.exitcode for process in self.processes]

    def wait_for_step(self, output: Path, step: int, timeout: float = 60) -> None:
        """Wait until a checkpoint of at least this step is there."""
        end = time.monotonic() + timeout
        while newest_step(output) < step:
            if time.monotonic() > end or not any(process.is_alive() for process in self.processes):
                raise AssertionError(
                    f"no checkpoint of step {step} in {timeout} s; {newest_step(output)} is there"
                )
            time.sleep(0.01)


def _run_in_child(values: dict[str, Any], environment: dict[str, str], plant: str, argument: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    if plant:
        globals()[plant](argument)
    from lynx_core.training.loop import train

    result = train(parse_configuration(values))
    sys.exit(0 if result.ended == "finished" else 130)


def die_at_sync(where: tuple[int, int, int]) -> None:
    """Plant: process `rank` kills itself at the n-th sync of a file or folder of the checkpoint of a step."""
    rank, step, number = where
    if os.environ.get("RANK", "0") != str(rank):
        return
    honest, counts = os.fsync, [0]

    def fsync(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        is_last = path.endswith("/checkpoints") and (Path(path) / f"step-{step:08d}").exists()
        if f"/.step-{step:08d}.part" in path or is_last:
            counts[0] += 1
            if counts[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
        honest(handle)

    os.fsync = fsync


def note_losses(path: str) -> None:
    """Plant: each process writes the step, sample, timestep and loss of all that it runs, and gradient norms."""
    from lynx_core.training.step import TrainingStep

    honest = TrainingStep.run
    file = Path(f"{path}-{os.environ.get('RANK', '0')}").open("a", buffering=1)  # noqa: SIM115
    norms = Path(f"{path.replace('losses', 'norms')}-{os.environ.get('RANK', '0')}").open("a", buffering=1)  # noqa: SIM115
    counts = [0]

    def run(self: Any, loaded: Any, *arguments: Any) -> Any:
        outcome = honest(self, loaded, *arguments)
        counts[0] = sum(cursor.steps for cursor in loaded.cursors.values())
        norms.write(f"{counts[0]} {outcome.grad_norm}\n")
        for sample in outcome.samples:
            file.write(f"{counts[0]} {sample.sample_id} {sample.t.hex()} {sample.loss.hex()}\n")
        return outcome

    TrainingStep.run = run  # type: ignore[method-assign]


def note_losses_slowly(path: str) -> None:
    """Plant: both."""
    note_losses(path)
    slow_down(0.1)


def announce_steps(path: str) -> None:
    """Plant: a file appears with the first step of the first process."""
    from lynx_core.training.step import TrainingStep

    honest = TrainingStep.run

    def run(*arguments: Any) -> Any:
        if os.environ["RANK"] == "0":
            Path(path).touch()
        return honest(*arguments)

    TrainingStep.run = run  # type: ignore[method-assign]


def slow_down(seconds: float) -> None:
    """Plant: each step takes longer, so that a run is still there to be killed."""
    from lynx_core.training.step import TrainingStep

    honest = TrainingStep.run

    def run(*arguments: Any) -> Any:
        time.sleep(seconds)
        return honest(*arguments)

    TrainingStep.run = run  # type: ignore[method-assign]


def unseed(_: None) -> None:
    """Plant: noise, timestep and dropout depend on the moment."""
    from lynx_core import rng

    def generator(key: Any, purpose: str) -> torch.Generator:
        generator = torch.Generator()
        generator.seed()
        return generator

    rng.RNGKey.generator = generator  # type: ignore[method-assign]


def newest_step(output: Path) -> int:
    """Step of the newest checkpoint, 0 when there is none."""
    names = [path.name for path in (output / "checkpoints").glob("step-*")]
    return max((int(name.split("-")[1]) for name in names), default=0)


def read_result(output: Path) -> dict[str, Tensor]:
    """All tensors that a finished run leaves: the exported adapter, and its newest checkpoint."""
    checkpoint = sorted((output / "checkpoints").glob("step-*"))[-1]
    tensors = {f"adapter {k}": v for k, v in load_file(output / "adapter.safetensors").items()}
    for kind in ("weights", "ema", "optimizer"):
        tensors |= {f"{kind} {k}": v for k, v in read_weights(checkpoint, f"{kind}/").items()}
    return tensors


def assert_same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Compare to the bit."""
    assert a.keys() == b.keys()
    differing = [name for name in a if not torch.equal(a[name], b[name])]
    assert not differing, f"{len(differing)} of {len(a)} tensors differ, as {differing[0]}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    save_small_world(Path(sys.argv[1]))
