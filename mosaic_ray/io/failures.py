"""What a failure of a store means: one sentence with the address, the cause and the remedy, and without a secret.

The stores' own messages are not passed on where a cause is known, and never with their further fields: some of them
repeat the request, its signature and the access key.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

S3: Final = ("s3", "s3a")

_EXPIRED: Final = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"))
_BAD_CREDENTIALS: Final = _EXPIRED | frozenset((
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId",
    "AuthFailure", "AuthorizationHeaderMalformed", "InvalidSecurity",
))  # fmt: skip
_NO_CREDENTIALS: Final = frozenset((
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
))  # fmt: skip
_UNREACHABLE: Final = frozenset((
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ProxyConnectionError", "SSLError", "ClientConnectorError", "ServerDisconnectedError",
))  # fmt: skip
_PASSING: Final[Mapping[str, frozenset[str]]] = {
    "throttled": frozenset(("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests",
                            "RequestLimitExceeded", "RequestThrottled", "BandwidthLimitExceeded", "503", "429")),
    "server error": frozenset(("InternalError", "InternalFailure", "OperationAborted", "ConditionalRequestConflict",
                               "500", "502", "504", "409")),
    "timeout": frozenset(("RequestTimeout", "RequestTimeoutException", "408", "ReadTimeoutError", "ConnectTimeoutError",
                          "FSTimeoutError", "TimeoutError", "ServerTimeoutError", "SocketTimeoutError", "ReadTimeout",
                          "ConnectTimeout")),
    "connection": frozenset(("EndpointConnectionError", "ConnectionClosedError", "HTTPClientError", "ClientOSError",
                             "ProxyConnectionError", "ClientConnectorError", "ServerDisconnectedError",
                             "ConnectionError")),
    "truncated": frozenset(("TruncatedError", "ClientPayloadError", "IncompleteReadError", "ResponseStreamingError",
                            "IncompleteBody")),
    "garbled": frozenset(("BadDigest", "XAmzContentSHA256Mismatch", "FlexibleChecksumError", "ResponseParserError",
                          "ChecksumMismatch")),
    "credentials": _EXPIRED,
}  # fmt: skip
"""Cause -> codes of S3 and names of exceptions of what may pass when the same request is made again."""

CAUSES: Final = tuple(_PASSING)
"""Every cause for which a request is made again."""

_LOCAL: Final[Mapping[int, str]] = {
    errno.ENOENT: "there is no such file or folder; correct the address",
    errno.EISDIR: "this is a directory, where a file is needed; correct the address",
    errno.ENOTDIR: "a part of this path is a file, where a directory is needed; correct the address",
    errno.EEXIST: "a part of this path is a file, where a directory is needed; correct the address",
    errno.EACCES: "the user of this process has no permission; change it with chmod, or run as another user",
    errno.EPERM: "the user of this process has no permission; change it with chmod, or run as another user",
    errno.ENOSPC: "no space is left on the disk; free some, or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ELOOP: "this is a link that leads back to itself; correct the link, or leave it out",
    errno.ESTALE: "the file was replaced or removed on its server while it was read; start again",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
}


class ChangedError(OSError):
    """A file is not, or no longer, the one that was meant."""


class NoFileError(OSError):
    """Something has a file's name and is none: a pipe, a socket, a device."""


class TruncatedError(OSError):
    """Fewer bytes came than were asked for and are there."""


def cause_of(failure: BaseException) -> str | None:
    """Why a request failed in a way that may pass; None for a failure that will not."""
    code = code_of(failure)
    if code.isdecimal() and int(code) > 503:
        return "server error"
    if code and code not in _ANY_PASSING:
        return None
    names = {kind.__name__ for link in _chain(failure) for kind in type(link).__mro__} | {code}
    return next((cause for cause, known in _PASSING.items() if names & known), None)


_ANY_PASSING: Final = frozenset().union(*_PASSING.values())


