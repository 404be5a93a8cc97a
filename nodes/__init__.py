"""The ComfyUI face of Lynx: schemas, and a few lines each that call the library."""
