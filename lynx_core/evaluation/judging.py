"""Has a vision judge score what it has not scored: every video k times, and some against a wrong prompt.

A judge that gives a wrong prompt the same marks does not read the prompt; the report says so. The plan with its
tokens and cost is shown before the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ..hashing import hash_every_byte
from .errors import JudgeError
from .generation import locate_video
from .judge import Answer, Judge
from .ledger import Key, Ledger, ScoreRow
from .prompts import Prompt
from .rubric import CRITERIA, MOST
from .scored_cell import Cell, Wanted
from .video import Video, VideoError, read_video

Note = Callable[[str], None]
WRONG_PROMPT = "prompt_following_wrong_prompt"


@dataclass(frozen=True)
class Question:
    """One request: a video against a prompt."""

    cell: Cell
    prompt: Prompt
    wanted: tuple[Wanted, ...]
    """A row for each criterion; for a wrong prompt the one row of the control."""


def list_questions(judge: Judge, cells: Sequence[Cell], prompts: Sequence[Prompt]) -> Iterator[Question]:
    """All requests of a benchmark, the controls among them."""
    settings = judge.settings

    def want(prompt: Prompt, metric: str, repeat: int) -> Wanted:
        return Wanted(prompt.sha256, metric, judge.version, judge.model, judge.sha256, repeat)

    for number, cell in enumerate(cells):
        for repeat in range(settings.repeats):
            yield Question(cell, cell.prompt, tuple(want(cell.prompt, name, repeat) for name in CRITERIA))
        others = [prompt for prompt in prompts if prompt.id != cell.prompt.id]
        if others and number % settings.control_every == 0:
            wrong = others[number // settings.control_every % len(others)]
            yield Question(cell, wrong, (want(wrong, WRONG_PROMPT, 0),))


def judge_videos(
    judge: Judge,
    output: Path,
    cells: Sequence[Cell],
    prompts: Sequence[Prompt],
    scores: Ledger[ScoreRow],
    done: set[Key],
    note: Note,
) -> None:
    """Ask what is missing.

    Raises:
        JudgeError: when the judge cannot be used, or the estimate is above judge.max_usd.
    """
    questions = {
        tuple(w.key(q.cell.sha256) for w in q.wanted): q
        for q in list_questions(judge, cells, prompts)
        if any(w.key(q.cell.sha256) not in done for w in q.wanted)
    }  # cells whose videos are equal to the byte share their scores
    if not questions:
        return
    videos = _Videos(output)
    first = next(iter(questions.values())).cell
    sizes = [video.frames.shape[1:3] for video in [videos.open(first)] if isinstance(video, Video)]
    estimate = judge.estimate(len(questions), sizes[0] if sizes else (480, 832))
    note(f"judge {judge.model} at {judge.settings.base_url}: {estimate}")
    if judge.settings.max_usd is not None and estimate.usd > judge.settings.max_usd:
        raise JudgeError(
            f"the estimate of ${estimate.usd:,.2f} is above judge.max_usd = {judge.settings.max_usd:,.2f}; nothing was asked"
        )
    _ask_all(judge, list(questions.values()), videos, scores, done, note)


class _Videos:
    """Opens videos by cell, the last one kept: the questions of a video follow each other."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._last: tuple[str, Video | str] | None = None

    def open(self, cell: Cell) -> Video | str:
        """The video, or why it cannot be judged."""
        if self._last is None or self._last[0] != cell.sha256:
            path = locate_video(self.output, cell.row)
            found: Video | str
            try:
                found = (
                    read_video(path)
                    if hash_every_byte(path) == cell.sha256
                    else f"{path} is not what was made"
                )
            except (VideoError, OSError) as error:
                found = str(error)
            self._last = (cell.sha256, found)
        return self._last[1]


def _ask_all(
    judge: Judge,
    questions: Sequence[Question],
    videos: _Videos,
    scores: Ledger[ScoreRow],
    done: set[Key],
    note: Note,
) -> None:
    tokens, count = [0, 0], 0
    with ThreadPoolExecutor(judge.settings.concurrency) as pool:
        running: dict[Future[Answer], Question] = {}
        waiting = iter(questions)
        try:
            while True:
                while (
                    len(running) < judge.settings.concurrency
                    and (question := next(waiting, None)) is not None
                ):
                    video = videos.open(question.cell)
                    if isinstance(video, str):
                        scores.append([w.fill(question.cell.sha256, None, video) for w in question.wanted])
                        continue
                    running[pool.submit(judge.ask, video, question.prompt.text)] = question
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    question, answer = running.pop(future), future.result()
                    rows = [row for row in make_rows(question, answer) if row.key not in done]
                    scores.append(rows)
                    tokens = [tokens[0] + answer.input_tokens, tokens[1] + answer.output_tokens]
                    count += 1
                    note(
                        f"judged {count} of {len(questions)}: {question.cell.label}{f'; {answer.error}' if answer.error else ''}"
                    )
        except BaseException:
            judge.stop.set()
            pool.shutdown(cancel_futures=True)
            for future in running:  # answers that came in meanwhile were paid for
                if future.done() and not future.cancelled() and future.exception() is None:
                    scores.append(make_rows(running[future], future.result()))
            raise
    note(f"the judge read {tokens[0]:,} and wrote {tokens[1]:,} tokens")


def make_rows(question: Question, answer: Answer) -> list[ScoreRow]:
    """The rows of one answer; marks become 0 to 1."""
    detail = {
        "raw": list(answer.raw),
        "answered_by": answer.model,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "prompt": question.prompt.id,
    }
    rows = []
    for wanted in question.wanted:
        name = "prompt_following" if wanted.metric == WRONG_PROMPT else wanted.metric
        value = answer.marks[name] / MOST if answer.marks is not None else None
        rows.append(wanted.fill(question.cell.sha256, value, answer.error, detail))
    return rows
