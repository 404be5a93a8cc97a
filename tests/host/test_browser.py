"""What an artist sees: the real editor in headless Chromium opens, shows and runs every workflow.

Screenshots for the README are written to `docs/images` only when LYNX_SCREENSHOTS=1 is set; run this
file alone for that, because the stand-in detector is then pointed at another photo.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_host import PACK_NAME, REPO_DIR, ComfyHost, list_files
from editor_scripts import DRAWN, FIT, SHRINK, SUMMARISE
from layout import TITLE_HEIGHT, find_hidden
from PIL import Image
from prompts import make_lynx_prompt
from shipped import FPS, expect_shape, upload_short_video
from standin_faces import face_from_landmarks, write_detector_pack
from standin_installation import DETECTOR_PACKS, write_photo
from video import read_video

sys.path.insert(0, str(REPO_DIR / "scripts"))

import build_workflows
from demo_workflow import PHOTO_NAME, edit_workflow
from prompt_edits import set_photo, set_size, set_steps
from workflow import workflow_to_prompt

playwright_api = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.host, pytest.mark.browser]

WORKFLOWS = sorted(path.stem for path in (REPO_DIR / "workflows").glob("*.json"))
KEEP_SCREENSHOTS = os.environ.get("LYNX_SCREENSHOTS") == "1"
IMAGES_DIR = REPO_DIR / "docs" / "images"
WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS = 96, 64, 5, 2
MIN_ZOOM = 0.7
IN_NODES_2 = ("Try-Lynx", "Wan-2.2-animate-a-picture")
"""Opened in Nodes 2.0 by every run of the suite: the first that people open, and the one with most links."""

PORTRAIT_LANDMARKS = np.array([[202, 101], [248, 103], [226, 126], [204, 142], [243, 143]], dtype=np.float32)
"""Measured by eye in the portrait of an astronaut that comes with the pack (NASA, public domain)."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.fail("no Chromium: install it (apt-get install chromium), or set CHROMIUM to its path")
    with playwright_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


@pytest.fixture(scope="module")
def host(comfy_host: ComfyHost, tmp_path_factory: pytest.TempPathFactory) -> ComfyHost:
    """The host; the pictures that workflows begin with come into its input folder by opening them."""
    if KEEP_SCREENSHOTS:
        find_portrait_face(comfy_host.base_dir / "models" / "insightface")
    else:
        upload_short_video(comfy_host, tmp_path_factory.mktemp("video"), NUM_FRAMES)
    return comfy_host


def find_portrait_face(insightface_dir: Path) -> None:
    """Point the stand-in detector at the face of the portrait that comes with the pack."""
    with Image.open(REPO_DIR / "web" / "lynx_portrait.jpg") as portrait:
        height, width = portrait.height, portrait.width
    for pack in DETECTOR_PACKS:
        for detector in (insightface_dir / "models" / pack).glob("det_*.onnx"):
            detector.unlink()  # it is a link to a file that other servers use
        write_detector_pack(insightface_dir, pack, [face_from_landmarks(PORTRAIT_LANDMARKS)], (height, width))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(f"{error} {error.stack}"))
    page.on("console", lambda message: page.complaints.append(f"{message.text} {message.location.get('url')}")
            if message.type == "error" else None)  # fmt: skip
    yield page
    page.close()


