"""Lynx without a host: adapters, faces, file formats. Imports torch, never ComfyUI."""
