"""The one table from errors of the S3 client library, and of S3 servers, to ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from botocore import exceptions as sdk

from dsmops.errors import (
    CredentialsError,
    DsmopsError,
    InputError,
    IntegrityError,
    MissingObjectError,
    RemoteError,
    TransferError,
)
from dsmops.publish.s3.account import Account
from dsmops.publish.store import REFUSED, REPUBLISH, StoreOptions

ENDPOINT = (
    "Check --endpoint-url: http://HOST:PORT or https://HOST of the server's S3 service, "
    "not of its web console."
)
NO_BUCKET = "Check --bucket, --region and --endpoint-url. dsmops never creates a bucket."
RENEW = "renew the credentials"
"""In place of a hint: the account knows how."""

_RIGHTS = (
    "The rights that publishing needs are in runbooks/s3-setup.md. "
    "A bucket whose requester pays needs --requester-pays."
)
_REGION = "The bucket is in another region: name it with --region."
_ALTERED = "Something between here and the store alters data. Try another network."
_REFUSED_OPTION = "refused option"
"""In place of a hint: the options that were given are named."""
_AGAIN = "Run the command again. What arrived is kept."

_CODES: dict[str, tuple[type[DsmopsError], str]] = {
    "AccessDenied": (CredentialsError, _RIGHTS),
    "ExpiredToken": (CredentialsError, RENEW),
    "ExpiredTokenException": (CredentialsError, RENEW),
    "InvalidAccessKeyId": (CredentialsError, RENEW),
    "InvalidToken": (CredentialsError, RENEW),
    "TokenRefreshRequired": (CredentialsError, RENEW),
    "UnrecognizedClientException": (CredentialsError, RENEW),
    "SignatureDoesNotMatch": (
        CredentialsError,
        "The secret key is wrong, or the clock of this machine is.",
    ),
    "RequestTimeTooSkewed": (CredentialsError, "Set the clock of this machine."),
    "NoSuchBucket": (InputError, NO_BUCKET),
    "InvalidBucketName": (InputError, "Check --bucket."),
    "PermanentRedirect": (InputError, _REGION),
    "AuthorizationHeaderMalformed": (InputError, _REGION),
    "IllegalLocationConstraintException": (InputError, _REGION),
    "AccessControlListNotSupported": (
        InputError,
        "The bucket's owner controls all objects: omit --acl.",
    ),
    "InvalidStorageClass": (
        InputError,
        "The server does not have this --storage-class: omit it, or name one that it has.",
    ),
    "InvalidEncryptionAlgorithmError": (InputError, "Check --sse: AES256 or aws:kms."),
    "ServerSideEncryptionConfigurationNotFoundError": (InputError, "Omit --sse."),
    "InvalidArgument": (InputError, _REFUSED_OPTION),
    "InvalidRequest": (InputError, _REFUSED_OPTION),
    "NotImplemented": (InputError, _REFUSED_OPTION),
    "XNotImplemented": (InputError, _REFUSED_OPTION),
    "UnsupportedArgument": (InputError, _REFUSED_OPTION),
    "UnsupportedHeader": (InputError, _REFUSED_OPTION),
    "MethodNotAllowed": (InputError, ENDPOINT),
    "MissingContentMD5": (InputError, "The server needs a checksum: omit --checksum."),
    "InvalidDigest": (InputError, "The server does not take this checksum: omit --checksum."),
    "KMS.NotFoundException": (InputError, "Check --sse-kms-key-id."),
    "KMS.DisabledException": (InputError, "Check --sse-kms-key-id."),
    "KMS.KMSInvalidStateException": (InputError, "Check --sse-kms-key-id."),
    "KeyTooLongError": (
        InputError,
        "S3 keys have at most 1,024 bytes: shorten --prefix or the name of the file.",
    ),
    "EntityTooLarge": (InputError, "The file is larger than the store allows: split it."),
    "InvalidObjectState": (
        InputError,
        "The object is archived: restore it with `aws s3api restore-object` first.",
    ),
    "NoSuchKey": (MissingObjectError, REPUBLISH),
    "404": (MissingObjectError, REPUBLISH),
    "BadDigest": (IntegrityError, _ALTERED),
    "XAmzContentSHA256Mismatch": (IntegrityError, _ALTERED),
    "XAmzContentChecksumMismatch": (IntegrityError, _ALTERED),
}

_TYPES: tuple[tuple[type[Exception], type[DsmopsError], str], ...] = (
    (sdk.NoCredentialsError, CredentialsError, RENEW),
    (sdk.PartialCredentialsError, CredentialsError, RENEW),
    (sdk.CredentialRetrievalError, CredentialsError, RENEW),
    (sdk.UnknownCredentialError, CredentialsError, RENEW),
    (sdk.RefreshWithMFAUnsupportedError, CredentialsError, RENEW),
    (sdk.SSOError, CredentialsError, RENEW),
    (sdk.LoginError, CredentialsError, RENEW),
    (sdk.TokenRetrievalError, CredentialsError, RENEW),
    (sdk.NoAuthTokenError, CredentialsError, RENEW),
    (
        sdk.MissingDependencyException,
        CredentialsError,
        "Run `pip install 'botocore[crt]'`, or sign in another way.",
    ),
    (
        sdk.ProfileNotFound,
        CredentialsError,
        "`aws configure list-profiles` lists the names. Or omit --profile.",
    ),
    # A role without source_profile, one that names itself, an sso_session that is not there.
    (sdk.InvalidConfigError, CredentialsError, RENEW),
    (sdk.NoRegionError, InputError, "Name it with --region."),
    (sdk.InvalidRegionError, InputError, "Check --region."),
    (sdk.InvalidEndpointConfigurationError, InputError, ENDPOINT),
    (sdk.EndpointProviderError, InputError, ENDPOINT),
    (
        sdk.ConfigParseError,
        InputError,
        "Correct the file, or name another with AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE.",
    ),
    (sdk.ParamValidationError, InputError, "Check the options of the store."),
    (
        sdk.HTTPClientError,
        TransferError,
        "Check the network and --endpoint-url, then run the command again.",
    ),
    (
        sdk.ConnectionError,
        TransferError,
        "Check the network and --endpoint-url, then run the command again.",
    ),
)

# Statuses for which the same request may succeed later.
_PASSING = {408, 409, 425, 429}


# What a file of the configuration may be: missing, forbidden, a folder, or no program.
_UNUSABLE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR, errno.ENOEXEC}


class Translator:
    """Turns errors of the library into ours, in the words of one store's options and account."""

    def __init__(self, options: StoreOptions, account: Account | None) -> None:
        self._options, self._account = options, account

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn every error of the library in the block into ours; `what` begins the message."""
        try:
            yield
        except (sdk.BotoCoreError, sdk.ClientError) as exc:
            raise self._translate(exc, what) from exc
        except EOFError as exc:  # the library asked for a one-time code, without a terminal
            raise self._renew(f"{what}: {self._name} needs a one-time code") from exc
        except JSONDecodeError as exc:  # the answer of a credential_process
            raise self._renew(f"{what}: {self._name}: not JSON: {exc}") from exc
        except OSError as exc:
            # A credential_process or a web_identity_token_file: `put` has translated its own files.
            if exc.errno not in _UNUSABLE:
                raise
            raise self._renew(f"{what}: {self._name}: {exc.filename}: {exc.strerror}") from exc
        except RecursionError as exc:
            # A redirected library asks the bucket where it is, is redirected, asks again, ...
            raise InputError(
                f"{what}: the server redirects to another address",
                hint="Check --endpoint-url (http or https?) and --region.",
                code="publish.endpoint",
            ) from exc

    @property
    def _name(self) -> str:
        return self._account.name if self._account else "the account"

    def _renew(self, message: str) -> CredentialsError:
        return CredentialsError(message, hint=self._account.fix if self._account else "")

    def _translate(self, exc: Exception, what: str) -> DsmopsError:
        if isinstance(exc, sdk.ClientError):
            return self._translate_answer(exc, what)
        if isinstance(exc, sdk.HTTPClientError) and "header value" in str(exc):
            # The library's message repeats the value, which may be a token.
            return InputError(
                f"{what}: a credential or an option contains a line break",
                hint="Check the AWS_ variables and the options.",
            )
        for of_sdk, kind, hint in _TYPES:
            if isinstance(exc, of_sdk):
                if hint is RENEW:
                    return self._renew(f"{what}: {self._name}: {reason_of(exc)}")
                name = "" if kind is not CredentialsError else f"{self._name}: "
                return kind(f"{what}: {name}{reason_of(exc)}", hint=hint)
        return TransferError(f"{what}: {reason_of(exc)}", hint=_AGAIN)

    def _translate_answer(self, exc: sdk.ClientError, what: str) -> DsmopsError:
        """Return our error for an answer of a server: of S3, or of a service behind a profile."""
        if not is_from_s3(exc):
            service = f"{exc.operation_name} was refused"
            return self._renew(f"{what}: {self._name}: {service}: {reason_of(exc)}")
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind, hint = _CODES.get(code_of(exc)) or self._unlisted(status)
        if hint is RENEW:
            return self._renew(f"{what}: {self._name}: {reason_of(exc)}")
        if hint is _REFUSED_OPTION:
            hint = self._refused_option(exc)
        code = REFUSED if kind is InputError else None
        return kind(f"{what}: {reason_of(exc)}", hint=hint, code=code)

    def _unlisted(self, status: int) -> tuple[type[DsmopsError], str]:
        if status in (401, 403):
            return CredentialsError, _RIGHTS
        if 400 <= status < 500 and status not in _PASSING:
            return RemoteError, (
                "The server would refuse this again. Check the settings of the bucket, "
                f"--endpoint-url{self._also_given()}."
            )
        return TransferError, _AGAIN

    def _refused_option(self, exc: sdk.ClientError) -> str:
        """Return which option to omit: the one whose header the server names, or all given."""
        message = str(exc.response.get("Error", {}).get("Message", "")).lower()
        for word, option in (
            ("storage-class", "--storage-class"),
            ("storage class", "--storage-class"),
            ("aws-kms-key-id", "--sse-kms-key-id"),
            ("server-side-encryption", "--sse"),
            ("encryption", "--sse"),
            ("acl", "--acl"),
            ("request-payer", "--requester-pays"),
        ):
            if word in message and option in self._options.given_for_s3():
                return f"The server does not take {option} with this value: omit it."
        if any(word in message for word in ("checksum", "content-md5", "trailer")):
            if self._options.checksum == "auto":
                return "No checksum that dsmops knows suits the server; see --checksum."
            return f"The server does not take --checksum {self._options.checksum}: omit it."
        return (
            "The server cannot do this, and would refuse it again. Check the settings of the "
            f"bucket, --endpoint-url{self._also_given()}."
        )

    def _also_given(self) -> str:
        return "".join(f", {name}" for name in self._options.given_for_s3() if name in _ON_WRITE)


_ON_WRITE = {
    "--acl",
    "--sse",
    "--sse-kms-key-id",
    "--storage-class",
    "--checksum",
    "--requester-pays",
}

_S3_OPERATIONS = (
    "Object",
    "Objects",
    "ObjectsV2",
    "MultipartUpload",
    "MultipartUploads",
    "UploadPart",
    "Bucket",
)


def is_from_s3(exc: sdk.ClientError) -> bool:
    """Tell whether S3 answered, not a service that hands out credentials."""
    return str(exc.operation_name).endswith(_S3_OPERATIONS)


def code_of(exc: Exception) -> str:
    """Return the server's error code, or the HTTP status where there is none.

    Empty for an error that is not an answer of a server.
    """
    if not isinstance(exc, sdk.ClientError):
        return ""
    return str(
        exc.response.get("Error", {}).get("Code")
        or exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    )


def message_of(exc: Exception) -> str:
    """Return the server's own words; empty for an error that is not an answer of a server."""
    found = exc.response.get("Error", {}) if isinstance(exc, sdk.ClientError) else {}
    return str(found.get("Message") or "")


def reason_of(exc: BaseException) -> str:
    """Return what the server said, `AccessDenied: ...`, without the library's phrase around it."""
    if isinstance(exc, sdk.ClientError):
        tries = exc.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
        words = ": ".join(filter(None, (code_of(exc), message_of(exc))))
        return words + (f" (tried {tries} times)" if tries > 1 else "")
    return str(exc)
