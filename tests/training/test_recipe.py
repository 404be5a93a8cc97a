"""The recipe of docs/training.md, as it stands there, in an empty folder with stand-ins for the models."""

from __future__ import annotations

from small_run import REPO_DIR

from lynx_core.training.configuration import read_configuration

CONFIGS = sorted((REPO_DIR / "configs").glob("single_*.toml"))


def test_download_puts_the_models_where_the_configurations_name_them() -> None:
    from lynx_core.formats.published_files import BUNDLES

    text = (REPO_DIR / "docs" / "training.md").read_text()
    assert "comfy-lynx download lynx_full faces --models models" in text
    fetched = [
        f"models/{s.target}" for name in ("lynx_full", "lynx_lite", "faces") for s in BUNDLES[name].sources
    ]
    for path in CONFIGS:
        config = read_configuration(path)
        named = [*config.adapter.init, config.data.face_recogniser, config.data.face_models]
        for place in named:
            assert any(target.startswith(str(place)) for target in fetched), place
