"""``python -m pipelines`` is ``cliploom``."""

from pipelines.cli.main import main

if __name__ == "__main__":
    main()
