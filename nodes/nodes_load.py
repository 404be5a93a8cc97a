"""Nodes that open files: the adapter, the models that look at faces, and Mini Lynx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from comfy_api.latest import io

from ..lynx_core.faces import licences
from ..lynx_core.faces.analyzer import FaceAnalyzer
from ..lynx_core.faces.detection import ONNX_PROVIDERS, PACK_FILES, FaceDetector
from ..lynx_core.formats.adapter import Adapter, open_adapter
from . import sockets
from .host import landmarker, mini_lynx, model_files
from .host.landmarker import LandmarkerDetector
from .host.messages import raise_plainly, show_note
from .host.model_files import NONE, PACK_RECOGNISER, RELEASE_FILE


class LynxLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        published = model_files.list_adapter_parts()
        parts = [
            NONE,
            *model_files.list_choices(
                model_files.list_adapter_files(), published, model_files.locate_adapter
            ),
        ]
        adapters = list_adapter_choices()
        return io.Schema(
            node_id="LynxLoadAdapter",
            display_name="Lynx Load Adapter",
            category=sockets.CATEGORY,
            description="Opens a Lynx adapter: a release folder, a single file, or any mix of resampler, ID and "
            "reference files. Reads headers only; weights are streamed when an identity is encoded.",
            search_aliases=[
                "lynx",
                "identity",
                "face",
                "person",
                "ip adapter",
                "load adapter",
                "kijai",
                "wan2gp",
                *sockets.SEARCH_WORDS,
            ],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=[*adapters, NONE],
                    default=model_files.choose_default(adapters, "lynx_full"),
                    tooltip="Folder or file under models/lynx. Choose 'none' to name all parts below.",
                ),
                io.Combo.Input(
                    "resampler",
                    options=parts,
                    default=NONE,
                    advanced=True,
                    tooltip="File of the resampler, if it is not in the adapter above. It must belong to the ID layers.",
                ),
                io.Combo.Input(
                    "id_layers",
                    options=parts,
                    default=NONE,
                    advanced=True,
                    tooltip="File of the ID-adapter's layers (who the person is), if not in the adapter above.",
                ),
                io.Combo.Input(
                    "ref_layers",
                    options=parts,
                    default=NONE,
                    advanced=True,
                    tooltip="File of the Ref-adapter's layers (what the person looks like), if not in the adapter "
                    "above. Full reference layers go with lite ID layers, too.",
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        adapter: str | None = None,
        resampler: str | None = None,
        id_layers: str | None = None,
        ref_layers: str | None = None,
    ) -> bool | str:
        """Name all files that are missing, before anything runs; what is linked is not known yet."""
        choices = (adapter, resampler, id_layers, ref_layers)
        return explain_choice(choices) or True

    @classmethod
    def fingerprint_inputs(
        cls,
        adapter: str | None = None,
        resampler: str | None = None,
        id_layers: str | None = None,
        ref_layers: str | None = None,
    ) -> str:
        """Open the files again once one of them is replaced."""
        return stamp_choices((adapter, resampler, id_layers, ref_layers))

    @classmethod
    @raise_plainly
    def execute(cls, adapter: str, resampler: str, id_layers: str, ref_layers: str) -> io.NodeOutput:
        opened = open_choices(adapter, resampler, id_layers, ref_layers)
        show_note(cls, *model_files.shorten_paths(opened.summary()).splitlines())
        return io.NodeOutput(opened)


def open_choices(*choices: str) -> Adapter:
    """Open the adapter that choices of the lists stand for.

    Raises:
        ValueError: when nothing is chosen, or what is chosen is not there.
        AdapterError: when a file does not open, or the parts do not fit each other.
    """
    fault = explain_choice(choices)
    if fault:
        raise ValueError(fault)
    names = list_names(*choices)
    found = [place for place in map(model_files.locate_adapter, names) if place is not None]
    return open_adapter(*found, name=name_adapter(names))


def stamp_choices(choices: Sequence[str | None]) -> str:
    """Give another value once a file of what is chosen is replaced; of what is linked (None), any may be meant."""
    names = [*list_names(*choices), *(model_files.list_adapters() if None in choices else ())]
    places = (model_files.locate_adapter(name) for name in names)
    return model_files.stamp_files(
        file for place in places if place for file in model_files.list_weight_files(place)
    )


def list_adapter_choices() -> list[str]:
    """List the adapters under models/lynx, and the published ones that are not there, marked so."""
    return model_files.list_choices(
        model_files.list_adapters(), model_files.ADAPTERS, model_files.locate_adapter
    )


def explain_choice(choices: Sequence[str | None]) -> str:
    """Say why no adapter can be opened from what is chosen; nothing when one can, or a choice is not known yet."""
    names = list_names(*choices)
    if not names and None not in choices:
        return "Lynx Load Adapter: nothing is chosen. Choose an adapter, or the files of its parts."
    absent = [name for name in names if model_files.locate_adapter(name) is None]
    return model_files.explain_missing(model_files.find_missing_adapters(absent))


def list_names(*choices: str | None) -> list[str]:
    """List the adapters and files that are chosen, as they are called on disk."""
    names = (model_files.strip_mark(choice) for choice in choices if choice is not None)
    return [name for name in names if name != NONE]


def name_adapter(names: list[str]) -> str:
    """Name an adapter of several files by their folder, where they have one in common."""
    folders = {str(PurePosixPath(name).parent) if "/" in name else "" for name in names}
    folder = folders.pop()
    if len(names) > 1 and folder and not folders:
        return folder
    return " + ".join(name.removesuffix(PurePosixPath(name).suffix) for name in names)


class LynxLoadFaceAnalyzer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        packs = model_files.list_choices(
            model_files.list_detectors(), model_files.DETECTOR_PACKS, model_files.locate_detector_root
        )
        encoders = model_files.list_choices(
            model_files.list_recognisers(), [RELEASE_FILE], model_files.locate_recogniser
        )
        return io.Schema(
            node_id="LynxLoadFaceAnalyzer",
            display_name="Lynx Load Face Analyzer",
            category=sockets.CATEGORY,
            description="Names the detector, which finds the face in a photo, and the recogniser, which tells persons "
            "apart. They are loaded when a face is cropped or encoded.",
            search_aliases=["insightface", "arcface", "face detection", "antelopev2", "buffalo"],
            inputs=[
                io.Combo.Input(
                    "detector_pack",
                    options=packs,
                    default=model_files.choose_default(packs, model_files.DEFAULT_PACK),
                    tooltip="insightface model pack under models/insightface/models, of which the detector is used (non-commercial "
                    "research), or OpenCV's YuNet under models/lynx/faces (MIT).",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[*encoders, PACK_RECOGNISER],
                    default=model_files.choose_default(encoders, RELEASE_FILE),
                    tooltip="The face recogniser, under models/lynx/faces. It must be the one that the adapter was "
                    "trained on: facexlib's ArcFace for Lynx. InstantID's resampler takes antelopev2's own.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(ONNX_PROVIDERS),
                    default="CPU",
                    advanced=True,
                    tooltip="Where the detector runs. CPU takes well under a second a photo and always works.",
                ),
                sockets.HostLandmarker.Input(
                    landmarker.NAME,
                    optional=True,
                    advanced=True,
                    tooltip="From Load Face Detection Model (MediaPipe) of ComfyUI 0.30.0 and newer: finds the face in the "
                    "place of detector_pack (Apache-2.0).",
                ),
            ],
            outputs=[sockets.FaceAnalyzer.Output(display_name="face_analyzer")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        detector_pack: str | None = None,
        encoder: str | None = None,
        face_detection_model: Any = sockets.NOT_CONNECTED,
    ) -> bool | str:
        """Name all files that are missing, before anything runs; what is linked is not known yet."""
        has_detector = face_detection_model != sockets.NOT_CONNECTED
        return explain_face_models(detector_pack, encoder, has_detector) or True

    @classmethod
    def fingerprint_inputs(
        cls, detector_pack: str | None = None, encoder: str | None = None, provider: str | None = None
    ) -> str:
        """Open the models again once a file of them is replaced."""
        return stamp_face_models(detector_pack, encoder)

    @classmethod
    @raise_plainly
    def execute(
        cls, detector_pack: str, encoder: str, provider: str, face_detection_model: Any = None
    ) -> io.NodeOutput:
        detector = None if face_detection_model is None else LandmarkerDetector(face_detection_model)
        analyzer = open_face_models(detector_pack, encoder, provider, detector)
        show_note(
            cls,
            *describe_licences(detector_pack, encoder, detector is not None),
            warnings=[] if detector else explain_provider(detector_pack, provider),
        )
        return io.NodeOutput(analyzer)


def describe_licences(detector_pack: str, encoder: str, has_detector: bool = False) -> list[str]:
    """Say under which licences the networks are that the lists' choices, or a connected detector, stand for."""
    pack, name = model_files.strip_mark(detector_pack), model_files.strip_mark(encoder)
    of_encoder = licences.INSIGHTFACE if name == PACK_RECOGNISER else licences.FILE
    of_detector = (
        f"{landmarker.NAME}, in the place of {pack}: {licences.LANDMARKER}"
        if has_detector
        else f"{pack}: {licences.name_detector_licence(pack)}"
    )
    return [f"detector {of_detector}", f"encoder {name}: {of_encoder}"]


