"""Writes `workflows/*.json` and `subgraphs/*.json`: one function a workflow.

    python scripts/build_workflows.py            writes the files
    python scripts/build_workflows.py --check    ends 1 when a file differs from what would be written

The order of the nodes is the order in which they are added; ids and links follow from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

REPO_DIR = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO_DIR / "nodes"))  # for `presets`, which imports nothing of the host

from workflow_builder.blueprints import build_identity_blueprint, build_likeness_blueprint  # noqa: E402
from workflow_builder.boxes import Json  # noqa: E402
from workflow_builder.experts import build_two_experts, build_wan22_i2v  # noqa: E402
from workflow_builder.mini import build_mini  # noqa: E402
from workflow_builder.people import build_becoming, build_two_people  # noqa: E402
from workflow_builder.person import build_fast, build_full, build_lite  # noqa: E402
from workflow_builder.refine import build_face_refine  # noqa: E402
from workflow_builder.takes import build_long, build_sweep  # noqa: E402
from workflow_builder.vace import build_motion, build_vace  # noqa: E402

FILES: dict[str, Callable[[], Json]] = {
    "workflows/Try-Lynx": build_mini,
    "workflows/Photo-to-video": build_full,
    "workflows/Photo-to-video-fast": build_fast,
    "workflows/Photo-to-video-lite": build_lite,
    "workflows/Two-people": build_two_people,
    "workflows/One-person-becomes-another": build_becoming,
    "workflows/Refine-a-distant-face": build_face_refine,
    "workflows/Long-take": build_long,
    "workflows/Compare-strengths": build_sweep,
    "workflows/Scene-or-outfit": build_vace,
    "workflows/Motion-of-another-video": build_motion,
    "workflows/Wan-2.2": build_two_experts,
    "workflows/Wan-2.2-animate-a-picture": build_wan22_i2v,
    "subgraphs/Lynx identity": build_identity_blueprint,
    "subgraphs/Lynx likeness": build_likeness_blueprint,
}


def main(arguments: list[str]) -> int:
    differing = []
    for name, build in FILES.items():
        path = REPO_DIR / f"{name}.json"
        text = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
        if "--check" in arguments:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                differing.append(path.name)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if differing:
        print(
            f"{', '.join(differing)}: not what scripts/build_workflows.py writes; run it and commit the files"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
