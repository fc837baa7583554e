"""The model in a browser tab: `gpt.js` computes what `gpt.py` and `qlora.py` do, from a file made by `exporting`."""
