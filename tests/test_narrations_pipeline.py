from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from cliploom.pipelines.running.run import RunOptions, RunResult, run_spec
from cliploom.schemas.errors import CliploomError, SpecError
from cliploom.schemas.narrations import BrokenFileError
from cliploom.schemas.spec_file import load_document, parse_document
from cliploom.transforms.narrations import table as narrations_table
from cliploom.transforms.narrations.pairs import select_window
from cliploom.transforms.narrations.splits import split_by_shares, split_of
from cliploom.transforms.narrations.table import commit_narrations
from cliploom.transforms.readers.pair_reading import Pairs
from cliploom.transforms.readers.windows import ClipWindows
from cliploom.transforms.search.searching import open_store
from cliploom.transforms.store.object_store import ObjectStore
from cliploom.transforms.store.releases import read_releases
from cliploom.transforms.store.tables import read_table
from cliploom.transforms.upkeep.verifying import verify_release

DIM = 6
SPEC = """\
version: 1
name: ego
store: ./store
sources:
  spoken: {kind: narrations, format: ego4d, path: narration.json}
  omni: {kind: precomputed, glob: "feats/*", window: {fps: 30, window: 32, stride: 16}, dim: 6}
encoders:
  minilm: {kind: minilm}
features:
  speech: {source: spoken, encoder: minilm}
  clips: {source: omni}
indexes:
  speech: {feature: speech, kind: flat}
exports:
  clips_h5: {kind: hdf5, feature: clips}
  pairs: {kind: pairs, feature: clips, text: speech, keep: {min_tokens: 4}, splits: {shares: {train: 60%, val: 40%}}}
  taken: {kind: pairs, feature: clips, text: speech, pool: {take: 3}, format: hdf5, shards: 2}
  tutorial: {kind: pairs, feature: clips, text: speech, format: tutorial}
limits: {max_failed: 50%, max_deleted: 100%}
"""
SENTENCES = (
    "#C C opens a door",
    "#C C cuts an onion",
    "#O a man X laughs",
    "#C C walks",
    "#C C washes the red car",
    "#C C looks at the #unsure",
)


def video(number: int, count: int = 6) -> dict[str, Any]:
    rows = [
        {
            "timestamp_sec": 3.0 * i + number,
            "timestamp_frame": 90 * i,
            "narration_text": SENTENCES[(i + number) % len(SENTENCES)],
            "annotation_uid": f"a{number}",
        }
        for i in range(count)
    ]
    return {"narration_pass_1": {"narrations": rows, "summaries": []}}


def features(number: int, rows: int = 40) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=(rows, DIM)).astype(np.float32)


@dataclass(frozen=True)
class Project:
    folder: Path

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def narrations(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "narration.json").read_text())
        return found

    def write_narrations(self, videos: dict[str, Any]) -> None:
        (self.folder / "narration.json").write_text(json.dumps(videos))

    def run(self, spec: str = SPEC, notes: list[str] | None = None) -> RunResult:
        path = self.folder / "spec.yaml"
        path.write_text(spec)
        document = load_document(path)
        said: list[str] = [] if notes is None else notes
        return run_spec(parse_document(document), document, self.folder, RunOptions(), said.append)

    def table(self, name: str) -> pl.DataFrame:
        objects = ObjectStore(self.store)
        release = read_releases(objects).get(None)
        if name in release.features:
            return read_table(objects, release.features[name].table, release.features[name].version)
        return read_table(objects, name, release.tables[name])

    def manifest(self, export: str) -> dict[str, Any]:
        objects = ObjectStore(self.store)
        path = read_releases(objects).get(None).exports[export].files[0].path
        found: dict[str, Any] = json.loads(objects.get(path))
        return found


def write_project(folder: Path) -> Project:
    project = Project(folder)
    videos = {f"v{number}": video(number) for number in range(5)}
    videos["v0"]["narration_pass_1"]["narrations"][2]["timestamp_sec"] = float("nan")
    project.write_narrations(videos)
    feats = folder / "feats"
    feats.mkdir()
    for number in range(3):
        np.save(feats / f"v{number}.npy", features(number))
    with h5py.File(feats / "more.h5", "w") as file:
        file["v3"] = features(3)[:, None, :]
        file["silent"] = features(9)
    np.save(feats / "wide.npy", np.zeros((4, DIM + 1), np.float32))
    (feats / "readme.yaml").write_text("a: 1")
    return project


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, notes: list[str]) -> Project:
    project = write_project(tmp_path_factory.mktemp("ego"))
    project.run(notes=notes)
    return project


