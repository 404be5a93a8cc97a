"""From a photo to the two crops of one person, with warnings where likeness will suffer.

The bounds are measured on nine real faces (the six of insightface's t1, and scikit-image's,
matplotlib's and insightface's portraits) as the variance of the Laplacian of the grey 112 px crop:
sharp 100 to 5400, JPEG quality 30 still 97, blurred by a Gaussian of 2 crop pixels 8 to 17
(44 for the one grainy photo), shrunk to 40 px 28 to 202.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..spec import ID_CROP_PX, REFERENCE_CROP_PX
from .alignment import (
    ARCFACE_TEMPLATE,
    annotate_photo,
    crop_for_id,
    crop_for_reference,
    measure_face_px,
    reference_template,
)
from .detection import FaceDetector, check_image, choose_face, sort_faces
from .errors import FaceError, NoFaceError, import_package

MIN_FACE_PX = 112.0
MIN_SHARPNESS = 25.0


class FaceWarning(str):
    """What will cost likeness, in plain words with the figures."""

    reason: str
    """In few words, the same for all warnings of a sort."""

    def __new__(cls, reason: str, text: str) -> FaceWarning:
        warning = super().__new__(cls, text)
        warning.reason = reason
        return warning


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """One person, aligned."""

    id_crop: np.ndarray
    """[112, 112, 3] uint8 RGB, for the identity embedding."""
    reference_crop: np.ndarray
    """[256, 256, 3] uint8 RGB, for the Ref-adapter."""
    face_px: float
    """Side, in photo pixels, of the square that became the 112 px crop: about 1.4 face widths."""
    sharpness: float
    """Variance of the Laplacian of the grey 112 px crop."""
    score: float
    """The detector's confidence; 1 for a crop that came aligned."""
    warnings: tuple[FaceWarning, ...] = ()


def crop_face(
    image: np.ndarray, detector: FaceDetector, order: str, index: int, label: str = "the photo"
) -> tuple[FaceCrop, np.ndarray]:
    """Find, choose and crop one face of a photo.

    Args:
        image: [H, W, 3] uint8 RGB.
        order: one of `FACE_ORDERS`.
        index: place of the face in that order, from 0; people see `index + 1`.
        label: what messages call the photo, as "photo 2 of 3".

    Returns:
        The crops, and the annotated photo, whose numbers are those of this order, from 1.

    Raises:
        NoFaceError: when no face is found.
        FaceError: when there are not that many, or the detector does not work.
    """
    check_image(image)
    height, width = image.shape[:2]
    faces = detector.detect(image)
    if not faces:
        raise NoFaceError(
            f"no face found in {label} ({width}x{height} px), nor with a margin around it; try a photo with "
            f"the whole head, upright and facing the camera, or switch on 'already_aligned' for a ready crop"
        )
    faces = sort_faces(faces, order, (height, width))
    try:
        chosen = choose_face(faces, order, index, (height, width))
    except FaceError as error:
        raise FaceError(f"{label}: {error}") from error
    crop = build_crop(
        crop_for_id(image, chosen.landmarks),
        crop_for_reference(image, chosen.landmarks),
        measure_face_px(chosen.landmarks),
        score=chosen.score,
        label=label,
    )
    return crop, annotate_photo(image, faces, chosen)


def crop_aligned(image: np.ndarray, label: str = "the photo") -> FaceCrop:
    """Both crops of a face that came aligned, without any detector.

    A 112 px square is taken as an ArcFace crop; its reference crop is enlarged 1.6 times, with black
    around it. A square of any other size is taken as a reference crop, and holds the ID crop whole.

    Raises:
        FaceError: when the image is not square.
    """
    check_image(image)
    height, width = image.shape[:2]
    if height != width:
        raise FaceError(
            f"an aligned crop is square, but {label} has {width}x{height} px; use the 256 px or 112 px crop "
            f"of 'Lynx Crop Face', or switch off 'already_aligned'"
        )
    image = np.ascontiguousarray(image)
    if height == ID_CROP_PX:
        reference = crop_for_reference(image, ARCFACE_TEMPLATE)
        note = f"{label} is a 112 px ArcFace crop: its reference crop is enlarged 1.6 times and has a black border"
        return build_crop(
            image,
            reference,
            float(ID_CROP_PX),
            score=1.0,
            label=label,
            warnings=(FaceWarning("112 px crop", f"{note}; a photo gives more"),),
        )
    reference = resize_square(image, REFERENCE_CROP_PX)
    face_px = measure_face_px(reference_template()) * height / REFERENCE_CROP_PX
    return build_crop(
        crop_for_id(reference, reference_template()), reference, face_px, score=1.0, label=label
    )


def build_crop(
    id_crop: np.ndarray,
    reference_crop: np.ndarray,
    face_px: float,
    *,
    score: float,
    label: str,
    warnings: tuple[FaceWarning, ...] = (),
) -> FaceCrop:
    """Put the crops together and add the warnings about size and sharpness."""
    sharpness = measure_sharpness(id_crop)
    found = list(warnings)
    if face_px < MIN_FACE_PX:
        text = (
            f"the face in {label} measures {face_px:.0f} px, under {MIN_FACE_PX:.0f} px it is enlarged for the "
            f"embedding and likeness suffers; use a larger photo or a closer one"
        )
        found.append(FaceWarning("small face", text))
    if sharpness < MIN_SHARPNESS:
        text = (
            f"the face in {label} is blurred: sharpness {sharpness:.0f}, sharp photos have 100 and more "
            f"(bound {MIN_SHARPNESS:.0f}); use a sharper photo"
        )
        found.append(FaceWarning("blurred face", text))
    return FaceCrop(id_crop, reference_crop, face_px, sharpness, score, tuple(found))


def measure_sharpness(id_crop: np.ndarray) -> float:
    """Variance of the Laplacian of the grey crop, in squared grey levels of 255."""
    cv2 = import_package("cv2", "cropping faces")
    return float(cv2.Laplacian(cv2.cvtColor(id_crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def resize_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """A square image at `size_px`; one of that size already comes back untouched."""
    if image.shape[0] == size_px:
        return image
    cv2 = import_package("cv2", "cropping faces")
    shrinks = image.shape[0] > size_px
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=mode), dtype=np.uint8)
