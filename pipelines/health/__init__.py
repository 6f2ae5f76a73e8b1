"""``cliploom doctor``: diagnoses this program, this machine, and a store."""
