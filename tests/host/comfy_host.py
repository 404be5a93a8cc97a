"""Drives a real ComfyUI server: start, upload, queue, fetch, stop.

A server is a process of the same Python with a base directory of its own, so that nothing is
written into the host's folder and two versions can run side by side. It takes about 8 s to start
and 1 GB of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

REPO_DIR = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-Lynx"
"""Folder of this pack under `custom_nodes`; a name with a dot would break the help pages."""

LOG_TAIL_LINES = 60
Prompt = dict[str, Any]


class HostError(RuntimeError):
    """The server did not start, or died; the message ends with the tail of its log."""


class PromptError(RuntimeError):
    """A prompt was refused, failed or was interrupted; the message is the node's own."""

    def __init__(self, message: str, node_id: str | None = None, node_type: str | None = None) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


@dataclass(frozen=True)
class OutputFile:
    """A file that a node of a prompt has saved."""

    node_id: str
    filename: str
    subfolder: str
    type: str


def prepare_base_dir(base_dir: Path, packs: Mapping[str, Path]) -> None:
    """Make a ComfyUI base directory in which `packs` (folder name -> folder) are installed."""
    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    for name, pack_dir in packs.items():
        link = base_dir / "custom_nodes" / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(pack_dir.resolve(), target_is_directory=True)


def default_packs() -> dict[str, Path]:
    """This repository, and nothing else."""
    return {PACK_NAME: REPO_DIR}


def standin_packs() -> dict[str, Path]:
    """This repository, and what the stand-in models need: CLIPLoader opens their small text encoder."""
    return {**default_packs(), "standin_text_encoder": REPO_DIR / "tests" / "host" / "standin_text_encoder"}


