"""Makes the videos of a benchmark on ComfyUI servers, each once.

A prompt's id at the server follows from the video's recipe, so a run that was killed finds what a server has
made or is making for it, and takes that instead of making it again. A video is checked, flushed and renamed
to its hash before its row is written.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..durable_file import replace_durably
from ..hashing import hash_every_byte, hash_values
from .cells import Matrix
from .comfy_server import ComfyServer, FinishedPrompt
from .configuration import Generation
from .errors import ConfigurationError, GenerationError, PromptFailed, ServerLost
from .finished_videos import collect_finished
from .ledger import Ledger, VideoRow, open_videos
from .model_files import ModelFiles, ModelFolders
from .prompts import Prompt
from .subjects import Subject
from .video import VideoError, count_frames
from .workflow import WorkflowTemplate, find_unmarked_recognisers, load_workflow

Note = Callable[[str], None]
_NAMESPACE = uuid.UUID("6f0b6a3e-3f9d-5b0e-9a53-6c796e780001")
_REVIVAL_S = 1.0


@dataclass
class Job:
    """A video to be made."""

    template: WorkflowTemplate
    models: ModelFiles
    subject: Subject
    prompt: Prompt
    seed: int
    first_attempt: int = 1
    attempt: int = 1
    losses: int = 0
    """Servers that died with it."""

    @property
    def photo_name(self) -> str:
        return f"lynx_{self.subject.reference_hash[:24]}{self.subject.reference.suffix.casefold()}"

    @property
    def recipe(self) -> str:
        """Hash of all that decides the video."""
        nodes = self.template.fill(self.subject.reference_hash, self.prompt.text, self.seed)
        return hash_values([nodes, self.template.output_node, self.models.hashes])

    @property
    def prompt_id(self) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self.recipe}/{self.subject.id}/{self.attempt}"))

    @property
    def label(self) -> str:
        return f"{self.template.method.name} / {self.subject.id} / {self.prompt.id}"

    def make_row(
        self, server: str | None, done: FinishedPrompt | None, video: Path | None, error: str | None
    ) -> VideoRow:
        method = self.template.method
        return VideoRow(
            method=method.name,
            subject=self.subject.id,
            prompt=self.prompt.id,
            recipe=self.recipe,
            seed=self.seed,
            video_sha256=video.stem if video else None,
            suffix=video.suffix if video else "",
            error=error,
            photo_sha256=self.subject.reference_hash,
            prompt_sha256=self.prompt.sha256,
            workflow_sha256=self.template.sha256,
            model_files=json.dumps(self.models.hashes, sort_keys=True),
            attempts=self.attempt,
            server=server,
            latency_s=done.latency_s if done else None,
            peak_memory_gb=done.peak_memory_gb if done else None,
            memory_source=done.memory_source if done else None,
            parameters=method.parameters or self.models.parameters,
        )


def generate(matrix: Matrix, note: Note = print) -> None:
    """Make or take in what is missing of every method.

    Raises:
        ConfigurationError: when a workflow, a list of videos, the people or the prompts are wrong.
        GenerationError: when videos are missing at the end; the same command resumes.
        LedgerError: when the disk is full.
    """
    videos = open_videos(matrix.output)
    videos.merge()
    collect_finished(matrix, videos, note)
    jobs = plan_jobs(matrix, videos.read())
    if not jobs:
        note("all videos are there")
        return
    note(f"{len(jobs)} videos to make")
    Queue(matrix, jobs, videos, note).run()


def plan_jobs(matrix: Matrix, rows: Iterable[VideoRow]) -> list[Job]:
    """What is to be made: cells without a video, with another recipe, or whose video is gone.

    Raises:
        ConfigurationError: when a workflow is wrong or loads a recogniser that is not marked.
    """
    config = matrix.benchmark
    known = {(row.method, row.subject, row.prompt): row for row in rows}
    folders = ModelFolders(config.generation.models, matrix.output / "model_hashes.json")
    jobs = []
    for method in config.methods:
        if method.workflow is None:
            continue
        template = load_workflow(method)
        pack = config.faces.pack if config.faces else None
        unmarked = find_unmarked_recognisers(template, config.recognisers, pack)
        if unmarked:
            raise ConfigurationError(
                f"method {method.name!r}: the workflow {method.workflow} loads the recogniser {unmarked[0]!r}, which also "
                f"scores; add it to conditioned_by, so that the report marks it"
            )
        models = folders.describe(template)
        for subject, prompt in matrix.list_cells():
            job = Job(template, models, subject, prompt, matrix.seed_of(subject, prompt))
            row = known.get((method.name, subject.id, prompt.id))
            if row is not None and row.recipe == job.recipe:
                if row.error is None and locate_video(matrix.output, row).is_file():
                    continue
                # A failure that was mended at the server is not to be found again in its history.
                job.first_attempt = job.attempt = row.attempts + 1
            jobs.append(job)
    return jobs


def locate_video(output: Path, row: VideoRow) -> Path:
    """The file of a row that has a video."""
    return Path(row.source) if row.source else output / "videos" / f"{row.video_sha256}{row.suffix}"


class Queue:
    """Jobs for one or many servers, a thread each."""

    def __init__(self, matrix: Matrix, jobs: Sequence[Job], videos: Ledger[VideoRow], note: Note) -> None:
        self.settings: Generation = matrix.benchmark.generation
        self.folder = matrix.output / "videos"
        self.servers = [ComfyServer(url) for url in self.settings.servers]
        self.videos, self.note = videos, note
        self.total, self.done, self.failed = len(jobs), 0, 0
        self._waiting, self._adopted = deque(jobs), {server.url: deque[Job]() for server in self.servers}
        self._in_work = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._fatal: BaseException | None = None

    def run(self) -> None:
        """Work until all is made.

        Raises:
            GenerationError: when videos are missing at the end.
        """
        self._adopt()
        threads = [
            threading.Thread(target=self._serve, args=(server,), name=server.url, daemon=True)
            for server in self.servers
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(0.2)
        except KeyboardInterrupt:
            self._stop.set()  # what the servers are at is found again by the next run
            raise
        if self._fatal is not None:
            raise self._fatal
        left = self.total - self.done
        if left:
            raise GenerationError(
                f"{left} of {self.total} videos are missing ({self.failed} failed, see above); run the same command again "
                f"to make them. Servers: {', '.join(server.url for server in self.servers)}"
            )

    def _adopt(self) -> None:
        """Give jobs that a server knows from a run that was killed to that server."""
        for server in self.servers:
            try:
                known = server.list_prompts()
            except ServerLost as error:
                self.note(str(error))
                continue
            for job in [job for job in self._waiting if job.prompt_id in known]:
                self._waiting.remove(job)
                self._adopted[server.url].append(job)

    def _take(self, server: ComfyServer) -> Job | None:
        with self._lock:
            for queue in (self._adopted[server.url], self._waiting):
                if queue:
                    self._in_work += 1
                    return queue.popleft()
        return None

    def _serve(self, server: ComfyServer) -> None:
        try:
            while not self._stop.is_set():
                job = self._take(server)
                if job is None:
                    if not self._is_work_left():
                        return
                    self._stop.wait(0.1)  # another server may die and leave its job
                    continue
                try:
                    is_lost = not self._work(server, job)
                finally:
                    with self._lock:
                        self._in_work -= 1
                if is_lost and not self._await_revival(server):
                    return
        except BaseException as error:
            self._fatal = error
            self._stop.set()

    def _is_work_left(self) -> bool:
        with self._lock:
            return bool(self._in_work or self._waiting or any(self._adopted.values()))

    def _await_revival(self, server: ComfyServer) -> bool:
        """Wait for a server that went away; its jobs are others' meanwhile."""
        with self._lock:
            self._waiting.extend(self._adopted[server.url])
            self._adopted[server.url].clear()
        deadline = time.monotonic() + self.settings.patience_s
        while not self._stop.is_set() and self._is_work_left():
            if server.is_alive():
                self.note(f"{server.url} is back")
                return True
            if time.monotonic() > deadline:
                self.note(f"{server.url} stays away; continuing without it")
                return False
            self._stop.wait(_REVIVAL_S)
        return False

    def _work(self, server: ComfyServer, job: Job) -> bool:
        """Make one video, or note why not; False when the server went away."""
        while not self._stop.is_set():
            try:
                done = self._run_prompt(server, job)
                if done is not None:
                    path = self._store(server, done)
                    self._finish(job, job.make_row(server.url, done, path, None))
                return True
            except ServerLost as error:
                job.losses += 1
                self.note(f"{job.label}: {error}")
                if job.losses >= self.settings.attempts:
                    self._fail(job, server, f"{job.losses} servers were lost over it; the last: {error}")
                else:
                    with self._lock:
                        self._waiting.appendleft(job)
                return False
            except (PromptFailed, VideoError) as error:
                if job.attempt - job.first_attempt + 1 >= self.settings.attempts:
                    self._fail(job, server, str(error))
                    return True
                self.note(f"{job.label}: attempt {job.attempt} failed: {error}")
                job.attempt += 1
        return True

    def _run_prompt(self, server: ComfyServer, job: Job) -> FinishedPrompt | None:
        if not server.knows(job.prompt_id):
            photo = ""
            if job.template.takes_photo:
                photo = server.upload(job.subject.reference, job.photo_name)
            server.submit(job.template.fill(photo, job.prompt.text, job.seed), job.prompt_id)
        return server.wait(job.prompt_id, job.template.output_node, self.settings.timeout_s, self._stop)

    def _store(self, server: ComfyServer, done: FinishedPrompt) -> Path:
        """Fetch a video to `videos/<its hash>`.

        Raises:
            VideoError: when what came is no video.
            GenerationError: when the disk is full.
        """
        file = done.files[0]
        aside = self.folder / f".{uuid.uuid4().hex}{Path(file.filename).suffix.casefold()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as raw:
                for chunk in server.fetch(file):
                    raw.write(chunk)
            count_frames(aside)
            path = self.folder / f"{hash_every_byte(aside)}{aside.suffix}"
            replace_durably(aside, path)
        except OSError as error:
            raise GenerationError(
                f"{self.folder} cannot be written ({error.strerror}); make room and go on"
            ) from error
        finally:
            aside.unlink(missing_ok=True)
        return path

    def _finish(self, job: Job, row: VideoRow) -> None:
        self.videos.append([row])
        with self._lock:
            self.done += 1
            count = self.done
        latency = f" in {row.latency_s:.1f} s" if row.latency_s is not None else ""
        self.note(f"{count} of {self.total}: {job.label}{latency}")

    def _fail(self, job: Job, server: ComfyServer, error: str) -> None:
        self.videos.append([job.make_row(server.url, None, None, error)])
        with self._lock:
            self.failed += 1
        self.note(f"failed: {job.label}: {error}")
