"""Writing files so that they exist whole or not at all, by one process at a time."""
