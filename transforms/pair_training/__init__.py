"""Training on pairs of clips and texts: reading them, and the towers that learn from them (needs TensorFlow)."""
