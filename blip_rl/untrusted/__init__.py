"""Readers for untrusted files: bounded size and nesting, no links out of the folder, no code execution.

``files`` reads text, JSON and TOML; ``tables`` CSV; ``tensors`` the headers of safetensors files; ``torch_files`` and
``zips`` files of stable-baselines3; ``machine`` measures memory. All but ``torch_files`` use the standard library only,
because recipes and reports read through them without importing torch.
"""
