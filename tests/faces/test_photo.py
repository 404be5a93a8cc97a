"""Photos of every kind, from tensors and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lynx_core.faces.errors import FaceError
from lynx_core.faces.photo import convert_image, load_photo

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_eight_bit_values_come_back_exactly() -> None:
    levels = torch.arange(256).reshape(1, 16, 16, 1).expand(2, 16, 16, 3) / 255
    photos = convert_image(levels)
    assert len(photos) == 2 and photos[0].dtype == np.uint8
    assert all(np.array_equal(photo[..., channel], RAMP) for photo in photos for channel in range(3))


def test_channels_keep_their_order() -> None:
    photo = convert_image(torch.tensor([1.0, 0.5, 0.0]).expand(1, 4, 4, 3))[0]
    assert photo[0, 0].tolist() == [255, 128, 0]


def test_grey_alpha_and_out_of_range_values() -> None:
    grey = convert_image(torch.full((1, 2, 3, 1), 0.2))[0]
    assert grey.shape == (2, 3, 3) and (grey == 51).all()
    rgba = torch.zeros(1, 1, 3, 4)
    rgba[0, 0, :, 0] = 1
    rgba[0, 0, :, 3] = torch.tensor([0.0, 0.5, 1.0])
    assert convert_image(rgba)[0][0].tolist() == [[128, 128, 128], [191, 64, 64], [255, 0, 0]]
    assert convert_image(torch.tensor([-3.0, 0.5, 7.0]).expand(1, 1, 1, 3))[0].tolist() == [[[0, 128, 255]]]


def test_half_precision_and_a_single_photo_without_batch() -> None:
    assert (convert_image(torch.ones(4, 5, 3, dtype=torch.bfloat16))[0] == 255).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_naming_the_photo(bad: float) -> None:
    image = torch.zeros(3, 4, 4, 3)
    image[1, 2, 2, 0] = bad
    with pytest.raises(FaceError, match="photo 2 of 3 holds 1 NaN"):
        convert_image(image)


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (1, 3, 64, 64), (4, 4), (0, 8, 8, 3), (1, 0, 8, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FaceError, match=r"channels|empty"):
        convert_image(torch.zeros(shape))


def test_exif_rotation_turns_the_photo_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    photo = load_photo(tmp_path / "turned.png")
    assert photo.shape == (40, 20, 3)
    assert (photo[:10] == 255).all() and (photo[10:] == 0).all()


def test_every_colour_mode_opens(tmp_path: Path) -> None:
    grey = Image.fromarray(RAMP)
    sixteen = Image.fromarray(RAMP.astype(np.uint16) * 257)
    cases = {
        "grey.png": grey,
        "palette.png": grey.convert("P"),
        "sixteen.png": sixteen,
        "floats.tif": Image.fromarray(RAMP.astype(np.float32) / 255),
        "cmyk.tif": grey.convert("RGB").convert("CMYK"),
        "grey_alpha.png": grey.convert("LA"),
    }
    for name, image in cases.items():
        image.save(tmp_path / name)
        photo = load_photo(tmp_path / name)
        assert photo.shape == (16, 16, 3) and photo.dtype == np.uint8
        assert np.abs(photo[..., 1].astype(int) - RAMP).max() <= 1, name


def test_a_dark_sixteen_bit_photo_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "dark.png")
    assert load_photo(tmp_path / "dark.png").max() == 1


def test_transparency_becomes_mid_grey(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    clear.save(tmp_path / "clear.png")
    photo = load_photo(tmp_path / "clear.png")
    assert photo[0, 0].tolist() == [255, 0, 0] and (photo[1:] == 128).all()
    palette = Image.new("P", (4, 4), 3)
    palette.putpixel((0, 0), 1)
    palette.save(tmp_path / "palette.gif", transparency=3)
    assert (load_photo(tmp_path / "palette.gif")[1:] == 128).all()


def test_files_that_are_no_photo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FaceError, match=r"the photo nowhere\.jpg is not there"):
        load_photo(tmp_path / "nowhere.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(FaceError, match=r"text.jpg cannot be read.*JPEG or PNG"):
        load_photo(tmp_path / "text.jpg")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FaceError, match=r"half.png cannot be read"):
        load_photo(tmp_path / "half.png")
