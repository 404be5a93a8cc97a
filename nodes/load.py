"""Nodes that open files: the adapter, and the models that look at faces."""

from __future__ import annotations

from comfy_api.latest import io

from ..lynx_core.faces.analyzer import FaceAnalyzer
from ..lynx_core.faces.detection import ONNX_PROVIDERS
from ..lynx_core.formats.adapter import open_adapter
from . import sockets
from .model_files import (
    NONE,
    PACK_ENCODER,
    PUBLISHED_ENCODER,
    find_adapter,
    find_encoder,
    find_insightface_root,
    list_adapter_files,
    list_adapters,
    list_detector_packs,
    list_encoders,
    shorten_paths,
)
from .notes import show_note


class LynxLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        parts = [NONE, *list_adapter_files()]
        return io.Schema(
            node_id="LynxLoadAdapter",
            display_name="Lynx Load Adapter",
            category=sockets.CATEGORY,
            description="Opens a Lynx adapter: a release folder, a single file, or any mix of resampler, ID and "
            "reference files. Reads headers only; weights are streamed when an identity is baked.",
            search_aliases=[
                "lynx",
                "identity",
                "face",
                "person",
                "ip adapter",
                "load adapter",
                "kijai",
                "wan2gp",
            ],
            inputs=[
                io.Combo.Input(
                    "adapter",
                    options=[*list_adapters(), NONE],
                    default="lynx_full",
                    tooltip="Folder or file under models/lynx. Choose 'none' to name all parts below.",
                ),
                io.Combo.Input(
                    "resampler",
                    options=parts,
                    default=NONE,
                    tooltip="File of the resampler, if it is not in the adapter above. It must belong to the ID layers.",
                ),
                io.Combo.Input(
                    "id_layers",
                    options=parts,
                    default=NONE,
                    tooltip="File of the ID-adapter's layers (who the person is), if not in the adapter above.",
                ),
                io.Combo.Input(
                    "ref_layers",
                    options=parts,
                    default=NONE,
                    tooltip="File of the Ref-adapter's layers (what the person looks like), if not in the adapter "
                    "above. Full reference layers go with lite ID layers, too.",
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, adapter: str, resampler: str, id_layers: str, ref_layers: str) -> io.NodeOutput:
        names = [name for name in (adapter, resampler, id_layers, ref_layers) if name != NONE]
        if not names:
            raise ValueError(
                "Lynx Load Adapter: nothing is chosen. Choose an adapter, or the files of its parts."
            )
        opened = open_adapter(*(find_adapter(name) for name in names))
        show_note(cls, shorten_paths(opened.summary()))
        return io.NodeOutput(opened)


class LynxLoadFaceAnalyzer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LynxLoadFaceAnalyzer",
            display_name="Lynx Load Face Analyzer",
            category=sockets.CATEGORY,
            description="Names the models that find a face in a photo and that tell persons apart. They are loaded "
            "when a face is cropped or encoded.",
            search_aliases=["insightface", "arcface", "face detection", "antelopev2", "buffalo"],
            inputs=[
                io.Combo.Input(
                    "detector_pack",
                    options=list_detector_packs(),
                    default="buffalo_l",
                    tooltip="insightface pack under models/insightface/models; only its detector is used.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=list_encoders(),
                    default=PUBLISHED_ENCODER,
                    tooltip="Network that embeds the face, under models/lynx/faces. It must be the one the adapter was "
                    "trained on: facexlib's ArcFace for Lynx. InstantID's resampler takes antelopev2's own.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(ONNX_PROVIDERS),
                    default="CPU",
                    tooltip="Where the detector runs. CPU takes well under a second a photo and always works.",
                ),
            ],
            outputs=[sockets.FaceAnalyzer.Output(display_name="face_analyzer")],
        )

    @classmethod
    def execute(cls, detector_pack: str, encoder: str, provider: str) -> io.NodeOutput:
        return io.NodeOutput(
            FaceAnalyzer(
                root=find_insightface_root(detector_pack),
                pack=detector_pack,
                provider=provider,
                encoder_path=None if encoder == PACK_ENCODER else find_encoder(encoder),
            )
        )
