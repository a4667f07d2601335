"""The steps of ``scripts/gpu_check.py``; each file is run as a process of its own, so that a limit can end it."""
