"""A vision judge for drawn videos, behind the API that real ones have.

    python -m miniature.vision_server runs/benchmark_mini/data/prompts.toml --port 8901

It reads action and place in the frames with the readers, which were trained apart from everything that is judged,
and marks prompt following by how much of the caption's truth it finds. It knows drawn pictures only.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lynx_core.evaluation.prompts import load_prompts

from .experiment.readers import Readers, load_readers
from .world.clip import FRAME_PX, NUM_FRAMES
from .world.scene import ACTIONS, BACKGROUNDS

MODEL = "mini-readers-1"
READERS = Path(__file__).resolve().parents[1] / "assets" / "mini" / "readers.safetensors"


class VisionJudge:
    """Marks clips by what the readers see in them.

    Args:
        truths: a prompt's text to what it says, by "action" and "place".
    """

    def __init__(self, readers: Readers, truths: Mapping[str, Mapping[str, str]]) -> None:
        self.readers, self.truths = readers, truths

    def judge(self, prompt: str, frames: list[np.ndarray]) -> dict[str, int]:
        """Marks 0 to 10 for frames [H, W, 3] uint8."""
        clip = np.stack([np.asarray(Image.fromarray(frame).resize((FRAME_PX, FRAME_PX))) for frame in frames])
        places = np.linspace(0, len(clip) - 1, NUM_FRAMES).round().astype(int)
        reading = self.readers.read_clips(clip[places][None])
        truth = self.truths[prompt]
        found = [
            ACTIONS[int(reading.action[0])] == truth["action"],
            BACKGROUNDS[int(reading.background[0])] == truth["place"],
        ]
        moves = float(np.abs(np.diff(clip.astype(float), axis=0)).mean())
        return {
            "prompt_following": 5 * sum(found),
            "aesthetics": 5,
            "motion_naturalness": 8 if 0.5 < moves < 25 else 3,
            "video_quality": 7,
        }

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request of the chat API."""
        content = body["messages"][-1]["content"]
        prompt = next(part["text"] for part in content if part["type"] == "text").removeprefix("The prompt: ")
        frames = [_decode(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        text = json.dumps(self.judge(prompt, frames))
        message = {"role": "assistant", "content": text}
        tokens = {
            "prompt_tokens": 85 * len(frames),
            "completion_tokens": 40,
            "total_tokens": 85 * len(frames) + 40,
        }
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
            "usage": tokens,
        }


def _decode(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


class _Handler(BaseHTTPRequestHandler):
    vision: VisionJudge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            status, answer = 200, self.vision.answer(body)
        except KeyError as error:
            status, answer = 400, {"error": {"message": f"no such prompt in the file: {error}"}}
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


def make_server(prompts: Path, port: int) -> ThreadingHTTPServer:
    """The server, not yet running; port 0 takes a free one."""
    truths = {prompt.text: prompt.truth for prompt in load_prompts(prompts)}
    vision = VisionJudge(load_readers(READERS), truths)
    return ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"vision": vision}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge drawn videos behind an OpenAI-compatible API.")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--port", type=int, default=8901)
    arguments = parser.parse_args()
    print(f"http://127.0.0.1:{arguments.port}/v1, model {MODEL}", flush=True)
    make_server(arguments.prompts, arguments.port).serve_forever()


if __name__ == "__main__":
    main()
