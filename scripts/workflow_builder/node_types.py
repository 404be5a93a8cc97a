"""The node types that the shipped workflows use, and the published files that their loaders name."""

from __future__ import annotations

from .boxes import Json
from .graph import NodeType

PHOTO_HEIGHT, VIDEO_HEIGHT = 226, 240
GUIDANCE = "model:MODEL positive:CONDITIONING negative:CONDITIONING middle:CONDITIONING"
PART_WIDGETS = "{0}_strength:FLOAT {0}_start:FLOAT {0}_end:FLOAT {0}_blocks:STRING"

NODE_TYPES: dict[str, NodeType] = {
    "UNETLoader": NodeType(widgets="unet_name:COMBO weight_dtype:COMBO", outputs="MODEL:MODEL", width=420),
    "CLIPLoader": NodeType(
        widgets="clip_name:COMBO type:COMBO device:COMBO?", outputs="CLIP:CLIP", width=420
    ),
    "VAELoader": NodeType(widgets="vae_name:COMBO", outputs="VAE:VAE", width=420),
    "LoraLoaderModelOnly": NodeType(
        "model:MODEL", "lora_name:COMBO strength_model:FLOAT", "MODEL:MODEL", width=420
    ),
    "ModelSamplingSD3": NodeType("model:MODEL", "shift:FLOAT", "MODEL:MODEL"),
    "LoadImage": NodeType(
        widgets="image:COMBO", outputs="IMAGE:IMAGE MASK:MASK", picture_height=PHOTO_HEIGHT
    ),
    "LoadVideo": NodeType(widgets="file:COMBO", outputs="VIDEO:VIDEO", picture_height=VIDEO_HEIGHT),
    "GetVideoComponents": NodeType("video:VIDEO", outputs="images:IMAGE audio:AUDIO fps:FLOAT"),
    "PreviewImage": NodeType("images:IMAGE", width=260, picture_height=220),
    "CLIPTextEncode": NodeType(
        "clip:CLIP", "text:STRING", "CONDITIONING:CONDITIONING", width=400, text_heights=(("text", 120),)
    ),
    "WanContextWindowsManual": NodeType(
        "model:MODEL",
        "context_length:INT context_overlap:INT context_schedule:COMBO context_stride:INT closed_loop:BOOLEAN "
        "fuse_method:COMBO freenoise:BOOLEAN",
        "MODEL:MODEL",
    ),
    "SolidMask": NodeType(widgets="value:FLOAT width:INT height:INT", outputs="MASK:MASK", width=240),
    "MaskComposite": NodeType(
        "destination:MASK source:MASK", "x:INT y:INT operation:COMBO", "MASK:MASK", width=240
    ),
    "FeatherMask": NodeType("mask:MASK", "left:INT top:INT right:INT bottom:INT", "MASK:MASK", width=240),
    "VAEEncode": NodeType("pixels:IMAGE vae:VAE", outputs="LATENT:LATENT", width=220),
    "EmptyHunyuanLatentVideo": NodeType(
        widgets="width:INT height:INT length:INT batch_size:INT", outputs="LATENT:LATENT"
    ),
    "WanVaceToVideo": NodeType(
        "positive:CONDITIONING negative:CONDITIONING vae:VAE control_video:IMAGE? control_masks:MASK? "
        "reference_image:IMAGE?",
        "width:INT height:INT length:INT batch_size:INT strength:FLOAT",
        "positive:CONDITIONING negative:CONDITIONING latent:LATENT trim_latent:INT",
    ),
    "WanImageToVideo": NodeType(
        "positive:CONDITIONING negative:CONDITIONING vae:VAE clip_vision_output:CLIP_VISION_OUTPUT? start_image:IMAGE?",
        "width:INT height:INT length:INT batch_size:INT",
        "positive:CONDITIONING negative:CONDITIONING latent:LATENT",
    ),
    "KSampler": NodeType(
        "model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT",
        "seed:INT steps:INT cfg:FLOAT sampler_name:COMBO scheduler:COMBO denoise:FLOAT",
        "LATENT:LATENT",
    ),
    "RandomNoise": NodeType(widgets="noise_seed:INT", outputs="NOISE:NOISE"),
    "DisableNoise": NodeType(outputs="NOISE:NOISE"),
    "KSamplerSelect": NodeType(widgets="sampler_name:COMBO", outputs="SAMPLER:SAMPLER"),
    "BasicScheduler": NodeType("model:MODEL", "scheduler:COMBO steps:INT denoise:FLOAT", "SIGMAS:SIGMAS"),
    "SplitSigmas": NodeType("sigmas:SIGMAS", "step:INT", "high_sigmas:SIGMAS low_sigmas:SIGMAS"),
    "SamplerCustomAdvanced": NodeType(
        "noise:NOISE guider:GUIDER sampler:SAMPLER sigmas:SIGMAS latent_image:LATENT",
        outputs="output:LATENT denoised_output:LATENT",
        picture_height=120,
    ),
    "TrimVideoLatent": NodeType("samples:LATENT", "trim_amount:INT", "LATENT:LATENT", width=250),
    "VAEDecode": NodeType("samples:LATENT vae:VAE", outputs="IMAGE:IMAGE", width=220),
    "CreateVideo": NodeType(
        "images:IMAGE audio:AUDIO?", "fps:FLOAT", "VIDEO:VIDEO", width=250, newer_widgets=1
    ),
    "SaveVideo": NodeType(
        "video:VIDEO", "filename_prefix:STRING format:COMBO codec:COMBO", width=420, picture_height=300
    ),
    "LynxLoadAdapter": NodeType(
        widgets="adapter:COMBO resampler:COMBO id_layers:COMBO ref_layers:COMBO",
        outputs="adapter:LYNX_ADAPTER",
        width=420,
        picture_height=130,
    ),
    "LynxLoadFaceAnalyzer": NodeType(
        "face_detection_model:FACE_DETECTION_MODEL?",
        widgets="detector_pack:COMBO encoder:COMBO provider:COMBO",
        outputs="face_analyzer:LYNX_FACE_ANALYZER",
        width=340,
        picture_height=24,
    ),
    "LynxLoadMini": NodeType(
        outputs="MODEL:MODEL CLIP:CLIP VAE:VAE adapter:LYNX_ADAPTER face_analyzer:LYNX_FACE_ANALYZER example:IMAGE",
    ),
    "LynxCropFace": NodeType(
        "image:IMAGE face_analyzer:LYNX_FACE_ANALYZER?",
        "order:COMBO face_number:INT already_aligned:BOOLEAN",
        "face:LYNX_FACE id_crop:IMAGE reference_crop:IMAGE annotated:IMAGE",
        width=380,
        picture_height=340,
    ),
    "LynxEncodeID": NodeType(
        "face_analyzer:LYNX_FACE_ANALYZER face:LYNX_FACE face_2:LYNX_FACE? face_3:LYNX_FACE? face_4:LYNX_FACE?",
        outputs="id:LYNX_ID",
        width=260,
        picture_height=24,
    ),
    "LynxEncodeReference": NodeType(
        "adapter:LYNX_ADAPTER face:LYNX_FACE model:MODEL clip:CLIP vae:VAE",
        "photo_number:INT",
        "reference:LYNX_REFERENCE",
        width=340,
        picture_height=60,
    ),
    "LynxApply": NodeType(
        "model:MODEL positive:CONDITIONING negative:CONDITIONING adapter:LYNX_ADAPTER? id:LYNX_ID? "
        "reference:LYNX_REFERENCE? mask:MASK?",
        f"preset:COMBO {PART_WIDGETS.format('id')} {PART_WIDGETS.format('ref')} vace_reference_frames:INT? "
        "id_curve:STRING? ref_curve:STRING?",
        "MODEL:MODEL positive:CONDITIONING negative:CONDITIONING middle:CONDITIONING",
        width=340,
        picture_height=60,
    ),
    "LynxFade": NodeType(
        "latent:LATENT",
        "start:FLOAT end:FLOAT vace_reference_frames:INT?",
        "first:MASK second:MASK",
        width=260,
        picture_height=24,
    ),
    "LynxPerson": NodeType(
        "image:IMAGE model:MODEL clip:CLIP vae:VAE positive:CONDITIONING negative:CONDITIONING "
        "loaded_adapter:LYNX_ADAPTER? face_analyzer:LYNX_FACE_ANALYZER? reference_model:MODEL?",
        "adapter:COMBO preset:COMBO id_strength:FLOAT ref_strength:FLOAT",
        "MODEL:MODEL positive:CONDITIONING negative:CONDITIONING middle:CONDITIONING",
        width=330,
        picture_height=260,
    ),
    "LynxFaceSimilarity": NodeType(
        "images:IMAGE face_analyzer:LYNX_FACE_ANALYZER reference:IMAGE? id:LYNX_ID?",
        "window:INT?",
        outputs="mean_detected:FLOAT detection_rate:FLOAT mean_all:FLOAT plot:IMAGE contact_sheet:IMAGE",
        picture_height=80,
    ),
    "LynxTrackFace": NodeType(
        "images:IMAGE face_analyzer:LYNX_FACE_ANALYZER reference:IMAGE",
        "size:INT room:FLOAT smoothing:INT",
        "faces:IMAGE track:LYNX_FACE_TRACK",
        picture_height=260,
    ),
    "LynxPasteFace": NodeType(
        "images:IMAGE faces:IMAGE track:LYNX_FACE_TRACK", "feather:FLOAT", "IMAGE:IMAGE", width=260
    ),
    "LynxSweep": NodeType(
        widgets="id_strengths:STRING ref_strengths:STRING",
        outputs="id_strength:FLOAT ref_strength:FLOAT label:STRING columns:INT",
        picture_height=30,
    ),
    "LynxSweepGrid": NodeType("images:IMAGE label:STRING", "columns:INT", "IMAGE:IMAGE", width=260),
    "LynxGuider": NodeType(GUIDANCE, "cfg:FLOAT identity_cfg:FLOAT", "GUIDER:GUIDER", newer_widgets=5),
    "LynxSampler": NodeType(
        f"{GUIDANCE} latent_image:LATENT",
        "cfg:FLOAT identity_cfg:FLOAT seed:INT steps:INT sampler_name:COMBO scheduler:COMBO denoise:FLOAT",
        "LATENT:LATENT",
        picture_height=24,
        newer_widgets=5,
    ),
}

