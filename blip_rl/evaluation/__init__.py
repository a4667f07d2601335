"""Evaluation: whole episodes played for scores, during training and afterwards."""
