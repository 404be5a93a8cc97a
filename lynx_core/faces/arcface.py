"""ArcFace IR-SE50, the release's face recogniser, and the safe reading of its weights.

The network of Deng et al. 2019 (ArcFace) with squeeze-and-excitation, as facexlib publishes it in
`recognition_arcface_ir_se50.pth` (43.8 M parameters, 175 MB). Parameter names are that file's, so
that it loads strictly. Widths come off the shapes; strides are not in a file and follow the rule of
the family: a unit halves the picture when it is the first or changes the width.

Letters: N batch, C channels, H W pixels.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..spec import EMBEDDING_DIM, ID_CROP_PX, RELEASE_RECOGNISER, first_line
from .errors import FaceError

_GRID_PX = ID_CROP_PX // 16
"""Side of the last feature map: a 112 px crop halved four times."""


@dataclass(frozen=True)
class ArcFaceConfig:
    """Widths of an IR-SE network."""

    unit_dims: tuple[int, ...] = (64,) * 3 + (128,) * 4 + (256,) * 14 + (512,) * 3
    """Channels put out by each residual unit."""
    stem_dim: int = 64
    squeeze_dims: tuple[int, ...] = (4,) * 3 + (8,) * 4 + (16,) * 14 + (32,) * 3
    """Channels inside each unit's squeeze-and-excitation."""
    embedding_dim: int = EMBEDDING_DIM

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each unit: 2 at the start of a stage."""
        before = (0, *self.unit_dims[:-1])
        return tuple(1 if dim == last else 2 for last, dim in zip(before, self.unit_dims, strict=True))


def _infer_arcface_config(shapes: Mapping[str, tuple[int, ...]]) -> ArcFaceConfig:
    """Read the widths off the shapes of a file's tensors.

    Raises:
        KeyError, ValueError, IndexError: when a tensor that tells a width is missing or of another rank.
    """
    num_units = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    units = [f"body.{unit}.res_layer" for unit in range(num_units)]
    return ArcFaceConfig(
        unit_dims=tuple(shapes[f"{unit}.3.weight"][0] for unit in units),
        stem_dim=shapes["input_layer.0.weight"][0],
        squeeze_dims=tuple(shapes[f"{unit}.5.fc1.weight"][0] for unit in units),
        embedding_dim=shapes["output_layer.3.weight"][0],
    )


class SqueezeExcitation(nn.Module):
    """A gate for each channel, from its mean over the picture (Hu et al. 2018)."""

    def __init__(self, dim: int, squeeze_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, squeeze_dim, 1, bias=False)
        self.fc2 = nn.Conv2d(squeeze_dim, dim, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        mean = x_NCHW.mean(dim=(2, 3), keepdim=True)
        return x_NCHW * self.fc2(self.fc1(mean).relu()).sigmoid()


class ResidualUnit(nn.Module):
    """Two convolutions with a gate, beside a shortcut that thins out or projects."""

    def __init__(self, in_dim: int, dim: int, squeeze_dim: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if in_dim == dim:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_dim),
            nn.Conv2d(in_dim, dim, 3, 1, 1, bias=False),
            nn.PReLU(dim),
            nn.Conv2d(dim, dim, 3, stride, 1, bias=False),
            nn.BatchNorm2d(dim),
            SqueezeExcitation(dim, squeeze_dim),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.shortcut_layer(x_NCHW) + self.res_layer(x_NCHW)


class ArcFaceIRSE50(nn.Module):
    """112 px BGR crops scaled to -1..1 -> unit embeddings.

    Args:
        config: widths; the default is the published IR-SE50.
        recogniser: canonical name of the weights, which an adapter must name as its recogniser.
    """

    def __init__(self, config: ArcFaceConfig | None = None, recogniser: str = RELEASE_RECOGNISER) -> None:
        super().__init__()
        config = config or ArcFaceConfig()
        self.config = config
        self.recogniser = recogniser
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, config.stem_dim, 3, 1, 1, bias=False),
            nn.BatchNorm2d(config.stem_dim),
            nn.PReLU(config.stem_dim),
        )
        in_dims = (config.stem_dim, *config.unit_dims[:-1])
        widths = zip(in_dims, config.unit_dims, config.squeeze_dims, config.strides, strict=True)
        self.body = nn.Sequential(*(ResidualUnit(*width) for width in widths))
        last_dim = config.unit_dims[-1]
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last_dim),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(last_dim * _GRID_PX**2, config.embedding_dim),
            nn.BatchNorm1d(config.embedding_dim),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, 3, 112, 112] -> [N, embedding_dim], each of length 1."""
        features = self.output_layer(self.body(self.input_layer(x_NCHW)))
        return features / features.norm(dim=1, keepdim=True)


def load_arcface(path: Path | str) -> ArcFaceIRSE50:
    """The network of a weight file, fp32 on the CPU, in evaluation mode, without gradients.

    The recogniser's name is the safetensors metadata entry "embedder", else facexlib's.

    Args:
        path: facexlib's `.pth`, or the same tensors as `.safetensors`.

    Raises:
        FaceError: when the file is missing, broken, a pickle of code, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceError(
            f"the face recogniser's weights are not there: expected {path.name} in {path.parent}. "
            f"Fetch them with: python -m lynx_core.cli.main download faces"
        )
    state, recogniser = _read_weights(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        config = _infer_arcface_config(shapes)
    except (KeyError, ValueError, IndexError):
        config = ArcFaceConfig()
    with torch.device("meta"):
        model = ArcFaceIRSE50(config, recogniser)
    # Files older than torch 0.4.1 have no batch counters; inference never reads them.
    for name in model.state_dict():
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    _check_weights(path, state, model.state_dict())
    floats = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    model.load_state_dict(floats, assign=True)
    return model.eval().requires_grad_(False)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file and the name of its recogniser; no code in it is ever run."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                return {name: file.get_tensor(name) for name in file.keys()}, metadata.get(  # noqa: SIM118
                    "embedder", RELEASE_RECOGNISER
                )
        except (SafetensorError, OSError) as error:
            raise FaceError(
                f"{path} is no readable safetensors file ({first_line(error)}); fetch it again with: python -m lynx_core.cli.main download faces"
            ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FaceError(
            f"{path} is refused: it holds Python objects beside tensors, or is no PyTorch file, and opening it "
            f"could run code. Use facexlib's recognition_arcface_ir_se50.pth: python -m lynx_core.cli.main download faces"
        ) from error
    except Exception as error:  # a damaged pickle calls PyTorch's own functions with anything
        raise FaceError(
            f"{path} does not open ({first_line(error)}); a download may have broken off, "
            f"fetch it again with: python -m lynx_core.cli.main download faces"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise FaceError(
            f"{path} holds no flat table of tensors but {type(state).__name__}; "
            f"use facexlib's recognition_arcface_ir_se50.pth"
        )
    return state, RELEASE_RECOGNISER


def _check_weights(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a file whose names, shapes or values are not those of the network."""
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        parts = [
            f"{kind} {len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in (("lacks", missing), ("has besides", surplus))
            if names
        ]
        raise FaceError(
            f"{path} is not ArcFace IR-SE50: it {' and '.join(parts)}. "
            f"Use facexlib's recognition_arcface_ir_se50.pth: python -m lynx_core.cli.main download faces"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise FaceError(
                f"{path}: {name} is {list(tensor.shape)}, ArcFace IR-SE50 has {list(expected[name].shape)}; "
                f"use facexlib's recognition_arcface_ir_se50.pth"
            )
        if not torch.isfinite(tensor).all():
            raise FaceError(f"{path}: {name} holds NaN or infinite values; fetch the file again")
