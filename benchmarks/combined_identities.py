"""What Lynx Combine Identities and several reference photos do, on Mini Lynx: `python benchmarks/combined_identities.py`.

64 people that no training saw, four photos each, through the real nodes and the host's sampler, the same noise for all
settings. The readers of the miniature's experiment judge. Readings are kept under `--work`; a second call does only
what is missing. `--report` writes the tables in docs/mini/combined_identities.md, and ends.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
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

from lynx_core.rng import numpy_generator
from miniature.experiment.cases import draw_cases
from miniature.experiment.statistics import estimate_mean
from miniature.parts.resumable import save_arrays, write_beside
from miniature.world.crop import draw_crops
from miniature.world.draws import draw_shot
from miniature.world.identity import Identity, draw_identity
from miniature.world.pairs import LANDMARK_ERROR, stand_still

NUM_PEOPLE, NUM_PHOTOS = 64, 4
FIRST_SEED, FIRST_OF_AXIS = 7 * 10**8, 1_070_000
AXIS_PEOPLE = 4
"""At each end: the lightest and the darkest of 64."""
PHOTOS = {
    "one": "one photo",
    "id mean": "ID: mean of four",
    "reference four": "reference: four side by side",
    "both": "both of four",
}
ALONE = {
    "id one": "one photo",
    "id four": "mean of four",
    "id stranger": "mean of three and a stranger",
}
BLENDS = {f"blend {amount:g}": amount for amount in (0.25, 0.5, 0.75, 1.0)}
AXIS = {f"axis {amount:g}": amount for amount in (-0.5, 0.5)}
SETTINGS = (*PHOTOS, *ALONE, *BLENDS, *AXIS)


class Bench:
    """The people, their videos and what is read in them.

    Args:
        host: Mini Lynx.
        work: readings are kept here.
    """

    def __init__(self, host: MiniHost, work: Path) -> None:
        self.host, self.work = host, work
        self.cases = draw_cases()
        self.ends = [self._combine(self._encode_each(people)) for people in list_ends()]

    def path(self, number: int, setting: str) -> Path:
        return self.work / "readings" / self.host.name_reading(number, setting)

    def read(self, number: int) -> None:
        """Make and read what is missing of one person's videos."""
        missing = [setting for setting in SETTINGS if not self.path(number, setting).is_file()]
        if not missing:
            return
        case, other = self.cases[number], self.cases[number + NUM_PEOPLE]
        photos = draw_photos(case.target.identity, number)
        faces, together = [self.host.crop([photo]) for photo in photos], self.host.crop(photos)
        ids = [self.host.encode_id(face) for face in faces]
        (stranger,) = self._encode_each([other.target.identity])
        references = {
            "one": self.host.encode_reference(faces[0]),
            "four": self.host.encode_reference(together, photos="all side by side"),
        }
        empty = self.host.prompt(case.caption)
        for setting in missing:
            conds = self.host.apply(empty, **self._choose(setting, ids, stranger, references))
            self._read(self.path(number, setting), conds, number)

    def _choose(
        self, setting: str, ids: list[Any], stranger: Any, references: dict[str, Any]
    ) -> dict[str, Any]:
        """Inputs of Lynx Apply."""
        mean = self._combine(ids)
        if setting in PHOTOS:
            which_id = mean if setting in ("id mean", "both") else ids[0]
            which_reference = "four" if setting in ("reference four", "both") else "one"
            return {"id": which_id, "reference": references[which_reference]}
        if setting in ALONE:
            given = {"id one": ids[:1], "id four": ids, "id stranger": [*ids[:3], stranger]}
            return {"id": self._combine(given[setting])}
        if setting in BLENDS:
            return {"id": self._combine([ids[0], stranger], mode="blend", amount=BLENDS[setting])}
        return {"id": self._combine([ids[0], *self.ends], mode="axis", amount=AXIS[setting])}

    def _combine(self, ids: Sequence[Any], **inputs: Any) -> Any:
        given = {f"id_{place}": each for place, each in enumerate(ids, 1)}
        return self.host.run("LynxCombineIdentities", **given, **inputs)[0]

    def _encode_each(self, people: Sequence[Identity]) -> list[Any]:
        photos = [draw_photos(person, number)[0] for number, person in enumerate(people)]
        return [self.host.encode_id(self.host.crop([photo])) for photo in photos]

    def _read(self, path: Path, conds: Conds, number: int) -> None:
        reading = self.host.readers.read_clips(self.host.make_clip(conds, number)[None])
        rows = {"embedding": reading.embedding[0], "skin": reading.factors["skin"][0]}
        write_beside(path, lambda beside: save_arrays(beside, rows))

    def list_read(self) -> np.ndarray:
        """The numbers of the people of whom all videos were read."""
        return np.array(
            [n for n in range(NUM_PEOPLE) if all(self.path(n, setting).is_file() for setting in SETTINGS)]
        )

    def collect(self, setting: str) -> dict[str, np.ndarray]:
        """The readings of these people, [people, ...] by name."""
        opened = [np.load(self.path(number, setting)) for number in self.list_read().tolist()]
        return {name: np.stack([rows[name] for rows in opened]) for name in opened[0].files}


