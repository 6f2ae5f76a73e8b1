"""Every module has a test: a file that imports it, or one that is named here because it goes through a front door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ROOMS = ("schemas", "transforms", "pipelines", "serving")

# Modules that no test imports -> the test file that calls them through commands, a run, a store or the page.
THROUGH = {
    "pipelines.beam.transforms": "test_beam.py",
    "pipelines.running.local_worker": "integration/test_crashes.py",
    "pipelines.running.vector_drift": "integration/test_nightly.py",
    "transforms.publish.outcome": "test_status.py",
    "transforms.work.shard_text": "test_pieces.py",
    "pipelines.cli.app": "test_cli.py",
    "pipelines.cli.completion": "test_doctor.py",
    "pipelines.cli.doctor": "test_doctor.py",
    "pipelines.cli.inspecting_media": "test_inspecting.py",
    "pipelines.cli.models": "test_model_files.py",
    "pipelines.cli.models_bench": "pipelines/test_models_bench.py",
    "pipelines.cli.report": "test_html_pages.py",
    "pipelines.cli.serve": "test_serve_command.py",
    "pipelines.cli.spec": "test_cli.py",
    "pipelines.cli.store": "test_cli.py",
    "pipelines.cli.train": "test_heads_pipeline.py",
    "pipelines.cli.usage": "test_cli.py",
    "pipelines.cli.where": "test_where.py",
    "pipelines.health.bundle": "test_doctor.py",
    "pipelines.planning.addresses": "test_http.py",
    "pipelines.planning.export_names": "test_hdf5_export_names.py",
    "pipelines.planning.lost": "test_lost_files.py",
    "pipelines.planning.reprobe": "integration/test_golden.py",
    "pipelines.release_report": "test_html_pages.py",
    "pipelines.report_page": "test_html_pages.py",
    "pipelines.running.measure": "test_evaluation.py",
    "pipelines.training.predict_texts": "test_serve_predict.py",
    "pipelines.version": "test_cli.py",
    "schemas.evaluations": "test_evaluation.py",
    "schemas.faults": "integration/test_full_disk.py",
    "schemas.head_references": "test_heads_spec.py",
    "schemas.plugins": "test_source_plugin.py",
    "schemas.spec_base": "test_specs.py",
    "schemas.spec_errors": "test_spec_errors.py",
    "serving.*": "test_serve_api.py",
    "transforms.beam.*": "test_beam.py",
    "transforms.encoders.bert_graph": "test_encoders_text.py",
    "transforms.encoders.clip*": "extras/torch/test_encoders_clip.py",
    "transforms.encoders.frozen_graph": "test_encoders_saved_model.py",
    "transforms.encoders.golden": "test_encoders_prepare.py",
    "transforms.encoders.hub": "test_encoders_checkpoint.py",
    "transforms.encoders.isolated": "test_preparing.py",
    "transforms.encoders.engine": "test_device_engine.py",
    "transforms.encoders.keras_file": "extras/tensorflow/test_encoders_tensorflow.py",
    "transforms.encoders.lite0_graph": "test_encoders_builtin.py",
    "transforms.encoders.onnx*": "test_encoders_onnx.py",
    "transforms.encoders.open_clip_convert": "extras/torch/test_encoders_open_clip.py",
    "transforms.encoders.pixel_family": "test_encoders_onnx.py",
    "transforms.encoders.projected_text": "test_projections.py",
    "transforms.encoders.saved_model*": "test_encoders_saved_model.py",
    "transforms.encoders.sentence_transformer*": "extras/torch/test_encoders_sentence_transformer.py",
    "transforms.encoders.tensorflow_*": "extras/tensorflow/test_encoders_tensorflow.py",
    "transforms.encoders.text_graph": "test_encoders_text.py",
    "transforms.encoders.torch_*": "extras/torch/test_encoders_torch.py",
    "transforms.evaluation.*": "test_evaluation.py",
    "transforms.heads.scoring": "test_heads_pipeline.py",
    "transforms.heads.tower_report": "test_vector_heads.py",
    "transforms.index.files": "test_index_build.py",
    "transforms.index.traces": "test_index_nightly.py",
    "transforms.inputs.*": "test_listing_tables.py",
    "transforms.media.chains": "test_media_decode.py",
    "transforms.media.fields": "test_media_odd.py",
    "transforms.media.gifs": "test_media_loss.py",
    "transforms.media.heif": "test_media_stills.py",
    "transforms.media.images": "test_media_pictures.py",
    "transforms.media.light": "test_media_pictures.py",
    "transforms.media.mpeg_fields": "test_media_odd.py",
    "transforms.media.pictures": "test_media_pictures.py",
    "transforms.media.rare_stills": "test_media_stills.py",
    "transforms.media.still_damage": "test_media_damage.py",
    "transforms.media.wordnet": "test_wordnet_labels.py",
    "transforms.model_files.*": "test_model_files.py",
    "transforms.narrations.*": "test_narrations_pipeline.py",
    "transforms.precomputed.item_reader": "test_precomputed.py",
    "transforms.publish.fitting": "test_fit.py",
    "transforms.publish.head_figures": "test_heads_pipeline.py",
    "transforms.publish.measuring": "test_evaluation.py",
    "transforms.publish.projecting": "test_projections.py",
    "transforms.publish.wording": "test_words.py",
    "transforms.python_child": "integration/test_hostile_folder.py",
    "transforms.readers.local_files": "integration/test_buckets.py",
    "transforms.search.*": "test_searching.py",
    "transforms.sources.*": "test_source_plugin.py",
    "transforms.store.bucket_errors": "test_store_buckets.py",
    "transforms.store.hdf5_*": "test_hdf5.py",
    "transforms.store.vector_rows": "test_precomputed.py",
    "transforms.tfrecords.*": "test_tfrecords_pipeline.py",
    "transforms.upkeep.verify_*": "test_verifying.py",
    "transforms.watchdog": "test_supervise.py",
    "transforms.work.counters": "test_compute.py",
    "transforms.work.json_log": "integration/test_watching.py",
    "transforms.work.plan_dofn": "test_wire.py",
}


def modules() -> list[str]:
    found = (path.relative_to(ROOT).with_suffix("") for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return sorted(".".join(path.parts) for path in found if path.name != "__init__")


def named_in(tree: ast.Module) -> Iterator[str]:
    """What a test file imports, and what it names in a string, as monkeypatch does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cliploom."):
            yield node.value.partition(":")[0]


@pytest.fixture(scope="module")
def untouched() -> set[str]:
    """Modules that no test file imports or names."""
    left = set(modules())
    for path in TESTS.rglob("*.py"):
        for name in named_in(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.removeprefix("cliploom.").split(".")
            # A patched "cliploom.a.b.name" names the module a.b.
            left -= {".".join(parts), ".".join(parts[:-1])}
    return left


def test_no_module_is_without_a_test(untouched: set[str]) -> None:
    assert len(modules()) > 400
    assert [name for name in sorted(untouched) if not any(fnmatchcase(name, key) for key in THROUGH)] == []


def test_the_test_file_of_every_entry_is_there() -> None:
    assert [name for name in THROUGH.values() if not (TESTS / name).is_file()] == []