def explain_provider(detector_pack: str, provider: str) -> list[str]:
    """Say that OpenCV's detector runs on the CPU whatever is chosen."""
    pack = model_files.strip_mark(detector_pack)
    is_idle = pack.endswith(model_files.YUNET_SUFFIX) and provider != "CPU"
    return [f"provider {provider} does nothing: {pack} runs through OpenCV on the CPU."] if is_idle else []


def open_face_models(
    detector_pack: str, encoder: str, provider: str, detector: FaceDetector | None = None
) -> FaceAnalyzer:
    """Make the analyzer that choices of the lists stand for.

    Args:
        detector: finds faces in the place of the pack's.

    Raises:
        ValueError: when a file of them is not there.
    """
    fault = explain_face_models(detector_pack, encoder, detector is not None)
    if fault:
        raise ValueError(fault)
    pack = model_files.strip_mark(detector_pack)
    name = model_files.strip_mark(encoder)
    return FaceAnalyzer(
        root=model_files.locate_detector_root(pack) or Path(),
        pack=pack,
        provider=provider,
        recogniser_path=None if name == PACK_RECOGNISER else model_files.locate_recogniser(name),
        detector=detector,
    )


def open_matching_face_models(adapter: Adapter) -> FaceAnalyzer:
    """Make the analyzer whose recogniser an adapter was trained on.

    Raises:
        ValueError: when a file of it is not there, or the recogniser is none that comes by name.
    """
    if adapter.recogniser == Path(mini_lynx.RECOGNISER).stem:
        return mini_lynx.open_face_models()
    choices = model_files.find_face_choices(adapter.recogniser)
    if choices is None:
        raise ValueError(
            f"Adapter {adapter.name!r} was trained on face embeddings of {adapter.recogniser!r}, which has no default: "
            "connect face_analyzer. " + model_files.explain_recogniser(adapter.recogniser)
        )
    return open_face_models(*choices, next(iter(ONNX_PROVIDERS)))


