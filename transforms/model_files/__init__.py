"""What a file or folder of a model is, told without running or unpickling anything in it, and the spec that uses it."""
