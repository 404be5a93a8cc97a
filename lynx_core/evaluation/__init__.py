"""What a model made, measured: likeness of a video, and the benchmark of people x prompts x methods."""
