"""A ComfyUI server over HTTP: upload a photo, run a workflow, fetch the video, watch the memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from ..spec import first_line
from .errors import PromptFailed, ServerLost
from .workflow import Nodes

_POLL_S, _STATS_EVERY_S, _TIMEOUT_S = 0.2, 1.0, 60.0
_GB = 1e9
_FETCH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SavedFile:
    """A file in the server's output folder."""

    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True)
class FinishedPrompt:
    """What a server says of a workflow that has run."""

    files: tuple[SavedFile, ...]
    """Saved by the output node."""
    latency_s: float | None
    """From the start to the end of the execution, by the server's own clock."""
    peak_memory_gb: float | None
    memory_source: str | None


class ComfyServer:
    """One server.

    Args:
        url: as "http://127.0.0.1:8188".
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = requests.Session()
        self._uploaded: set[str] = set()

    def is_alive(self) -> bool:
        try:
            return bool(self._http.get(f"{self.url}/system_stats", timeout=5).ok)
        except requests.RequestException:
            return False

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", _TIMEOUT_S)
        try:
            response = self._http.request(method, f"{self.url}{path}", **options)
        except requests.RequestException as error:
            self._uploaded.clear()  # it may come back with an empty input folder
            raise ServerLost(f"{self.url} does not answer: {first_line(error)}") from error
        if response.status_code >= 500 and path != "/prompt":
            raise ServerLost(f"{self.url}{path} answers {response.status_code}: {response.text[:200]}")
        return response

    def list_prompts(self) -> set[str]:
        """Ids of all prompts that wait, run or have run there.

        Raises:
            ServerLost: when it does not answer.
        """
        queue = self._call("GET", "/queue").json()
        waiting = {item[1] for name in ("queue_running", "queue_pending") for item in queue[name]}
        return waiting | set(self._call("GET", "/history").json())

    def upload(self, photo: Path, name: str) -> str:
        """Put a photo into the input folder, once.

        Returns:
            The name by which LoadImage finds it.

        Raises:
            ServerLost: when the server does not answer.
            PromptFailed: when it refuses the photo.
        """
        if name not in self._uploaded:
            with photo.open("rb") as file:
                files, data = {"image": (name, file)}, {"overwrite": "true"}
                response = self._call("POST", "/upload/image", files=files, data=data)
            if not response.ok:
                raise PromptFailed(
                    f"{self.url} refuses the photo {photo}: {response.status_code} {response.text[:200]}"
                )
            self._uploaded.add(name)
        return name

    def submit(self, nodes: Nodes, prompt_id: str) -> None:
        """Put a workflow into the queue under an id of ours.

        Raises:
            ServerLost: when the server does not answer.
            PromptFailed: when it refuses the workflow, or would run only a part of it.
        """
        response = self._call("POST", "/prompt", json={"prompt": nodes, "prompt_id": prompt_id})
        try:
            answer = response.json()
        except ValueError:
            answer = {"error": response.text[:300]}
        if not response.ok or answer.get("node_errors"):
            raise PromptFailed(_describe_refusal(answer))
        if answer.get("prompt_id") != prompt_id:
            raise PromptFailed(f"{self.url} takes no prompt id; ComfyUI 0.16 or newer is needed")

    def wait(
        self, prompt_id: str, output_node: str, timeout_s: float, stop: threading.Event
    ) -> FinishedPrompt | None:
        """Wait for a prompt; None when `stop` is set before.

        Raises:
            ServerLost: when the server goes away, or has forgotten the prompt because it was restarted.
            PromptFailed: when a node fails, or it takes too long.
        """
        deadline, stats_due, peak, source = time.monotonic() + timeout_s, 0.0, 0.0, None
        while not stop.is_set():
            entry = self._find(prompt_id)
            if entry is not None:
                latency = _read_latency(entry["status"])
                _raise_failure(entry["status"])
                files = tuple(_list_files(entry["outputs"].get(output_node, {})))
                if not files:
                    raise PromptFailed(f"the output node {output_node!r} has saved no file")
                return FinishedPrompt(files, latency, peak or None, source)
            if time.monotonic() > deadline:
                self._cancel(prompt_id)
                raise PromptFailed(
                    f"not done after {timeout_s:.0f} s; raise generation.timeout_s if it may take longer"
                )
            if time.monotonic() >= stats_due:
                used, source = self._read_memory()
                peak, stats_due = max(peak, used), time.monotonic() + _STATS_EVERY_S
            stop.wait(_POLL_S)
        return None

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs or has run there.

        Raises:
            ServerLost: when the server does not answer.
        """
        return self._find_entry(prompt_id) is not None or self._is_queued(prompt_id)

    def _find_entry(self, prompt_id: str) -> dict[str, Any] | None:
        return self._call("GET", f"/history/{prompt_id}").json().get(prompt_id)

    def _is_queued(self, prompt_id: str) -> bool:
        queue = self._call("GET", "/queue").json()
        return any(
            item[1] == prompt_id for name in ("queue_running", "queue_pending") for item in queue[name]
        )

    def _find(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a prompt; None while it waits or runs."""
        for _ in range(2):  # between the two questions it may have moved from the queue to the history
            entry = self._find_entry(prompt_id)
            if entry is not None or self._is_queued(prompt_id):
                return entry
        raise ServerLost(f"{self.url} has forgotten the prompt; it was restarted")

    def _read_memory(self) -> tuple[float, str]:
        """Memory in use in GB and where: on the first GPU, or of the machine when there is none."""
        stats = self._call("GET", "/system_stats").json()
        device = (stats.get("devices") or [{}])[0]
        if device.get("type", "cpu") != "cpu":
            return (device["vram_total"] - device["vram_free"]) / _GB, f"memory in use on {device['name']}"
        system = stats["system"]
        return (system["ram_total"] - system["ram_free"]) / _GB, "memory in use of the whole machine"

    def _cancel(self, prompt_id: str) -> None:
        self._call("POST", "/queue", json={"delete": [prompt_id]})
        self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    def fetch(self, file: SavedFile) -> Iterator[bytes]:
        """The content of a saved file.

        Raises:
            ServerLost: when the server goes away.
            PromptFailed: when it does not have the file any more.
        """
        params = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        response = self._call("GET", "/view", params=params, stream=True)
        if not response.ok:
            raise PromptFailed(f"{self.url} does not give {file.filename}: {response.status_code}")
        try:
            yield from response.iter_content(_FETCH_CHUNK_BYTES)
        except requests.RequestException as error:
            raise ServerLost(
                f"{self.url} went away while sending {file.filename}: {first_line(error)}"
            ) from error


def _list_files(shown: dict[str, Any]) -> Iterator[SavedFile]:
    for items in shown.values():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and "filename" in item:
                yield SavedFile(item["filename"], item.get("subfolder", ""), item.get("type", "output"))


def _read_latency(status: dict[str, Any]) -> float | None:
    stamps = {event: data.get("timestamp") for event, data in status.get("messages", [])}
    begun, ended = stamps.get("execution_start"), stamps.get("execution_success")
    return (ended - begun) / 1000 if begun and ended else None


def _raise_failure(status: dict[str, Any]) -> None:
    if status.get("status_str") == "success":
        return
    for event, data in status.get("messages", []):
        if event == "execution_interrupted":
            raise PromptFailed("somebody interrupted it at the server")
        if event == "execution_error":
            raise PromptFailed(
                f"{data.get('node_type')} ({data.get('node_id')}): {data.get('exception_type')}: "
                f"{str(data.get('exception_message')).strip()}"
            )
    raise PromptFailed(f"the server says {status.get('status_str')!r} and no more")


def _describe_refusal(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    lines = [
        str(error.get("message", error) if isinstance(error, dict) else error or "a part of it would not run")
    ]
    for node_id, failure in (answer.get("node_errors") or {}).items():
        lines += [
            f"{failure.get('class_type')} ({node_id}): {each.get('message')}: {each.get('details')}"
            for each in failure.get("errors", ())
        ]
    return "; ".join(lines)
