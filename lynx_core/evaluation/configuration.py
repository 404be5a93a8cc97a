"""The one TOML of a benchmark: who, what, how made, how judged.

Relative paths count from the working directory, as in the trainer's configurations. Every key is one that
something reads; an unknown one is refused with the nearest name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..foreign_text import parse_toml
from .errors import ConfigurationError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
"""An id: letters, digits, dot, hyphen, underscore."""


class Section(BaseModel):
    """Of the TOML: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Inputs(Section):
    """Where a workflow takes what changes, each as "node id.input name"."""

    prompt: str
    seed: str
    output: str
    """Id of the node that saves the video."""
    photo: str | None = None
    """None for a method that never sees the person, as the base alone."""


class Method(Section):
    """One way to make videos: a ComfyUI workflow in API format, or a list of finished ones."""

    name: Name
    label: str = ""
    conditioned_by: tuple[str, ...]
    """Names of the recognisers that this model is conditioned on; may be empty, never left out."""
    workflow: Path | None = None
    inputs: Inputs | None = None
    videos: Path | None = None
    """JSONL with a row for each video: subject, prompt, video, and optionally latency_s, peak_memory_gb."""
    parameters: int | None = Field(default=None, gt=0)
    """Of all networks together; counted from the model files where they are at hand."""
    ablation: Literal["id", "reference", "full"] | None = None
    """Its place in the ablation table."""

    @model_validator(mode="after")
    def _check_source(self) -> Method:
        if (self.workflow is None) == (self.videos is None):
            raise ValueError(f"method {self.name!r} needs either 'workflow' or 'videos'")
        if self.workflow is not None and self.inputs is None:
            raise ValueError(f"method {self.name!r} has a workflow, so it needs [methods.inputs]")
        return self

    @property
    def title(self) -> str:
        return self.label or self.name


class Generation(Section):
    """How the queue runs."""

    servers: tuple[str, ...] = ("http://127.0.0.1:8188",)
    models: tuple[Path, ...] = ()
    """ComfyUI `models` folders of the servers, for hashes and parameter counts of what a workflow loads."""
    attempts: int = Field(default=3, ge=1)
    """How often a video is tried that a server fails on; a server that dies counts separately."""
    timeout_s: float = Field(default=3600, gt=0)
    """Longest time for one video."""
    patience_s: float = Field(default=300, ge=0)
    """How long a server that does not answer is waited for."""


class Faces(Section):
    """The face detector, shared by all recognisers."""

    root: Path
    """Folder that holds `models/<pack>`."""
    pack: str = "buffalo_l"
    provider: str = "CPU"


class RecogniserSettings(Section):
    """One face recogniser."""

    name: str
    kind: Literal["arcface", "insightface", "sface", "dlib", "python"]
    file: Path | None = None
    """Weights of "arcface" and "sface"; handed to the callable of "python"."""
    callable: str | None = None
    """For "python": "package.module:function", called with the file, gives an object with `embed(faces)`."""
    same_person: float = Field(default=0.5, gt=0, le=1)
    """Cosine from which two faces are taken for one person; dlib's network needs about 0.93."""

    @model_validator(mode="after")
    def _check_kind(self) -> RecogniserSettings:
        if self.kind in ("arcface", "sface") and self.file is None:
            raise ValueError(f"recogniser {self.name!r} of kind {self.kind!r} needs 'file'")
        if self.kind == "python" and not re.fullmatch(r"[\w.]+:\w+", self.callable or ""):
            raise ValueError(
                f'recogniser {self.name!r} needs callable = "module:function", got {self.callable!r}'
            )
        return self