def open_workflow(page: Any, host: ComfyHost, name: str) -> dict[str, Any]:
    """Open a template by its address, as the template browser does, and return the file's content."""
    workflow = json.loads((REPO_DIR / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    page.goto(f"{host.url}/?template={name}&source={PACK_NAME}")
    page.wait_for_function(
        "types => window.app?.graph?._nodes.map(node => node.type).sort().join() === types",
        arg=",".join(sorted(node["type"] for node in workflow["nodes"])),
        timeout=90_000,
    )
    page.wait_for_timeout(500)
    return workflow


def open_parts(page: Any, host: ComfyHost, photo: Path) -> None:
    """Open a graph of Lynx's parts without subgraphs, every node in sight."""
    named = make_lynx_prompt(host.upload_image(photo), num_frames=NUM_FRAMES)
    ids = {name: str(number) for number, name in enumerate(named, 1)}
    prompt = {
        ids[name]: {
            **node,
            "inputs": {
                key: [ids[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            },
        }
        for name, node in named.items()
    }
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    for _ in range(20):  # the editor's own first graph may come later than it says, and take its place
        page.evaluate("prompt => window.app.loadApiJson(prompt, 'parts')", prompt)
        page.wait_for_timeout(1000)
        if len(prompt) == page.evaluate("() => window.app.graph._nodes.length"):
            return
    raise AssertionError("the editor does not keep the graph")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "six_faces.png")


def find_complaints_of_pack(page: Any) -> list[str]:
    """Errors of the browser that name this pack, or a script of it.

    The page's own address names it, too, as `?template=...&source=...`, and other packs log that address.
    """
    return [text for text in page.complaints if "lynx" in re.sub(r"\?[^\s'\")]*", "", text).lower()]


def keep_graph(page: Any, name: str) -> None:
    """Keep a picture of the whole graph, text drawn at every zoom."""
    if not KEEP_SCREENSHOTS:
        return
    for setting, value in (("LiteGraph.Canvas.MinFontSizeForLOD", 0), ("Comfy.Minimap.Visible", False)):
        page.evaluate(
            "([name, value]) => window.app.ui.settings.setSettingValue(name, value)", [setting, value]
        )
    height = page.evaluate(FIT)
    page.wait_for_timeout(8000)  # the message about the finished job goes away
    keep_screenshot(page, name, {"x": 0, "y": 0, "width": 2600, "height": min(1400, height)})


def keep_screenshot(page: Any, name: str, clip: dict[str, float] | None = None) -> None:
    """Keep a picture as a PNG of 256 colours: a third of the size."""
    IMAGES_DIR.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip)))
    picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(
        IMAGES_DIR / f"{name}.png", optimize=True
    )


def press_run(page: Any) -> str:
    """Press Run, and give the id of what is queued."""
    with page.expect_response(lambda response: response.url.endswith("/prompt")
                              and response.request.method == "POST") as queued:  # fmt: skip
        page.get_by_test_id("queue-button").click()
    answer = queued.value.json()
    assert queued.value.ok, answer
    return answer["prompt_id"]


def set_nodes_2(host: ComfyHost, is_on: bool) -> None:
    host.post_settings({"Comfy.VueNodes.Enabled": is_on, "Comfy.TutorialCompleted": True})


@pytest.fixture(params=["classic canvas", "Nodes 2.0"])
def either_canvas(request: pytest.FixtureRequest, host: ComfyHost) -> Iterator[str]:
    """The editor's two ways to draw nodes."""
    set_nodes_2(host, request.param == "Nodes 2.0")
    yield request.param
    set_nodes_2(host, False)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens_legibly_and_runs(
    page: Any, host: ComfyHost, either_canvas: str, name: str, tmp_path: Path
) -> None:
    if either_canvas == "Nodes 2.0" and name not in IN_NODES_2 and os.environ.get("LYNX_NODES_2") != "all":
        pytest.skip("LYNX_NODES_2=all opens every workflow in Nodes 2.0")
    workflow = open_workflow(page, host, name)
    seen = page.evaluate(SUMMARISE)
    assert sorted(seen["types"]) == sorted(node["type"] for node in workflow["nodes"])
    assert seen["links"] == len(workflow["links"])
    assert seen["missing"] == [] and seen["faulty"] == [] and seen["unknownValues"] == []
    assert seen["tooSmall"] == [], "nodes that would grow over their neighbours"
    assert page.locator("[role=dialog]").count() == 0, page.locator("[role=dialog]").all_inner_texts()

    drawn = page.evaluate(DRAWN)
    assert drawn["zoom"] >= MIN_ZOOM
    boxes = {
        id: (title, (x, y - TITLE_HEIGHT, x + width, y + height))
        for id, title, (x, y), (width, height) in drawn["nodes"]
    }
    assert find_hidden(boxes, drawn["links"]) == []

    page.evaluate(SHRINK, [WIDTH, HEIGHT, NUM_FRAMES, NUM_STEPS])
    (file,) = list_files(host.wait(press_run(page)), ".mp4")
    video = read_video(host.fetch(file, tmp_path))
    assert video.frames.shape == expect_shape(name, NUM_FRAMES, HEIGHT, WIDTH)
    assert video.fps == FPS.get(name, 16) and video.frames.std() > 5
    assert page.locator("[role=dialog]").count() == 0, page.locator("[role=dialog]").all_inner_texts()
    assert find_complaints_of_pack(page) == []
    if either_canvas == "classic canvas":
        keep_graph(page, name)


