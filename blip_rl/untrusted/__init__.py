"""Files that a stranger may have written: read within bounds, from inside their folder, without running anything.

``files`` reads text, JSON, TOML and tables; ``tensors`` the headers of safetensors files; ``machine`` knows how much
memory there is. Standard library only, because recipes, runs and reports all read through here.
"""
