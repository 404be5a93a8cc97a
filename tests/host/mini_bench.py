"""Mini Lynx in the real host: held-out people, videos of them by the real nodes, and how alike these are.

Letters: P people, V videos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comfy_host import REPO_DIR
from in_process import InProcessComfy
from torch import Tensor
from torch.nn import functional as F

from miniature.experiment.readers import Readers, load_readers
from miniature.world.clip import FRAME_PX, NUM_FRAMES
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, caption_of, draw_shot
from miniature.world.identity import draw_identity

ASSETS = REPO_DIR / "assets" / "mini"
READERS = ASSETS / "readers.safetensors"
NUM_PEOPLE, NUM_STEPS, GUIDANCE = 8, 8, 3.0
FIRST_PERSON = FIRST_HELD_OUT_IDENTITY + 40_000
FRAMES_SEEN = (0, 4, 8)
GALLERY_PICTURES = 3
PHOTO_PX = 256


@dataclass(frozen=True)
class Identities:
    """What the nodes make of each person's portrait."""

    faces: list[Any]
    ids: list[Any]
    references: list[Any]


@dataclass(frozen=True)
class Likeness:
    """How alike videos are to each of the people, by one recogniser."""

    scores: np.ndarray
    """Cosine of each video with each person, [V, P]."""

    def to(self, people: list[int]) -> float:
        """Mean likeness of the videos to these people, one a video."""
        return float(self.scores[np.arange(len(people)), people].mean())

    def to_others(self, people: list[int]) -> float:
        """Mean likeness of the videos to everybody else."""
        others = np.ones_like(self.scores, dtype=bool)
        others[np.arange(len(people)), people] = False
        return float(self.scores[others].mean())

    def top1(self, people: list[int]) -> float:
        """Share of the videos that are most like these people."""
        return float((self.scores.argmax(1) == people).mean())


