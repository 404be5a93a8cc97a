"""Where the identity does not reach the video: wirings and nodes that leave it out, said at the node and in the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from .conditioning import (
    Kind,
    carries_identity,
    carries_person,
    count_sources,
    find_cond,
    find_injections,
    list_people,
)
from .messages import warn_at_running_node
from .model_call import RowCursor

KIND_NAMES: dict[Kind, str] = {"id": "ID", "ref": "reference"}


SAME_APPLY = "Connect the outputs of one Lynx Apply to the inputs of the same names."

WITHOUT_IDENTITY = {
    "positive": "the prompt does not show the person",
    "negative": "it should carry the null identity, which guidance subtracts",
    "middle": "identity_cfg does not strengthen the person",
}
"""What it means that a conditioning carries no identity, by its name."""

NULL_ALONE = {
    "positive": "the person is missing from the video",
    "middle": "identity_cfg does not strengthen the person",
}
"""What it means that a conditioning carries the null identity alone."""


def find_wiring_faults(conds: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the conditionings of a sampling whose MODEL carries Lynx.

    Args:
        conds: host CONDITIONINGs by name, or what a guider made of them; empty ones are passed over.

    Returns:
        A sentence or two for each fault; none where all is well.
    """
    conds = {name: cond for name, cond in conds.items() if cond}
    if not any(map(carries_identity, conds.values())):
        nobody = (
            "MODEL carries Lynx, but no conditioning that is sampled carries an identity: the video is the base model's. "
            f"{SAME_APPLY} (ConditioningConcat and ConditioningAverage keep the identity of their first input alone: put "
            "Lynx Apply after them.)"
        )
        return [nobody] if conds else []
    faults = [fault for name, cond in conds.items() if (fault := find_fault(name, cond))]
    people, others = (list_people(conds.get(name)).keys() for name in ("positive", "middle"))
    if people and others and people != others:
        faults.append("positive and middle carry different identities.")
    persons, nobodies = (count_sources(conds.get(name)) for name in ("positive", "negative"))
    if persons and nobodies and persons != nobodies and not carries_person(conds["negative"]):
        faults.append(
            f"positive has passed {persons} Lynx Apply in a row, negative {nobodies}: a person is missing from one of them."
        )
    if is_middle_on_positive(conds):
        faults.append(
            "positive holds the text of negative, as middle does: the prompt is missing from the video."
        )
    faults = [" ".join([*faults, SAME_APPLY])] if faults else []
    changed = [name for name, cond in conds.items() if any(has_other_text(entry) for entry in cond)]
    if changed:
        faults.append(
            f"The text of {' and '.join(changed)} was changed after Lynx Apply. ConditioningConcat and "
            "ConditioningAverage keep the identity of their first input alone: if another input carried a person, that "
            "person is not in the video. Put Lynx Apply after them; for two persons take ConditioningCombine."
        )
    return faults


def is_middle_on_positive(conds: Mapping[str, Any]) -> bool:
    """Tell whether what positive carries is what Lynx Apply gives out as middle: the person with the negative prompt."""
    positive, negative, middle = (conds.get(name) for name in ("positive", "negative", "middle"))
    if not positive or not negative or (middle and middle is not positive) or not carries_person(positive):
        return False
    texts = {id(get_text(entry)) for entry in negative}
    return not carries_person(negative) and all(id(get_text(entry)) in texts for entry in positive)


def find_fault(name: str, cond: Any) -> str:
    """Say what is wrong with one conditioning, known to the guider by `name`; nothing where all is well."""
    if not carries_identity(cond):
        return f"{name} carries no identity: {WITHOUT_IDENTITY.get(name, 'the other conditionings do')}."
    if name in NULL_ALONE and not carries_person(cond):
        return f"{name} carries the null identity alone: {NULL_ALONE[name]}."
    if name == "negative" and carries_person(cond):
        hint = ""
        if any(is_zero(get_text(entry)) for entry in cond):
            hint = " ConditioningZeroOut keeps the identity of its input: give it Lynx Apply's negative, or put it before Lynx Apply."
        return f"negative carries the person, and guidance subtracts what negative shows: the likeness suffers.{hint}"
    return ""


def choose_computed(guider: Any) -> dict[str, Any]:
    """Give the conditionings of a guider that it computes: at cfg 1 the host leaves the negative one out."""
    conds = dict(guider.conds)
    is_plain = conds.keys() == {"positive", "negative"} and not guider.model_options.get(
        "disable_cfg1_optimization", False
    )
    if is_plain and math.isclose(guider.cfg, 1.0):
        del conds["negative"]
    return conds


