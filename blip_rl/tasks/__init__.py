"""What is played: the only room that knows the emulator."""
