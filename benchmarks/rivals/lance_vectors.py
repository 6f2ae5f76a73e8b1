"""LanceDB: a table of vectors, flat and with the indexes its documentation proposes, asked a query at a time.

Each index is asked as it is by default, then with the least of its settings that reaches recall@10 of .95.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import asking
import lancedb
import numpy as np
import pyarrow as pa

KINDS: dict[str, list[tuple[int, int, int]]] = {
    # nprobes, refine_factor, ef; 0 leaves it at the default
    "IVF_PQ": [(20, 0, 0), (1, 10, 0), (5, 10, 0), (20, 10, 0), (20, 30, 0), (50, 50, 0)],
    "IVF_HNSW_SQ": [(0, 0, 0), (1, 0, 50), (1, 3, 100), (5, 3, 100), (20, 3, 150)],
}


def main(folder: str, kinds: list[str]) -> None:
    """Print a line of JSON for each way."""
    vectors, queries, exact = asking.load(folder)
    db = lancedb.connect(f"{folder}/lance")
    began = time.process_time()
    uids = [f"v{row // 100:05d}" for row in range(len(vectors))]
    starts = (np.arange(len(vectors)) % 100) * 16 / 30
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    rows = pa.table({"row": pa.array(range(len(vectors))), "uid": uids, "start_s": starts, "vector": flat})
    table = db.create_table("vectors", rows, mode="overwrite")
    ingest_s = time.process_time() - began

    def asker(nprobes: int, refine: int, ef: int) -> asking.Ask:
        def ask(query: Any) -> list[int]:
            wanted = (
                table.search(query)
                .distance_type("cosine")
                .limit(asking.K)
                .select(["row", "uid", "start_s", "_distance"])
            )
            wanted = wanted.nprobes(nprobes) if nprobes else wanted
            wanted = wanted.refine_factor(refine) if refine else wanted
            wanted = wanted.ef(ef) if ef else wanted
            return [found["row"] for found in wanted.to_list()]

        return ask

    if "flat" in kinds:
        asking.report("LanceDB flat", "", asker(0, 0, 0), queries[:50], exact[:50], ingest_s, f"{folder}/lance")
    for kind in kinds:
        if kind not in KINDS:
            continue
        began = time.process_time()
        table.create_index(metric="cosine", index_type=kind, replace=True)
        table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        build_s = ingest_s + time.process_time() - began
        settings = KINDS[kind]
        least = next(
            (s for s in settings[1:] if asking.recall(asker(*s), queries[:50], exact[:50]) >= asking.TARGET), None
        )
        for setting in [settings[0]] + ([least] if least else [settings[-1]]):
            text = ", ".join(
                f"{name} {value}" for name, value in zip(("nprobes", "refine", "ef"), setting, strict=True) if value
            )
            asking.report(
                f"LanceDB {kind}", text or "default", asker(*setting), queries, exact, build_s, f"{folder}/lance"
            )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
