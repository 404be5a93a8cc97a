"""Two people in one frame of Mini Lynx: does each mask carry its own person, and not the other?

    python -m miniature.duo_base .miniature/duo_base.safetensors
    python benchmarks/two_people.py --base .miniature/duo_base.safetensors

64 pairs of people that no training saw, through the real nodes and the host's sampler: a chain of two Lynx Apply, each
with the mask of its half; the same with the photos exchanged; without masks; and without anybody. The readers of the
miniature's experiment look at each half. Readings are kept under `--work`; a second call does only what is missing.
`--report` writes the table and the picture in docs/mini, and ends.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guidance import mean_gallery
from mini_host import (
    Conds,
    Figures,
    MiniHost,
    make_table,
    open_host,
    parse_arguments,
    read_all,
    show,
    write_figures,
)
from PIL import Image, ImageDraw, ImageFont

from miniature.experiment.cases import draw_cases
from miniature.experiment.statistics import estimate_mean
from miniature.parts.resumable import save_arrays, write_beside
from miniature.world.clip import FRAME_PX
from miniature.world.duo import Duo, caption_of_duo, draw_duo

NUM_PAIRS = 64
FIRST_SEED = 6 * 10**8
SETTINGS = {
    "masks": "each in the own mask",
    "exchanged": "the same, photos exchanged",
    "everywhere": "both without masks",
    "base": "nobody",
}
MEASURES = {
    "own": "cosine with the half's own person",
    "other": "cosine with the other one",
    "top1": "the own one is the nearest of 128",
    "nearer": "the own one is nearer than the other",
    "action": "the half's own action",
    "background": "the place",
}
SHOWN_PAIRS = 5
TILE_PX, GAP_PX, LABEL_PX, INK = 128, 6, 15, (30, 32, 38)


class Bench:
    """The pairs, their videos and what is read in them.

    Args:
        host: with a base that draws two people.
        work: readings are kept here.
    """

    def __init__(self, host: MiniHost, work: Path) -> None:
        self.host, self.work = host, work
        self.cases = draw_cases()
        self.pairs = [self._draw_pair(number) for number in range(NUM_PAIRS)]

    def _draw_pair(self, number: int) -> Duo:
        left, right = (case.target.identity for case in self.cases[number::NUM_PAIRS])
        return draw_duo(left, right, FIRST_SEED + number)

    def path(self, number: int, setting: str) -> Path:
        return self.work / "readings" / self.host.name_reading(number, setting)

    def read(self, number: int) -> None:
        """Make and read what is missing of one pair's videos."""
        people: list[dict[str, Any]] = []
        for setting in SETTINGS:
            path = self.path(number, setting)
            if path.is_file():
                continue
            people = people or [self._encode(case.draw_reference()) for case in self.cases[number::NUM_PAIRS]]
            clip = self.host.make_clip(self._apply(number, setting, people), number, width=2 * FRAME_PX)
            halves = np.stack([clip[:, :, :FRAME_PX], clip[:, :, FRAME_PX:]])
            reading = self.host.readers.read_clips(halves)
            rows = {name: getattr(reading, name) for name in ("embedding", "action", "background")}
            rows["clip"] = clip
            write_beside(path, lambda beside, rows=rows: save_arrays(beside, rows))

    def _encode(self, photo: np.ndarray) -> dict[str, Any]:
        """ID and reference of a person, as inputs of Lynx Apply."""
        face = self.host.crop([photo])
        return {"id": self.host.encode_id(face), "reference": self.host.encode_reference(face)}

    def _apply(self, number: int, setting: str, people: list[dict[str, Any]]) -> Conds:
        """What is sampled with."""
        conds = self.host.prompt(caption_of_duo(self.pairs[number], number))
        if setting == "base":
            return conds
        masks = torch.zeros(2, 1, FRAME_PX, 2 * FRAME_PX)
        masks[0, ..., :FRAME_PX] = masks[1, ..., FRAME_PX:] = 1
        for person, mask in zip(people[:: -1 if setting == "exchanged" else 1], masks, strict=True):
            where = {} if setting == "everywhere" else {"mask": mask}
            conds = self.host.apply(conds, **person, **where)
        return conds

    def collect(self, setting: str) -> dict[str, np.ndarray]:
        """The readings of all pairs, [pairs, halves, ...] by name."""
        opened = [np.load(self.path(number, setting)) for number in range(NUM_PAIRS)]
        return {name: np.stack([rows[name] for rows in opened]) for name in opened[0].files}


def measure(bench: Bench) -> Figures:
    """By setting, each measure's mean over pairs and halves, with its interval over pairs."""
    gallery = mean_gallery(bench.host.readers)
    places = np.stack([np.arange(NUM_PAIRS), np.arange(NUM_PAIRS) + NUM_PAIRS], 1)
    actions = np.array([[pair.left.action, pair.right.action] for pair in bench.pairs])
    backgrounds = np.array([[pair.left.scene.background] * 2 for pair in bench.pairs])
    found = {}
    for setting in SETTINGS:
        rows = bench.collect(setting)
        own = places[:, ::-1] if setting == "exchanged" else places
        cosines = rows["embedding"] @ gallery.T
        of_own, of_other = (
            np.take_along_axis(cosines, each[..., None], 2)[..., 0] for each in (own, own[:, ::-1])
        )
        values = {
            "own": of_own,
            "other": of_other,
            "top1": cosines.argmax(2) == own,
            "nearer": of_own > of_other,
            "action": rows["action"] == actions,
            "background": rows["background"] == backgrounds,
        }
        found[setting] = {
            name: estimate_mean(value.astype(float).mean(1)[None]).as_json() for name, value in values.items()
        }
    return found


def write_report(bench: Bench) -> None:
    """Write two_people.json, the table in two_people.md and two_people.jpg."""
    found = measure(bench)
    head = ["", *(SETTINGS[setting] for setting in found)]
    rows = [[words, *(show(each[name]) for each in found.values())] for name, words in MEASURES.items()]
    folder = write_figures("two_people", found, {"table": make_table([head, *rows])})
    draw_sheet(bench).save(folder / "two_people.jpg", quality=88)


def draw_sheet(bench: Bench) -> Image.Image:
    """For some pairs: both photos, and the first frame by each setting, with what it is above."""
    wide, high = 2 * TILE_PX, TILE_PX
    sheet = Image.new(
        "RGB", ((1 + len(SETTINGS)) * (wide + GAP_PX), SHOWN_PAIRS * (high + GAP_PX) + 2 * LABEL_PX), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(("the photos", *SETTINGS.values())):
        at = (column * (wide + GAP_PX) + wide / 2, LABEL_PX)
        draw.text(at, label, INK, ImageFont.load_default(LABEL_PX), anchor="mm")
    for row in range(SHOWN_PAIRS):
        photos = [case.reference.draw_frame(0, TILE_PX) for case in bench.cases[row::NUM_PAIRS]]
        frames = [np.load(bench.path(row, setting))["clip"][0] for setting in SETTINGS]
        for column, picture in enumerate((np.concatenate(photos, 1), *frames)):
            tile = Image.fromarray(picture).resize((wide, high), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (wide + GAP_PX), row * (high + GAP_PX) + 2 * LABEL_PX))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, help="that draws two people (default: the one that ships)")
    arguments = parse_arguments(parser, work=".two_people")
    bench = Bench(open_host(arguments, arguments.base), arguments.work)
    if arguments.report:
        write_report(bench)
    else:
        read_all(bench.read, NUM_PAIRS, reverse=arguments.reverse)


if __name__ == "__main__":
    main()
