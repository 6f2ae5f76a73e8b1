"""The scripts here made the stores beside them with the code of their time; later code need not even import them."""

collect_ignore_glob = ["make_*.py"]
