"""Public models: lists presets, identifies model files, and checks whether they reproduce published results."""
