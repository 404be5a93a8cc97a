"""Training of the adapters: packing, objective, curriculum, loop, checkpoints. Never imported by the nodes."""
