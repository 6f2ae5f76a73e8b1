"""Whether the uids of the items can be the names that exports give them, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cliploom.pipelines.planning.classify import of_source
from cliploom.schemas.exports import Export, Hdf5Export
from cliploom.schemas.jobs import FeatureJob
from cliploom.transforms.exports.hdf5 import refuse_clash
from cliploom.transforms.store.object_store import ObjectStore


def check_export_names(
    exports: Mapping[str, Export], jobs: Mapping[str, FeatureJob], items: pl.DataFrame, objects: ObjectStore
) -> None:
    """Stop when an HDF5 export with readable names can't hold all uids of its source.

    Args:
        exports: of the spec, by name.
        jobs: by feature.
        items: of all sources, with the columns source and uid.
        objects: the store; on a bucket there is no file but ``single`` ones that has readable names.

    Raises:
        SpecError: naming the export, the uids and the line of the spec that fixes it.
    """
    for name, export in exports.items():
        if not isinstance(export, Hdf5Export) or export.names != "readable" or export.feature not in jobs:
            continue
        if export.single or objects.root is not None:
            refuse_clash(name, of_source(items, jobs[export.feature].source)["uid"])
