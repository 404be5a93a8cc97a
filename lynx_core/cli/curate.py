"""`comfy-lynx curate`, `calibrate` and `forget`: from folders of photos and footage to a manifest."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..curate.configuration import CurationConfig


def add_parser(verbs: Any) -> None:
    """Add the three verbs."""
    _add_curate(verbs)
    _add_calibrate(verbs)
    _add_forget(verbs)


def _add_curate(verbs: Any) -> None:
    parser = verbs.add_parser(
        "curate",
        help="make a manifest of pairs from folders of photos and footage",
        description="Looks at every file once, finds who is in it, and pairs photos of a person with other photos "
        "and clips of them: train.parquet and heldout.parquet for prepare and train, and page.html to look at. "
        "What is done stays done: the same command takes in new files, or resumes where it was stopped.",
    )
    _add_config_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="count the files and estimate the time; writes no manifest"
    )
    parser.add_argument(
        "--runner", choices=("native", "ray"), help="where to work: this machine, or a Ray cluster"
    )
    parser.set_defaults(run=_run_curate)


def _run_curate(arguments: argparse.Namespace) -> int:
    def act(config: CurationConfig) -> int:
        if arguments.dry_run:
            return _show_estimate(config)
        from ..curate.curation import curate

        report = curate(config, _show_progress())
        print(report)
        print(
            f'look at {config.output / "page.html"}; then data.manifest = "{config.output / "train.parquet"}"'
        )
        return 0

    return _run_configured(arguments, act)


def _show_estimate(config: CurationConfig) -> int:
    from ..curate.pipeline import estimate_run

    estimate = estimate_run(config)
    print(f"{estimate.num_photos} photos and {estimate.num_clips} clips, {estimate.num_bytes / 1e9:.2f} GB")
    reasons: dict[str, int] = {}
    for rejection in estimate.rejections:
        reasons[rejection.reason] = reasons.get(rejection.reason, 0) + 1
    for reason, count in reasons.items():
        print(f"  {count} left out: {reason}")
    if estimate.num_left == 0:
        print("every file has been looked at; a run would apply new settings and write the manifests")
    else:
        seconds = (
            f"about {timedelta(seconds=round(estimate.seconds))}"
            if estimate.seconds is not None
            else "unknown"
        )
        print(f"{estimate.num_left} files are left to look at with {config.workers} workers: {seconds}")
    return 0


def _show_progress() -> Callable[[str, int, int], None]:
    from ..training.progress import ProgressLine

    line = ProgressLine()
    return lambda stage, done, total: line.show(stage, done, total) if total else None


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as configs/curate_*.toml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="SECTION.KEY=VALUE",
        help="values that replace the file's, such as targets.max_s=4; an empty value takes the key out",
    )


def _run_configured(arguments: argparse.Namespace, action: Callable[[CurationConfig], int]) -> int:
    from ..curate.configuration import CurationConfig
    from ..training.configuration_file import read_settings

    overrides = list(arguments.overrides)
    if getattr(arguments, "runner", None):
        overrides.append(f"runner={arguments.runner}")
    return action(read_settings(CurationConfig, arguments.config, overrides))


def _add_calibrate(verbs: Any) -> None:
    parser = verbs.add_parser(
        "calibrate",
        help="find the similarity threshold of a recogniser on labelled photos",
        description="Compares all photos of a folder that holds one folder for each person, and writes the threshold at the "
        "stated rate of false accepts into the file that identity.calibration names, with a page of two histograms "
        "beside it. Thresholds of one recogniser mean nothing for another.",
    )
    _add_config_arguments(parser)
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="one folder a person")
    parser.add_argument(
        "--false-accept-rate",
        type=float,
        default=1e-3,
        metavar="RATE",
        help="share of the pairs of strangers that may pass (0.001)",
    )
    parser.set_defaults(run=_run_calibrate)


def _run_calibrate(arguments: argparse.Namespace) -> int:
    def act(config: CurationConfig) -> int:
        from ..curate.calibration import calibrate, keep_calibration, write_calibration_page
        from ..curate.errors import CurationError

        path = config.identity.calibration
        if path is None:
            raise CurationError(
                "identity.calibration names no file to write to; take identity.threshold out, and name one: "
                'calibration = "calibration.json"'
            )
        found = calibrate(config, arguments.photos, arguments.false_accept_rate, _show_progress())
        keep_calibration(path, found)
        page = path.with_suffix(".html")
        write_calibration_page(page, found)
        print(
            f"{found.recogniser}: threshold {found.threshold:.4f}; {found.num_photos} photos of {found.num_people} people, "
            f"false accepts {found.seen_false_accept_rate:.3g} of {found.num_different} pairs of strangers, true accepts "
            f"{found.true_accept_rate:.3f} of {found.num_same} pairs of one person"
        )
        for warning in found.warnings:
            print(f"  note: {warning}")
        print(f"wrote {path} and {page}")
        return 0

    return _run_configured(arguments, act)


def _add_forget(verbs: Any) -> None:
    parser = verbs.add_parser(
        "forget",
        help="remove a person from a curated set",
        description="Takes a person's pairs, reference photos, embeddings and pictures out of the output folder of a "
        "curation, and pairs of others whose targets show them. A later run does not bring them back. With --cache, "
        "the shards of a prepared cache are written anew without them. The source files stay where they are, and so "
        "do checkpoints of trainings.",
    )
    parser.add_argument("name", metavar="NAME", help="as on the page and in the manifest's column `person`")
    parser.add_argument(
        "--set", type=Path, required=True, metavar="OUTPUT", help="output folder of the curation"
    )
    parser.add_argument(
        "--cache",
        type=_read_place,
        action="append",
        default=[],
        metavar="CACHE",
        help="a folder data.cache that comfy-lynx prepare has filled from this set; may be given several times",
    )
    parser.set_defaults(run=_run_forget)


def _read_place(text: str) -> Path:
    from ..buckets import is_url, place_of

    return place_of(text, stays=True) if is_url(text) else Path(text)


def _run_forget(arguments: argparse.Namespace) -> int:
    from ..curate.forget import forget

    print(forget(arguments.set, arguments.name, arguments.cache))
    return 0
