"""Shards as JSON, as a plan's ``shards.parquet`` holds them."""

from __future__ import annotations

from pydantic import TypeAdapter

from cliploom.schemas.records import Shard

SHARD = TypeAdapter(Shard)
