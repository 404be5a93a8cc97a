"""`comfy-lynx inspect`: a dataset on one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "inspect",
        help="show a dataset on one page",
        description="Writes one HTML file that needs no network: counts, how alike the pairs are, how long, some of "
        "them to look at, and what is quarantined for which reason.",
    )
    parser.add_argument(
        "set",
        metavar="SET",
        help="a manifest, or the output folder of comfy-lynx curate; may be s3:// and the like",
    )
    parser.add_argument(
        "--cache",
        metavar="CACHE",
        help="data.cache of comfy-lynx prepare, whose index is shown; else all files are looked at",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("inspect.html"),
        metavar="FILE",
        help="the page; default: inspect.html",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..buckets import is_url, name_addresses, place_of
    from ..data.inspection import describe_set, find_manifest, open_set
    from ..durable_file import write_durably
    from ..faces.errors import import_package

    import_package("jinja2", "the page")
    place = (
        place_of(arguments.set) if is_url(arguments.set) else find_manifest(Path(arguments.set).expanduser())
    )
    cache = arguments.cache and (
        place_of(arguments.cache, stays=True)
        if is_url(arguments.cache)
        else Path(arguments.cache).expanduser()
    )

    def show(done: int, total: int) -> None:
        if done in (0, total) or done % 1000 == 0:
            print(f"files: {done} of {total}", file=sys.stderr)

    index, is_prepared = open_set(place, cache or None, show)
    write_durably(arguments.out.absolute(), describe_set(index, is_prepared).encode("utf-8"))
    print(f"{len(index.items)} pairs of {name_addresses(place)}: look at {arguments.out}")
    return 0
