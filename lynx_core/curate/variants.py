"""References edited by augmenters, and whether the person in them is still the same.

The detector finds the face anew in the edited picture, so an augmenter that moves, loses or doubles it shows, and
the recogniser compares it with the unedited one. An augmenter never judges itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.stage import EngineError, Rejected, Stage, StageFunction
from ..faces.crops import crop_for_id
from ..faces.errors import FaceError
from .augment.interface import Augmenter, FaceImage
from .augment.registry import make_augmenter
from .configuration import AugmenterConfig, CurationConfig, FacesConfig
from .media import read_jpeg, write_jpeg
from .networks import FaceNetworks, embed_crops
from .pairing import draw_share
from .records import Variant, VariantRequest

VARIANT_VERSION = 1
_MIN_CHANGE = 1.0
"""Mean difference of pixels, 0 to 255, from which on a variant is one."""


def make_variant_stage(config: CurationConfig, threshold: float) -> Stage:
    """The stage: from `VariantRequest` to `Variant`."""
    settings = {
        "augmenters": [
            [augmenter.name, augmenter.share, make_augmenter(augmenter.name, augmenter.options).fingerprint]
            for augmenter in config.augmenters
        ],
        "networks": FaceNetworks(config.faces).fingerprint,
        "threshold": threshold,
    }
    return Stage(
        "variants",
        VARIANT_VERSION,
        VariantRequest,
        Variant,
        settings=settings,
        open_worker=OpenVariants(config.augmenters, config.faces, threshold),
        batch_rows=16,
        gpus=config.gpus,
    )


@dataclass(frozen=True)
class OpenVariants:
    """Opens augmenters and networks where the work is done."""

    configs: tuple[AugmenterConfig, ...]
    faces: FacesConfig
    threshold: float

    def __call__(self) -> StageFunction:
        augmenters = [make_augmenter(config.name, config.options) for config in self.configs]
        for augmenter in augmenters:
            augmenter.load()
        maker = VariantMaker(self.configs, augmenters, FaceNetworks(self.faces), self.threshold)
        return maker.make


@dataclass(frozen=True)
class VariantMaker:
    """Edits references and verifies them."""

    configs: tuple[AugmenterConfig, ...]
    augmenters: Sequence[Augmenter]
    networks: FaceNetworks
    threshold: float

    def make(self, requests: Sequence[VariantRequest]) -> list[list[Variant | Rejected]]:
        """A variant of each request, or why there is none."""
        results: dict[int, Variant | Rejected] = {}
        by_augmenter: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            by_augmenter.setdefault(choose_augmenter(request.pair, self.configs), []).append(number)
        for chosen, numbers in by_augmenter.items():
            for number in numbers:
                request = requests[number]
                face = FaceImage(read_jpeg(request.picture), request.landmarks.reshape(5, 2))
                # By the pair alone, so that a variant does not depend on its batch.
                rng = np.random.default_rng(int(draw_share("variant" + request.pair) * 2**48))
                made = self.augmenters[chosen]([face], rng)
                if len(made) != 1:
                    raise EngineError(
                        f"the augmenter {self.configs[chosen].name} gave {len(made)} variants of one face"
                    )
                results[number] = self._verify(request, face, made[0], chosen)
        return [[results[number]] for number in range(len(requests))]

    def _verify(
        self, request: VariantRequest, face: FaceImage, variant: FaceImage | Rejected, chosen: int
    ) -> Variant | Rejected:
        name = self.configs[chosen].name
        if isinstance(variant, Rejected):
            return Rejected(f"{name}: {variant.reason}", variant.detail, request.subject, variant.retry)
        if variant.pixels.shape == face.pixels.shape:
            change = np.abs(variant.pixels.astype(np.int16) - face.pixels).mean()
            if change < _MIN_CHANGE:
                return Rejected(
                    f"{name}: the picture is unchanged",
                    f"by {change:.2f} of 255 in the mean",
                    request.subject,
                )
        try:
            found = self.networks.detector.detect(variant.pixels)
        except FaceError as error:
            return Rejected(f"{name}: no picture", str(error), request.subject)
        if not found:
            return Rejected(f"{name}: no face afterwards", "the detector finds none", request.subject)
        nearest = min(found, key=lambda other: float(np.abs(other.landmarks - variant.landmarks).max()))
        crop = crop_for_id(variant.pixels, nearest.landmarks)
        similarity = float(embed_crops(self.networks.recogniser, [crop])[0] @ request.embedding)
        if similarity < self.threshold:
            detail = f"cosine {similarity:.3f} to the unedited face, the threshold is {self.threshold:.3f}"
            return Rejected(f"{name}: another person afterwards", detail, request.subject)
        return Variant(
            request.pair,
            write_jpeg(variant.pixels),
            nearest.landmarks.ravel(),
            similarity,
            name,
            self.augmenters[chosen].licence,
        )


def choose_augmenter(pair: str, configs: Sequence[AugmenterConfig]) -> int:
    """Which augmenter edits a pair's reference: drawn by their shares, from the pair's id alone."""
    total = sum(config.share for config in configs)
    place = draw_share("augmenter" + pair) * total
    for number, config in enumerate(configs):
        place -= config.share
        if place < 0:
            return number
    return len(configs) - 1
