"""A person who is removed is in none of the files afterwards, and does not come back."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
from drawn import draw, draw_frames, make_config, put_side_by_side, write_clip, write_photo
from pyarrow import parquet
from test_curation import Curated, read_rows

from lynx_core.curate.curation import curate
from lynx_core.curate.errors import CurationError
from lynx_core.curate.forget import forget
from lynx_core.curate.manifests import name_folder
from lynx_core.curate.page import read_page_data


def find_traces(output: Path, *traces: bytes) -> list[Path]:
    """Files of the set that hold one of these bytes, Parquet unpacked."""
    found = []
    for path in output.rglob("*"):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        if path.suffix == ".parquet":
            raw = repr(parquet.read_table(path).to_pylist()).encode() + b"".join(
                value for row in parquet.read_table(path).to_pylist() for value in _list_bytes(row)
            )
        if any(trace in raw for trace in traces):
            found.append(path)
    return found


def _list_bytes(value) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [raw for entry in value for raw in _list_bytes(entry)] if isinstance(value, list) else []


def test_nothing_of_a_person_is_left(curated: Curated, footage: Path, tmp_path: Path) -> None:
    output = tmp_path / "set"
    shutil.copytree(curated[0].output, output)
    rows = read_rows(output)
    name = next(row["person"] for row in rows if "/a/" in row["target"])
    own = [row for row in rows if row["person"] == name]
    photo = (output / own[0]["references"][0]).read_bytes()
    tracks = {row["target_track"] for row in own}
    shown = next(
        p for kind in read_page_data(output)["kinds"].values() for p in kind["pairs"] if p["person"] == name
    )
    traces = [photo, name.encode(), *(track.encode() for track in tracks), shown["target"].encode()]
    traces.append(base64.b64decode(shown["references"][0].split(",")[1]))
    assert len(find_traces(output, *traces)) > 5
    done = forget(output, name)
    assert done.num_pairs == len(own) and done.num_files > 0 and done.num_records > 0
    assert find_traces(output, *traces) == []
    left = read_rows(output)
    assert len(left) == len(rows) - len(own)
    assert all((output / path).is_file() for row in left for path in row["references"])
    # A later run does not look at the person's files again, nor bring them back.
    config = make_config(footage, output, augmented=True)
    scanned: list[tuple[str, int, int]] = []
    curate(config, lambda *count: scanned.append(count))
    assert name not in {row["person"] for row in read_rows(output)}
    assert len(read_rows(output)) == len(left)
    # With other settings the faces are measured anew, and known by their place alone.
    shutil.rmtree(output / "work")
    report = curate(config)
    assert report.reasons["people", "forgotten"] == len(tracks) + 1  # the small copy, too
    assert not any("/a/" in row["target"] for row in read_rows(output))


def test_pairs_of_others_that_show_the_person_go_too(tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    write_clip(
        folder / "anna" / "both.mp4",
        put_side_by_side(draw_frames(draw(0, 2, 4, "smile"), 16), draw_frames(draw(1, 5, 4, "nod"), 16)),
    )
    write_photo(folder / "anna" / "a.png", draw(0, 1, 0))
    write_photo(folder / "anna" / "b.png", draw(1, 1, 2))
    config = make_config(folder, tmp_path / "set", targets={"min_s": 1.0, "max_s": 2.0, "max_people": 2})
    curate(config)
    rows = read_rows(tmp_path / "set")
    assert len({row["person"] for row in rows}) == 2 and len({row["split"] for row in rows}) == 1
    name = next(row["person"] for row in rows if row["target"].endswith("a.png"))
    done = forget(tmp_path / "set", name)
    assert done.num_others == 1 and "whose targets show" in str(done)
    assert [Path(row["target"]).name for row in read_rows(tmp_path / "set")] == ["b.png"]


def test_an_unknown_name_says_who_there_is(curated: Curated, tmp_path: Path) -> None:
    output = tmp_path / "set"
    shutil.copytree(curated[0].output, output)
    name = read_rows(output)[0]["person"]
    with pytest.raises(CurationError, match=f"did you mean .*{name}"):
        forget(output, name[:-1])
    with pytest.raises(CurationError, match="no output folder of a curation"):
        forget(tmp_path, name)
    with pytest.raises(CurationError, match="forgotten"):
        (output / "forgotten.json").write_text("[{")
        forget(output, name)


def test_names_in_any_script_have_folders_of_their_own() -> None:
    names = ["Анна", "王芳", "Zoë", "Zoe", "a/b", "a b", "..", "CON", "x" * 300]
    folders = [name_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(
        folder.isascii() and "/" not in folder and len(folder) < 40 and ".." not in folder
        for folder in folders
    )