def test_narrations_and_features_have_the_same_row_ids(built: Project) -> None:
    narrations, speech = built.table("narrations"), built.table("speech")
    assert set(narrations["row_id"]) == set(speech["row_id"])
    assert narrations.height == 29


def test_narrations_keep_the_text_as_given_and_as_encoded(built: Project) -> None:
    rows = built.table("narrations").filter(pl.col("uid") == "v1").sort("row_id")
    assert rows["text"][0] == "#C C cuts an onion"
    assert rows["encoded"][0] == "Camera wearer C cuts an onion"
    assert rows["annotation_uid"].to_list() == ["a1"] * 6
    assert rows["source"].unique().to_list() == ["spoken"]


def test_moments_become_rows_that_start_and_end_there(built: Project) -> None:
    rows = built.table("speech").filter(pl.col("uid") == "v2").sort("row_id")
    assert rows["start_s"].to_list() == [2.0, 5.0, 8.0, 11.0, 14.0, 17.0]
    assert rows["end_s"].to_list() == rows["start_s"].to_list()
    assert rows["frame"].to_list() == list(range(6))


def test_equal_sentences_have_equal_vectors(built: Project) -> None:
    joined = built.table("speech").join(built.table("narrations").select("row_id", "encoded"), on="row_id")
    for (_,), rows in joined.group_by(["encoded"]):
        vectors = np.stack(rows["embedding"].to_list())
        assert (vectors == vectors[0]).all()


def test_bad_rows_are_partial_failures_with_file_and_position(built: Project) -> None:
    rows = built.table("failures").filter(pl.col("source") == "spoken")
    assert rows.height == 1
    assert rows["partial"][0]
    assert "narration.json, v0.narration_pass_1.narrations[2]" in rows["message"][0]


def test_matching_is_reported_before_anything_is_computed(built: Project, notes: list[str]) -> None:
    said = next(i for i, note in enumerate(notes) if note.startswith("spoken and omni"))
    assert "4 videos in both, 1 only in spoken (such as v4), 2 only in omni" in notes[said]
    assert said < notes.index("planning")


def test_precomputed_rows_are_the_files_rows_with_window_times(built: Project) -> None:
    rows = built.table("clips").filter(pl.col("uid") == "v3").sort("row_id")
    np.testing.assert_array_equal(np.stack(rows["features"].to_list()), features(3))
    assert rows["start_s"].to_list()[:3] == [0.0, 0.533333, 1.066667]
    assert rows["end_s"][0] == pytest.approx(1.066667)
    assert rows["frame"].to_list()[:3] == [0, 16, 32]


def test_features_of_another_width_fail_with_both_numbers(built: Project) -> None:
    failure = built.table("failures").filter(pl.col("uid") == "wide")
    assert "7 numbers where 6 are declared" in failure["message"][0]


def test_search_finds_the_moment_and_its_text(built: Project) -> None:
    hit = open_store(built.store).search("someone slices vegetables", top=1)[0]
    assert "onion" in hit.text
    found = built.table("narrations").filter((pl.col("uid") == hit.uid) & (pl.col("start_s") == hit.start_s))
    assert found["text"].to_list() == [hit.text]


def test_the_store_verifies(built: Project) -> None:
    assert verify_release(built.store) == []


def expected_pairs(project: Project, min_tokens: int) -> list[tuple[str, int, NDArray[np.float32]]]:
    """By brute force: (uid, idx, mean of the features around the moment)."""
    pairs = []
    for uid, found in project.narrations.items():
        for idx, row in enumerate(found["narration_pass_1"]["narrations"]):
            usable = row["timestamp_sec"] == row["timestamp_sec"] and row["narration_text"].count(" ") + 1 >= min_tokens
            if usable and uid != "v4":
                vectors = features(int(uid[1:]))
                pairs.append((uid, idx, select_window(vectors, row["timestamp_sec"], 2.0, 1.875)))
    return pairs


