"""Writes `locales/en/nodeDefs.json` and `locales/zh/nodeDefs.json` from the nodes' schemas.

    python scripts/build_locales.py            writes the files
    python scripts/build_locales.py --missing  prints the texts that have no Chinese translation yet

`locales/zh.json` holds the translations, English text -> Chinese text: so a text that is changed in a node is missed
at once, and one that no node has any more is found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REPO_DIR = Path(__file__).resolve().parents[1]
LOCALES_DIR = REPO_DIR / "locales"
TRANSLATIONS = LOCALES_DIR / "zh.json"
HOST_DIR = REPO_DIR / ".comfyui" / "0.30.0"
TEXT_KEYS = ("display_name", "description", "name", "tooltip")

Json = dict[str, Any]


def describe_nodes(node_classes: Mapping[str, Any]) -> Json:
    """The English texts of every node of the pack, in the form that the editor reads."""
    return {
        name: describe_node(node.GET_SCHEMA())
        for name, node in sorted(node_classes.items())
        if name.startswith("Lynx")
    }


def describe_node(schema: Any) -> Json:
    described: Json = {"display_name": schema.display_name, "description": schema.description}
    described["inputs"] = {each.id: describe_slot(each.id, each.tooltip) for each in schema.inputs}
    described["outputs"] = {
        str(number): describe_slot(each.display_name or each.io_type, each.tooltip)
        for number, each in enumerate(schema.outputs)
    }
    return described


def describe_slot(name: str, tooltip: str | None) -> Json:
    return {"name": name} | ({"tooltip": tooltip} if tooltip else {})


def list_texts(described: Any) -> Iterator[str]:
    """Every text that a reader sees."""
    if isinstance(described, dict):
        for key, value in described.items():
            if key in TEXT_KEYS and isinstance(value, str):
                yield value
            else:
                yield from list_texts(value)


def translate(described: Any, words: Mapping[str, str]) -> Any:
    """The same in another language; a text without a translation stays English."""
    if not isinstance(described, dict):
        return described
    return {
        key: words.get(value, value)
        if key in TEXT_KEYS and isinstance(value, str)
        else translate(value, words)
        for key, value in described.items()
    }


def read_translations() -> dict[str, str]:
    return json.loads(TRANSLATIONS.read_text(encoding="utf-8"))


def build_files(node_classes: Mapping[str, Any]) -> dict[Path, str]:
    """The content of each file."""
    english = describe_nodes(node_classes)
    files = {"en": english, "zh": translate(english, read_translations())}
    return {
        LOCALES_DIR / language / "nodeDefs.json": json.dumps(nodes, indent=1, ensure_ascii=False) + "\n"
        for language, nodes in files.items()
    }


def find_missing(node_classes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """English texts without a translation, and translations of texts that no node has."""
    texts = list(dict.fromkeys(list_texts(describe_nodes(node_classes))))
    words = read_translations()
    return [text for text in texts if text not in words], [text for text in words if text not in texts]


def main(arguments: list[str]) -> int:
    sys.path[:0] = [str(REPO_DIR / "tests" / "host")]
    from in_process import load_in_process

    with tempfile.TemporaryDirectory() as base_dir:
        node_classes = load_in_process(HOST_DIR, Path(base_dir)).node_classes
        missing, unused = find_missing(node_classes)
        if "--missing" in arguments:
            print(json.dumps(missing, indent=1, ensure_ascii=False))
        else:
            for path, text in build_files(node_classes).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            print(f"{len(missing)} texts have no translation, {len(unused)} translations are of no use")
    return 1 if missing or unused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