def draw_photos(person: Identity, seed: int) -> list[np.ndarray]:
    """Four photos in scenes of their own, as aligned crops with a detector's errors, [256, 256, 3] uint8 RGB."""
    photos = []
    for place in range(NUM_PHOTOS):
        number = FIRST_SEED + NUM_PHOTOS * seed + place
        error = numpy_generator("landmark error", number).normal(0, LANDMARK_ERROR, (5, 2))
        photos.append(draw_crops(stand_still(draw_shot(person, number)), 0, error)[1])
    return photos


def list_ends() -> tuple[list[Identity], list[Identity]]:
    """The people at both ends of the axis: the lightest and the darkest of some."""
    people = sorted(
        (draw_identity(FIRST_OF_AXIS + number) for number in range(64)), key=lambda person: person.skin
    )
    return people[:AXIS_PEOPLE], people[-AXIS_PEOPLE:]


def measure(bench: Bench) -> Figures:
    """By setting: likeness to the person and to the other one, top-1 of 128, and the skin that was read."""
    gallery = mean_gallery(bench.host.readers)
    people = bench.list_read()
    places = np.arange(len(people))
    first = bench.collect("one")["embedding"] @ gallery.T
    alone = bench.collect("id one")["embedding"] @ gallery.T
    found = {}
    for setting in SETTINGS:
        rows = bench.collect(setting)
        cosines = rows["embedding"] @ gallery.T
        own = cosines[places, people]
        before = (first if setting in PHOTOS else alone)[places, people]
        values = {
            "own": own,
            "gain": own - before,
            "other": cosines[places, people + NUM_PEOPLE],
            "top1": cosines.argmax(1) == people,
            "skin": rows["skin"],
        }
        found[setting] = {
            name: estimate_mean(value.astype(float)[None]).as_json() for name, value in values.items()
        }
    return found


def make_tables(found: Figures) -> dict[str, str]:
    """Tables by name, in Markdown."""
    own, gain, top1 = "cosine with the person", "against one photo", "nearest of 128"
    of_photos = {"own": own, "gain": gain, "top1": top1}
    of_blend = {
        "own": "cosine with the first",
        "other": "cosine with the second",
        "top1": "the first is the nearest of 128",
    }
    of_axis = {"skin": "skin, 0 the lightest to 1 the darkest", "own": own, "top1": top1}
    return {
        "photos": _table(found, PHOTOS, of_photos),
        "alone": _table(found, ALONE, of_photos),
        "blend": _table(found, _by_amount(BLENDS), of_blend),
        "axis": _table(found, _by_amount(AXIS), of_axis),
    }


def _by_amount(settings: dict[str, float]) -> dict[str, str]:
    """Settings in the order of their amount, and with 0, which is one photo alone."""
    amounts = settings | {"id one": 0.0}
    return {name: f"amount {amounts[name]:g}" for name in sorted(amounts, key=lambda name: amounts[name])}


def _table(found: Figures, settings: dict[str, str], columns: dict[str, str]) -> str:
    rows = [[words, *(show(found[setting][name]) for name in columns)] for setting, words in settings.items()]
    return make_table([["", *columns.values()], *rows])


def write_report(bench: Bench) -> None:
    """Write combined_identities.json, and the tables in combined_identities.md."""
    found = measure(bench)
    write_figures("combined_identities", found, make_tables(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments = parse_arguments(parser, work=".combined")
    bench = Bench(open_host(arguments), arguments.work)
    if arguments.report:
        write_report(bench)
    else:
        read_all(bench.read, NUM_PEOPLE, reverse=arguments.reverse)


if __name__ == "__main__":
    main()