class ComfyHost:
    """A running ComfyUI server, as a context manager.

    Args:
        comfyui_dir: the folder that holds ComfyUI's `main.py`.
        base_dir: becomes the server's base directory (`models/`, `input/`, `output/`, ...).
        packs: folder name under `custom_nodes` -> folder; see `default_packs`.
        extra_args: further command line arguments of `main.py`.
        num_threads: of the server's tensor operations. More than one makes the small stand-in models
            up to ten times slower on a busy machine.

    Raises:
        HostError: on entry, when the server dies or does not answer within `start_timeout_s`.
    """

    def __init__(
        self,
        comfyui_dir: Path,
        base_dir: Path,
        packs: Mapping[str, Path] | None = None,
        extra_args: Sequence[str] = ("--cpu",),
        num_threads: int = 1,
        start_timeout_s: float = 180,
    ) -> None:
        self.comfyui_dir = Path(comfyui_dir).resolve()
        self.base_dir = Path(base_dir).resolve()
        self.packs = dict(default_packs() if packs is None else packs)
        self.extra_args = tuple(extra_args)
        self.num_threads = num_threads
        self.start_timeout_s = start_timeout_s
        self.log_path = self.base_dir / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy must not stand between us and 127.0.0.1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyHost:
        if not (self.comfyui_dir / "main.py").is_file():
            raise HostError(f"no ComfyUI in {self.comfyui_dir} (main.py is missing); run ./scripts/setup")
        prepare_base_dir(self.base_dir, self.packs)
        self.port = _find_free_port()
        command = [sys.executable, "main.py", "--port", str(self.port), "--disable-api-nodes"]
        command += ["--base-directory", str(self.base_dir), "--disable-auto-launch"]
        command += ["--database-url", f"sqlite:///{self.base_dir / 'user' / 'comfyui.db'}", *self.extra_args]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfyui_dir,
                env=os.environ | {"OMP_NUM_THREADS": str(self.num_threads)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; harmless when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        for sign, patience_s in ((signal.SIGINT, 2), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                break
        self._http.close()

    def read_log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.is_file() else ""

    def _log_tail(self) -> str:
        return "\n".join(self.read_log().splitlines()[-LOG_TAIL_LINES:])

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise HostError(
                f"ComfyUI in {self.comfyui_dir} has ended (exit code {code}):\n{self._log_tail()}"
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if self._http.get(f"{self.url}/system_stats", timeout=5).ok:
                    return
            time.sleep(0.2)
        raise HostError(f"ComfyUI did not answer within {self.start_timeout_s:.0f} s:\n{self._log_tail()}")

    def get(self, path: str, **params: Any) -> requests.Response:
        """GET a path of the server.

        Raises:
            HostError: when the server has ended.
            requests.HTTPError: when it answers with an error status.
        """
        self._check_alive()
        response = self._http.get(f"{self.url}{path}", params=params, timeout=120)
        response.raise_for_status()
        return response

    def post_settings(self, settings: Mapping[str, Any]) -> None:
        """Set settings of the editor, by their names; a page that is opened afterwards has them."""
        self._http.post(f"{self.url}/settings", json=dict(settings), timeout=30).raise_for_status()

    def object_info(self) -> dict[str, Any]:
        """Every node's schema, by node id."""
        return self.get("/object_info").json()

    def upload_image(self, path: Path) -> str:
        """Put a picture into the server's input folder.

        Returns:
            The name by which LoadImage finds it.
        """
        with Path(path).open("rb") as file:
            response = self._http.post(
                f"{self.url}/upload/image",
                files={"image": (Path(path).name, file)},
                data={"overwrite": "true"},
                timeout=60,
            )
        response.raise_for_status()
        answer = response.json()
        return "/".join(filter(None, (answer.get("subfolder", ""), answer["name"])))

    def submit(self, prompt: Prompt, workflow: Mapping[str, Any] | None = None) -> str:
        """Put an API prompt into the queue and return its id at once.

        Args:
            workflow: what the files that are saved bring back when they are dropped into the editor.

        Raises:
            PromptError: when the server refuses it, or runs only some of its outputs; the message lists what
                each node complains of.
        """
        self._check_alive()
        extra = {} if workflow is None else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}
        response = self._http.post(f"{self.url}/prompt", json={"prompt": prompt, **extra}, timeout=120)
        if not response.ok:
            raise _refusal(response)
        answer = response.json()
        if answer.get("node_errors"):
            self._cancel(answer["prompt_id"])
            raise _refusal(response)
        return answer["prompt_id"]

    def _cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, running or not."""
        self._http.post(f"{self.url}/queue", json={"delete": [prompt_id]}, timeout=30).raise_for_status()
        if any(item[1] == prompt_id for item in self.get("/queue").json()["queue_running"]):
            self.interrupt()

    def wait(self, prompt_id: str, timeout_s: float = 240) -> dict[str, dict[str, Any]]:
        """Wait for a submitted prompt.

        Returns:
            node id -> what the node shows in the interface (see `list_files`).

        Raises:
            PromptError: when it fails or is interrupted.
            TimeoutError: when it is not done in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._check_alive()
            entry = self.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry is not None:
                _raise_failure(entry["status"])
                return entry["outputs"]
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} took more than {timeout_s:.0f} s:\n{self._log_tail()}")

    def queue(self, prompt: Prompt, timeout_s: float = 240) -> dict[str, dict[str, Any]]:
        """`submit` and `wait` in one."""
        return self.wait(self.submit(prompt), timeout_s)

    def queue_error(self, prompt: Prompt, timeout_s: float = 240) -> PromptError:
        """Queue a prompt that must fail, and return its error.

        Raises:
            AssertionError: when it succeeds.
        """
        try:
            outputs = self.queue(prompt, timeout_s)
        except PromptError as error:
            return error
        raise AssertionError(f"the prompt was expected to fail, but gave {outputs}")

    def interrupt(self) -> None:
        """Stop what is running, as the interface's cancel button does."""
        self._http.post(f"{self.url}/interrupt", json={}, timeout=30).raise_for_status()

    def wait_until_running(self, prompt_id: str, timeout_s: float = 60) -> None:
        """Wait until the server works on a submitted prompt.

        Raises:
            TimeoutError: when it does not begin, or has ended already.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(item[1] == prompt_id for item in self.get("/queue").json()["queue_running"]):
                return
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} was not seen running within {timeout_s:.0f} s")

    def free_memory(self) -> None:
        """Ask the server to unload models and forget cached results."""
        body = {"unload_models": True, "free_memory": True}
        self._http.post(f"{self.url}/free", json=body, timeout=30).raise_for_status()

    def forget_results(self) -> None:
        """Ask the server to forget cached results but keep its models loaded: the next run runs every node."""
        body = {"unload_models": False, "free_memory": True}
        self._http.post(f"{self.url}/free", json=body, timeout=30).raise_for_status()
        time.sleep(0.2)  # it does so when it next looks at its queue

    def fetch(self, file: OutputFile, to_dir: Path) -> Path:
        """Download a saved file into `to_dir`."""
        answer = self.get("/view", filename=file.filename, subfolder=file.subfolder, type=file.type)
        to_dir.mkdir(parents=True, exist_ok=True)
        path = to_dir / file.filename
        path.write_bytes(answer.content)
        return path


def list_files(outputs: Mapping[str, Mapping[str, Any]], suffix: str = "") -> list[OutputFile]:
    """The files that a finished prompt has saved, optionally only those with this ending."""
    return [
        OutputFile(node_id, item["filename"], item.get("subfolder", ""), item.get("type", "output"))
        for node_id, shown in outputs.items()
        for items in shown.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and str(item.get("filename", "")).endswith(suffix)
    ]


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refusal(response: requests.Response) -> PromptError:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return PromptError(f"the server answered {response.status_code}: {response.text[:500]}")
    refused_in_part = "The server runs only some of the outputs"
    error = answer.get("error", {"message": refused_in_part} if answer.get("node_errors") else answer)
    lines = [error["message"] if isinstance(error, dict) and "message" in error else str(error)]
    first: tuple[str, str] | None = None
    for node_id, failure in answer.get("node_errors", {}).items():
        first = first or (node_id, failure["class_type"])
        lines += [
            f"{failure['class_type']} ({node_id}): {error['message']}: {error['details']}"
            for error in failure["errors"]
        ]
    return PromptError("\n".join(lines), *(first or (None, None)))


def _raise_failure(status: Mapping[str, Any]) -> None:
    if status["status_str"] == "success":
        return
    for event, data in status["messages"]:
        if event == "execution_interrupted":
            raise PromptError("interrupted", data.get("node_id"), data.get("node_type"))
        if event == "execution_error":
            message = f"{data['exception_type']}: {data['exception_message']}".strip()
            raise PromptError(message, data.get("node_id"), data.get("node_type"))
    raise PromptError(f"the prompt ended as {status['status_str']!r}: {json.dumps(status['messages'])}")


def pack_errors(log: str, pack: str = PACK_NAME) -> Iterator[str]:
    """Lines of a server log that tell of trouble with a pack."""
    for line in log.splitlines():
        if pack in line and any(word in line for word in ("IMPORT FAILED", "Cannot import", "Error", "Skip")):
            yield line


def copy_into(source_dir: Path, base_dir: Path) -> None:
    """Link (or, where links are not possible, copy) every file of `source_dir` into `base_dir`."""
    for source in source_dir.rglob("*"):
        if source.is_file():
            target = base_dir / source.relative_to(source_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
