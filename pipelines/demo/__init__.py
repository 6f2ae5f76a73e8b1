"""``cliploom demo``: real pictures in motion, with the truth about them."""