def test_pairs_hold_the_mean_of_the_features_around_each_narration(built: Project) -> None:
    made = {}
    for split in ("train", "val"):
        manifest = built.manifest("pairs")
        for file in manifest["splits"][split]["files"]:
            frame = pl.read_parquet(Path(built.store) / "pairs" / "pairs" / file["name"])
            assert frame.height == file["pairs"]
            for row in frame.iter_rows(named=True):
                made[row["uid"], row["idx"]] = (split, np.array(row["features"], np.float32), row["embedding"])
    expected = expected_pairs(built, 4)
    assert len(made) == len(expected)
    speech = built.table("speech").join(built.table("narrations").select("row_id", "idx"), on="row_id")
    vectors = {(uid, idx): vector for uid, idx, vector in speech.select("uid", "idx", "embedding").iter_rows()}
    rule = split_by_shares({"train": 0.6, "val": 0.4})
    for uid, idx, mean in expected:
        split, found, embedding = made[uid, idx]
        np.testing.assert_array_equal(found, mean)
        assert embedding == vectors[uid, idx]
        assert split == split_of(uid, rule)


def test_manifests_count_what_was_dropped_and_why(built: Project) -> None:
    manifest = built.manifest("pairs")
    dropped = {drop["reason"]: drop["narrations"] for drop in manifest["dropped"]}
    assert dropped == {"fewer than 4 tokens": 4, "video without features": 6}
    assert manifest["pairs"] == 19
    assert manifest["videos_without_texts"] == 1


def test_pairs_read_back_by_number_are_those_of_the_files(built: Project) -> None:
    pairs = Pairs(built.store, "taken")
    assert len(pairs) == 23
    rows, embedding = pairs[0]
    assert rows.shape == (3, DIM)
    assert embedding.shape == (384,)
    batch, embeddings = pairs.batch([0, 22])
    np.testing.assert_array_equal(batch[0], rows)
    assert embeddings.shape == (2, 384)
    with pytest.raises(IndexError):
        pairs[23]


def test_pairs_of_parquet_read_back_too(built: Project) -> None:
    pairs = Pairs(built.store, "pairs", "train")
    assert len(pairs) == built.manifest("pairs")["splits"]["train"]["pairs"]
    assert all(features.shape == (DIM,) for features, _ in (pairs[i] for i in range(len(pairs))))


def test_pairs_name_what_is_there_when_asked_for_something_else(built: Project) -> None:
    with pytest.raises(SpecError, match=r"no export of pairs 'pair'; did you mean 'pairs'\?"):
        Pairs(built.store, "pair")
    with pytest.raises(SpecError, match="no split 'test'"):
        Pairs(built.store, "pairs", "test")
    with pytest.raises(SpecError, match="open pairs/tutorial/"):
        Pairs(built.store, "tutorial", "all")


def test_the_tutorials_file_holds_whole_features_embeddings_and_the_meta_list(built: Project) -> None:
    manifest = built.manifest("tutorial")
    (file,) = manifest["splits"]["all"]["files"]
    with h5py.File(Path(built.store) / "pairs" / "tutorial" / file["name"]) as found:
        meta = json.loads(bytes(found["meta"][()]))
        np.testing.assert_array_equal(found["features/v1"][()], features(1))
        assert found["embedding"].shape == (23, 384)
    assert len(meta) == 23
    assert meta[0] == {"uid": "v0", "txt": "#C C opens a door", "ts": 0.0, "idx": 0, "pass": 1}


def test_the_tutorials_idx_is_the_row_of_its_text(built: Project) -> None:
    (file,) = built.manifest("tutorial")["splits"]["all"]["files"]
    with h5py.File(Path(built.store) / "pairs" / "tutorial" / file["name"]) as found:
        meta, embedding = json.loads(bytes(found["meta"][()])), found["embedding"][()]
    assert [each["idx"] for each in meta] == list(range(23))
    speech = built.table("speech").join(built.table("narrations").select("row_id", "text"), on="row_id")
    vectors = dict(speech.select("text", "embedding").iter_rows())
    for each in meta:
        np.testing.assert_array_equal(embedding[each["idx"]], np.array(vectors[each["txt"]], np.float32))


@pytest.mark.parametrize("hdf5", [True, False])
def test_windows_hold_the_rows_of_formats_md(built: Project, hdf5: bool) -> None:
    windows = ClipWindows(built.store, "clips", hdf5=hdf5)
    assert windows.rate == 1.875
    assert windows.uids() == ["silent", "v0", "v1", "v2", "v3"]
    np.testing.assert_array_equal(windows["v1", 8, 12], features(1)[15:23])
    np.testing.assert_array_equal(windows["v1", 60, 64], features(1)[39:40])
    expected = features(1)[15:23].mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(windows.mean("v1", 8, 12), expected)
    with pytest.raises(ValueError, match="before the video starts"):
        windows["v1", -5, -1]
    with pytest.raises(KeyError, match="'v9' has no features"):
        windows["v9", 0, 1]


