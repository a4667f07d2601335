"""``python -m blip_rl``: the same as ``blip-rl``."""

from blip_rl.cli import main

main()
