"""Public models: what presets there are, what a model's files are, and whether they give what was published."""
