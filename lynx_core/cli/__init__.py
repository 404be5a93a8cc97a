"""The command line: `comfy-lynx <verb>`."""
