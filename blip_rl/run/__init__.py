"""The training loop of a run: start, resume, save, evaluate, consolidate and log."""
