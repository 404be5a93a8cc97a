"""Text alignment and aesthetics by CLIP, for those who have its weights and no vision server.

Text alignment is the cosine of a frame's and the prompt's embedding (CLIPScore, Hessel et al. 2021, without its
factor), the mean over frames. The aesthetic score is that of LAION's heads on the same embedding of the frame, about
1 to 10. Both are crude beside a vision judge: CLIP reads 77 tokens and hardly counts, orders or follows motion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..faces.errors import FaceError, import_package
from ..hashing import hash_every_byte, hash_values
from ..spec import first_line
from .configuration import ClipSettings
from .ledger import Key, Ledger, ScoreRow
from .scored_cell import AESTHETIC_SCORE, TEXT_ALIGNMENT, Cell, Wanted
from .video import Video

CLIP_VERSION = "1"


class ClipScorer:
    """Text alignment, and the aesthetic score where there is a head.

    Raises:
        FaceError: when the folder holds no CLIP, or the head does not fit it.
    """

    def __init__(self, settings: ClipSettings) -> None:
        transformers = import_package("transformers", "scores by CLIP")
        self.settings = settings
        self.model, report = _open(transformers.CLIPModel, settings.folder, output_loading_info=True)
        self.model.eval()
        if missing := sorted(report["missing_keys"]):
            raise FaceError(
                f"the weights in {settings.folder} are no whole CLIP: {len(missing)} are missing, as {missing[0]}; download "
                "the repository again"
            )
        self.images = _open(transformers.CLIPImageProcessor, settings.folder)
        self.tokenizer = _open(transformers.CLIPTokenizerFast, settings.folder)
        weights = [*sorted(settings.folder.glob("*.safetensors")), *sorted(settings.folder.glob("*.bin"))]
        self.sha256 = hash_values([hash_every_byte(path) for path in weights])
        self.head: nn.Sequential | None = None
        self.head_sha256 = ""
        if settings.aesthetic_head is not None:
            self.head = load_aesthetic_head(settings.aesthetic_head, self.model.config.projection_dim)
            self.head_sha256 = hash_values([self.sha256, hash_every_byte(settings.aesthetic_head)])

    def prepare(self, scores: Ledger[ScoreRow], done: set[Key]) -> None:
        pass

    def list_wanted(self, cell: Cell) -> list[Wanted]:
        version = f"{CLIP_VERSION}-{self.settings.frames}"
        name = self.settings.name
        wanted = [Wanted(cell.prompt.sha256, TEXT_ALIGNMENT, version, name, self.sha256)]
        if self.head is not None:
            wanted.append(Wanted("", AESTHETIC_SCORE, version, name, self.head_sha256))
        return wanted

    @torch.no_grad()
    def score(self, cell: Cell, video: Video) -> list[tuple[float, Any]]:
        frames = self._embed_frames(video)
        text, is_cut = self._embed_text(cell.prompt.text)
        cosines = (frames @ text).tolist()
        detail = {"frames": [round(each, 4) for each in cosines]} | ({"prompt cut": True} if is_cut else {})
        found: list[tuple[float, Any]] = [(float(np.mean(cosines)), detail)]
        if self.head is not None:
            found.append((float(self.head(frames).mean()), None))
        return found

    def _embed_frames(self, video: Video) -> Tensor:
        """Unit vectors [frames, dim] of frames that lie evenly in the video."""
        count = min(self.settings.frames, len(video.frames))
        places = np.linspace(0, len(video.frames) - 1, count).round().astype(int)
        pixels = self.images(images=[video.frames[place] for place in places], return_tensors="pt")
        seen = self.model.vision_model(pixel_values=pixels["pixel_values"]).pooler_output
        return nn.functional.normalize(self.model.visual_projection(seen), dim=-1)

    def _embed_text(self, text: str) -> tuple[Tensor, bool]:
        """Unit vector [dim] of a prompt, and whether it is longer than CLIP reads."""
        longest = self.model.config.text_config.max_position_embeddings
        whole = self.tokenizer(text)["input_ids"]
        tokens = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        read = self.model.text_model(**tokens).pooler_output
        return nn.functional.normalize(self.model.text_projection(read), dim=-1)[0], len(whole) > longest


def load_aesthetic_head(path: Path, dim: int) -> nn.Sequential:
    """LAION's linear head, or the stack of linear layers of its improved predictor.

    Raises:
        FaceError: when it is missing, damaged or made for embeddings of another size.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        names = sorted(
            {name.rpartition(".")[0] for name in weights},
            key=lambda name: [int(part) for part in name.split(".") if part.isdigit()],
        )
        layers = []
        for name in names:
            weight, bias = (weights[f"{name}.{kind}".lstrip(".")].float() for kind in ("weight", "bias"))
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers.append(layer)
        head = nn.Sequential(*layers).eval()
        with torch.no_grad():
            if head(torch.zeros(1, dim)).shape != (1, 1):
                raise ValueError("it gives more than one figure")
    except Exception as error:
        raise FaceError(
            f"{path} is no aesthetic head for CLIP embeddings of {dim} ({first_line(error)}); for CLIP ViT-L/14 it is "
            "LAION's sa_0_4_vit_l_14_linear.pth or sac+logos+ava1-l14-linearMSE.pth"
        ) from error
    return head


def _open(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        if not folder.is_dir():  # a name would be looked up in the hub's cache
            raise FileNotFoundError("there is no such folder")
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:
        raise FaceError(
            f"{folder} holds no CLIP of the Hugging Face layout ({first_line(error)}); download a whole repository, such "
            "as openai/clip-vit-large-patch14, and name its folder in clip.folder"
        ) from error
