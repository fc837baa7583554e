"""What the notebooks draw: one look, sliders, and one file a notebook."""
