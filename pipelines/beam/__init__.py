"""The public transforms of ``cliploom.beam``: arguments as in a spec, checked while the pipeline is built."""
