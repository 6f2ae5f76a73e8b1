"""How it is done: a plan's Beam graphs, run and watched to the release, or as far as a preview."""
