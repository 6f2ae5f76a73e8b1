"""Object stores without a bucket: transient errors, retries, messages; ranged reads."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from deltalake.exceptions import DeltaError
from obstore.exceptions import AlreadyExistsError, GenericError, NotFoundError, PermissionDeniedError

from cliploom.schemas.errors import SpecError
from cliploom.schemas.records import Content, Failure, PartRecord
from cliploom.transforms.store.buckets import (
    PATIENCE,
    REQUEST,
    RetryBudget,
    check_endpoints,
    is_transient,
    refusal,
    retries_exhausted_message,
    retry_budget,
    table_options,
    with_retries,
)
from cliploom.transforms.store.object_store import ObjectStore, _Ranges
from cliploom.transforms.store.parts import as_stored
from cliploom.transforms.work.gather import MOST_FILES
from cliploom.transforms.work.part_records import read_records, report, write_records
from cliploom.transforms.work.plan_ref import PlanRef

BUSY = GenericError("Generic S3 error: Server returned non-2xx status code: 503 Service Unavailable")


@pytest.mark.parametrize(
    "error", [BUSY, DeltaError("Kernel error -> Generic S3 error: body"), OSError("Generic GCS error")]
)
def test_errors_of_the_way_may_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [NotFoundError("x"), AlreadyExistsError("x"), PermissionDeniedError("x"), OSError("no space"), ValueError()],
)
def test_errors_of_the_object_do_not_pass(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>", "HTTP 400, ExpiredToken"),
        ("status code: 404 Not Found", "HTTP 404"),
        ("Unable to open service account file from /none", "Generic S3 error: Unable to open service account file"),
    ],
)
def test_what_is_refused_is_not_asked_for_again(said: str, found: str) -> None:
    error = GenericError(f"Generic S3 error: {said}")
    assert refusal(error).startswith(found)
    assert not is_transient(error)


@pytest.mark.parametrize("status", ["408", "409", "425", "429", "500", "503", "400 x <Code>RequestTimeout</Code>"])
def test_a_server_that_is_busy_is_asked_again(status: str) -> None:
    error = GenericError(f"Generic S3 error: Server returned non-2xx status code: {status}")
    assert is_transient(error)
    assert not refusal(error)


def test_the_reason_is_not_taken_from_the_settings_of_the_client() -> None:
    said = "after 10 retries, retry_timeout: 180s  - HTTP error: error sending request"
    error = GenericError(f"Generic S3 error: {said}\n\nDebug source:\nretry_timeout: 180s")
    assert retries_exhausted_message(error).endswith("(the connection broke off)")


@pytest.mark.parametrize("value", ["ht!tp//host", "host:9000", "http://me:word@host:9000", "http://a b"])
def test_an_endpoint_that_is_no_plain_address_is_refused_unshown(value: str) -> None:
    with pytest.raises(SpecError, match="AWS_ENDPOINT_URL is not a plain address") as raised:
        check_endpoints({"AWS_ENDPOINT_URL": value})
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize("value", ["", "http://127.0.0.1:9000", "https://s3.example.org/path", "http://[::1]:9000"])
def test_a_plain_endpoint_is_taken(value: str) -> None:
    check_endpoints({"AWS_ENDPOINT_URL": value})


def test_a_request_is_tried_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "5")
    errors: list[Exception] = [BUSY, BUSY]

    def request() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert with_retries(request) == "done"


def test_a_lasting_error_is_raised_at_once_and_a_passing_one_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PATIENCE, "0.3")
    calls: list[Exception] = []

    def fail(error: Exception) -> None:
        calls.append(error)
        raise error

    with pytest.raises(NotFoundError):
        with_retries(lambda: fail(NotFoundError("x")))
    assert len(calls) == 1
    with pytest.raises(GenericError):
        with_retries(lambda: fail(BUSY))
    assert len(calls) == 3


def test_what_is_said_names_the_time_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "7")
    assert retries_exhausted_message(BUSY) == "the bucket can't be reached after 7 s of trying (HTTP 503)"
    assert retries_exhausted_message(OSError("Generic S3 error: operation timed out")).endswith("(no answer in time)")
    assert retries_exhausted_message(OSError("Generic S3 error: odd\nlines")).endswith("(Generic S3 error: odd)")


def test_patience_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert retry_budget() == RetryBudget(180.0, 60.0)
    monkeypatch.setenv(REQUEST, "2.5")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    monkeypatch.delenv("GOOGLE_ALLOW_HTTP", raising=False)
    assert table_options() == {"timeout": "2.5s", "retry_timeout": "180s"}
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert table_options()["allow_http"] == "true"
    monkeypatch.setenv(REQUEST, "soon")
    with pytest.raises(SpecError, match=f"{REQUEST} is 'soon'; give seconds, such as 60"):
        retry_budget()


def test_a_file_in_ranges_reads_like_a_file() -> None:
    data = bytes(range(256)) * 40
    asked: list[tuple[int, int]] = []

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    with io.BufferedReader(_Ranges(len(data), read), 512) as file:
        file.seek(-8, io.SEEK_END)
        assert file.read() == data[-8:]
        file.seek(100)
        assert file.read(5) == data[100:105]
        file.seek(len(data))
        assert file.read(1) == b""
    assert sum(end - start for start, end in asked) < 2000


def test_a_local_file_opens_for_reading_and_a_missing_one_is_reported(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    objects.put("a", b"0123")
    with objects.open_file("a") as file:
        file.seek(2)
        assert file.read() == b"23"
    with pytest.raises(FileNotFoundError), objects.open_file("b"):
        pass


def record(number: int, digest: str = "d") -> PartRecord:
    content = Content(number, f"uid{number}", "abc", 0, 1, 3, 3, 0)
    failure = Failure("clips", "frames", f"uid{number}", "/a", number, "abc", "c", "decode", "Damaged", "broken")
    return PartRecord("frames", "c", f"part-{number:040x}.parquet", 3, 10, digest, (content,), (failure,))


def test_records_are_gathered_in_few_files_and_read_back(tmp_path: Path) -> None:
    plan = PlanRef(str(tmp_path), "run", "x")
    records = [record(number) for number in range(100)]
    groups = [records[start::7] for start in range(7)]
    paths = [write_records(plan, number, group) for number, group in enumerate(groups)]
    assert write_records(plan, 0, reversed(groups[0])) == paths[0]
    found, expected = read_records(ObjectStore(tmp_path), paths), report(records)
    assert (found.parts.rows(), found.failures.rows()) == (expected.parts.rows(), expected.failures.rows())
    assert sorted(found.contents.rows()) == sorted(expected.contents.rows())
    assert len(paths) < MOST_FILES


def test_who_is_beaten_to_a_file_is_reported_and_takes_what_is_there(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)
    lost_races: list[set[str]] = []

    def write(text: bytes) -> None:
        objects = ObjectStore(tmp_path)
        with objects.create_file("part") as local:
            local.write_bytes(text)
            both.wait()
        lost_races.append(objects.lost_races)

    writers = [threading.Thread(target=write, args=(text,)) for text in (b"one", b"two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(map(len, lost_races)) == [0, 1]
    assert as_stored(ObjectStore(tmp_path), "t", record(1)) == record(1)