class JudgeSettings(Section):
    """A vision model behind an OpenAI-compatible server."""

    base_url: str
    model: str
    answers_as: str | None = None
    """What the server calls the model in its answers, where that differs from `model`."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers without keys need none."""
    frames: int = Field(default=8, ge=1, le=128)
    frame_px: int = Field(default=512, ge=32)
    """Longest side of the frames that are sent."""
    repeats: int = Field(default=3, ge=1)
    control_every: int = Field(default=5, ge=1)
    """Every so manieth video is judged once more against a wrong prompt."""
    concurrency: int = Field(default=4, ge=1, le=64)
    temperature: float = Field(default=0.0, ge=0)
    patience_s: float = Field(default=600, ge=0)
    """How long 429, 5xx and a dead connection are waited out for one answer."""
    attempts: int = Field(default=3, ge=1)
    """How often an answer that breaks the schema is asked for again."""
    usd_per_million_input: float = Field(default=0.0, ge=0)
    usd_per_million_output: float = Field(default=0.0, ge=0)
    max_usd: float | None = Field(default=None, gt=0)
    """Estimates above this are refused before the first request."""


class ClipSettings(Section):
    """CLIP for text alignment and aesthetics, without a server."""

    folder: Path
    """Of the Hugging Face layout: config.json, weights, preprocessor and tokenizer."""
    name: str = "CLIP"
    frames: int = Field(default=8, ge=1)
    """Frames of a video that are looked at."""
    aesthetic_head: Path | None = None
    """LAION's head for this CLIP."""


class People(Section):
    """The raters' study."""

    raters: int = Field(default=18, ge=1)
    cells: int = Field(default=40, ge=1)
    """Pairs of subject and prompt that every rater sees, each with one method."""
    repeats: int = Field(default=4, ge=0)
    """Videos that a rater sees twice."""
    pairs: int = Field(default=12, ge=0)
    """Choices between two methods for each rater."""


class ReportSettings(Section):
    draws: int = Field(default=2000, ge=2000)
    """Of the bootstrap."""
    worst: int = Field(default=3, ge=0)
    """Worst videos shown of each method."""
    baseline: Name | None = None
    """Method that the others are compared with; the first when left out."""


class Benchmark(Section):
    """The whole TOML."""

    subjects: Path
    """JSONL, see `subjects`."""
    prompts: Path
    """TOML, see `prompts`."""
    output: Path
    seed: int = Field(default=0, ge=0)
    split: str = "main"
    """Which subjects take part."""
    max_subjects: int | None = Field(default=None, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    methods: tuple[Method, ...] = Field(min_length=1)
    generation: Generation = Generation()
    faces: Faces | None = None
    recognisers: tuple[RecogniserSettings, ...] = ()
    judge: JudgeSettings | None = None
    clip: ClipSettings | None = None
    people: People = People()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _check_names(self) -> Benchmark:
        for kind, entries in (("methods", self.methods), ("recognisers", self.recognisers)):
            names = [entry.name for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind} are called {twice[0]!r}; give each a name of its own")
        if self.recognisers and self.faces is None:
            raise ValueError("recognisers need [faces]: where the face detector lies")
        baseline = self.report.baseline
        if baseline and baseline not in [method.name for method in self.methods]:
            raise ValueError(f"report.baseline = {baseline!r} is none of the methods")
        return self

    def find_method(self, name: str) -> Method:
        return next(method for method in self.methods if method.name == name)


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark's TOML.

    Raises:
        ConfigurationError: when it cannot be read, with every wrong key and value in it.
    """
    return build(Benchmark, read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigurationError: when it cannot be read.
    """
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error


_MOST_LINES = 20


def build(kind: type[Any], values: Any, where: str) -> Any:
    """Make a model from plain values.

    Args:
        where: what messages call the source of the values.

    Raises:
        ConfigurationError: with a line for each thing that is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {line}" for line in _describe(kind, error)]
        more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        raise ConfigurationError("\n".join(lines[:_MOST_LINES] + more)) from None


def _describe(kind: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            names = _fields_at(kind, problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), names, n=1, cutoff=0.0)
            yield f"unknown key {place}; did you mean {near[0] if near else 'another section'}? There are: {', '.join(names)}"
        elif problem["type"] == "missing":
            yield f"{place} is missing"
        elif problem["type"] == "value_error":
            yield (f"{place}: " if place else "") + problem["msg"].removeprefix("Value error, ")
        else:
            yield f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _fields_at(kind: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Names of the keys of the section at `place`."""
    current: Any = kind
    for part in place:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation
        models = [a for a in (annotation, *getattr(annotation, "__args__", ())) if _is_section(a)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