def test_windows_of_a_feature_without_a_rate_are_refused(built: Project) -> None:
    with pytest.raises(SpecError, match="are not evenly spaced"):
        ClipWindows(built.store, "speech")
    with pytest.raises(SpecError, match="did you mean 'clips'"):
        ClipWindows(built.store, "clip")


class TestNights:
    """Runs after the first one, in order, on one project."""

    @pytest.fixture(scope="class")
    def project(self, tmp_path_factory: pytest.TempPathFactory) -> Project:
        project = write_project(tmp_path_factory.mktemp("nights"))
        project.run()
        return project

    def test_nothing_to_do_is_noticed(self, project: Project) -> None:
        assert not project.run().changed

    def test_the_narrations_table_is_written_again_only_when_texts_change(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects = ObjectStore(project.store)
        items = project.table("items")
        version = read_releases(objects).get(None).tables["narrations"]
        monkeypatch.setattr(narrations_table, "read_texts", lambda *_: pytest.fail("a text was read"))
        assert commit_narrations(objects, items) == version
        with pytest.raises(pytest.fail.Exception):
            commit_narrations(objects, items.with_columns(pl.col("item_no") + 1))

    def test_a_touched_file_is_read_again_but_nothing_is_encoded(self, project: Project) -> None:
        project.write_narrations(dict(reversed(project.narrations.items())))
        result = project.run()
        assert result.counters.get("texts_encoded", 0) == 0
        assert set(result.verdicts["speech"]) == {"unchanged"}

    def test_an_edited_narration_encodes_its_new_sentence_alone(self, project: Project) -> None:
        before = {row["row_id"]: row for row in project.table("speech").iter_rows(named=True)}
        videos = project.narrations
        videos["v2"]["narration_pass_1"]["narrations"][1]["narration_text"] = "#C C juggles seven purple melons"
        project.write_narrations(videos)
        files = {file["name"] for file in project.manifest("taken")["splits"]["train"]["files"]}
        result = project.run()
        assert result.verdicts["speech"] == {"content_changed": 1, "unchanged": 4}
        assert result.counters["texts_encoded"] == 1
        after = {row["row_id"]: row for row in project.table("speech").iter_rows(named=True)}
        changed = [row for row in after if after[row]["embedding"] != before[row]["embedding"]]
        assert len(changed) == 1
        assert before.keys() == after.keys()
        kept = files & {file["name"] for file in project.manifest("taken")["splits"]["train"]["files"]}
        assert len(kept) == len(files) - 1

    def test_a_deleted_video_leaves_tables_and_pairs(self, project: Project) -> None:
        videos = project.narrations
        del videos["v1"]
        project.write_narrations(videos)
        project.run()
        assert "v1" not in project.table("narrations")["uid"]
        assert "v1" not in project.table("speech")["uid"]
        assert project.manifest("tutorial")["pairs"] == 17

    def test_other_rules_make_another_table(self, project: Project) -> None:
        result = project.run(SPEC.replace("path: narration.json", 'path: narration.json, rules: {"#C": "Someone"}'))
        assert set(result.verdicts["speech"]) == {"config_changed"}
        assert project.table("narrations")["encoded"].str.starts_with("Someone C").any()


def minimal(source: str, more: str = "") -> str:
    return f"""\
version: 1
name: texts
store: ./store
sources:
  spoken: {source}
encoders:
  minilm: {{kind: minilm}}
features:
  speech: {{source: spoken, encoder: minilm}}
{more}"""


def test_captions_without_times_are_rows_without_times_and_are_found(tmp_path: Path) -> None:
    project = Project(tmp_path)
    lines = ["https://a.b/x.gif\ta cat jumps", "https://a.b/y.gif\ta man sings", "https://a.b/x.gif\tan animal", "bad"]
    (tmp_path / "tgif.tsv").write_text("\n".join(lines))
    spec = minimal(
        "{kind: narrations, format: tgif, path: tgif.tsv, uid: stem}", "indexes: {speech: {feature: speech}}"
    )
    project.run(spec)
    rows = project.table("speech")
    assert sorted(rows["uid"]) == ["x", "x", "y"]
    assert rows["start_s"].null_count() == 3
    hit = open_store(project.store).search("a jumping cat", top=1)[0]
    assert (hit.uid, hit.text, hit.start_s) == ("x", "a cat jumps", None)
    assert "line 4" in project.table("failures")["message"][0]


def test_labels_become_one_row_a_template(tmp_path: Path) -> None:
    project = Project(tmp_path)
    templates = '["{label}", "The person in this video is doing {label}"]'
    project.run(minimal(f"{{kind: labels, labels: [yoga, chess], templates: {templates}}}"))
    rows = project.table("narrations").sort("uid", "pass")
    assert rows["uid"].to_list() == ["chess", "chess", "yoga", "yoga"]
    assert rows["encoded"][3] == "The person in this video is doing yoga"
    assert project.table("speech").height == 4


def test_subtitles_are_one_item_a_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "subs" / "a").mkdir(parents=True)
    (tmp_path / "subs" / "a" / "one.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nHello there\n")
    (tmp_path / "subs" / "two.srt").write_text("1\n00:00:03,000 --> 00:00:04,000\nGood bye\n")
    project.run(minimal('{kind: narrations, format: srt, glob: "subs/**/*.srt"}'))
    rows = project.table("speech").sort("uid")
    assert rows["uid"].to_list() == ["a/one", "two"]
    assert (rows["start_s"][0], rows["end_s"][0]) == (1.0, 2.5)


