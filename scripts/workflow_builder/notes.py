"""The texts of the notes in the shipped workflows."""

from __future__ import annotations

from .graph import Json
from .node_types import T2V

LYNX_HOME = "https://huggingface.co/ByteDance/lynx"
ARCFACE_HOME = "https://github.com/xinntao/facexlib/releases/tag/v0.1.0"
INSIGHTFACE_HOME = "https://github.com/deepinsight/insightface/tree/master/model_zoo"


def list_files(*files: Json, adapter: str) -> str:
    """Which file goes into which folder under `models`, and where each comes from."""
    wan, what = ("wan ", "all of them") if T2V in files else ("", "the Lynx and face files")
    lines = ["Folders are inside ComfyUI's `models`.", ""]
    for file in files:
        page = file["url"].replace("/resolve/", "/blob/")
        lines += [f"`{file['directory']}`", f"- [{file['name']}]({page})", ""]
    lines += [
        f"`lynx/{adapter}`",
        f"- [{adapter}, the whole folder]({LYNX_HOME}/tree/main)",
        "",
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


PHOTO = """**Choose your photo first**: the drawing that ComfyUI ships is not a person.

Good: one sharp face, at least 200 px wide, looking at the camera, even light.

**Look at the two previews.** Upright, whole face, the right person? If not:
- *wrong person*: set `order` and `face_number`; the big preview shows the numbers
- *no face found*: more room around the head
- *small or blurred*: a larger photo

**More likeness**: several photos of one person, as an image batch, or one Lynx Crop Face each into `face_2` to `face_4` of Lynx Encode ID.

The black corners are right: the adapter was trained with them."""

IDENTITY = """**id** says who it is, **ref** what the person looks like.

- *Stiff, always facing the camera, prompt ignored*: preset **reference overpowers**; then `ref_strength` 0.4, or `ref_end` 0.6
- *Little motion*: preset **more motion**
- *Not like the person*: look at the crops, then preset **more likeness**, then `identity_cfg` 3

Change a value and the preset becomes `custom`. A strength of 0 leaves a part out."""

GUIDANCE = """`cfg` follows the prompt, `identity_cfg` the person.

5 and 2 are as published. Each step predicts three times: without, with the person, with the prompt.

- `identity_cfg` 1 saves one prediction
- `identity_cfg` = `cfg` saves one, too

Length is 4 n + 1 frames: 81 is 5 s at 16 fps. Out of memory? Shorter first, then smaller."""

LITE = """The lite adapter knows only **who** it is (ID, every 2nd block). No reference, no third prediction: any sampler takes it.

Made for 121 frames at 24 fps.

Not like the person? Look at the crops, then raise `id_strength` to 1.3, or use **lynx_full**: it holds more of the face.

Full reference layers go with it: choose them as `ref_layers` in Lynx Load Adapter, and add Lynx Encode Reference."""

LORA = """The reference is what **this** model sees, so LoRAs come before Lynx Encode Reference. Change a LoRA and it is encoded again by itself.

*Over-cooked or stiff faces*: `ref_strength` 0.5. *Weak likeness*: `id_strength` 1.2."""

FAST_GUIDANCE = """The LoRA has guidance built in: `cfg` 1 and `identity_cfg` 1, one prediction a step. The negative prompt has no effect.

`identity_cfg` 1.5 brings more likeness at three predictions a step.

4 to 8 steps. Any core sampler works here: that is what Lynx Guider is for."""

TWO_EXPERTS = """**Experimental.** Lynx was trained on Wan 2.1. The adapters fit both experts of Wan 2.2, but there are no published figures for it.

Each expert has its own reference and its own Lynx Apply: features of one mean nothing to the other, and mixing them is refused.

- *Composition frozen*: weaken `ref` of **high noise**
- *Face drifts*: strengthen `id` of **low noise**

The experts change places at step 10 of 20; `cfg` and shift as in ComfyUI's own Wan 2.2 graph."""

VACE = """VACE brings a scene, an object or an outfit; Lynx brings the person. Choose a picture on a plain background, **without** the person's face, or bypass this node.

`trim_latent` goes to Lynx Apply as well: those frames are VACE's own and must stay out of the reference."""

TROUBLE = """- **Someone else's face**: look at the two crops in group 2. Wrong face, tiny face, wrong recogniser.
- **Headshot, stiff, prompt lost**: preset *reference overpowers* in Lynx Apply.
- **Lynx does nothing**: is the model of *Lynx Apply* the one that is sampled? `identity_cfg` above 1?
- **Noisy or blurry output**: shift, steps and cfg as shipped? A distilled LoRA needs cfg 1.
- **Out of memory**: fewer frames, smaller size, a GGUF or fp8 model. Lynx itself holds at most 0.48 GB.
- **An error message**: it says what was seen and what to do; more in the README of this pack."""

MINI_WORLD = """**Nothing to download.** Lynx Load Mini opens a small Wan, VAE, text encoder, face models and Lynx adapter that come with this pack. Everything after it is as with the real ones: for real people, open **lynx_full**.

Mini Lynx has seen **drawn people only**, 64 x 64 px, 9 frames at 8 fps. It makes no photographs: a real person comes out as a drawing.

It knows few words. A prompt is made of

- *a person* or *someone*
- *smiles*, *nods*, *turns to the left*, *turns to the right*, *leans in*, *stays still*
- *on a beach*, *in a forest*, *in a desert*, *in a city at night*, *in a room*, *in the snow*, *in a meadow*, *on a stage*
- *in warm light*, *in cold light*, or nothing

The person is never in the prompt: that comes from the picture."""

MINI_TRY = """- **Another person**: connect Load Image to `image` of Lynx Crop Face; the prompt stays
- **Another scene**: change the prompt; the person stays
- **What does which part?** `id_strength` 0 or `ref_strength` 0 in Lynx Apply. The ID part cannot see the coloured mark on the face, the reference can
- **Nobody**: both strengths 0; the base draws whom it likes

`identity_cfg` = `cfg` needs two predictions a step in place of three."""
