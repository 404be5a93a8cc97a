"""Takes out of the trained recogniser what a line could still read of the mark.

Other marks in every picture teach the network to look away, but a trace is left that a linear probe finds. The
directions that carry it are measured and projected out of the last linear layer: LEACE (Belrose et al., 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lynx_core.faces.arcface import ArcFaceIRSE50
from lynx_core.rng import numpy_generator

from ..world.identity import MARK_COLOURS, MARK_PLACES, Identity, change_mark, draw_identity
from .recogniser_crops import PICTURES_EACH, CropFiles, to_input

NUM_CROPS = 4000
BATCH = 100
_RIDGE = 1e-3


@torch.no_grad()
def blind_to_mark(network: ArcFaceIRSE50, crops: CropFiles) -> None:
    """Project the network's last layer, in place.

    Args:
        network: in evaluation mode.
        crops: those of the training.
    """
    linear, norm = network.output_layer[-2], network.output_layer[-1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None and running_var is not None
    embeddings, marks = _measure(network, crops)
    projection, mean = erase(embeddings, marks)
    scale = norm.weight.double() / (running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - running_mean.double() * scale
    weight, bias = linear.weight.double() * scale[:, None], linear.bias.double() * scale + shift
    linear.weight.copy_(projection @ weight)
    linear.bias.copy_(projection @ (bias - mean) + mean)
    for tensor, value in ((norm.weight, 1.0), (norm.bias, 0.0), (running_mean, 0.0)):
        tensor.fill_(value)
    running_var.fill_(1.0 - norm.eps)


def erase(values: Tensor, wanted_out: Tensor) -> tuple[Tensor, Tensor]:
    """The projection, and the mean it is about, after which no line reads `wanted_out` from `values`.

    Args:
        values: [N, D] float64.
        wanted_out: [N, K] float64.

    Returns:
        [D, D] and [D].
    """
    mean = values.mean(0)
    centred, labels = values - mean, wanted_out - wanted_out.mean(0)
    covariance = centred.T @ centred / len(values)
    spread, axes = torch.linalg.eigh(
        covariance + _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    )
    whiten, unwhiten = (axes * spread**-0.5) @ axes.T, (axes * spread**0.5) @ axes.T
    found, sizes, _ = torch.linalg.svd(whiten @ (centred.T @ labels / len(values)), full_matrices=False)
    found = found[:, sizes > 1e-6 * sizes[0]]
    return torch.eye(len(mean), dtype=values.dtype) - unwhiten @ found @ found.T @ whiten, mean


def _measure(network: ArcFaceIRSE50, crops: CropFiles) -> tuple[Tensor, Tensor]:
    """Embeddings before their length is set to 1 [N, 512], and marks by colour and place, also times the skin."""
    seen: list[Tensor] = []
    num_crops = min(NUM_CROPS, crops.total)
    hook = network.output_layer.register_forward_hook(lambda *call: seen.append(call[2].double()))
    for batch in torch.arange(num_crops).split(BATCH):
        network(to_input(crops.read(batch.numpy())))
    hook.remove()
    people = [find_person(index) for index in range(num_crops)]
    kinds = torch.tensor([p.mark_colour * len(MARK_PLACES) + p.mark_place for p in people])
    marks = torch.nn.functional.one_hot(kinds, len(MARK_COLOURS) * len(MARK_PLACES)).double()
    marks = marks - marks.mean(0)  # so that the skin itself is no sum of what follows
    skin = torch.tensor([[p.skin - 0.5] for p in people], dtype=torch.float64)
    return torch.cat(seen), torch.cat([marks, marks * skin], 1)


def find_person(index: int) -> Identity:
    """Who is on a training crop, with the mark that was drawn there."""
    view = int(numpy_generator("embedder crop", index).integers(2**31))
    mark = int(numpy_generator("embedder view", view).integers(2**31))
    return change_mark(draw_identity(index // PICTURES_EACH), mark)