def test_filters_and_the_seeded_subset_are_applied_when_reading(tmp_path: Path) -> None:
    project = Project(tmp_path)
    rows = [f"v{video},{second},{'word ' * (second + 1)}" for video in range(6) for second in range(5)]
    (tmp_path / "n.csv").write_text("uid,start_s,text\n" + "\n".join(rows))
    (tmp_path / "val.txt").write_text("v0\nv1\n")
    source = "{kind: narrations, format: csv, path: n.csv, keep: {min_tokens: 4, without: val.txt}, limit: 2}"
    notes: list[str] = []
    project.run(minimal(source), notes)
    kept = project.table("narrations")
    assert len(kept["uid"].unique()) == 2
    assert not {"v0", "v1"} & set(kept["uid"])
    assert kept.group_by("uid").len()["len"].to_list() == [3, 3]
    assert any("10 texts dropped (video of a split left out)" in note for note in notes)
    assert any("10 texts dropped (beyond the limit of 2)" in note for note in notes)


def test_a_broken_file_stops_the_run_and_names_the_byte(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "narration.json").write_text('{"v": {"narration_pass_1": {"narrations": [}')
    with pytest.raises(BrokenFileError, match="broken at byte 43"):
        project.run(minimal("{kind: narrations, format: ego4d, path: narration.json}"))


def test_one_videos_texts_in_two_files_name_both(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("uid,start_s,text\nv,1,hello\n")
    with pytest.raises(SpecError, match=r"a\.csv and .*b\.csv have the same uid 'v'"):
        project.run(minimal('{kind: narrations, format: csv, glob: "*.csv"}'))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path: narration.json", "path: nothing.json", "there is no file"),
        ("format: ego4d", "format: ego5d", "did you mean 'ego4d'"),
        ("format: ego4d", "format: ego4d, delimiter: ';'", "'delimiter' is for csv"),
        ("path: narration.json", "path: narration.json, glob: x", "exactly one of 'path'"),
        ("{source: clips", "{source: clip", "did you mean"),
        ("speech: {source: spoken, encoder: minilm}", "speech: {source: spoken}", "encoder is missing"),
        ("clips: {source: omni}", "clips: {source: omni, encoder: minilm}", "leave 'encoder' out"),
        ("text: speech, format: tutorial", "text: clips, format: tutorial", "is not of narrations"),
        ("feature: clips, text: speech, format: tutorial", "feature: speech, text: speech", "do not lie on a grid"),
        ("train: 60%", "train: 70%", "add up to 1.1"),
    ],
)
def test_wrong_specs_are_reported_in_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    project = write_project(tmp_path)
    if old not in SPEC:
        old, new = "source: omni", "source: omnia"
    with pytest.raises(CliploomError, match=message):
        project.run(SPEC.replace(old, new))
