"""Where the values that a training logs go: TensorBoard's event file, and a tracker such as Weights & Biases.

Everything is recorded with stable-baselines3's ``Logger``; ``values`` adds the types that it lacks. ``events`` writes
the event file, ``tracker`` hands the same values to the ``Sink`` of one package in a thread of its own.
"""
