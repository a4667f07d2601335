"""Sharing runs: a folder for the Hugging Face Hub with a model card, pushing it, and downloading one.

The folder is a run folder without snapshots and TensorBoard events, so everything that opens a run opens it.
"""
