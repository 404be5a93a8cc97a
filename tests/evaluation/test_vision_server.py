"""The judge of drawn videos: it tells a caption that fits from one that does not."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from lynx_core.evaluation.configuration import JudgeSettings
from lynx_core.evaluation.judge import Judge
from lynx_core.evaluation.prompts import load_prompts
from lynx_core.evaluation.video import Video
from miniature.vision_server import MODEL, make_server
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from miniature.world.identity import draw_identity
from miniature.world.scene import ACTIONS, BACKGROUNDS


def test_a_fitting_caption_scores_higher_than_a_wrong_one(tmp_path: Path) -> None:
    lines, clips = [], []
    for number in range(6):
        shot = draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY + number), 300 + number)
        truth = f'{{ action = "{ACTIONS[shot.action]}", place = "{BACKGROUNDS[shot.scene.background]}" }}'
        lines.append(f'[[prompts]]\nid = "p{number}"\ntext = "caption number {number}"\ntruth = {truth}\n')
        clips.append(Video(shot.draw_clip(), 8))
    path = tmp_path / "prompts.toml"
    path.write_text("\n".join(lines))
    texts = [prompt.text for prompt in load_prompts(path)]
    server = make_server(path, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    judge = Judge(JudgeSettings(base_url=url, model=MODEL, frames=9, frame_px=128))
    right, wrong = [], []
    for number, clip in enumerate(clips):
        for found, text in ((right, texts[number]), (wrong, texts[(number + 1) % 6])):
            answer = judge.ask(clip, text)
            assert answer.marks is not None
            found.append(answer.marks["prompt_following"])
    server.shutdown()
    assert np.mean(right) >= 8 and np.mean(wrong) <= np.mean(right) - 3
