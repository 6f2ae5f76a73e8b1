"""What ``cliploom doctor`` finds out: this program, this machine, and a store."""
