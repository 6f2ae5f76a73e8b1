"""clip-retrieval without its network: its ``clip_index`` (autofaiss) over vectors on disk, then its ``KnnService``.

The service is asked below HTTP and CLIP, both of which it would add: a vector in, rows with their metadata out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import asking
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clip_retrieval.clip_back import ClipResource, KnnService, ParquetMetadataProvider, load_index
from clip_retrieval.clip_index import quantize


def main(folder: str) -> None:
    """Print a line of JSON."""
    vectors, queries, exact = asking.load(folder)
    root = Path(folder) / "clip-retrieval"
    for name in ("img_emb", "index", "metadata"):
        (root / name).mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    np.save(root / "img_emb" / "img_emb_0.npy", vectors)
    rows = np.arange(len(vectors))
    metadata = pa.table({"image_path": [f"v{row // 100:05d}" for row in rows], "start_s": rows % 100 * 16 / 30})
    pq.write_table(metadata, root / "metadata" / "metadata_0.parquet")
    quantize(str(root / "img_emb"), str(root / "index"), "image", "4G", "16G", 2)
    build_s = time.process_time() - began
    fields = dict.fromkeys(ClipResource.__dataclass_fields__)
    index = load_index(str(root / "index" / "image.index"), False)
    provider = ParquetMetadataProvider(str(root / "metadata"))
    resource = ClipResource(**{**fields, "image_index": index, "metadata_provider": provider})
    service = KnnService(clip_resources={})

    def ask(query: np.ndarray) -> list[int]:
        scores, found = service.knn_search(query[np.newaxis], "image", asking.K, resource, False, False, False)
        rows = service.map_to_metadata(found, scores, asking.K, provider, ["image_path", "start_s"])
        return [row["id"] for row in rows]

    asking.report("clip-retrieval", type(index).__name__, ask, queries, exact, build_s, str(root))


if __name__ == "__main__":
    main(sys.argv[1])
