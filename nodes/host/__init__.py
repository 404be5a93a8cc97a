"""The machinery behind the nodes, on ComfyUI's own model, guider and memory code."""
