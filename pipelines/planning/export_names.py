"""Checks, before anything is computed, that exports can use the uids of items as names."""

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
    """Raise an error if an HDF5 export with readable names cannot contain all uids of its source.

    Args:
        exports: exports of the spec, by name.
        jobs: jobs by feature.
        items: items of all sources, with the columns source and uid.
        objects: the store; in a bucket only ``single`` files have readable names.

    Raises:
        SpecError: naming the export, the uids and the line of the spec that fixes it.
    """
    for name, export in exports.items():
        if not isinstance(export, Hdf5Export) or export.names != "readable" or export.feature not in jobs:
            continue
        if export.single or objects.root is not None:
            refuse_clash(name, of_source(items, jobs[export.feature].source)["uid"])
