"""`comfy-lynx convert`: write an adapter in another layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..formats.layouts import WRITABLE_LAYOUTS


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "convert",
        help="write an adapter in another layout",
        description="Reads an adapter of any layout (release folder, Kijai's files, Wan2GP's, GGUF, InstantID's "
        "resampler, comfy-lynx) and writes it in another. Weights keep their bytes; GGUF becomes float16.",
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="files or folders of the adapter"
    )
    parser.add_argument("--to", required=True, choices=WRITABLE_LAYOUTS, metavar="LAYOUT", help="%(choices)s")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="a folder; for comfy-lynx the file to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what was recognised and would be written"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..formats.adapter import open_adapter
    from ..formats.conversion import convert_adapter, plan_conversion

    adapter = open_adapter(*arguments.sources)
    print(adapter.summary())
    planned = plan_conversion(adapter, arguments.to, arguments.out)
    if not arguments.dry_run:
        convert_adapter(adapter, arguments.to, arguments.out, overwrite=arguments.overwrite)
    for file in planned:
        print(f"{'would write' if arguments.dry_run else 'wrote'} {file.path} ({file.num_bytes:,} bytes)")
    return 0
