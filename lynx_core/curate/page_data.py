"""What the page shows, as plain values: figures, people and a bounded number of pairs with thumbnails.

It is kept beside the page, so that a person can be taken out of it without the pictures of the set.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..faces.crops import crop_for_reference
from ..offline_page import encode_picture, make_histogram
from .manifests import PairRow
from .media import read_jpeg, scale_down
from .target_crops import cut_view

if TYPE_CHECKING:
    from .pipeline import CurationState

MAX_PEOPLE = 200
MAX_FACES = 6
MAX_PAIRS_PER_KIND = 12
NUM_EXTREMES = 6
_FACE_PX, _TARGET_PX = 96, 168


def collect_page(
    state: CurationState, rows: Sequence[PairRow], facts: dict[str, Any], reasons: Counter[tuple[str, str]]
) -> dict[str, Any]:
    """Everything on the page."""
    by_kind: dict[str, list[PairRow]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    thumbs = _Thumbnails(state)
    ordered = sorted(rows, key=lambda row: row.face_similarity)
    return {
        "facts": facts,
        "num_files": state.num_files,
        "stages": _describe_stages(state, reasons),
        "people": _describe_people(state, rows, thumbs),
        "num_people": len({member.person for member in state.memberships.values()}),
        "kinds": {
            kind: {
                "count": len(some),
                "pairs": [thumbs.show_pair(row) for row in _spread(some, MAX_PAIRS_PER_KIND)],
            }
            for kind, some in sorted(by_kind.items())
        },
        "worst": [thumbs.show_pair(row) for row in ordered[:NUM_EXTREMES]],
        "best": [thumbs.show_pair(row) for row in ordered[::-1][:NUM_EXTREMES]],
        "histograms": _make_histograms(state, by_kind),
        "look_alikes": _list_look_alikes(state),
    }


def _describe_stages(state: CurationState, reasons: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    names = ["files", *(stage.name for stage in state.stages)]
    counts = {stage.name: sum(1 for _ in stage.refs()) for stage in state.stages}
    first: dict[tuple[str, str], Any] = {}
    for item in state.rejections:
        first.setdefault((item.stage, item.reason), item)
    described = []
    for name in dict.fromkeys(names):
        own = [(reason, count) for (stage, reason), count in reasons.most_common() if stage == name]
        described.append(
            {
                "name": name,
                "records": counts.get(name, state.num_files),
                "reasons": [
                    {
                        "reason": reason,
                        "count": count,
                        "subject": first[name, reason].subject,
                        "detail": first[name, reason].detail,
                    }
                    for reason, count in own
                ],
            }
        )
    return described


def _describe_people(
    state: CurationState, rows: Sequence[PairRow], thumbs: _Thumbnails
) -> list[dict[str, Any]]:
    members = defaultdict(list)
    for member in state.memberships.values():
        members[member.person].append(member)
    pairs = Counter(row.person for row in rows)
    split = {row.person: row.split for row in rows}
    described = []
    for person in sorted(members, key=lambda name: (-pairs[name], name))[:MAX_PEOPLE]:
        own = sorted(members[person], key=lambda member: -member.similarity)
        shown = [*own[: MAX_FACES - 1], own[-1]] if len(own) > MAX_FACES else own
        described.append(
            {
                "name": person,
                "tracks": len(own),
                "files": len({state.tracks[member.track].path for member in own}),
                "scenes": len({member.scene for member in own}),
                "pairs": pairs[person],
                "split": split.get(person, ""),
                "lowest": min(member.similarity for member in own),
                "look_alike": next((member.runner_up for member in own if member.look_alike), ""),
                "faces": [
                    {
                        "picture": thumbs.show_face(member.track, state.tracks[member.track].usable[0]),
                        "title": f"{state.tracks[member.track].subject}: {member.similarity:.3f}",
                    }
                    for member in shown
                ],
            }
        )
    return described


def _make_histograms(state: CurationState, by_kind: dict[str, list[PairRow]]) -> list[dict[str, Any]]:
    lines = {"threshold": state.threshold.value, "too alike": state.config.identity.too_alike}
    pairs = {kind: [row.face_similarity for row in some] for kind, some in sorted(by_kind.items())}
    members = list(state.memberships.values())
    own = [member.similarity for member in members if member.similarity < 1]
    next_best = [member.runner_up_similarity for member in members if member.runner_up]
    return [
        make_histogram("Reference and target of each pair", pairs, lines),
        make_histogram(
            "Each track to its own person and to the next one",
            {"own person": own, "next person": next_best},
            {"threshold": state.threshold.value},
        ),
    ]


def _list_look_alikes(state: CurationState) -> list[dict[str, Any]]:
    found = [member for member in state.memberships.values() if member.look_alike]
    return [
        {
            "subject": state.tracks[member.track].subject,
            "person": member.person,
            "similarity": member.similarity,
            "other": member.runner_up,
            "other_similarity": member.runner_up_similarity,
        }
        for member in sorted(found, key=lambda member: -member.runner_up_similarity)[:50]
    ]


def _spread(rows: Sequence[PairRow], count: int) -> list[PairRow]:
    """Rows of as many people as there are, then evenly spaced ones."""
    by_person = list({row.person: row for row in rows}.values())
    chosen = (by_person + [row for row in rows if row not in by_person])[:count]
    return sorted(chosen, key=lambda row: row.id)


class _Thumbnails:
    """Small pictures as data URLs."""

    def __init__(self, state: CurationState) -> None:
        self.state = state

    def show_face(self, track: str, sample: int) -> str:
        """The aligned face of a look."""
        picture = self.state.read_pictures(track).pictures[sample]
        return self._show_aligned(picture, self.state.tracks[track].samples[sample].landmarks)

    def show_pair(self, row: PairRow) -> dict[str, Any]:
        """References and target of a pair, with what is known of it."""
        pair = self._candidates()[row.id]
        variant = self.state.variants.get(row.id)
        if variant:
            references = [encode_picture(scale_down(read_jpeg(variant.picture), _TARGET_PX))]
        else:
            references = [
                encode_picture(
                    scale_down(
                        read_jpeg(self.state.read_pictures(ref.track).pictures[ref.sample]), _TARGET_PX
                    )
                )
                for ref in pair.references
            ]
        pictures = self.state.read_pictures(row.target_track)
        inside = [
            number
            for number, frame in enumerate(pictures.view_frames)
            if not pair.end_frame or pair.first_frame <= frame < pair.end_frame
        ]
        view = read_jpeg(pictures.views[inside[len(inside) // 2] if inside else 0])
        if pair.crop:
            view = cut_view(view, pair.crop, self.state.tracks[pair.track].width_px)
        return {
            "id": row.id,
            "person": row.person,
            "tracks": sorted({row.target_track, *(ref.track for ref in pair.references)}),
            "references": references,
            "target": encode_picture(scale_down(view, _TARGET_PX)),
            "similarity": row.face_similarity,
            "caption": row.caption,
            "kind": row.kind,
            "raw_kind": row.raw_kind,
            "augmenter": row.augmenter or "",
            "path": row.target,
            "frames": list(row.frame_range or ()),
            "split": row.split,
        }

    def _candidates(self) -> dict[str, Any]:
        if not hasattr(self, "_by_id"):
            self._by_id = {pair.id: pair for pair in self.state.candidates}
        return self._by_id

    def _show_aligned(self, picture: bytes, landmarks: np.ndarray) -> str:
        crop = crop_for_reference(read_jpeg(picture), landmarks.reshape(5, 2))
        return encode_picture(scale_down(crop, _FACE_PX))
