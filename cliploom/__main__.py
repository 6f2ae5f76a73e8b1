"""Run the command line: ``python -m cliploom`` is ``cliploom``."""

from cliploom.pipelines.cli.main import main

if __name__ == "__main__":
    main()