def explain(
    failure: Exception,
    uri: str,
    protocol: str,
    options: Mapping[str, str | bool],
    probe: Callable[[], Exception | None],
) -> str:
    """The sentence for ``failure`` at ``uri``.

    probe: asks an S3 store for the bucket alone. A refused HEAD has no body, so only that tells a missing bucket
        from a missing key, and wrong credentials from a missing permission.
    """
    if protocol in S3 and code_of(failure) in ("", "403", "404"):
        told = probe() if isinstance(failure, FileNotFoundError | PermissionError) else None
        # That the bucket may not be listed says nothing of a key that is not there.
        if told is not None and (not isinstance(failure, FileNotFoundError) or code_of(told) != "AccessDenied"):
            failure = told
    return f"{uri}: {_cause(failure, uri, protocol, options)}."


def _cause(failure: Exception, uri: str, protocol: str, options: Mapping[str, str | bool]) -> str:
    code = code_of(failure)
    names = {type(link).__name__ for link in _chain(failure)}
    bucket = uri.partition("://")[2].partition("/")[0]
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket!r} at {endpoint(options)}; create it, or correct the address"
    if code in _BAD_CREDENTIALS:
        return (f"{endpoint(options)} does not accept the credentials ({code}); correct AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or the profile named by AWS_PROFILE")  # fmt: skip
    if code == "RequestTimeTooSkewed":
        return f"the clocks of this machine and of {endpoint(options)} are too far apart; set them by NTP"
    if names & _NO_CREDENTIALS:
        return (
            f"no usable credentials were found ({type(failure).__name__}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the storage option anon=true for a public bucket"
        )
    if names & _UNREACHABLE or isinstance(failure, ConnectionError | TimeoutError | socket.gaierror):
        return (f"{endpoint(options) if protocol in S3 else 'the store'} cannot be reached "
                f"({type(failure).__name__}); check the address, the network and AWS_ENDPOINT_URL")  # fmt: skip
    if "NoFileError" in names:
        return "this is a pipe, a socket or a device, where a file is needed; correct the address, or remove it"
    if names & {"FileExpired", "ChangedError"}:
        return "the file was replaced while it was read; let its writer finish, and start again"
    if isinstance(failure, TypeError) and "argument" in str(failure):
        return f"the file system of {protocol}:// refuses the storage options {sorted(options)}; correct them"
    if protocol == "file" and isinstance(failure, FileNotFoundError) and os.path.islink(uri):
        return "this is a link to something that is not there; correct the link, or leave it out"
    known = _LOCAL.get(failure.errno or 0) if protocol == "file" and isinstance(failure, OSError) else None
    if known:
        return known
    if isinstance(failure, FileNotFoundError):
        return "there is no such file or folder; correct the address"
    if isinstance(failure, IsADirectoryError):
        return _LOCAL[errno.EISDIR]
    if isinstance(failure, PermissionError):
        return "the credentials in use do not permit this; ask for the permission, or use other credentials"
    cause = cause_of(failure)
    if cause is not None:
        return (
            f"{endpoint(options) if protocol in S3 else 'the store'} kept failing ({cause}: "
            f"{code or type(failure).__name__}); see its own log, and start again: the same command goes on"
        )
    first_line = re.sub(r"://[^/@\s]*@", "://", str(failure).partition("\n")[0])[:200]
    return (
        f"the store failed with {type(failure).__name__} ({code or first_line}); see the store's own log, and try again"
    )


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__


def code_of(failure: BaseException) -> str:
    """The code of the answer behind a failure, else its HTTP status; empty where there was no answer."""
    for link in _chain(failure):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "") or (status if status >= 400 else ""))
        status = getattr(link, "status", None)  # of aiohttp, below other file systems
        if isinstance(status, int) and status >= 400:
            return str(status)
    return ""


def lacks_credentials(failure: BaseException) -> bool:
    """Whether none were found, which may pass where they come from a service."""
    return bool({type(link).__name__ for link in _chain(failure)} & (_NO_CREDENTIALS | {"MetadataRetrievalError"}))


def endpoint(options: Mapping[str, str | bool]) -> str:
    """Which S3 service the options and the environment lead to, fit to be shown."""
    address = options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return re.sub(r"://[^/@]*@", "://", str(address)) if address else "the S3 service"
