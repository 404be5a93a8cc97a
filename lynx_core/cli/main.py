"""Entry point of `comfy-lynx`. Each module adds its verbs with `add_parser`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..buckets import name_addresses
from ..spec import LynxError
from . import bake, convert, curate, doctor, download, evaluate, inspect, train

_VERBS = (download, convert, doctor, bake, curate, inspect, train, evaluate)
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; gives the exit code: 0, 1 after an error, 2 for wrong arguments, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="comfy-lynx", description="Lynx for ComfyUI: files, checks, data, training."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add_parser(verbs)
    parsed, rest = parser.parse_known_args(arguments)
    # argparse gives positionals that follow an option back as unknown: here they are overrides, too.
    takes_rest = hasattr(parsed, "overrides") and not any(word.startswith("-") for word in rest)
    if rest and not takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    try:
        return parsed.run(parsed)
    except LynxError as error:
        print(name_addresses(f"comfy-lynx: {error}"), file=sys.stderr)
    except OSError as error:
        where = name_addresses(error.filename or "a file")
        print(f"comfy-lynx: {where}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("comfy-lynx: interrupted; run the same command again.", file=sys.stderr)
        return _INTERRUPTED
    return 1


if __name__ == "__main__":
    sys.exit(main())
