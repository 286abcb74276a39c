"""What S3 or the way there answers, as errors that a person can act on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.sensitive import redact

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

    from infra.stack.backup_settings import StoreSettings

# What the store calls it -> our code. Names of Amazon's, then those of compatible servers.
CODES = {
    "NoSuchBucket": "store-missing",
    "NoSuchKey": "object-missing",
    "PreconditionFailed": "object-exists",
    "ConditionalRequestConflict": "object-exists",
    "ExpiredToken": "store-denied",
    "InvalidToken": "store-denied",
    "TokenRefreshRequired": "store-denied",
    "RequestTimeTooSkewed": "store-denied",
    "XAdminUserNotFound": "store-denied",  # versitygw's word for an unknown access key, with a 404
    "SlowDown": "store-unreachable",
    "RequestTimeout": "store-unreachable",
    "QuotaExceeded": "store-full",
    "InsufficientStorage": "store-full",
    "XMinioStorageFull": "store-full",
    "XMinioAdminBucketQuotaExceeded": "store-full",
}
# The bucket is elsewhere than we asked.
MOVED = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
NOT_IMPLEMENTED = 501
STATUSES = {401: "store-denied", 403: "store-denied", 429: "store-unreachable", 507: "store-full"}
HINTS = {
    "store-missing": "make the bucket, or correct store.url and store.endpoint",
    "object-missing": "see what is there with `letta-ops backup list`",
    "object-exists": "look at what is there; remove it if it is not wanted",
    "store-denied": (
        "see that the credentials are the right ones, and may list, read, write and delete in this"
        " bucket"
    ),
    "store-full": "free space with `letta-ops backup prune`, or give the store more",
    "store-unreachable": (
        "see that the store is up and this machine reaches it, then run this again; store.timeout"
        " gives it more time"
    ),
    "store-failed": "see what the store's log says, and whether store.url and store.region are right",
}
EXPIRED = (
    "get new ones (store.access_key_id, store.secret_access_key and store.session_token), for longer"
    " than a backup takes; a role of the machine's is renewed by itself"
)
NO_CREDENTIALS = (
    "give store.access_key_id and store.secret_access_key (as references), or what boto3 finds:"
    " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of AWS_PROFILE, or the machine's role"
)


def answer_code(error: ClientError) -> str:
    """The word that the store has for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_refusal(error: ClientError) -> bool:
    """Whether the store understood the request and won't do it (4xx)."""
    return 400 <= answer_status(error) < 500


def is_denial(error: ClientError) -> bool:
    return CODES.get(answer_code(error)) == "store-denied" or answer_status(error) in (401, 403)


def is_unwilling(error: ClientError) -> bool:
    """Whether the server won't do such a request because of what is in it, not of who asks, or where."""
    known = CODES.get(answer_code(error), "object-exists") == "object-exists"
    return known and answer_code(error) not in MOVED and answer_status(error) in (
        400, 409, 412, NOT_IMPLEMENTED,
    )  # fmt: skip


def explained(error: Exception, settings: StoreSettings) -> LettaOpsError:
    """Return the LettaOpsError for what botocore, urllib3 or a socket raised."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        code, what, hint = _answered(error)
    else:
        code, what, hint = _unanswered(error, settings)
    given = (settings.access_key_id, settings.secret_access_key, settings.session_token)
    secrets = [secret for secret in given if secret]
    place = f"{settings.url} at {settings.endpoint}" if settings.endpoint else settings.url
    return LettaOpsError(code, f"{place}: {redact(what, secrets)}", hint)


def _answered(error: ClientError) -> tuple[str, str, str]:
    answer = error.response.get("Error", {})
    status = answer_status(error)
    word = answer_code(error)
    code = CODES.get(word) or STATUSES.get(status)
    code = code or ("store-unreachable" if status >= 500 else "store-failed")
    if word == "RequestTimeTooSkewed":
        return code, _clocks(error), "set this machine's clock, best by NTP, then run this again"
    if word == "ExpiredToken":
        return code, "the temporary credentials have expired", EXPIRED
    if region := _other_region(error):
        return code, f"the bucket is in the region {region}", f"say so: store.region={region}"
    return code, f"{word}: {answer.get('Message', '')}".strip(": "), HINTS[code]


def answer_status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _other_region(error: ClientError) -> str | None:
    """Where the bucket is, when the answer says that it isn't where we asked."""
    answer = error.response.get("Error", {})
    if answer_code(error) not in MOVED and answer_status(error) != 301:
        return None
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = headers.get("x-amz-bucket-region") or answer.get("Region")
    expected = re.search(r"expecting '([^']+)'", str(answer.get("Message", "")))
    return told or (expected[1] if expected else None)


def _clocks(error: ClientError) -> str:
    answer: dict[str, Any] = dict(error.response.get("Error", {}))
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    store = answer.get("ServerTime") or headers.get("date") or "another time"
    ours = answer.get("RequestTime") or "not that"
    return f"the clocks differ too much: the store's says {store}, this machine's says {ours}"


def _unanswered(error: Exception, settings: StoreSettings) -> tuple[str, str, str]:
    for kinds, code, what, hint in _rules(settings.timeout):
        if isinstance(error, kinds):
            return code, what.format(error), hint
    return "store-unreachable", str(error), HINTS["store-unreachable"]  # of a socket or urllib3


def _rules(timeout: float) -> tuple[tuple[tuple[type[Exception], ...], str, str, str], ...]:
    """What was raised, our code, what is said, the hint. The first that fits counts."""
    from botocore import exceptions as kinds

    no_identity = (
        kinds.NoCredentialsError,
        kinds.PartialCredentialsError,
        kinds.CredentialRetrievalError,
        kinds.TokenRetrievalError,
        kinds.NoAuthTokenError,
        kinds.ProfileNotFound,
        kinds.SSOError,
    )
    slow = (kinds.ReadTimeoutError, kinds.ConnectTimeoutError)
    short = (kinds.IncompleteReadError, kinds.ResponseStreamingError)
    away = HINTS["store-unreachable"]
    trust = "let this machine trust its authority (AWS_CA_BUNDLE), or correct store.endpoint"
    other = "restore another backup; look at the store's disks"
    return (
        (no_identity, "store-denied", "{}", NO_CREDENTIALS),
        ((kinds.SSLError,), "store-unreachable", "its certificate is not accepted: {}", trust),
        (slow, "store-unreachable", f"no answer within {timeout:g} s", away),
        (short, "store-unreachable", "its answers end too early: {}", away),
        ((kinds.FlexibleChecksumError,), "store-failed", "not what was stored: {}", other),
        ((kinds.ConnectionError, kinds.HTTPClientError), "store-unreachable", "{}", away),
        ((kinds.BotoCoreError,), "store-failed", "{}", HINTS["store-failed"]),
    )
