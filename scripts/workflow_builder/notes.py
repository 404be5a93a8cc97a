"""The texts of the notes in the shipped workflows."""

from __future__ import annotations

from .boxes import Json
from .node_types import T2V

LYNX_HOME = "https://huggingface.co/ByteDance/lynx"
ARCFACE_HOME = "https://github.com/xinntao/facexlib/releases/tag/v0.1.0"
INSIGHTFACE_HOME = "https://github.com/deepinsight/insightface/tree/master/model_zoo"


def list_files(*files: Json, adapter: str) -> str:
    """Which file goes into which folder under `models`, and where each comes from.

    Args:
        adapter: names of the adapters, with spaces between.
    """
    wan, what = ("wan ", "all of them") if T2V in files else ("", "the Lynx and face files")
    lines = ["Folders are inside ComfyUI's `models`.", ""]
    for file in files:
        page = file["url"].replace("/resolve/", "/blob/")
        lines += [f"`{file['directory']}`", f"- [{file['name']}]({page})", ""]
    for name in adapter.split():
        lines += [f"`lynx/{name}`", f"- [{name}, the whole folder]({LYNX_HOME}/tree/main)", ""]
    lines += [
        "`lynx/faces`",
        f"- [recognition_arcface_ir_se50.pth]({ARCFACE_HOME})",
        "",
        "`insightface/models/buffalo_l`",
        f"- [buffalo_l, unpacked]({INSIGHTFACE_HOME})",
        "",
        f"In this pack's folder, with ComfyUI's Python, this puts {what} there:",
        "",
        f"`python -m lynx_core.cli.main download {wan}{adapter} faces`",
        "",
        "Nothing downloads by itself.",
    ]
    return "\n".join(lines)


START = """1. **Your photo** into *Photo of the person*: one sharp face, at least 200 px wide, looking at the camera.
2. **Prompt**: what happens, where, how the camera sees it. The looks come from the photo.
3. **Run**. Look first at the face that was found (step 2), then at the video.

**Which file goes where?** Open *Prompt and models* with the button in its corner: the note beside the loaders says it."""

START_OF_TWO = START.replace(
    "1. **Your photo** into *Photo of the person*: one sharp face,",
    "1. **Two photos**, one into each *Photo of the ... person*: one sharp face,",
)

PHOTO = """Good: one sharp face, at least 200 px wide, looking at the camera, even light.

**Look at the two previews.** Upright, whole face, the right person? If not:
- *wrong person*: set `order` and `face_number`; the big preview shows the numbers
- *no face found*: more room around the head
- *small or blurred*: a larger photo

**More likeness**: several photos of one person, as an image batch, or one Lynx Crop Face each into `face_2` to `face_4` of Lynx Encode ID.

The black corners are right: the adapter was trained with them."""

PERSON = """**id** says who it is, **ref** what the person looks like.

- *Stiff, always facing the camera, prompt ignored*: preset **softer reference**, or `ref_strength` 0.4
- *Little motion*: preset **more motion**
- *Not like the person*: another photo, then preset **more likeness**, then `identity_cfg` 3

A strength of 0 leaves a part out."""

IDENTITY = """**id** says who it is, **ref** what the person looks like. The button in the corner of *Lynx identity* opens it: crops, windows, curves, blocks.

- *Stiff, always facing the camera, prompt ignored*: `ref_strength` 0.6, then 0.4
- *Not like the person*: look at the crops, then `id_strength` 1.2, then `identity_cfg` 3

A strength of 0 leaves a part out."""

GUIDANCE = """`cfg` follows the prompt, `identity_cfg` the person. 5 and 2 are as published.

Each step predicts three times: nobody, the person, the person in the prompt. `identity_cfg` 1, or the same as `cfg`, saves one.

Length is 4 n + 1 frames: 81 is 5 s at 16 fps. **Out of memory?** Shorter first, then smaller."""

LITE = """The lite adapter knows only **who** it is (ID, every 2nd block): `ref_strength` does nothing here, and a step takes two predictions.

Made for 121 frames at 24 fps.

*Not like the person?* `id_strength` 1.3, or **Photo-to-video**: it holds more of the face. **Photo-to-video-fast** mixes lite ID with the full reference."""

FAST = """The LoRA has guidance built in: `cfg` 1 and `identity_cfg` 1, one prediction a step. The negative prompt has no effect.

The mix that people use: ID layers of lite, reference layers of full, 4 to 8 steps.

- *Over-cooked or stiff faces*: `ref_strength` 0.7
- *Weak likeness*: `id_strength` 1.3; or `identity_cfg` 1.5 at three predictions a step

`reference_model` is the model **before** this LoRA, which never learned the reference pass. Put LoRAs of style or character before both, in *Prompt and models*."""

TWO_EXPERTS = """**Experimental.** Lynx was trained on Wan 2.1. The adapters fit both experts of Wan 2.2, but there are no published figures for it.

Each expert has its own *Lynx identity*: features of one mean nothing to the other, and mixing them is refused.

- *Composition frozen*: weaken `ref_strength` of **high noise**
- *Face drifts*: strengthen `id_strength` of **low noise**

The experts change places at step 10 of 20; shift as in ComfyUI's own Wan 2.2 graph."""

