"""Stand-ins for the face models, in the published layouts, made on the spot; and a real photo.

The detector is an ONNX file in SCRFD's layout (nine outputs, strides 8, 16 and 32, two anchors a
cell) whose outputs are constants: insightface's own post-processing decodes them to faces at known
places. The recognisers have random weights: they tell crops apart, not people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lynx_core.faces.arcface import ArcFaceConfig, ArcFaceIRSE50
from lynx_core.faces.detection import Face

DETECTOR_PX = 640
STRIDES = (8, 16, 32)
ANCHORS = 2

# Measured by eye at five-fold size in insightface's photo t1, from left to right; within about 3 px.
SIX_LANDMARKS = np.array(
    [
        [[86, 329], [129, 308.5], [120, 339], [113.5, 371.5], [149, 351]],
        [[291, 210], [320.5, 195], [306, 224], [311, 245], [341, 233]],
        [[491, 319], [537, 332], [512, 361], [482, 366], [537, 378]],
        [[760, 397], [806, 402], [777, 424], [767, 437], [811, 441]],
        [[917, 117], [943, 115], [921, 149], [931, 166], [961, 168]],
        [[1151, 325.5], [1195, 324], [1166, 348], [1153, 366], [1198, 364]],
    ],
    dtype=np.float32,
)


def photo_with_six_faces() -> tuple[np.ndarray, np.ndarray]:
    """insightface's photo t1 [886, 1280, 3] uint8 RGB, and the landmarks of its faces [6, 5, 2]."""
    from insightface.data import get_image

    return np.ascontiguousarray(get_image("t1", to_rgb=True)), SIX_LANDMARKS.copy()


def face_from_landmarks(landmarks: np.ndarray, score: float = 0.9) -> Face:
    """A face with a box such as a detector draws round these landmarks: brow to chin, ear to ear."""
    middle = landmarks.mean(0)
    eyes_to_mouth = np.linalg.norm(landmarks[3:].mean(0) - landmarks[:2].mean(0))
    half = np.array([1.1, 1.5], dtype=np.float32) * eyes_to_mouth
    return Face(np.concatenate([middle - half, middle + half]).astype(np.float32), landmarks, score)


def six_faces() -> list[Face]:
    """The six people of the photo from left to right, scores falling from 0.90 to 0.80."""
    return [face_from_landmarks(points, 0.9 - 0.02 * number) for number, points in enumerate(SIX_LANDMARKS)]


def write_detector_pack(
    root: Path, pack: str, faces: list[Face], photo_size: tuple[int, int], *, only_with_margin: bool = False
) -> Path:
    """Write `root/models/<pack>/det_10g.onnx`, whose detections are `faces` whatever the photo shows.

    Args:
        photo_size: (height, width) of the photo in whose pixels the faces are given.
        only_with_margin: find them only where the picture's first pixel is black.

    Returns:
        The pack's folder.
    """
    height, width = photo_size
    # insightface fits the photo into the square's upper left corner and truncates.
    fitted_height = DETECTOR_PX if height > width else int(DETECTOR_PX * height / width)
    scores, boxes, landmarks = encode_faces(faces, fitted_height / height)
    tensors = [*scores, *boxes, *landmarks]
    outputs = [
        helper.make_tensor_value_info(f"out{n}", TensorProto.FLOAT, tensor.shape)
        for n, tensor in enumerate(tensors)
    ]
    constants = [numpy_helper.from_array(tensor, f"fixed{n}") for n, tensor in enumerate(tensors)]
    corner = {"zeros": [0, 0, 0, 0], "ones": [1, 1, 1, 1]}
    constants += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in corner.items()]
    # Black is (0 - 127.5) / 128 = -0.996 to the network; nothing is below 10.
    bound = np.array(-0.99 if only_with_margin else 10.0, np.float32)
    constants.append(numpy_helper.from_array(bound.reshape(1, 1, 1, 1), "bound"))
    constants.append(numpy_helper.from_array(np.array([1, 1], np.int64), "flat"))
    nodes = [
        helper.make_node("Slice", ["input.1", "zeros", "ones"], ["corner"]),
        helper.make_node("Less", ["corner", "bound"], ["seen"]),
        helper.make_node("Cast", ["seen"], ["seen_float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["seen_float", "flat"], ["gate"]),
    ]
    nodes += [helper.make_node("Mul", [f"fixed{n}", "gate"], [f"out{n}"]) for n in range(len(tensors))]
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, DETECTOR_PX, DETECTOR_PX])
    folder = Path(root) / "models" / pack
    save_graph(folder / "det_10g.onnx", helper.make_graph(nodes, "scrfd", [picture], outputs, constants))
    return folder


