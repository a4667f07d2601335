"""Bounds of numbers that the command line and the Python functions share; imports nothing."""

LARGEST_SEED = 2**30 - 1
"""Of a run; evaluation seeds and the seeds of environments have ranges of their own."""
LARGEST_EVALUATION_SEED = 2**29 - 1
MOST_THREADS = 1024
MOST_WORKERS = 1024
MOST_EPISODES = 10**9
MOST_JOBS = 1024
MOST_RETRIES = 1000
MOST_TRIALS = 10_000
MOST_VIDEO_EPISODES = 32
"""One batch of parallel environments, as in an evaluation."""
LONGEST_VIDEO_SECONDS = 60
LEAST_FPS, MOST_FPS = 0.1, 50
LARGEST_SCALE = 8
