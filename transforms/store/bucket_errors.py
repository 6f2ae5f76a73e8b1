"""What a bucket's answer says about what is wrong: its name, the key id, the secret or the region."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import obstore
from obstore.exceptions import BaseError

_CODE = re.compile(r"<Code>(\w+)</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>|x-amz-bucket-region:? ?\"?([a-z0-9-]{1,40})")
_ADVICE = {
    "NoSuchBucket": "there is no bucket of this name; correct the address, or create the bucket",
    "InvalidAccessKeyId": "the server does not know the key id in AWS_ACCESS_KEY_ID; correct it",
    "InvalidClientTokenId": "the server does not know the key id in AWS_ACCESS_KEY_ID; correct it",
    "XAdminUserNotFound": "the server does not know the key id in AWS_ACCESS_KEY_ID; correct it",
    "SignatureDoesNotMatch": "the secret in AWS_SECRET_ACCESS_KEY does not belong to the key id; correct it",
    "ExpiredToken": "the credentials have expired; get new ones (AWS_SESSION_TOKEN)",
    "InvalidToken": "the token in AWS_SESSION_TOKEN is not valid; get a new one",
}
_OTHER_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")


def advice_of(error: BaseException) -> str:
    """Return what is wrong with a bucket's name, key, secret or region, and how to correct it; else an empty string.

    >>> advice_of(Exception("404 Not Found: <Error><Code>NoSuchBucket</Code></Error>"))
    'there is no bucket of this name; correct the address, or create the bucket'
    >>> advice_of(Exception("<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"))
    'the bucket is in another region; set AWS_REGION=eu-west-1'
    """
    text = str(error)
    found = _CODE.search(text)
    if found is None:
        return ""
    if found[1] in _OTHER_REGION:
        region = _REGION.search(text)
        return f"the bucket is in another region; set AWS_REGION{f'={region[1] or region[2]}' if region else ''}"
    return _ADVICE.get(found[1], "")


def ask_what_is_wrong(store: Any, error: BaseException) -> str:
    """Return the advice for an error; answers without a body, as those to HEAD, are asked for again by a listing.

    Args:
        store: obstore's store.
        error: of a request to it.
    """
    if advice := advice_of(error):
        return advice
    if _CODE.search(str(error)):
        return ""
    try:
        with suppress(StopIteration):
            next(iter(obstore.list(store, chunk_size=1)))
    except (BaseError, OSError) as answer:
        return advice_of(answer)
    return ""
