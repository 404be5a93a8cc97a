"""The nodes of ComfyUI-Lynx: `nodes_*.py` are the cards that an artist sees, `host/` is the machinery behind them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .host.model_files import register_folders
from .nodes_apply import LynxApply, LynxFade
from .nodes_face import LynxCropFace, LynxEncodeID, LynxEncodeReference
from .nodes_guidance import LynxGuider, LynxSampler
from .nodes_identity import LynxCombineIdentities, LynxLoadIdentity, LynxSaveIdentity
from .nodes_likeness import LynxFaceSimilarity, LynxLikenessGate
from .nodes_load import LynxLoadAdapter, LynxLoadFaceAnalyzer, LynxLoadMini
from .nodes_person import LynxPerson
from .nodes_refine import LynxPasteFace, LynxTrackFace
from .nodes_sweep import LynxSweep, LynxSweepGrid


class LynxExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Here and not in `on_load`, which older hosts never call.
        register_folders()
        return [
            LynxPerson,
            LynxLoadAdapter,
            LynxLoadFaceAnalyzer,
            LynxLoadMini,
            LynxCropFace,
            LynxEncodeID,
            LynxEncodeReference,
            LynxSaveIdentity,
            LynxLoadIdentity,
            LynxCombineIdentities,
            LynxApply,
            LynxFade,
            LynxGuider,
            LynxSampler,
            LynxFaceSimilarity,
            LynxLikenessGate,
            LynxTrackFace,
            LynxPasteFace,
            LynxSweep,
            LynxSweepGrid,
        ]