def encode_faces(
    faces: list[Face], scale: float
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Faces as SCRFD's scores, box distances and landmark offsets for each stride, in units of the stride."""
    cells = [(DETECTOR_PX // stride) ** 2 * ANCHORS for stride in STRIDES]
    scores = [np.zeros((count, 1), np.float32) for count in cells]
    boxes = [np.zeros((count, 4), np.float32) for count in cells]
    landmarks = [np.zeros((count, 10), np.float32) for count in cells]
    for number, face in enumerate(faces):
        level = number % len(STRIDES)
        stride = STRIDES[level]
        grid = DETECTOR_PX // stride
        column, row = np.clip(np.rint(face.centre * scale / stride).astype(int), 0, grid - 1)
        anchor = (row * grid + column) * ANCHORS
        while scores[level][anchor] > 0:
            anchor += 1
        centre = np.array([column, row]) * stride
        scores[level][anchor] = face.score
        boxes[level][anchor, :2] = (centre - face.bbox[:2] * scale) / stride
        boxes[level][anchor, 2:] = (face.bbox[2:] * scale - centre) / stride
        landmarks[level][anchor] = ((face.landmarks * scale - centre) / stride).reshape(-1)
    return scores, boxes, landmarks


def write_yunet(path: Path, faces: list[Face], photo_size: tuple[int, int]) -> Path:
    """Write a file in YuNet's layout (twelve outputs, one anchor a cell) whose detections are always `faces`.

    Args:
        photo_size: (height, width) of the photo in whose pixels the faces are given; it is fitted into 640 px.
    """
    scale = DETECTOR_PX / max(photo_size)
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    nodes, constants, outputs = [], [], []
    for level, stride in enumerate(STRIDES):
        grid = DETECTOR_PX // stride
        fixed = {kind: np.zeros((1, grid * grid, width), np.float32) for kind, width in widths.items()}
        for face in faces if level == 0 else ():
            column, row = np.clip((face.centre * scale / stride).astype(int), 0, grid - 1)
            cell = row * grid + column
            extent = (face.bbox[2:] - face.bbox[:2]) * scale / stride
            marks = face.landmarks * scale / stride - (column, row)
            fixed["cls"][0, cell], fixed["obj"][0, cell] = face.score, face.score
            fixed["bbox"][0, cell] = [*(face.centre * scale / stride - (column, row)), *np.log(extent)]
            fixed["kps"][0, cell] = marks.reshape(-1)
        for kind, width in widths.items():
            name = f"{kind}_{stride}"
            # What the photo shows is weighed with 0: OpenCV runs no network that does not look at it.
            weight = np.zeros((width, 3, stride, stride), np.float32)
            constants += [
                numpy_helper.from_array(weight, f"w_{name}"),
                numpy_helper.from_array(np.array([1, grid * grid, width], np.int64), f"s_{name}"),
                numpy_helper.from_array(fixed[kind], f"f_{name}"),
            ]
            nodes += [
                helper.make_node("Conv", ["input", f"w_{name}"], [f"c_{name}"], strides=[stride, stride]),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [f"r_{name}"]),
                helper.make_node("Add", [f"r_{name}", f"f_{name}"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, grid * grid, width]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, DETECTOR_PX, DETECTOR_PX])
    save_graph(path, helper.make_graph(nodes, "yunet", [picture], outputs, constants))
    return path


def write_recogniser(folder: Path, stem: str, seed: int = 0) -> Path:
    """Write `<stem>.onnx`, a recogniser in ArcFace's layout: 112 px in, 512 out, a random linear map."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3 * 7 * 7, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["683"]),
    ]
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])
    embedding = helper.make_tensor_value_info("683", TensorProto.FLOAT, ["n", 512])
    constants = [numpy_helper.from_array(weight, "weight")]
    path = folder / f"{stem}.onnx"
    save_graph(path, helper.make_graph(nodes, "arcface", [picture], [embedding], constants))
    return path


def save_graph(path: Path, graph: onnx.GraphProto) -> None:
    """Write a graph as an ONNX file that ONNX Runtime 1.17 and later open."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def random_arcface(seed: int, config: ArcFaceConfig | None = None) -> ArcFaceIRSE50:
    """A network whose weights and running statistics are all random, of sizes that keep it stable."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = ArcFaceIRSE50(config)
    state = {}
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else None
        if noise is None:
            state[name] = torch.tensor(1000)
        elif tensor.ndim > 1:
            state[name] = noise * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 0.5 + noise.abs()
        elif name.endswith(".2.weight"):  # the slope of a PReLU
            state[name] = 0.25 + 0.1 * noise
        elif name.endswith("weight"):
            state[name] = 1 + 0.2 * noise
        else:
            state[name] = 0.2 * noise
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def write_arcface_weights(path: Path, seed: int, config: ArcFaceConfig | None = None) -> Path:
    """Write random weights in the layout of facexlib's `recognition_arcface_ir_se50.pth` (175 MB in full)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(random_arcface(seed, config).state_dict()), path)
    return path
