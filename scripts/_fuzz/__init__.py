"""Parts of ``scripts/fuzz.py``: mutations, targets, and the limits and checks around each input."""