def get_text(entry: Any) -> Tensor | None:
    """Give the text embedding of one entry of a CONDITIONING, or of a guider's `conds`."""
    return entry.get("cross_attn") if isinstance(entry, dict) else entry[0]


def is_zero(text: Tensor | None) -> bool:
    """Tell whether a text is what ConditioningZeroOut makes of one."""
    return text is not None and not text.any()


def has_other_text(entry: Any) -> bool:
    """Tell whether an entry of a conditioning has another text than the one that Lynx Apply gave an identity.

    Another tensor, not other numbers: ConditioningAverage of two people in one prompt gives the same numbers again.
    ConditioningZeroOut has one input, whose identity it keeps: nothing is lost there.
    """
    cond, text = find_cond(entry), get_text(entry)
    if cond is None or cond.text is None or text is None or text is cond.text:
        return False
    return not is_zero(text)


class SamplingLog:
    """What one sampling says about an identity that does not act; each sentence once."""

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.idle: dict[tuple[Kind, int], bool] = {}
        self.foreign: set[tuple[Kind, int]] = set()
        self.has_opened: dict[Kind, bool] = {}

    def start(self, guider: Any) -> None:
        self.said.clear()
        self.idle.clear()
        self.has_opened.clear()
        for fault in find_wiring_faults(choose_computed(guider)):
            self.say(fault)

    def check_size(self, guider: Any, size: Sequence[int]) -> None:
        """Say which sides of a latent of [frames, height, width] the model cannot cut into whole tokens."""
        patch = guider.model_patcher.model.diffusion_model.patch_size
        for name, side, token in zip(("width", "height"), size[:0:-1], patch[:0:-1], strict=True):
            if side % token:
                px, step = 8 * side, 8 * token
                self.say(
                    f"The {name} of {px} px is no multiple of {step}: the model fills up the last {8 * (side % token)} px, and "
                    f"the picture tears there. Take {px // step * step or step} or {(px // step + 1) * step} px."
                )

    def check_regions(self, guider: Any, size: Sequence[int]) -> None:
        """Say which masks do not fit a latent of [frames, height, width].

        Raises:
            ValueError: when a mask has another number of frames than the video.
        """
        conds = [entry for cond in guider.conds.values() for entry in cond or []]
        regions = {i.region for entry in conds for i in find_injections(entry) if i.region is not None}
        num_frames, height, width = size
        for region in regions:
            region.check_frames(num_frames)
            misfit = region.find_stretch(height, width)
            if misfit:
                self.say(misfit)

    def count(self, kind: Kind, block: int, cursor: RowCursor) -> None:
        """Count a call in which this attention should have acted."""
        self.idle[kind, block] = self.idle.get((kind, block), True) and not cursor.has_acted
        if cursor.is_foreign:
            self.foreign.add((kind, block))
            self.idle[kind, block] = False

    def see_windows(self, carried: set[Kind], opened: set[Kind]) -> None:
        """Note of which parts a call carries an identity, and of which the window is open."""
        for kind in carried:
            self.has_opened[kind] = self.has_opened.get(kind, False) or kind in opened

    def report_foreign(self) -> None:
        """Say which attentions ran without taking the identity."""
        if self.foreign:
            self.say(
                f"{name_attentions(self.foreign)}: another node computes this attention in its own way, and the identity "
                "is left out there. Turn that node off to have it everywhere."
            )
            self.foreign.clear()

    def finish(self) -> None:
        """Say which windows no step fell into, and which attentions never ran."""
        for kind in (kind for kind, has_opened in self.has_opened.items() if not has_opened):
            self.say(
                f"{KIND_NAMES[kind]}: no step of this sampling falls into its window, or its curve is 0 in those that do, "
                f"so it does not act here. Widen {kind}_start to {kind}_end in Lynx Apply, raise {kind}_curve, or take "
                "more steps."
            )
        never = {at for at, is_idle in self.idle.items() if is_idle}
        if never:
            self.say(
                f"{name_attentions(never)}: another node skips or replaces this attention, and the identity never acted "
                "there in this sampling. Turn that node off to have it everywhere."
            )

    def say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            warn_at_running_node(sentence)


def name_attentions(attentions: set[tuple[Kind, int]]) -> str:
    """Name attentions as a user chooses them: `ID in blocks 0-3, 7`."""
    names = []
    for kind, of_kind in groupby(sorted(attentions), key=lambda at: at[0]):
        names.append(f"{KIND_NAMES[kind]} in blocks {name_ranges([block for _, block in of_kind])}")
    return "; ".join(names)


def name_ranges(numbers: list[int]) -> str:
    """Write sorted numbers as ranges: `0-3, 7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
