"""``cliploom demo``: real pictures in motion, with ground truth."""
