"""The data of the trainer: manifest of pairs, decoding, encoders, caches, and the source of samples."""
