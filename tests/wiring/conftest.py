"""One server and one browser page for all wirings, with models that a test may take away."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_host import ComfyHost, copy_into, standin_packs
from PIL import Image
from standin_installation import write_photo
from standin_models import write_standin_models

# The folder's modules go by their own names.
sys.path.insert(0, str(Path(__file__).parent))

from editor import Editor
from graphs import BLANK, DARK_PHOTO, NARROW_CLIP, PHOTO, SHALLOW_WAN

VERSION = "0.30.0"


@pytest.fixture(scope="session")
def wiring_host(
    comfyui_dirs: dict[str, Path], standin_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyHost]:
    """A server of its own: its models folder holds links, which may be removed and replaced."""
    base_dir = tmp_path_factory.mktemp("wiring")
    copy_into(standin_models, base_dir / "models")
    wrong = {
        f"diffusion_models/{SHALLOW_WAN}": "wan_t2v_shallow",
        f"text_encoders/{NARROW_CLIP}": "umt5_narrow",
    }
    write_standin_models(base_dir / "models", wrong)
    with Image.open(write_photo(base_dir / "input" / PHOTO)) as photo:
        photo.point(lambda value: value // 2).save(base_dir / "input" / DARK_PHOTO)
    Image.new("RGB", (300, 400), (90, 120, 160)).save(base_dir / "input" / BLANK)
    with ComfyHost(comfyui_dirs[VERSION], base_dir, standin_packs()) as host:
        yield host


@pytest.fixture(scope="session")
def editor(wiring_host: ComfyHost) -> Iterator[Editor]:
    """The editor, open in a browser."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium: install it (apt-get install chromium), or set CHROMIUM to its path")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1800, "height": 1000})
        opened = Editor(page, wiring_host)
        opened.start()
        yield opened
        browser.close()
