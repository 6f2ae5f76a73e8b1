"""Credentials: refused in specs, masked in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.schemas.errors import SpecError
from cliploom.schemas.secrets import carries_secret, masked, names_secret, refuse_secret, refuse_secrets
from cliploom.schemas.spec_file import load_spec
from cliploom.transforms.store.object_store import ObjectStore

SECRET = "abcdEFGH12345678"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/a",
        f"https://host/a.mp4?X-Amz-Signature={SECRET}",
        f"https://host/a.mp4?b=c&sig={SECRET}",
        f"gs://bucket/a?X-Goog-Signature={SECRET}",
        f"s3://{SECRET}@bucket/a",
        f"s3://key:ab/{SECRET}@bucket/a",
        f"https://{SECRET}@host/a.mp4",
        f"https://me:80x/{SECRET}@host/a.mp4",
        f"https://host/a;token={SECRET}/b.mp4",
        f"https://host/a.mp4;v=1/b?token={SECRET}",
        f"https://host/a.mp4#access_token={SECRET}",
        f"https://host/a.mp4?a=1;api%5Fkey={SECRET}",
        f"https://host/a.mp4?from=https%3A%2F%2Fother%2F%3Fjwt%3D{SECRET}",
        f"abfss://box:{SECRET}@account.dfs.core.windows.net/a",
    ],
)
def test_a_uri_with_credentials_is_refused_without_showing_them(uri: str) -> None:
    assert carries_secret(uri)
    with pytest.raises(SpecError, match=r"contains credentials.*environment") as raised:
        refuse_secret(uri, "store")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "key",
        "auth_token",
        "password",
        "jwt",
        "code",
        "client_secret",
        "hmac",
        "AccessKey",
        "AWSAccessKeyId",
        "x-api-key",
        "authtoken",
        "apikey",
        "PHPSESSID",
        "session_id",
        "auth[token]",
        "token2",
        "SIG",
        "subscription.Key",
    ],
)
def test_names_of_parameters_that_hold_secrets(name: str) -> None:
    assert names_secret(name)
    assert carries_secret(f"https://host/a.mp4?w=1&{name}={SECRET}")
    assert masked(f"no https://host/a.mp4?w=1&{name}={SECRET}&h=2", {}) == f"no https://host/a.mp4?w=1&{name}=***&h=2"


@pytest.mark.parametrize(
    "name",
    [
        "author",
        "keyframe",
        "zipcode",
        "keyword",
        "codec",
        "design",
        "authuser",
        "monkey",
        "tokenizer",
        "passage",
        "keyboard",
        "session",
        "user_id",
        "encoder",
        "signal",
    ],
)
def test_names_of_parameters_that_hold_none(name: str) -> None:
    assert not names_secret(name)
    assert not carries_secret(f"https://host/a.mp4?{name}=1")


def test_a_long_name_is_judged_at_once() -> None:
    assert not names_secret("sid" * 10_000 + "x")


def test_a_parameter_may_be_allowed_by_name() -> None:
    assert not carries_secret("https://host/a?code=12", ["CODE"])
    assert carries_secret(f"https://host/a?code=12&token={SECRET}", ["code"])
    assert not carries_secret("https://host/a?code=&token")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a@b:c",
        "gs://bucket/what?.mp4",
        "abfss://box@account.net/a",
        "a:b@c",
        "https://host:8080/a@b",
        "http://[::1]:80/a@b",
        "s3://bucket/a;v=1/b",
    ],
)
def test_plain_places_are_no_credentials(uri: str) -> None:
    assert not carries_secret(uri)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SSE_CUSTOMER_KEY_BASE64",
        "AZURE_STORAGE_MASTER_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "HF_TOKEN",
        "MY_PASSWORD",
    ],
)
def test_what_the_environment_keeps_secret_is_masked(name: str) -> None:
    assert masked(f"refused {SECRET}!", {name: SECRET}) == "refused ***!"


def test_a_secret_is_masked_in_addresses_and_out_of_the_account_that_holds_it() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "ab/cd+ef=gh",
        "GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "line1\\nline2"}',
    }
    told = "no http://a/?s=ab%2Fcd%2Bef%3Dgh, no ab/cd+ef=gh, no 'line1\nline2'"
    assert masked(told, environment) == "no http://a/?s=***, no ***, no '***'"


@pytest.mark.parametrize("name", ["HOME", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_names_of_files_and_plain_values_stay_readable(name: str) -> None:
    assert masked(f"no file {SECRET}", {name: SECRET}) == f"no file {SECRET}"


def test_a_short_value_is_not_masked_out_of_every_word() -> None:
    assert masked("a table", {"API_KEY": "a"}) == "a table"


def test_a_target_may_name_a_variable_but_not_hold_a_secret() -> None:
    refuse_secrets({"targets": {"t": {"s3_secret_access_key": "${KEY}"}}}, {})
    with pytest.raises(SpecError, match=r"targets\.t\.s3_secret_access_key contains a credential"):
        refuse_secrets({"targets": {"t": {"s3_secret_access_key": SECRET}}}, {})


def test_a_spec_with_a_secret_in_a_list_names_the_place(tmp_path: Path) -> None:
    spec = tmp_path / "cliploom.yaml"
    glob = f"[a/*.mp4, 's3://k:{SECRET}@b/*.mp4']"
    spec.write_text(f"version: 1\nname: n\nstore: s\nsources: {{clips: {{kind: media, glob: {glob}}}}}\n")
    with pytest.raises(SpecError, match=r"sources\.clips\.glob\[1\]: 's3://\*\*\*@b/\*\.mp4' contains"):
        load_spec(spec)


def test_no_store_is_opened_by_a_uri_with_a_secret() -> None:
    with pytest.raises(SpecError, match="contains credentials"):
        ObjectStore(f"s3://key:{SECRET}@bucket/store")