def test_template_browser_lists_the_workflows_with_thumbnails(page: Any, host: ComfyHost) -> None:
    assert sorted(host.get("/workflow_templates").json()[PACK_NAME]) == WORKFLOWS
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    with page.expect_response(f"**/{PACK_NAME}/Try-Lynx.jpg") as answer:
        page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        page.get_by_text(PACK_NAME, exact=True).first.click()
    assert answer.value.headers["content-type"] == "image/jpeg"
    for name in WORKFLOWS:
        page.get_by_text(name, exact=True).first.wait_for(timeout=30_000)
        assert host.get(f"/api/workflow_templates/{PACK_NAME}/{name}.jpg").content[:2] == b"\xff\xd8"
    if KEEP_SCREENSHOTS:
        page.set_viewport_size({"width": 1600, "height": 1100})
        page.wait_for_timeout(1500)
        keep_screenshot(page, "template_browser")


def test_template_browser_shows_the_workflows_in_the_order_in_which_an_artist_meets_them(
    page: Any, host: ComfyHost
) -> None:
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_NAME, exact=True).first.click()
    page.get_by_text("Try-Lynx", exact=True).first.wait_for(timeout=30_000)
    page.wait_for_timeout(500)
    names = [name.partition("/")[2] for name in build_workflows.FILES if name.startswith("workflows/")]
    places = [page.get_by_text(name, exact=True).first.bounding_box() for name in names[:3]]
    assert names[:3] == ["Try-Lynx", "Photo-to-video", "Photo-to-video-fast"]
    seen = [(round(place["y"] / 20), place["x"]) for place in places]
    assert seen == sorted(seen), seen


def test_blueprints_are_offered_and_give_the_parts(page: Any, host: ComfyHost) -> None:
    offered = host.get("/global_subgraphs").json()
    own = {entry["name"]: key for key, entry in offered.items() if PACK_NAME in entry["info"]["node_pack"]}
    assert set(own) == {"Lynx identity", "Lynx likeness"}
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    for name, inner in (("Lynx identity", "LynxApply"), ("Lynx likeness", "LynxFaceSimilarity")):
        blueprint = json.loads(host.get(f"/global_subgraphs/{own[name]}").json()["data"])
        page.evaluate("data => window.app.loadGraphData(data)", blueprint)
        held = page.evaluate(
            "() => window.app.graph._nodes.map(node => node.subgraph._nodes.map(inner => inner.type))"
        )
        assert len(held) == 1 and inner in held[0]
        assert page.evaluate(SUMMARISE)["missing"] == []


def test_a_video_that_is_dropped_brings_its_workflow_and_its_photo(
    page: Any, host: ComfyHost, tmp_path: Path
) -> None:
    photo = REPO_DIR / "assets" / "mini" / "example.png"
    shipped = json.loads((REPO_DIR / "workflows" / "Try-Lynx.json").read_text(encoding="utf-8"))
    workflow = edit_workflow(shipped, {"prompt": "someone nods", "seed": 5, "steps": 1}, photo)
    host.upload_image(photo)
    prompt = workflow_to_prompt(workflow, host.object_info())
    set_photo(prompt, photo.name)
    (file,) = list_files(host.wait(host.submit(prompt, workflow)), ".mp4")
    video = host.fetch(file, tmp_path)
    page.goto(host.url)
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
    content = base64.b64encode(video.read_bytes()).decode()
    page.evaluate(
        """async content => {
          const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
          await window.app.handleFile(new File([bytes], "lynx.mp4", { type: "video/mp4" }));
        }""",
        content,
    )
    page.wait_for_function(
        "() => window.app.graph._nodes.some(node => node.type === 'LoadImage')", timeout=20_000
    )
    seen = page.evaluate(SUMMARISE)
    assert sorted(seen["types"]) == sorted(node["type"] for node in workflow["nodes"])
    assert seen["unknownValues"] == [], "the photo came along"
    assert host.get("/view", filename=PHOTO_NAME, type="input").content[:2] == b"\xff\xd8"


READ_SAMPLER = """() => ({
  note: window.app.graph._nodes.find(node => node.type === "LynxSampler").widgets
    .filter(widget => widget.name.includes("text-preview")).map(widget => widget.value).join(),
  files: JSON.stringify(window.app.nodeOutputs),
})"""


