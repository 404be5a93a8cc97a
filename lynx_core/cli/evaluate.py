"""`comfy-lynx evaluate generate | score | import | report | people`: the benchmark, step by step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.cells import Matrix
    from ..evaluation.configuration import Benchmark

_PACKAGES = 'pip install "comfyui-lynx[evaluate]"'


def add_parser(verbs: Any) -> None:
    parser: argparse.ArgumentParser = verbs.add_parser(
        "evaluate",
        help="benchmark methods: make videos, score them, ask people, report",
        description="Subjects x prompts x methods, as a TOML file says. Each step does what is missing, so the same "
        "command resumes after a crash.",
    )
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)

    generate = _add_step(steps, "generate", "make the videos on ComfyUI servers", _generate)
    generate.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="a ComfyUI server, once for each; replaces the file's",
    )

    score = _add_step(steps, "score", "score the videos, or one: --video X --photo Y", _score, config="?")
    score.add_argument("--retry-errors", action="store_true", help="score again what ended in an error")
    score.add_argument("--video", type=Path, help="score this one video and print it")
    score.add_argument("--photo", type=Path, help="photo of the person who should be in it")
    score.add_argument(
        "--models",
        type=Path,
        help="ComfyUI's models folder with the face models, when no CONFIG names recognisers",
    )

    taken = _add_step(steps, "import", "take in figures of VBench or OpenS2V-Eval", _import)
    taken.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON that the program wrote")

    report = _add_step(steps, "report", "write report.html, report.md and the tables as Parquet", _report)
    report.add_argument("--out", type=Path, help="folder (default: report in the benchmark's output)")

    people = _add_step(steps, "people", "make the raters' page, or take answers back", _people)
    people.add_argument(
        "--answers", type=Path, nargs="+", metavar="FILE", help="answer files of raters to take in"
    )


def _add_step(
    steps: Any, name: str, text: str, act: Callable[[argparse.Namespace], int], config: str | None = None
) -> argparse.ArgumentParser:
    step: argparse.ArgumentParser = steps.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    step.add_argument(
        "config", type=Path, nargs=config, metavar="CONFIG", help="a TOML file, as configs/benchmark_*.toml"
    )
    step.set_defaults(run=partial(_run, act))
    return step


def _run(act: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return act(arguments)
    except ModuleNotFoundError as error:
        print(f"comfy-lynx: the package {error.name} is not installed; {_PACKAGES}", file=sys.stderr)
        return 1


def _open(arguments: argparse.Namespace) -> Matrix:
    from ..evaluation.cells import Matrix
    from ..evaluation.configuration import read_benchmark

    return Matrix(read_benchmark(arguments.config))


@contextmanager
def _hold(output: Path, step: str) -> Iterator[None]:
    """One process at a time for a step; the system frees the lock of one that was killed."""
    from filelock import FileLock, Timeout

    from ..evaluation.errors import EvaluationError

    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / f".{step}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise EvaluationError(
            f"another 'evaluate {step}' works in {output}; wait for it, or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _say(text: str) -> None:
    print(text, flush=True)


def _generate(arguments: argparse.Namespace) -> int:
    from ..evaluation.generation import generate

    matrix = _open(arguments)
    if arguments.server:
        generation = matrix.benchmark.generation.model_copy(update={"servers": tuple(arguments.server)})
        matrix = type(matrix)(matrix.benchmark.model_copy(update={"generation": generation}))
    with _hold(matrix.output, "generate"):
        generate(matrix, _say)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from ..evaluation.errors import ConfigurationError
    from ..evaluation.scoring import score

    if arguments.video is not None or arguments.photo is not None:
        return _score_one(arguments)
    if arguments.config is None:
        raise ConfigurationError("score needs CONFIG, or --video and --photo")
    matrix = _open(arguments)
    with _hold(matrix.output, "score"):
        score(matrix, _say, retry_errors=arguments.retry_errors)
    return 0


def _score_one(arguments: argparse.Namespace) -> int:
    from ..evaluation.configuration import Faces, RecogniserSettings, read_benchmark
    from ..evaluation.errors import ConfigurationError
    from ..evaluation.recognisers import open_detector, open_recogniser
    from ..evaluation.single_video import format_scores, score_video

    if arguments.video is None or arguments.photo is None:
        raise ConfigurationError("one video needs both --video and --photo")
    if arguments.config is not None:
        config: Benchmark = read_benchmark(arguments.config)
        if config.faces is None or not config.recognisers:
            raise ConfigurationError(
                f"{arguments.config} names no recognisers; add [faces] and [[recognisers]]"
            )
        faces, settings = config.faces, config.recognisers
    elif arguments.models is not None:
        faces = Faces(root=arguments.models / "insightface")
        file = arguments.models / "lynx" / "faces" / "recognition_arcface_ir_se50.pth"
        settings = (RecogniserSettings(name="facexlib/arcface_ir_se50", kind="arcface", file=file),)
    else:
        raise ConfigurationError(
            "say where the face models are: a CONFIG with [[recognisers]], or --models FOLDER"
        )
    detector = open_detector(faces)
    recognisers = [open_recogniser(each, faces) for each in settings]
    _say(format_scores(*score_video(arguments.video, arguments.photo, detector, recognisers), recognisers))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from ..evaluation.imported_scores import import_scores

    matrix = _open(arguments)
    with _hold(matrix.output, "score"):
        import_scores(matrix, arguments.files, _say)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from ..evaluation.report import write_report

    matrix = _open(arguments)
    folder = arguments.out or matrix.output / "report"
    for path in write_report(matrix, folder):
        _say(str(path))
    return 0


def _people(arguments: argparse.Namespace) -> int:
    from ..evaluation.rater_answers import take_answers
    from ..evaluation.rater_study import make_study

    matrix = _open(arguments)
    with _hold(matrix.output, "people"):
        if arguments.answers:
            take_answers(matrix, arguments.answers, _say)
        else:
            _say(f"open {make_study(matrix)} in a browser, or put its folder on any web server")
    return 0
