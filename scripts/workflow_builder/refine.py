"""The workflow that makes a small face in a finished video anew, with the identity."""

from __future__ import annotations

from . import notes
from .boxes import Json, column, row
from .graph import Graph, Subgraph
from .node_types import NODE_TYPES, T2V
from .parts import (
    Models,
    arrange,
    load_photo,
    load_prompt_and_models,
    put_person,
    sample,
    save_video,
    write_notes,
)

VIDEO = "lynx_distant.mp4"
PROMPT = "A close-up of a person who looks at the camera, sharp eyes, natural skin, soft light."
TRACK_LANE = 150
"""Room for the links of the VAE, the frames, the track and the frame rate."""


def build_face_refine() -> Json:
    g = Graph(NODE_TYPES)
    loaded = load_prompt_and_models(g, Models("lynx_full", [T2V]), heights=(75, 45), prompt=PROMPT)
    photo = load_photo(g)
    video = g.add("LoadVideo", title="Video with a small face", file=VIDEO)
    tracked = g.add_subgraph(
        make_tracking(),
        video=video["VIDEO"],
        photo=photo["IMAGE"],
        vae=loaded["VAE"],
        face_analyzer=loaded["face_analyzer"],
    )
    person = put_person(g, loaded, photo["IMAGE"], "lynx_full", "as published")
    sampled = sample(g, person, tracked["latent"], steps=30, denoise=0.4)
    pasted = g.add_subgraph(
        make_pasting(),
        vae=loaded["VAE"],
        **{name: tracked[name] for name in ("frames", "track", "fps")},
        samples=sampled["LATENT"],
    )
    shown = [pasted, save_video(g, pasted["VIDEO"], "lynx_face_refine")]
    help = write_notes(
        g, ("A small face", notes.REFINE), ("Strengths", notes.PERSON), ("When it goes wrong", notes.TROUBLE)
    )
    layout = arrange([loaded, photo, video], [tracked, person], [sampled], shown, help, TRACK_LANE)
    return g.to_json("lynx_face_refine", layout)


def make_tracking() -> Subgraph:
    inside = Graph(NODE_TYPES)
    video, photo = inside.take("video", "VIDEO"), inside.take("photo", "IMAGE")
    vae, analyzer = inside.take("vae", "VAE"), inside.take("face_analyzer", "LYNX_FACE_ANALYZER")
    parts = inside.add("GetVideoComponents", video=video)
    tracked = inside.add(
        "LynxTrackFace", images=parts["images"], face_analyzer=analyzer, reference=photo,
        size=480, room=2.0, smoothing=4,
    )  # fmt: skip
    encoded = inside.add("VAEEncode", pixels=tracked["faces"], vae=vae)
    inside.give("frames", parts["images"])
    inside.give("track", tracked["track"])
    inside.give("fps", parts["fps"])
    inside.give("latent", encoded["LATENT"])
    inside.promote(tracked, "size", "face_size")
    inside.promote(tracked, "room")
    return Subgraph(
        "Follow the face", inside, row(parts, tracked, encoded), preview=tracked.id, picture_height=150,
        description="Follows the face and cuts a square round it.",
    )  # fmt: skip


def make_pasting() -> Subgraph:
    inside = Graph(NODE_TYPES)
    vae = inside.take("vae", "VAE")
    frames, track = inside.take("frames", "IMAGE"), inside.take("track", "LYNX_FACE_TRACK")
    fps = inside.take("fps", "FLOAT")
    samples = inside.take("samples", "LATENT")
    decoded = inside.add("VAEDecode", samples=samples, vae=vae)
    pasted = inside.add("LynxPasteFace", images=frames, faces=decoded["IMAGE"], track=track, feather=0.2)
    created = inside.add("CreateVideo", images=pasted["IMAGE"], fps=fps)
    inside.give("VIDEO", created["VIDEO"])
    inside.promote(pasted, "feather")
    layout = row(decoded, column(pasted), created)
    return Subgraph(
        "Put the face back",
        inside,
        layout,
        width=230,
        description="Decodes the new faces and puts them back.",
    )