def stamp_face_models(detector_pack: str | None, encoder: str | None) -> str:
    """Give another value once a file of the face models is replaced; of what is linked (None), any may be meant."""
    packs = model_files.list_detectors() if detector_pack is None else [model_files.strip_mark(detector_pack)]
    encoders = model_files.list_recognisers() if encoder is None else [model_files.strip_mark(encoder)]
    files: list[Path] = []
    for pack in packs:
        files += model_files.list_detector_files(pack)
    places = (model_files.locate_recogniser(name) for name in encoders if name != PACK_RECOGNISER)
    return model_files.stamp_files([*files, *(place for place in places if place)])


def explain_face_models(detector_pack: str | None, encoder: str | None, has_detector: bool = False) -> str:
    """Say why the choices cannot be used; nothing when they can. What is linked is None, and passed over.

    Args:
        has_detector: another detector is connected: the pack is needed for its own recogniser alone.
    """
    missing = []
    if has_detector and encoder != PACK_RECOGNISER:
        detector_pack = None
    pack = None if detector_pack is None else model_files.strip_mark(detector_pack)
    root = None if pack is None else model_files.locate_detector_root(pack)
    if pack is not None and root is None:
        missing.append(model_files.find_missing_pack(pack))
    if encoder is not None and encoder != PACK_RECOGNISER:
        name = model_files.strip_mark(encoder)
        if model_files.locate_recogniser(name) is None:
            missing.append(model_files.find_missing_recogniser(name))
    elif encoder == PACK_RECOGNISER and pack is not None and root is not None:
        if pack not in PACK_FILES:
            return (
                f"The encoder {PACK_RECOGNISER!r} works with these detector packs: {', '.join(PACK_FILES)}. "
                f"{'A file of YuNet has none' if pack.endswith(model_files.YUNET_SUFFIX) else f'What {pack!r} has is not known'}. "
                "Choose one of these as detector_pack, or a file as encoder."
            )
        if PACK_FILES[pack][1] not in {file.name for file in model_files.list_pack_files(root, pack)}:
            missing.append(model_files.find_missing_pack(pack))
    return model_files.explain_missing(missing)


class LynxLoadMini(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxLoadMini",
            display_name="Lynx Load Mini",
            category=sockets.CATEGORY,
            description="Loads Mini Lynx, which comes with this pack: a small model of drawn people, 64 x 64 px, that "
            "runs on any CPU. Everything that a Lynx graph begins with, and nothing to download.",
            search_aliases=["mini lynx", "lynx example", "lynx demo", "lynx test", "photo to video"],
            inputs=[],
            outputs=[
                io.Model.Output(),
                io.Clip.Output(),
                io.Vae.Output(),
                sockets.Adapter.Output(display_name="adapter"),
                sockets.FaceAnalyzer.Output(display_name="face_analyzer"),
                io.Image.Output(display_name="example", tooltip="A portrait of a drawn person."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        """Open the files again once one of them is replaced."""
        return mini_lynx.stamp_mini()

    @classmethod
    @raise_plainly
    def execute(cls) -> io.NodeOutput:
        mini = mini_lynx.load_mini()
        return io.NodeOutput(mini.model, mini.clip, mini.vae, mini.adapter, mini.face_analyzer, mini.portrait)
