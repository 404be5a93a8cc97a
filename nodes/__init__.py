"""The nodes of ComfyUI-Lynx: `nodes_*.py` are the cards that an artist sees, `host/` is the machinery behind them."""