class MiniBench:
    """The shipped files in the host, opened by the real nodes.

    Args:
        comfy: the host with the pack.
    """

    def __init__(self, comfy: InProcessComfy) -> None:
        self.comfy = comfy
        model, self.clip, self.vae, self.adapter, self.analyzer, _ = comfy.run("LynxLoadMini")
        (self.model,) = comfy.run("ModelSamplingSD3", model=model, shift=5.0)
        people = [draw_identity(FIRST_PERSON + number) for number in range(NUM_PEOPLE)]
        self.portraits = [
            draw_shot(person, 7 * 10**8 + i).draw_frame(0, PHOTO_PX) for i, person in enumerate(people)
        ]
        self.prompts = [self.encode(caption_of(draw_shot(p, 8 * 10**8 + i), i)) for i, p in enumerate(people)]
        self.empty = self.encode("")
        self.readers: Readers | None = load_readers(READERS) if READERS.is_file() else None
        pictures = [
            [
                draw_shot(person, 9 * 10**8 + GALLERY_PICTURES * i + k).draw_frame(4)
                for k in range(GALLERY_PICTURES)
            ]
            for i, person in enumerate(people)
        ]
        self.galleries = {name: self.embed(name, pictures) for name in self.list_recognisers()}

    def encode(self, text: str) -> Any:
        return self.comfy.run("CLIPTextEncode", clip=self.clip, text=text)[0]

    def open_adapter(self, name: str) -> Any:
        return self.comfy.run("LynxLoadAdapter", adapter=name)[0]

    def look_at_faces(self, adapter: Any) -> Identities:
        """Run all portraits through detector, crop, recogniser and reference pass."""
        faces, ids, references = [], [], []
        for portrait in self.portraits:
            image = torch.from_numpy(portrait)[None].float() / 255
            faces.append(self.comfy.run("LynxCropFace", image=image, face_analyzer=self.analyzer)[0])
            inputs = {"face_analyzer": self.analyzer, "face": faces[-1]}
            ids.append(self.comfy.run("LynxEncodeID", **inputs)[0])
            references.append(self.encode_reference(adapter, faces[-1]))
        return Identities(faces, ids, references)

    def encode_reference(self, adapter: Any, face: Any) -> Any:
        inputs = {"model": self.model, "clip": self.clip, "vae": self.vae}
        return self.comfy.run("LynxEncodeReference", adapter=adapter, face=face, **inputs)[0]

    def sample(
        self, adapter: Any, identities: Identities, people: list[int], *, null: bool = False
    ) -> Tensor:
        """Make videos of the first prompts.

        Args:
            people: who is put into the video of each prompt.
            null: give the positive prompt the null identity in place of the person's.

        Returns:
            Latents [V, 16, 3, 8, 8].
        """
        videos = []
        for number, person in enumerate(people):
            prompt = self.prompts[number]
            positive, negative, model = self._apply(adapter, identities, person, prompt, self.empty)
            if null:  # Lynx Apply puts the null identity on what is connected as the negative
                _, positive, _ = self._apply(adapter, identities, person, prompt, prompt)
            videos.append(self._sample_one(model, positive, negative, seed=number))
        return torch.cat(videos)

    def _apply(
        self, adapter: Any, identities: Identities, person: int, positive: Any, negative: Any
    ) -> tuple[Any, Any, Any]:
        model, positive, negative, _ = self.comfy.run(
            "LynxApply",
            model=self.model,
            positive=positive,
            negative=negative,
            adapter=adapter,
            id=identities.ids[person],
            reference=identities.references[person],
            preset="as published",
        )
        return positive, negative, model

    def _sample_one(self, model: Any, positive: Any, negative: Any, seed: int) -> Tensor:
        size = {"width": FRAME_PX, "height": FRAME_PX, "length": NUM_FRAMES}
        (latent,) = self.comfy.run("EmptyHunyuanLatentVideo", **size)
        (sampled,) = self.comfy.run(
            "LynxSampler",
            model=model,
            positive=positive,
            negative=negative,
            middle=negative,  # it falls out: both guidances are equal
            latent_image=latent,
            cfg=GUIDANCE,
            identity_cfg=GUIDANCE,
            seed=seed,
            steps=NUM_STEPS,
            sampler_name="euler",
            scheduler="simple",
        )
        return sampled["samples"]

    def decode(self, latents: Tensor) -> list[list[np.ndarray]]:
        """Give the frames that are looked at of each video, [64, 64, 3] uint8 each."""
        videos = []
        for latent in latents:
            (images,) = self.comfy.run("VAEDecode", samples={"samples": latent[None]}, vae=self.vae)
            frames = (images.clamp(0, 1) * 255).round().byte().numpy()
            videos.append([frames[number] for number in FRAMES_SEEN])
        return videos

    def list_recognisers(self) -> list[str]:
        """Name what likeness is measured with: the reader knows nothing of what the adapter was given."""
        return ["conditioning", *(["reader"] if self.readers else [])]

    def embed(self, recogniser: str, videos: list[list[np.ndarray]]) -> Tensor:
        """Embed each video as the mean of its frames, [V, dim], each of length 1."""
        if recogniser == "reader" and self.readers:
            means = [torch.from_numpy(self.readers.embed(np.stack(frames))).mean(0) for frames in videos]
        else:
            means = [torch.stack([self._embed_face(frame) for frame in frames]).mean(0) for frames in videos]
        return F.normalize(torch.stack(means), dim=-1)

    def _embed_face(self, frame: np.ndarray) -> Tensor:
        """Embed the largest face; zeros where there is none."""
        crops = self.comfy.pack_module("lynx_core.faces.crops")
        errors = self.comfy.pack_module("lynx_core.faces.errors")
        try:
            crop, _ = crops.crop_face(frame, self.analyzer.detector, "largest", 0)
        except errors.NoFaceError:
            return torch.zeros(512)
        return self.analyzer.recogniser.embed([crop.id_crop])[0]

    def compare(self, latents: Tensor) -> dict[str, Likeness]:
        """Measure the likeness of videos to all people, by recogniser."""
        videos = self.decode(latents)
        return {
            name: Likeness((self.embed(name, videos) @ gallery.T).numpy())
            for name, gallery in self.galleries.items()
        }
