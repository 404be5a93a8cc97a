"""Draws `workflows/*.jpg`, the cards of ComfyUI's template browser, and the example portrait of Mini Lynx.

python scripts/draw_thumbnails.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

REPO_DIR = Path(__file__).resolve().parents[1]
WORKFLOWS_DIR = REPO_DIR / "workflows"
sys.path.insert(0, str(REPO_DIR))

from miniature.world.clip import NUM_FRAMES  # noqa: E402
from miniature.world.draws import draw_shot  # noqa: E402
from miniature.world.identity import draw_identity  # noqa: E402

EXAMPLE_PERSON, EXAMPLE_SHOT = 1_050_010, 300_000_010
"""Held out: no part of Mini Lynx was trained on this person."""
EXAMPLE_PATH, EXAMPLE_PX = REPO_DIR / "assets" / "mini" / "example.png", 256
SIZE = WIDTH, HEIGHT = 600, 600
PHOTO_PX, STRIP_HEIGHT = 150, 130
PERSON, OTHER = (
    ((240, 200, 170), (74, 48, 40), (38, 92, 74)),
    ((150, 104, 78), (206, 188, 164), (150, 60, 84)),
)
"""Skin, hair and coat."""
PAPER, INK = (250, 248, 243), (255, 255, 255)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Card:
    """A word, and what is drawn above it."""

    word: str
    sky: Colour
    turns: tuple[float, ...] = (0.6,)
    """How far each person shown is turned, -1 to 1."""
    size: float = 1.0
    """Of the people."""
    has_other: bool = False
    """Whether every second one is another person."""
    is_mini: bool = False
    """A person of the miniature world in place of the one drawn here."""


DUSK, HARBOUR, NIGHT, MORNING = (92, 82, 140), (214, 140, 104), (34, 48, 84), (150, 196, 214)
MEADOW, BRICK, LILAC = (112, 158, 92), (168, 84, 72), (168, 120, 176)

CARDS = {
    "Try-Lynx": Card("Try", MORNING, is_mini=True),
    "Photo-to-video": Card("Video", DUSK),
    "Photo-to-video-fast": Card("Fast", HARBOUR, turns=(-0.9, 0.0, 0.9), size=0.6),
    "Photo-to-video-lite": Card("Lite", MEADOW, size=0.85),
    "Two-people": Card("Two", BRICK, turns=(-0.6, 0.6), size=0.66, has_other=True),
    "One-person-becomes-another": Card("Morph", LILAC, turns=(-0.7, 0.7), size=0.6, has_other=True),
    "Refine-a-distant-face": Card("Refine", NIGHT, size=0.4),
    "Long-take": Card("Long", LILAC, turns=(-1.0, -0.4, 0.2, 0.8), size=0.55),
    "Motion-of-another-video": Card("Motion", MEADOW, turns=(-1.0, 1.0), size=0.62),
    "Scene-or-outfit": Card("Scene", HARBOUR, size=0.6),
    "Compare-strengths": Card("Compare", MORNING, turns=(-0.8, 0.0, 0.8), size=0.55),
    "Wan-2.2": Card("Wan2.2", NIGHT),
    "Wan-2.2-animate-a-picture": Card("Animate", DUSK, turns=(0.0,)),
}
"""In the order in which the template browser shows them (web/lynx_templates.js)."""


def blend(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def draw_person(
    size: tuple[int, int], background: Colour, turn: float = 0.0, colours: tuple[Colour, ...] = PERSON
) -> Image.Image:
    """A portrait [size] of a person of these colours; `turn` in -1..1 shifts the head and the look."""
    skin, hair, coat = colours
    width, height = size
    scale = 3  # drawn large and shrunk: smooth edges
    picture = Image.new("RGB", (width * scale, height * scale), background)
    draw = ImageDraw.Draw(picture)
    unit = height * scale / 10
    x, y = (0.5 + 0.08 * turn) * width * scale, 4.4 * unit

    def ellipse(cx: float, cy: float, rx: float, ry: float, colour: Colour) -> None:
        draw.ellipse((x + cx * unit - rx * unit, y + cy * unit - ry * unit,
                      x + cx * unit + rx * unit, y + cy * unit + ry * unit), fill=colour)  # fmt: skip

    ellipse(0, 6.0, 3.5, 3.6, coat)
    draw.rectangle((x - 0.7 * unit, y + 1.4 * unit, x + 0.7 * unit, y + 2.9 * unit), fill=skin)
    ellipse(0, -0.2, 2.25, 2.6, hair)
    ellipse(0.12 * turn, 0.15, 1.75, 2.15, skin)
    draw.chord((x - 2.0 * unit, y - 2.7 * unit, x + 2.0 * unit, y + 0.5 * unit), 180, 360, fill=hair)
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
        column.putpixel((0, y), blend(card.sky, (20, 22, 34), y / HEIGHT * 0.75))
    return column.resize(SIZE)


def draw_scene(card: Card) -> Image.Image:
    """The people before the background."""
    if card.is_mini:
        frame = Image.fromarray(draw_shot(draw_identity(EXAMPLE_PERSON), 0).draw_frame(NUM_FRAMES // 2, 512))
        return ImageOps.fit(frame, SIZE)
    picture = draw_background(card)
    height = round((HEIGHT - STRIP_HEIGHT) * card.size)
    width = round(height * 0.9)
    free = WIDTH - PHOTO_PX - 60 if len(card.turns) == 1 else WIDTH
    for number, turn in enumerate(card.turns):
        x = round((number + 0.5) * free / len(card.turns) - width / 2)
        x += PHOTO_PX + 40 if len(card.turns) == 1 else 0
        colour = picture.getpixel((5, HEIGHT - STRIP_HEIGHT - height // 2))
        is_other = card.has_other and number % 2
        person = draw_person((width, height), colour, turn, OTHER if is_other else PERSON)
        picture.paste(person, (x, HEIGHT - STRIP_HEIGHT - height), mask=cut_out(person, colour))
    return picture


def cut_out(person: Image.Image, background: Colour) -> Image.Image:
    """Where the person is, in a picture on one colour."""
    plain = Image.new("RGB", person.size, background)
    red, green, blue = ImageChops.difference(person, plain).split()
    differing = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return differing.point(lambda value: 255 if value > 6 else 0)


def draw_example(size_px: int) -> Image.Image:
    """Draw the portrait that the demo and the workflow begin with."""
    return Image.fromarray(draw_shot(draw_identity(EXAMPLE_PERSON), EXAMPLE_SHOT).draw_frame(0, size_px))


def draw_photo(card: Card) -> Image.Image:
    """A print with a white border: what goes in."""
    inner = PHOTO_PX - 20
    picture = (
        ImageOps.fit(draw_example(256), (inner, inner))
        if card.is_mini
        else draw_person((inner, inner), (196, 206, 214))
    )
    tile = Image.new("RGB", (PHOTO_PX, PHOTO_PX + 14), PAPER)
    tile.paste(picture, (10, 10))
    return tile


def paste_with_shadow(picture: Image.Image, tile: Image.Image, at: tuple[int, int]) -> None:
    shadow = Image.new("L", SIZE, 0)
    left, top = at
    ImageDraw.Draw(shadow).rectangle(
        (left + 5, top + 8, left + tile.width + 5, top + tile.height + 8), fill=140
    )
    picture.paste((0, 0, 0), mask=shadow.filter(ImageFilter.GaussianBlur(12)))
    picture.paste(tile, at)


def draw_card(card: Card) -> Image.Image:
    picture = draw_scene(card)
    paste_with_shadow(picture, draw_photo(card), (26, 26))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, HEIGHT - STRIP_HEIGHT, WIDTH, HEIGHT), fill=blend(card.sky, (10, 12, 20), 0.6))
    draw.text(
        (36, HEIGHT - STRIP_HEIGHT // 2), card.word, font=ImageFont.load_default(92), fill=INK, anchor="lm"
    )
    return picture


if __name__ == "__main__":
    for name, card in CARDS.items():
        draw_card(card).save(WORKFLOWS_DIR / f"{name}.jpg", quality=88)
    EXAMPLE_PATH.parent.mkdir(parents=True, exist_ok=True)
    draw_example(EXAMPLE_PX).save(EXAMPLE_PATH, optimize=True)