WAN21 = "https://huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN22 = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
KIJAI = "https://huggingface.co/Kijai/WanVideo_comfy/resolve/main"


def publish(root: str, directory: str, name: str, in_split_files: bool = True) -> Json:
    """One published file, as the editor's list of missing models takes it."""
    url = f"{root}/{directory}/{name}" if in_split_files else f"{root}/{name}"
    return {"name": name, "url": url, "directory": directory}


T2V = publish(WAN21, "diffusion_models", "wan2.1_t2v_14B_fp8_e4m3fn.safetensors")
VACE = publish(WAN21, "diffusion_models", "wan2.1_vace_14B_fp16.safetensors")
HIGH_NOISE = publish(WAN22, "diffusion_models", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors")
LOW_NOISE = publish(WAN22, "diffusion_models", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors")
I2V_HIGH_NOISE = publish(WAN22, "diffusion_models", "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors")
I2V_LOW_NOISE = publish(WAN22, "diffusion_models", "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors")
TEXT_ENCODER = publish(WAN21, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
VAE = publish(WAN21, "vae", "wan_2.1_vae.safetensors")
DISTILLED_LORA = publish(
    KIJAI, "loras", "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", in_split_files=False
)
LYNX = "https://huggingface.co/ByteDance/lynx/resolve/main"
ADAPTERS = {
    adapter: {
        part: {"name": f"{adapter}/{file}", "url": f"{LYNX}/{adapter}/{file}", "directory": "lynx"}
        for part, file in parts.items()
    }
    for adapter, parts in {
        "lynx_full": {
            "resampler": "resampler.safetensors",
            "id_layers": "ip_layers.safetensors",
            "ref_layers": "ref_layers.safetensors",
        },
        "lynx_lite": {"resampler": "resampler.safetensors", "id_layers": "ip_layers.safetensors"},
    }.items()
}
"""Adapter to the file of each part of LynxLoadAdapter. The editor finds a missing file by the value of a widget, and
knows no folders: so the files are named, not their folder."""
ENCODER = {
    "name": "recognition_arcface_ir_se50.pth",
    "url": "https://huggingface.co/camenduru/PuLID/resolve/main/facexlib/recognition_arcface_ir_se50.pth",
    "directory": "lynx_faces",
}
