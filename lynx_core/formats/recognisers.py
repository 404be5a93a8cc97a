"""Names of the face recognisers that resamplers were trained on.

Embeddings of different networks are not interchangeable: the wrong one gives a wrong person.
No published file carries the name, so it follows from the layout (InstantID's resampler sits
under `image_proj.`); only this pack's own single file stores it.
"""

from __future__ import annotations

RELEASE_RECOGNISER = "facexlib/arcface_ir_se50"
"""What the Lynx release uses: facexlib's ArcFace IR-SE50."""

INSTANTID_RECOGNISER = "insightface/antelopev2/glintr100"
"""What InstantID's image resampler was trained on."""

EMBEDDING_DIM = 512
"""Width of both embeddings."""
