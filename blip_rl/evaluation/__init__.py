"""Playing whole games for scores, during a run and afterwards."""
