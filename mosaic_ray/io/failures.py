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

_BAD_CREDENTIALS: Final = frozenset((
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId", "ExpiredToken",
    "AuthFailure", "AuthorizationHeaderMalformed", "TokenRefreshRequired", "InvalidSecurity",
))  # fmt: skip
_NO_CREDENTIALS: Final = frozenset((
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
))  # fmt: skip
_UNREACHABLE: Final = frozenset((
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ProxyConnectionError", "SSLError", "ClientConnectorError", "ServerDisconnectedError", "ClientPayloadError",
))  # fmt: skip
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
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
}


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
    if protocol in S3 and _code(failure) in ("", "403", "404"):
        failure = (isinstance(failure, FileNotFoundError | PermissionError) and probe()) or failure
    return f"{uri}: {_cause(failure, uri, protocol, options)}."


def _cause(failure: Exception, uri: str, protocol: str, options: Mapping[str, str | bool]) -> str:
    code = _code(failure)
    names = {type(link).__name__ for link in _chain(failure)}
    bucket = uri.partition("://")[2].partition("/")[0]
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket!r} at {_endpoint(options)}; create it, or correct the address"
    if code in _BAD_CREDENTIALS:
        return (f"{_endpoint(options)} does not accept the credentials ({code}); correct AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or the profile named by AWS_PROFILE")  # fmt: skip
    if names & _NO_CREDENTIALS:
        return (
            f"no usable credentials were found ({type(failure).__name__}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the storage option anon=true for a public bucket"
        )
    if names & _UNREACHABLE or isinstance(failure, ConnectionError | TimeoutError | socket.gaierror):
        return (f"{_endpoint(options) if protocol in S3 else 'the store'} cannot be reached "
                f"({type(failure).__name__}); check the address, the network and AWS_ENDPOINT_URL")  # fmt: skip
    if "FileExpired" in names:
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
    first_line = re.sub(r"://[^/@\s]*@", "://", str(failure).partition("\n")[0])[:200]
    return (
        f"the store failed with {type(failure).__name__} ({code or first_line}); see the store's own log, and try again"
    )


def _chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__


def _code(failure: Exception) -> str:
    """The code of the S3 answer behind a failure; empty where there was none."""
    for link in _chain(failure):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _endpoint(options: Mapping[str, str | bool]) -> str:
    address = options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return re.sub(r"://[^/@]*@", "://", str(address)) if address else "the S3 service"
