"""Draws `workflows/*.jpg`, the cards of ComfyUI's template browser, and the example portrait of Mini Lynx.

python scripts/draw_thumbnails.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

REPO_DIR = Path(__file__).resolve().parents[1]
WORKFLOWS_DIR = REPO_DIR / "workflows"
sys.path.insert(0, str(REPO_DIR))

from miniature.world.clip import NUM_FRAMES  # noqa: E402
from miniature.world.draws import draw_shot  # noqa: E402
from miniature.world.identity import draw_identity  # noqa: E402

EXAMPLE_PERSON, EXAMPLE_SHOT = 1_050_010, 300_000_010
"""Held out: no part of Mini Lynx was trained on this person."""
EXAMPLE_PATH, EXAMPLE_PX = REPO_DIR / "assets" / "mini" / "example.png", 256
SIZE = WIDTH, HEIGHT = 960, 640
PHOTO_SIZE, FRAME_SIZE = (194, 218), (160, 184)
SKIN, HAIR, COAT = (240, 200, 170), (74, 48, 40), (38, 92, 74)
PAPER, INK = (250, 248, 243), (255, 255, 255)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Card:
    """What a card says; `sky` and `ground` colour it."""

    title: str
    goes_in: str
    comes_out: str
    chips: tuple[str, ...]
    sky: Colour
    ground: Colour
    frames: tuple[Colour, ...]
    """Backgrounds of the frames on the film, one a frame."""
    person: int | None = None
    """A person of the miniature world in place of the one drawn here."""


DUSK, HARBOUR, NIGHT, MORNING = (92, 82, 140), (214, 140, 104), (34, 48, 84), (150, 196, 214)

CARDS = {
    "lynx_full": Card(
        "Lynx full",
        "photo + prompt",
        "832 x 480, 5 s at 16 fps",
        ("ID + reference", "triple guidance", "50 steps"),
        (44, 62, 110),
        (120, 84, 150),
        (DUSK, HARBOUR, NIGHT),
    ),
    "lynx_lite": Card(
        "Lynx lite",
        "photo + prompt",
        "832 x 480, 5 s at 24 fps",
        ("ID only", "core KSampler", "50 steps"),
        (30, 92, 112),
        (76, 156, 140),
        (MORNING, HARBOUR, DUSK),
    ),
    "lynx_fast": Card(
        "Lynx fast",
        "photo + prompt",
        "832 x 480, 5 s at 16 fps",
        ("distilled LoRA", "cfg 1", "6 steps"),
        (150, 74, 44),
        (222, 154, 66),
        (HARBOUR, MORNING, DUSK),
    ),
    "lynx_wan22_two_experts": Card(
        "Lynx + Wan 2.2",
        "photo + prompt",
        "832 x 480, 5 s at 16 fps",
        ("experimental", "two experts", "20 steps"),
        (66, 44, 104),
        (168, 76, 128),
        (NIGHT, DUSK, HARBOUR),
    ),
    "lynx_mini": Card(
        "Mini Lynx",
        "portrait + prompt",
        "64 x 64, 9 frames at 8 fps",
        ("ships with the pack", "runs on a CPU", "20 steps"),
        (120, 62, 104),
        (226, 132, 92),
        (MORNING, HARBOUR, DUSK),
        person=EXAMPLE_PERSON,
    ),
    "lynx_vace": Card(
        "Lynx + VACE",
        "photo, scene, prompt",
        "832 x 480, 5 s at 16 fps",
        ("ID + reference", "VACE scene", "50 steps"),
        (36, 88, 66),
        (142, 164, 72),
        (MORNING, DUSK, NIGHT),
    ),
}


def blend(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def draw_person(size: tuple[int, int], background: Colour, turn: float = 0.0) -> Image.Image:
    """A portrait [size] of the same person; `turn` in -1..1 shifts the head and the look."""
    width, height = size
    scale = 3  # drawn large and shrunk: smooth edges
    picture = Image.new("RGB", (width * scale, height * scale), background)
    draw = ImageDraw.Draw(picture)
    unit = height * scale / 10
    x, y = (0.5 + 0.08 * turn) * width * scale, 4.4 * unit

    def ellipse(cx: float, cy: float, rx: float, ry: float, colour: Colour) -> None:
        draw.ellipse((x + cx * unit - rx * unit, y + cy * unit - ry * unit,
                      x + cx * unit + rx * unit, y + cy * unit + ry * unit), fill=colour)  # fmt: skip

    draw.rectangle((0, 8.2 * unit, width * scale, height * scale), fill=blend(background, (0, 0, 0), 0.25))
    ellipse(0, 6.0, 3.5, 3.6, COAT)
    draw.rectangle((x - 0.7 * unit, y + 1.4 * unit, x + 0.7 * unit, y + 2.9 * unit), fill=SKIN)
    ellipse(0, -0.2, 2.25, 2.6, HAIR)
    ellipse(0.12 * turn, 0.15, 1.75, 2.15, SKIN)
    draw.chord((x - 2.0 * unit, y - 2.7 * unit, x + 2.0 * unit, y + 0.5 * unit), 180, 360, fill=HAIR)
    for side in (-0.7, 0.7):
        ellipse(side + 0.35 * turn, 0.1, 0.17, 0.22, (40, 34, 44))
    mouth = (
        x + (0.35 * turn - 0.75) * unit,
        y + 0.5 * unit,
        x + (0.35 * turn + 0.75) * unit,
        y + 1.45 * unit,
    )
    draw.arc(mouth, 20, 160, fill=(150, 70, 70), width=round(0.16 * unit))
    return picture.resize(size, Image.Resampling.LANCZOS)


def draw_background(card: Card) -> Image.Image:
    column = Image.new("RGB", (1, HEIGHT))
    for y in range(HEIGHT):
        column.putpixel((0, y), blend(card.sky, card.ground, y / HEIGHT))
    return column.resize(SIZE)


def paste_with_shadow(picture: Image.Image, tile: Image.Image, at: tuple[int, int]) -> None:
    shadow = Image.new("L", SIZE, 0)
    left, top = at
    ImageDraw.Draw(shadow).rectangle(
        (left + 6, top + 10, left + tile.width + 6, top + tile.height + 10), fill=130
    )
    picture.paste((0, 0, 0), mask=shadow.filter(ImageFilter.GaussianBlur(14)))
    picture.paste(tile, at)


def draw_pictures(card: Card) -> tuple[Image.Image, list[Image.Image]]:
    """The photo that goes in, and the frames that come out."""
    if card.person is None:
        frames = [
            draw_person(FRAME_SIZE, background, turn=number - 1)
            for number, background in enumerate(card.frames)
        ]
        return draw_person(PHOTO_SIZE, (196, 206, 214)), frames
    person = draw_identity(card.person)
    shots = [draw_shot(person, seed) for seed in range(len(card.frames))]
    # As coarse as what comes out.
    drawn = [Image.fromarray(shot.draw_frame(NUM_FRAMES // 2)) for shot in shots]
    return ImageOps.fit(draw_example(512), PHOTO_SIZE), [ImageOps.fit(frame, FRAME_SIZE) for frame in drawn]


def draw_example(size_px: int) -> Image.Image:
    """Draw the portrait that the demo and the workflow begin with."""
    return Image.fromarray(draw_shot(draw_identity(EXAMPLE_PERSON), EXAMPLE_SHOT).draw_frame(0, size_px))


def draw_photo(picture: Image.Image) -> Image.Image:
    """A print with a white border."""
    tile = Image.new("RGB", (222, 268), PAPER)
    tile.paste(picture, (14, 14))
    return tile


def draw_film(frames: list[Image.Image]) -> Image.Image:
    tile = Image.new("RGB", (530, 268), (22, 22, 26))
    draw = ImageDraw.Draw(tile)
    for x in range(17, 510, 32):
        for y in (12, 240):
            draw.rounded_rectangle((x, y, x + 16, y + 16), 4, fill=(210, 210, 214))
    for number, frame in enumerate(frames):
        tile.paste(frame, (15 + number * (frame.width + 10), 42))
    return tile


def draw_card(card: Card) -> Image.Image:
    picture = draw_background(card)
    draw = ImageDraw.Draw(picture)
    draw.text((60, 48), card.title, font=ImageFont.load_default(76), fill=INK)
    photo, frames = draw_pictures(card)
    paste_with_shadow(picture, draw_photo(photo), (60, 180))
    paste_with_shadow(picture, draw_film(frames), (370, 180))
    draw.polygon(
        [(304, 296), (328, 296), (328, 280), (354, 314), (328, 348), (328, 332), (304, 332)], fill=INK
    )
    small = ImageFont.load_default(30)
    draw.text((60, 470), card.goes_in, font=small, fill=INK)
    draw.text((370, 470), card.comes_out, font=small, fill=INK)
    x, chip_font = 60, ImageFont.load_default(28)
    for chip in card.chips:
        width = round(draw.textlength(chip, font=chip_font)) + 44
        draw.rounded_rectangle((x, 544, x + width, 596), 26, fill=blend(card.sky, (0, 0, 0), 0.35))
        draw.text((x + 22, 552), chip, font=chip_font, fill=INK)
        x += width + 18
    return picture


if __name__ == "__main__":
    for name, card in CARDS.items():
        draw_card(card).save(WORKFLOWS_DIR / f"{name}.jpg", quality=88)
    EXAMPLE_PATH.parent.mkdir(parents=True, exist_ok=True)
    draw_example(EXAMPLE_PX).save(EXAMPLE_PATH, optimize=True)
