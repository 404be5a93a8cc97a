"""Changes to an API prompt: the size, steps, seed, photo and text of a shipped workflow."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]
SEED_INPUTS = ("seed", "noise_seed")


def set_inputs(prompt: Prompt, name: str, value: Any, class_type: str | None = None) -> int:
    """Set a widget wherever a node (of a class) has it; linked inputs stay.

    Returns:
        How many nodes were changed.
    """
    changed = 0
    for node in prompt.values():
        is_linked = isinstance(node["inputs"].get(name), list)
        if name in node["inputs"] and not is_linked and class_type in (None, node["class_type"]):
            node["inputs"][name] = value
            changed += 1
    return changed


def set_size(prompt: Prompt, width: int, height: int, num_frames: int) -> None:
    """Set the size of every node that makes the latent of a video (they all have a `length`)."""
    for node in prompt.values():
        if "length" in node["inputs"]:
            node["inputs"] |= {"width": width, "height": height, "length": num_frames}


def set_steps(prompt: Prompt, num_steps: int) -> None:
    """Set the number of steps; where a sampler does a part of them, it does the same part."""
    before = max((node["inputs"].get("steps", 0) for node in prompt.values()), default=0)
    set_inputs(prompt, "steps", num_steps)
    for node in prompt.values():
        inputs = node["inputs"]
        for name in ("start_at_step", "end_at_step", "step"):  # `step` is SplitSigmas'
            if isinstance(inputs.get(name), int) and 0 < inputs[name] < before:
                inputs[name] = max(1, round(inputs[name] * num_steps / before))


def set_seed(prompt: Prompt, seed: int) -> None:
    for name in SEED_INPUTS:
        set_inputs(prompt, name, seed)


def set_photo(prompt: Prompt, image: str) -> None:
    """Let every LoadImage take this uploaded picture; without one, put one in front of every LynxCropFace.

    Raises:
        ValueError: when there is neither.
    """
    if set_inputs(prompt, "image", image, class_type="LoadImage"):
        return
    crops = [node for node in prompt.values() if node["class_type"] == "LynxCropFace"]
    if not crops:
        raise ValueError("the workflow has neither LoadImage nor LynxCropFace for the photo")
    prompt["photo"] = {"class_type": "LoadImage", "inputs": {"image": image}}
    for crop in crops:
        crop["inputs"]["image"] = ["photo", 0]


def set_text(prompt: Prompt, text: str, socket: str = "positive") -> None:
    """Set the text that feeds the first `positive` (or another) input, however many nodes are between.

    Raises:
        ValueError: when no text leads there.
    """
    for node in prompt.values():
        source = node["inputs"].get(socket)
        while isinstance(source, list):
            inputs = prompt[source[0]]["inputs"]
            if isinstance(inputs.get("text"), str):
                inputs["text"] = text
                return
            source = inputs.get(socket) or inputs.get("conditioning")
    raise ValueError(f"the workflow has no text that leads to an input {socket!r}")
