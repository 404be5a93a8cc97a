"""Builds the graphs under `workflows/`; see `scripts/build_workflows.py`."""
