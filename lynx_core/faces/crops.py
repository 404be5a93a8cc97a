"""From a photo to the two crops of one person, with warnings where likeness will suffer.

Two framings, both of the release: the ArcFace crop (112 px) for the identity embedding, and a
wider one (256 px) for the Ref-adapter. The wider frame is the ArcFace frame scaled by 0.8 in a
128 px frame, so the two lie about one centre and either follows from the other.
The similarity is fitted here, not by insightface, so that ready crops need no insightface; the
tests hold the crops to insightface's and scikit-image's, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..spec import ID_CROP_PX, REFERENCE_CROP_PX
from .detection import Face, FaceDetector, check_image, choose_face, sort_faces
from .errors import FaceError, NoFaceError, import_package

_MIN_SHARPNESS = 25.0
"""Variance of the Laplacian of the grey 112 px crop. Measured on nine real faces (the six of insightface's
t1, and scikit-image's, matplotlib's and insightface's portraits): sharp 100 to 5400, JPEG quality 30 still
97, blurred by a Gaussian of 2 crop pixels 8 to 17 (44 for the one grainy photo), shrunk to 40 px 28 to 202."""

# Eyes, nose tip, mouth corners of the 112 px ArcFace crop (insightface, face_align.arcface_dst).
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)


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
    crop = _build_crop(
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
        return _build_crop(
            image,
            reference,
            float(ID_CROP_PX),
            score=1.0,
            label=label,
            warnings=(FaceWarning("112 px crop", f"{note}; a photo gives more"),),
        )
    reference = _resize_square(image, REFERENCE_CROP_PX)
    face_px = measure_face_px(reference_template()) * height / REFERENCE_CROP_PX
    return _build_crop(
        crop_for_id(reference, reference_template()), reference, face_px, score=1.0, label=label
    )


def _build_crop(
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
    if face_px < ID_CROP_PX:
        text = (
            f"the face in {label} measures {face_px:.0f} px, under {ID_CROP_PX} px it is enlarged for the "
            f"embedding and likeness suffers; use a larger photo or a closer one"
        )
        found.append(FaceWarning("small face", text))
    if sharpness < _MIN_SHARPNESS:
        text = (
            f"the face in {label} is blurred: sharpness {sharpness:.0f}, sharp photos have 100 and more "
            f"(bound {_MIN_SHARPNESS:.0f}); use a sharper photo"
        )
        found.append(FaceWarning("blurred face", text))
    return FaceCrop(id_crop, reference_crop, face_px, sharpness, score, tuple(found))


def measure_sharpness(id_crop: np.ndarray) -> float:
    """Variance of the Laplacian of the grey crop, in squared grey levels of 255."""
    cv2 = import_package("cv2", "cropping faces")
    return float(cv2.Laplacian(cv2.cvtColor(id_crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _resize_square(image: np.ndarray, size_px: int) -> np.ndarray:
    """A square image at `size_px`; one of that size already comes back untouched."""
    if image.shape[0] == size_px:
        return image
    cv2 = import_package("cv2", "cropping faces")
    shrinks = image.shape[0] > size_px
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=mode), dtype=np.uint8)


def reference_template(face_px: int = REFERENCE_CROP_PX) -> np.ndarray:
    """Where the five landmarks lie in a reference crop of `face_px` pixels, [5, 2] float32.

    Source: bytedance/lynx, 10 px down, then 0.8 about the middle of the 112 px frame, which is
    then centred across a frame of 128 px.

    Raises:
        FaceError: when `face_px` is not a positive multiple of 128.
    """
    if face_px <= 0 or face_px % 128:
        raise FaceError(f"a reference crop is a multiple of 128 px, got {face_px}; use {REFERENCE_CROP_PX}")
    ratio = face_px / 128.0
    down, across = np.array([[0, 10], [8 * ratio, 0]], dtype=np.float32)
    return ((ARCFACE_TEMPLATE + down - 56) * 0.8 + 56) * ratio + across


def fit_similarity(points: npt.ArrayLike, targets: npt.ArrayLike) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift from `points` to `targets`, [2, 3] float64.

    Source: Umeyama 1991, equations 40 to 42, for two dimensions.

    Raises:
        FaceError: when the points are not finite.
        NoFaceError: when they fall together.
    """
    # The inputs' own precision, float32 for a detector's landmarks, as in the release: at float64
    # the fit differs by 4e-5 px, enough to change a few pixels by one level.
    source = np.asarray(points, dtype=np.result_type(np.asarray(points), np.float32))
    target = np.asarray(targets)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2:
        raise FaceError(f"five landmarks (x, y) are needed, got an array of shape {source.shape}")
    if not np.isfinite(source).all():
        raise FaceError(
            "the landmarks hold NaN or infinite values; run the detector again or use another photo"
        )
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_off, target_off = source - source_mean, target - target_mean
    spread = source_off.var(0).sum()
    if spread < 1e-6:
        raise NoFaceError("the landmarks all lie on one point, so the face has no size; use another photo")
    u, singular, vt = np.linalg.svd(target_off.T @ source_off / len(source))
    # A mirrored fit is not a similarity: turn the weaker axis round.
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    scale = 1.0 / spread * (singular @ signs)
    return np.column_stack([rotation * scale, target_mean - scale * (rotation @ source_mean)])


def warp(image: np.ndarray, matrix: np.ndarray, size_px: int) -> np.ndarray:
    """`image` [H, W, 3] through `matrix` [2, 3] into [size_px, size_px, 3]: linear, black outside."""
    cv2 = import_package("cv2", "cropping faces")
    warped = cv2.warpAffine(np.ascontiguousarray(image), matrix, (size_px, size_px), borderValue=0.0)
    return np.asarray(warped, dtype=np.uint8)


def crop_for_id(image: np.ndarray, landmarks: npt.ArrayLike) -> np.ndarray:
    """The ArcFace crop [112, 112, 3] uint8 RGB; the same pixels as insightface's `norm_crop`."""
    return warp(image, fit_similarity(landmarks, ARCFACE_TEMPLATE), ID_CROP_PX)


def crop_for_reference(
    image: np.ndarray, landmarks: npt.ArrayLike, face_px: int = REFERENCE_CROP_PX
) -> np.ndarray:
    """The Ref-adapter's crop [face_px, face_px, 3] uint8 RGB; no contrast stretching, as in the release."""
    return warp(image, fit_similarity(landmarks, reference_template(face_px)), face_px)


def measure_face_px(landmarks: npt.ArrayLike) -> float:
    """Side, in photo pixels, of the square that becomes the 112 px crop: about 1.4 face widths.

    Below 112 the crop is enlarged, and holds less than the recogniser was trained on.
    """
    scale = np.sqrt(np.linalg.det(fit_similarity(landmarks, ARCFACE_TEMPLATE)[:, :2]))
    return float(ID_CROP_PX / scale)


def annotate_photo(image: np.ndarray, faces: list[Face], chosen: Face) -> np.ndarray:
    """The photo with every face boxed and numbered from 1 by its place in `faces`, the chosen one in green.

    Lines and numbers grow with the photo; one under 512 px is enlarged, so that they can be read.

    Returns:
        [H, W, 3] uint8 RGB, of the photo's size or a whole multiple of it.
    """
    cv2 = import_package("cv2", "the annotated photo")
    enlarge = max(1, round(512 / max(image.shape[:2])))
    size = (image.shape[1] * enlarge, image.shape[0] * enlarge)
    canvas = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
    stroke_px = max(2, round(max(size) / 400))
    # The chosen face last, on top of its neighbours.
    for number, face in sorted(enumerate(faces, start=1), key=lambda item: item[1] is chosen):
        colour = (40, 220, 90) if face is chosen else (235, 235, 235)
        left, top, right, bottom = (round(float(edge) * enlarge) for edge in face.bbox)
        for width_px, ink in ((3 * stroke_px, (20, 20, 20)), (stroke_px, colour)):
            cv2.rectangle(canvas, (left, top), (right, bottom), ink, width_px)
        for x, y in np.rint(face.landmarks * enlarge).astype(int).tolist():
            cv2.circle(canvas, (x, y), 2 * stroke_px, (20, 20, 20), -1, cv2.LINE_AA)
            cv2.circle(canvas, (x, y), stroke_px, colour, -1, cv2.LINE_AA)
        draw_number(canvas, number, (left, top), colour, stroke_px)
    return np.asarray(canvas, dtype=np.uint8)


def draw_number(
    canvas: np.ndarray, number: int, corner: tuple[int, int], colour: tuple[int, int, int], stroke_px: int
) -> None:
    """A number on a plate above the box's corner, moved inside where the photo ends."""
    cv2 = import_package("cv2", "the annotated photo")
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * stroke_px
    (width, height), _ = cv2.getTextSize(str(number), font, scale, stroke_px)
    plate_w, plate_h = width + 4 * stroke_px, height + 4 * stroke_px
    left = min(max(corner[0] - stroke_px, 0), max(canvas.shape[1] - plate_w, 0))
    top = corner[1] - plate_h if corner[1] >= plate_h else max(corner[1], 0)
    cv2.rectangle(canvas, (left, top), (left + plate_w, top + plate_h), colour, -1)
    place = (left + 2 * stroke_px, top + plate_h - 2 * stroke_px)
    cv2.putText(canvas, str(number), place, font, scale, (20, 20, 20), stroke_px, cv2.LINE_AA)
