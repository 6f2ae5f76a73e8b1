"""Data processing: for each step a pure function on plain values and a thin PTransform or DoFn that calls it."""
