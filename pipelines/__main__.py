"""``python -m pipelines`` is ``cliploom``."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
