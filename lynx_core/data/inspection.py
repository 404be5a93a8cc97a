"""A dataset on one page: counts, how alike its pairs are, how long, some of them to look at, and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..buckets import name_addresses
from ..offline_page import encode_picture, make_histogram, render
from .cache.bucket_cache import pull_cache
from .cache.tensor_cache import TensorCache
from .dataset_index import DatasetIndex, OnCount, build_index
from .errors import DataError, MediaError
from .manifest import KINDS, read_manifest
from .media.decoding import ClipPlan, DecodingConfig, decode_clip, decode_photo, opened_media
from .pair_table import IndexEntry, PairTable
from .prepared_index import INDEX_FOLDER, open_index
from .quarantine import Rejection
from .text_files import find_file

MANIFEST_NAMES = ("train.parquet", "train.jsonl")
"""Of a folder that `comfy-lynx curate` has written, or that is laid out alike."""
_THUMBNAIL_PX = 168
_MOST_VALUES = 200_000
"""Rows that a histogram of similarity reads."""


def find_manifest(place: Path) -> Path:
    """The manifest of a set: the file itself, or that of a folder.

    Raises:
        DataError: when the folder has none.
    """
    if not place.is_dir():
        return find_file(place)
    found = next((place / name for name in MANIFEST_NAMES if (place / name).is_file()), None)
    if found is None:
        raise DataError(f"{place} has none of {', '.join(MANIFEST_NAMES)}; name the manifest")
    return found


def open_set(
    manifest: Path, cache_dir: Path | None, on_count: OnCount | None = None
) -> tuple[DatasetIndex, bool]:
    """The pairs of a manifest, and whether they come from the index of a preparation.

    Args:
        cache_dir: of `prepare`, whose newest index of this manifest is taken; without one every file is looked at.

    Raises:
        DataError: when there is no manifest or none of its pairs can be used.
    """
    if cache_dir is not None:
        pull_cache(cache_dir)
        paths = (cache_dir / INDEX_FOLDER).glob(f"{manifest.stem}-*.json")
        for path in sorted(paths, key=lambda path: -path.stat().st_mtime_ns):
            index = open_index(path, manifest)
            if index is not None:
                return index, True
    return build_index(read_manifest(manifest), DecodingConfig(), TensorCache(cache_dir), on_count), False


def describe_set(index: DatasetIndex, is_prepared: bool, num_shown: int = 24) -> str:
    """The page of a set as HTML, which needs no network.

    Args:
        num_shown: pairs to look at, spread over the kinds.
    """
    items = index.items
    counts = np.bincount(items.kinds, minlength=len(KINDS)).tolist()
    lost = {rejection.line for rejection in index.rejections}
    usable = np.flatnonzero(~np.isin(items.lines, np.fromiter(lost, np.int64)))
    step = max(len(items) // _MOST_VALUES, 1)
    rows = range(0, len(items), step)
    similar: dict[str, list[float]] = {name: [] for name in KINDS}  # in the colours of the other histogram
    for row in rows:
        values = items.read_row(row, ("kind", "face_similarity"))
        if values["face_similarity"] is not None:
            similar[values["kind"]].append(values["face_similarity"])
    tokens = {
        name: items.tokens[items.kinds == number]
        .astype(float)
        .tolist()[:: max(counts[number] // _MOST_VALUES, 1)]
        for number, name in enumerate(KINDS)
        if counts[number]
    }
    histograms = [make_histogram("Tokens of the target", tokens, {})]
    if any(similar.values()):
        histograms.insert(0, make_histogram("Similarity of reference and target", similar, {}))
    values = {
        "path": name_addresses(index.manifest_path),
        "num_rows": index.num_rows,
        "num_pairs": len(usable),
        "kinds": {name: count for name, count in zip(KINDS, counts, strict=True) if count},
        "weights": items.kind_weights or {},
        "num_tokens": int(items.tokens.sum()),
        "num_clips": int((items.latent_frames > 1).sum()),
        "is_prepared": is_prepared,
        "step": step,
        "rejections": _group(index.rejections),
        "warnings": _group(index.warnings),
        "pairs": [_show_pair(items[row]) for row in _spread(items, usable, num_shown)],
        "histograms": histograms,
    }
    return render(_TEMPLATE, values)


def _group(rejections: Sequence[Rejection]) -> list[dict[str, Any]]:
    """Reasons, the most frequent first, with an example of each."""
    first: dict[str, Rejection] = {}
    for rejection in rejections:
        first.setdefault(rejection.reason, rejection)
    counts = Counter(rejection.reason for rejection in rejections)
    return [
        {"reason": reason, "count": count, "example": first[reason]} for reason, count in counts.most_common()
    ]


def _spread(items: PairTable, usable: np.ndarray, count: int) -> list[int]:
    """Rows of every kind, evenly over the set."""
    groups = [usable[items.kinds[usable] == number] for number in range(len(KINDS))]
    groups = [group for group in groups if len(group)]
    each = -(-count // max(len(groups), 1))
    return [
        int(row)
        for group in groups
        for row in group[np.unique(np.linspace(0, len(group) - 1, each).astype(int))]
    ]


def _show_pair(entry: IndexEntry) -> dict[str, Any]:
    pair = entry.pair
    references = [_show_photo(path) for path in pair.references[:3]]
    return {
        "person": pair.id,
        "caption": pair.caption,
        "similarity": pair.face_similarity,
        "raw_kind": pair.kind,
        "augmenter": "",
        "split": "",
        "path": str(pair.target),
        "frames": pair.frame_range,
        "references": references,
        "target": _show_target(entry),
    }


_GONE = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='96' height='96'%3E%3C/svg%3E"
"""In the place of a file that is not there."""


def _show_photo(path: Path) -> str:
    try:
        with opened_media(path) as file:
            return encode_picture(_scale_down(decode_photo(file)))
    except (MediaError, OSError):
        return _GONE


def _show_target(entry: IndexEntry) -> str:
    plan = entry.plan
    middle = None if plan.pts is None else plan.pts[len(plan.pts) // 2 :][:1].tolist()
    try:
        with opened_media(entry.pair.target) as file:
            return encode_picture(_scale_down(decode_clip(file, ClipPlan.restore(plan.sizes_px, middle))[0]))
    except (MediaError, OSError):
        return _GONE


def _scale_down(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return np.asarray(picture)


_TEMPLATE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ num_pairs }} pairs of {{ path }}</title><style>
{{ style|safe }}</style></head>
<body><main>
<h1>{{ path }}</h1>
<p class="soft">{% if is_prepared %}As prepared.{% else %}Not prepared: lengths by the default decoding, and faces were not looked for.{% endif %}{% if step > 1 %} Similarity of every {{ step }}th row.{% endif %}</p>
<div class="figures">
<div class="card figure"><b>{{ num_rows }}</b>rows</div>
<div class="card figure"><b>{{ num_pairs }}</b>pairs to train on</div>
<div class="card figure"><b>{{ num_clips }}</b>clips</div>
<div class="card figure"><b>{{ '{:,}'.format(num_tokens) }}</b>tokens</div>
{% for kind, count in kinds.items() %}
<div class="card figure"><b>{{ count }}</b>{{ kind }}{% if weights %}<br><span class="soft">drawn {{ '%.0f'|format(100 * weights.get(kind, 0) / (weights.values()|sum or 1)) }} %</span>{% endif %}</div>
{% endfor %}
</div>
<div class="two">{% for histogram in histograms %}{{ chart(histogram) }}{% endfor %}</div>
{% for title, some in (('Quarantine', rejections), ('To look at', warnings)) %}
<h2>{{ title }}: {{ some|sum(attribute='count') }}</h2>
{% if some %}
<div class="card scroll"><table>
<tr><th class="number">rows</th><th>reason</th><th>first example</th></tr>
{% for item in some %}
<tr><td class="number">{{ item.count }}</td><td class="name">{{ item.reason }}</td><td class="soft">line {{ item.example.line }}{% if item.example.id %}, id {{ item.example.id }}{% endif %}: {{ item.example.detail }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endfor %}
<h2>Pairs</h2>
<p class="soft">{{ pairs|length }} of {{ num_pairs }}. References left, target right.</p>
<div class="pairs">{% for pair in pairs %}{{ show(pair) }}{% endfor %}</div>
</main></body></html>
"""