I2V = """**Experimental.** The start image gives the first frame, Lynx keeps the face through the rest: where the person turns away and comes back, Wan alone forgets it.

Here one picture is both. A sharper photo of the same person goes to `photo` of both *Lynx identity* nodes. Wan 2.2 only: Wan 2.1's I2V takes the image in by its own cross-attention, and the Lynx adapters were not trained for it.

- *The first frame freezes*: `ref_strength` 0.4 of both experts"""

VACE = """VACE brings a scene, an object or an outfit; Lynx brings the person. **The portrait is here only so that the graph opens: load a picture of your own.**

- *Object or outfit*: on a plain background, nobody in it
- *Scene*: an empty place
- A face in it is drawn, too, and works against the person

*VACE and Lynx identity* also holds the size and length. Inside, `trim_latent` goes to Lynx Apply: those frames are VACE's own and must stay out of the reference."""

TROUBLE = """- **Someone else's face**: look at the face that was found. Wrong face, tiny face, wrong recogniser.
- **Lynx does nothing**: is the model of the person the one that is sampled? `identity_cfg` above 1?
- **Noisy or blurry output**: shift, steps and cfg as shipped? A distilled LoRA needs cfg 1.
- **Out of memory**: fewer frames, smaller size, a GGUF or fp8 model. Lynx itself holds at most 0.48 GB.
- **An error message**: it says what was seen and what to do; more in this pack's docs."""

MINI_WORLD = """**Nothing to download.** Lynx Load Mini opens a small Wan, VAE, text encoder, face models and Lynx adapter that come with this pack. For real people, open **Photo-to-video**.

It has seen **drawn people only**, 64 x 64 px, 9 frames at 8 fps. It makes no photographs: a real person comes out as a drawing."""

MINI_WORDS = """It knows few words. A prompt is made of

- *a person* or *someone*
- *smiles*, *nods*, *turns to the left*, *turns to the right*, *leans in*, *stays still*
- *on a beach*, *in a forest*, *in a desert*, *in a city at night*, *in a room*, *in the snow*, *in a meadow*, *on a stage*
- *in warm light*, *in cold light*, or nothing"""

MINI_TRY = """Press **Run**. Then

- **Another scene**: change the prompt; the person stays
- **Another person**: connect Load Image to `photo` of *Lynx identity*; the prompt stays
- **What does which part?** `id_strength` 0 or `ref_strength` 0. The ID cannot see the coloured mark on the face, the reference can
- **Nobody**: both strengths 0; the base draws whom it likes

The button in the corner of *Lynx identity* opens it."""

MOTION = """The control video says how everything moves: a pose, a depth or an edge video, or grey with a few drawn frames. Lynx brings the person.

- *Not yet a control video?* ComfyUI's blueprints *Image to Pose Map* and *Image Depth Estimation* make one of any video
- *The person looks like the control video's*: pose rather than depth; `ref_strength` 1.2
- *Stiff*: `strength` of WanVaceToVideo 0.8, inside *VACE and Lynx identity*

Length and size are those of the control video."""

TWO_PEOPLE = """Each person acts in the own half of the picture, with a soft edge between. The prompt says who is where and what each does.

- *Other places?* Inside *Two people* are the two masks: paint others in a mask editor, one image, or one for each frame
- *Faces alike?* Keep the halves apart: more `left` and `right` in the feathering, two people of unlike build in the prompt
- **Without masks two people blend into one.** That is what chained Lynx Apply nodes do

A third person: another Lynx Apply in the row, with its mask."""

BECOMING = """The video turns from the first person towards the second. `fade_start` and `fade_end` of *One becomes another* say from where to where the one becomes the other, as shares of the video.

- *The second stays too much like the first*: the model holds on to a face, most of all in a short video. Worth a try: an earlier fade (0.1 to 0.5), or `second_id_strength` and `second_ref_strength` 1.3
- *Jumps*: a longer fade
- *Older, younger*: two photos of one person, years apart
- *Only in a part of the picture?* Masks of your own for each frame, in place of Lynx Fade inside
- No hair, glasses or age in the prompt: they would hold for both"""

LONG = """Windows of 81 frames, 30 shared with the next one; the identity acts in every one of them, so the face does not wander from window to window. 241 frames are 15 s at 16 fps, three times the time of 81.

**Drift**: *Video and likeness* shows the likeness of each frame; the note on Lynx Face Similarity inside tells the mean of each window.

- *Jumps between windows*: more overlap
- *Out of memory*: only one window is in memory at a time; a shorter window helps"""

REFINE = """A small face is a handful of latent pixels: cut out, made anew at 480 px, and put back.

1. **A video with a small face** and **a photo of the person**
2. The prompt says what the *face* does
3. **Run**. *Follow the face* shows the square

- *Expression lost?* `denoise` of Lynx Sampler 0.3
- *Still not the person?* `denoise` 0.5, then `id_strength` 1.2
- *An edge to be seen?* `feather` 0.3, or more `room`
- *Length*: 4 n + 1 frames; up to three at the end keep their face"""

SWEEP = """Nine videos with one seed: strengths of the ID from left to right, of the reference from top to bottom. The corner at 0, 0 is the base model alone.

- *Other strengths*: numbers of 0 to 2 with commas between; nine videos take nine times as long
- *Other seed*: one seed proves little, look at two or three
- *Columns*: as many as there are ID strengths"""
