"""`comfy-lynx download`: fetch model files into ComfyUI's models folder."""

from __future__ import annotations

import argparse
from typing import Any

from ..formats.published_files import BUNDLES, Source
from .hub_files import LOCK_FILE, DownloadLock, fetch_files, shown_bytes
from .models_folder import ModelFolders, add_models_argument, find_model_folders


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        "download",
        help="fetch model files",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetches model files from the Hugging Face hub into ComfyUI's models folder. An interrupted\n"
        "download goes on where it stopped. Every file is checked: against the sha256 this pack knows,\n"
        "or, where it knows none, against the one the hub reports at the first download. Revision and\n"
        f"sha256 are kept in models/{LOCK_FILE}, and later downloads are held to them.",
        epilog="\n".join(f"{name:11}{bundle.title} [{bundle.license}]" for name, bundle in BUNDLES.items()),
    )
    parser.add_argument("what", nargs="+", choices=sorted(BUNDLES), metavar="WHAT", help="%(choices)s")
    add_models_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only list files, sizes and places; no network"
    )
    parser.add_argument("--latest", action="store_true", help="take and pin the newest revisions")
    parser.add_argument(
        "--replace", action="store_true", help="replace files that are there but do not match"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    folders = find_model_folders(arguments)
    lock = DownloadLock(folders.models_dir)
    sources: list[Source] = []
    for name in arguments.what:
        bundle = BUNDLES[name]
        print(f"{name}: {bundle.title} [{bundle.license}]")
        if arguments.dry_run:
            for source in bundle.sources:
                print(_plan_shown(source, folders, lock))
        sources += bundle.sources
    if not arguments.dry_run:
        fetch_files(sources, folders, lock, latest=arguments.latest, replace=arguments.replace)
    return 0


def _plan_shown(source: Source, folders: ModelFolders, lock: DownloadLock) -> str:
    pin = lock.find(source)
    sha256 = pin.sha256 if pin else source.sha256
    size = pin.num_bytes if pin else source.num_bytes
    place = folders.find_place(source.target)
    there = f" (a file of {place.stat().st_size:,} bytes is there)" if place.is_file() else ""
    return (
        f"  {place}{there}\n"
        f"    {source.repo}/{source.file} at {pin.revision if pin else source.revision}, {shown_bytes(size)}, "
        f"sha256 {sha256 or 'told by the hub'}"
    )
