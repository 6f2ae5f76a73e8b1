"""How it is put together: command line, plan, building the Beam graph, running it, and the demo."""