def test_two_browsers_and_a_script_each_get_their_own_results(browser: Any, host: ComfyHost) -> None:
    """The graphs' nodes have the same ids; a script that queues over HTTP is shown to nobody."""
    pages = {width: browser.new_context().new_page() for width in (112, 80)}
    for width, page in pages.items():
        page.set_viewport_size({"width": 1920, "height": 1080})
        open_workflow(page, host, "Try-Lynx")
        page.evaluate(SHRINK, [width, HEIGHT, NUM_FRAMES, NUM_STEPS])
    queued = {width: press_run(page) for width, page in pages.items()}
    scripted = workflow_to_prompt(
        json.loads((REPO_DIR / "workflows/Try-Lynx.json").read_text()), host.object_info()
    )
    set_size(scripted, 64, HEIGHT, NUM_FRAMES)
    set_steps(scripted, NUM_STEPS)
    host.queue(scripted)
    for width, page in pages.items():
        (file,) = list_files(host.wait(queued[width]), ".mp4")
        page.wait_for_function(
            "name => JSON.stringify(window.app.nodeOutputs).includes(name)", arg=file.filename
        )
        seen = page.evaluate(READ_SAMPLER)
        assert f"{width} x {HEIGHT} px" in seen["note"]
        assert len(set(re.findall(r"lynx_mini_\d+_?\.mp4", seen["files"]))) == 1
        page.context.close()


READ_WIDGETS = """() => Object.fromEntries(window.app.graph._nodes.find(node => node.type === "LynxApply")
  .widgets.map(widget => [widget.name, widget.value]))"""
SET_WIDGET = """([name, value]) => {
  const node = window.app.graph._nodes.find(node => node.type === "LynxApply");
  const widget = node.widgets.find(widget => widget.name === name);
  widget.value = value;
  widget.callback?.(value, window.app.canvas, node);
}"""


def test_a_preset_shows_its_values_and_an_edit_makes_it_custom(
    page: Any, host: ComfyHost, photo: Path
) -> None:
    definition = host.object_info()["LynxApply"]["input"]["required"]["preset"][1]
    presets = definition["lynx_presets"]
    assert set(presets) == set(definition["options"]) - {"custom"}
    open_parts(page, host, photo)
    for preset in ("softer reference", "more motion"):
        page.evaluate(SET_WIDGET, ["preset", preset])
        shown = page.evaluate(READ_WIDGETS)
        assert shown["preset"] == preset
        assert {name: shown[name] for name in presets[preset]} == presets[preset]

    page.evaluate(SET_WIDGET, ["ref_strength", 0.33])
    shown = page.evaluate(READ_WIDGETS)
    assert shown["preset"] == "custom" and shown["ref_strength"] == 0.33
    assert shown["ref_start"] == presets["more motion"]["ref_start"]

    page.evaluate(SET_WIDGET, ["preset", "as published"])
    page.evaluate(SET_WIDGET, ["preset", "custom"])
    assert page.evaluate(READ_WIDGETS)["ref_strength"] == 1.0, "custom keeps what is there"
    assert find_complaints_of_pack(page) == []


def test_help_panel_shows_the_page_of_a_node(page: Any, host: ComfyHost, photo: Path) -> None:
    for node_id in sorted(name for name in host.object_info() if name.startswith("Lynx")):
        text = (REPO_DIR / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        assert host.get(f"/extensions/{PACK_NAME}/docs/{node_id}.md").text == text
    open_parts(page, host, photo)
    page.evaluate("""() => {
      const node = window.app.graph._nodes.find(node => node.type === "LynxApply");
      window.app.canvas.selectItems([node]);
    }""")
    page.get_by_test_id("info-button").first.click()
    page.get_by_text("It does nothing:").wait_for(timeout=20_000)
    assert page.get_by_text("nobody", exact=False).count() > 0
    if KEEP_SCREENSHOTS:
        page.set_viewport_size({"width": 1600, "height": 900})
        page.wait_for_timeout(1000)
        keep_screenshot(page, "help_panel")


def test_the_address_of_the_page_is_no_complaint_of_this_pack(page: Any, host: ComfyHost) -> None:
    open_workflow(page, host, "Photo-to-video-lite")
    page.evaluate("() => console.error(`[another pack] opened ${window.location.href}`)")
    assert find_complaints_of_pack(page) == []
    page.evaluate("() => console.error('LynxApply has no widgets')")
    script = f"{host.url}/extensions/{PACK_NAME}/lynx_presets.js?v=1"
    page.add_script_tag(content=f"setTimeout(() => {{ throw new Error('odd') }})\n//# sourceURL={script}")
    page.wait_for_timeout(300)
    assert len(find_complaints_of_pack(page)) == 2
