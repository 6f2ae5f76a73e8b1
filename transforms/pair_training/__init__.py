"""Training on pairs of clips and texts: reads the pairs, and trains two towers (needs TensorFlow)."""
