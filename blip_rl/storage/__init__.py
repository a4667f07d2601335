"""What is on disk: run folders, snapshots and checkpoints, written atomically and checked when read."""
