"""The parts of ``scripts/fuzz.py``: what changes inputs, what they are given to, and who watches."""
