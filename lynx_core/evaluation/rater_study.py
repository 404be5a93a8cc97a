"""The raters' page: blind, balanced, a folder of static files that any browser opens.

Every rater sees the same pairs of subject and prompt, each with one method. Methods move on by one from rater to
rater (a Latin square), so every video is seen about equally often and no rater sees a pair twice but for the
repeats, which show how far a rater agrees with themselves. Names and files say nothing of the method: codes come
from a secret key that stays outside the folder, and videos are rewritten without their metadata, in which ComfyUI
keeps the whole workflow.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from ..durable_file import write_durably
from ..foreign_text import parse_json
from ..hashing import hash_every_byte, hash_values
from .cells import Matrix
from .errors import ConfigurationError
from .generation import locate_video
from .ledger import VideoRow, open_videos

CRITERIA = {
    "face_resemblance": "Is this the person of the photo?",
    "prompt_following": "Does the video show what the text says?",
    "aesthetics": "Is it beautiful?",
    "motion_naturalness": "Do people and things move naturally?",
    "video_quality": "Is it free of faults: blur, flicker, wrong anatomy?",
}
FORMAT = "lynx-answers-1"
KEY_NAME = "key.json"


@dataclass(frozen=True)
class Task:
    """What one rater is asked."""

    id: str
    kind: str
    """rating, repeat or pair."""
    subject: str
    prompt: str
    method: str
    """Of a pair: the one on the left."""
    other: str | None = None
    """Of a pair: the one on the right."""


@dataclass(frozen=True)
class Study:
    """Who is asked what; the key to the answers."""

    id: str
    secret: str
    raters: dict[str, list[Task]]

    def save(self, path: Path) -> None:
        raters = {rater: [asdict(task) for task in tasks] for rater, tasks in self.raters.items()}
        write_durably(path, json.dumps({"id": self.id, "secret": self.secret, "raters": raters}).encode())

    @classmethod
    def load(cls, path: Path) -> Study:
        """The study of a key file.

        Raises:
            ConfigurationError: when there is none.
        """
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
            raters = {rater: [Task(**task) for task in tasks] for rater, tasks in values["raters"].items()}
            return cls(values["id"], values["secret"], raters)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"the key {path} cannot be read ({error}); make the raters' page first: comfy-lynx evaluate people CONFIG"
            ) from error


def make_study(matrix: Matrix) -> Path:
    """Write the page with its videos and photos, and the key.

    Returns:
        The page.

    Raises:
        ConfigurationError: when no pair of subject and prompt has a video of every method.
    """
    folder = matrix.output / "people"
    page = folder / "page"
    shutil.rmtree(page, ignore_errors=True)
    (page / "media").mkdir(parents=True)
    rows = {
        (row.method, row.subject, row.prompt): row
        for row in open_videos(matrix.output).read()
        if row.video_sha256
    }
    plan = plan_tasks(matrix, rows)
    study = Study(_name_study(plan, rows), _read_secret(folder / KEY_NAME), plan)
    shown = _write_media(matrix, study, rows, page / "media")
    environment = Environment(loader=PackageLoader("lynx_core.evaluation", "pages"), autoescape=True)
    # JSON inside a script must not end the script: prompts are free text.
    data = json.dumps(shown, ensure_ascii=True).replace("</", "<\\/")
    text = environment.get_template("raters.html").render(data=data)
    (page / "index.html").write_text(text, encoding="utf-8")
    study.save(folder / KEY_NAME)
    return page / "index.html"


def _name_study(plan: dict[str, list[Task]], rows: dict[tuple[str, str, str], VideoRow]) -> str:
    videos = {"/".join(key): row.video_sha256 for key, row in rows.items()}
    return hash_values([{rater: [asdict(task) for task in tasks] for rater, tasks in plan.items()}, videos])[
        :16
    ]


def _read_secret(key: Path) -> str:
    try:
        return str(parse_json(key.read_text(encoding="utf-8"))["secret"])
    except (OSError, ValueError, KeyError):
        return secrets.token_hex(16)


def plan_tasks(matrix: Matrix, rows: dict[tuple[str, str, str], VideoRow]) -> dict[str, list[Task]]:
    """The tasks of every rater, by the rater's number.

    Raises:
        ConfigurationError: when no pair of subject and prompt has a video of every method.
    """
    settings, methods = matrix.benchmark.people, [method.name for method in matrix.benchmark.methods]
    whole = [
        (subject.id, prompt.id)
        for subject, prompt in matrix.list_cells()
        if all((method, subject.id, prompt.id) in rows for method in methods)
    ]
    if not whole:
        raise ConfigurationError(
            "no pair of subject and prompt has a video of every method, so methods cannot be compared; make them first: "
            "comfy-lynx evaluate generate"
        )
    rng = np.random.default_rng(matrix.benchmark.seed)
    cells = [whole[place] for place in rng.permutation(len(whole))[: settings.cells]]
    return {
        str(rater + 1): list(
            _plan_rater(rater, cells, methods, settings.repeats, settings.pairs, matrix.benchmark.seed)
        )
        for rater in range(settings.raters)
    }


def _plan_rater(
    rater: int, cells: list[tuple[str, str]], methods: list[str], repeats: int, pairs: int, seed: int
) -> Iterator[Task]:
    rng = np.random.default_rng([seed, rater])
    ratings = [
        Task(f"r{place}", "rating", *cell, methods[(place + rater) % len(methods)])
        for place, cell in enumerate(cells)
    ]
    ratings = [ratings[place] for place in rng.permutation(len(ratings))]
    half = (len(ratings) + 1) // 2
    # A repeat comes half a session after its first showing.
    again = [
        Task(f"{task.id}b", "repeat", task.subject, task.prompt, task.method) for task in ratings[:half]
    ][:repeats]
    yield from ratings[:half]
    rest = ratings[half:] + again
    yield from (rest[place] for place in rng.permutation(len(rest)))
    combinations = list(itertools.combinations(methods, 2))
    for number in range(pairs if combinations else 0):
        left, right = combinations[(number + rater) % len(combinations)]
        if rng.uniform() < 0.5:
            left, right = right, left
        subject, prompt = cells[(number + rater * pairs) % len(cells)]
        yield Task(f"p{number}", "pair", subject, prompt, left, right)


def _write_media(
    matrix: Matrix, study: Study, rows: dict[tuple[str, str, str], VideoRow], folder: Path
) -> dict[str, Any]:
    """Write what the page shows under names that say nothing; gives the page's data."""
    names: dict[tuple[str, ...], str] = {}

    def place(*key: str) -> str:
        if key not in names:
            code = hmac.new(study.secret.encode(), "/".join(key).encode(), hashlib.sha256).hexdigest()[:20]
            if len(key) == 1:
                photo = matrix.subjects[key[0]].reference
                names[key] = f"{code}{photo.suffix.casefold()}"
                shutil.copyfile(photo, folder / names[key])
            else:
                video = locate_video(matrix.output, rows[key[0], key[1], key[2]])
                if hash_every_byte(video) != rows[key[0], key[1], key[2]].video_sha256:
                    raise ConfigurationError(
                        f"{video} is not what was made; run comfy-lynx evaluate generate"
                    )
                names[key] = f"{code}{video.suffix.casefold()}"
                copy_without_metadata(video, folder / names[key])
        return f"media/{names[key]}"

    raters = {}
    for rater, tasks in study.raters.items():
        shown = []
        for task in tasks:
            sides = [method for method in (task.method, task.other) if method is not None]
            shown.append(
                {
                    "id": task.id,
                    "photo": place(task.subject),
                    "text": matrix.prompts[task.prompt].text,
                    "videos": [place(method, task.subject, task.prompt) for method in sides],
                }
            )
        raters[rater] = shown
    return {"format": FORMAT, "study": study.id, "criteria": CRITERIA, "raters": raters}


def copy_without_metadata(source: Path, target: Path) -> None:
    """Copy the video stream of a file, its packets as they are, and nothing else of it."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        copied.metadata.clear()
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                new.mux(packet)
