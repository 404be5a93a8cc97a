"""`comfy-lynx bake`: identity files from folders of photos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..faces.analyzer import FaceAnalyzer

SUFFIX = ".safetensors"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "bake",
        help="make identity files from photos",
        description="Makes one identity file for each sub-folder of FOLDER, named after it; photos that lie in FOLDER "
        "itself are one person of its name. Lynx Load Identity opens the files when they are in models/lynx/identities. "
        "Only photos of people who agreed belong here.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="photos, one sub-folder a person")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="folder of the identity files"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="ComfyUI's models folder (default: %(default)s)"
    )
    parser.add_argument(
        "--pack", default="buffalo_l", help="insightface model pack that finds faces (default: %(default)s)"
    )
    parser.add_argument(
        "--recogniser",
        type=Path,
        metavar="FILE",
        help="file of the face recogniser; without it the model pack's own. It must be the one of the adapter",
    )
    parser.add_argument(
        "--provider", default="CPU", help="CPU, CUDA, CoreML or DirectML (default: %(default)s)"
    )
    parser.add_argument(
        "--combine", choices=("mean", "weighted", "best"), default="mean", help="how photos are combined"
    )
    parser.add_argument(
        "--min-cosine",
        type=float,
        metavar="C",
        help="leave out photos less like the others than this, -1 to 1",
    )
    parser.add_argument("--aligned", action="store_true", help="the photos are ready face crops")
    parser.add_argument("--licence", default="", help="licence of the photos, kept in the files")
    parser.add_argument("--consent", default="", help="note on the person's consent, kept in the files")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..faces.analyzer import FaceAnalyzer
    from ..faces.errors import FaceError
    from ..formats.tensor_file import AdapterError

    people = list_people(arguments.folder)
    if not people:
        print(f"comfy-lynx: {arguments.folder} holds no photos and no folders of photos", file=sys.stderr)
        return 1
    analyzer = FaceAnalyzer(
        arguments.models / "insightface", arguments.pack, arguments.provider, arguments.recogniser
    )
    failed = 0
    for name, photos in people.items():
        try:
            bake_person(name, photos, analyzer, arguments)
        except (FaceError, AdapterError) as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    print(f"{len(people) - failed} of {len(people)} people are in {arguments.out}")
    return 1 if failed else 0


def list_people(folder: Path) -> dict[str, list[Path]]:
    """List the photos of each person by name; hidden files and empty folders are passed over."""
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    people = {
        place.resolve().name: sorted(
            file for file in place.iterdir() if file.is_file() and not file.name.startswith(".")
        )
        for place in folders
    }
    return {name: photos for name, photos in people.items() if photos}


def bake_person(name: str, photos: list[Path], analyzer: FaceAnalyzer, arguments: argparse.Namespace) -> None:
    """Make the file of one person and print what came of it.

    Raises:
        FaceError: when no photo can be used.
        AdapterError: when the file is there already, or cannot be written.
    """
    from ..faces.person import gather_person
    from ..formats.identity_file import MAX_PHOTOS, IdentityPhoto, SavedIdentity, save_identity

    person = gather_person(
        photos[:MAX_PHOTOS],
        analyzer,
        method=arguments.combine,
        min_cosine=arguments.min_cosine,
        aligned=arguments.aligned,
    )
    identity = SavedIdentity(
        name=name,
        recogniser=analyzer.recogniser.name,
        embedding=person.embedding,
        photo_embeddings=person.embeddings,
        photos=tuple(
            IdentityPhoto(crop.id_crop, crop.reference_crop, crop.face_px, crop.sharpness, crop.score)
            for crop in person.crops
        ),
        licence=arguments.licence,
        consent=arguments.consent,
    )
    path = arguments.out / f"{name}{SUFFIX}"
    num_bytes = save_identity(path, identity, overwrite=arguments.overwrite)
    print(f"{name}: {len(person.paths)} of {len(photos)} photos, {path} ({num_bytes:,} bytes)", flush=True)
    for problem in person.problems:
        state = "left out" if problem.is_left_out else "used, but look"
        print(f"  {problem.path.name}: {state}: {problem.text}", flush=True)
    if len(photos) > MAX_PHOTOS:
        print(f"  {len(photos) - MAX_PHOTOS} photos after the first {MAX_PHOTOS} are left out", flush=True)
