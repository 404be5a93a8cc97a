"""Entry point of `comfy-lynx`. Each verb is a module with `add_parser` and `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..formats.tensor_file import AdapterError
from . import convert, doctor, download, prepare, train
from .hub_files import DownloadError

_VERBS = (download, convert, doctor, prepare, train)
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; gives the exit code: 0, 1 after an error, 2 for wrong arguments, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="comfy-lynx", description="Lynx for ComfyUI: files, checks, training."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add_parser(verbs).set_defaults(run=verb.run)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (AdapterError, DownloadError) as error:
        print(f"comfy-lynx: {error}", file=sys.stderr)
    except OSError as error:
        print(f"comfy-lynx: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("comfy-lynx: interrupted; run the same command again.", file=sys.stderr)
        return _INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main())
