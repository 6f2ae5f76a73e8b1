"""LanceDB: filtered vector search with the least of the settings that reaches a recall, a line of JSON a share."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

K = 10
# nprobes, refine_factor
SETTINGS = [(1, 10), (5, 10), (10, 10), (20, 10), (20, 30), (50, 30), (100, 50), (300, 50)]


def main(folder: str, rows_an_item: int, wanted: str) -> None:
    """Print a line for each share."""
    vectors, queries = (np.load(f"{folder}/{name}.npy") for name in ("vectors", "queries"))
    db = lancedb.connect(f"{folder}/lance-filters")
    uids = [f"v{row // rows_an_item:05d}" for row in range(len(vectors))]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    rows = pa.table({"row": pa.array(range(len(vectors))), "uid": uids, "vector": flat})
    table = db.create_table("vectors", rows, mode="overwrite")
    table.create_index(metric="cosine", index_type="IVF_PQ", replace=True)
    table.create_scalar_index("uid", replace=True)
    for pair in wanted.split(","):
        share, target = map(float, pair.split(":"))
        kept = min(len(vectors), max(1, round(len(vectors) / rows_an_item * share)) * rows_an_item)
        exact = np.argsort(-(queries @ vectors[:kept].T), axis=1)[:, :K]

        def ask(query: Any, nprobes: int, refine: int, share: float = share, kept: int = kept) -> list[int]:
            search = table.search(query).distance_type("cosine").limit(K).select(["row", "uid", "_distance"])
            if share < 1:
                search = search.where(f"uid < 'v{kept // rows_an_item:05d}'", prefilter=True)
            return [found["row"] for found in search.nprobes(nprobes).refine_factor(refine).to_list()]

        for setting in SETTINGS:
            ask(queries[0], *setting)
            began = time.process_time()
            answers = [ask(query, *setting) for query in queries]
            cpu = (time.process_time() - began) / len(queries) * 1e3
            recall = np.mean([len(set(a) & set(e)) / K for a, e in zip(answers, exact.tolist(), strict=True)])
            if recall >= target - 0.005 or setting == SETTINGS[-1]:
                break
        line = {
            "share": share,
            "recall": float(recall),
            "cpu_ms": cpu,
            "setting": "nprobes {}, refine {}".format(*setting),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
