"""The S3 client with its credentials, and what to do when those do not work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore
import botocore.session
from botocore.config import Config

from dsmops import __version__
from dsmops.errors import CredentialsError
from dsmops.publish.store import StoreOptions

_CONNECT_S = 10.0

_NO_SOURCE = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with --profile."


@dataclass(frozen=True, slots=True)
class Account:
    """Where the credentials come from. `name` is for messages, `fix` says how to renew them."""

    name: str
    fix: str


def open_session(options: StoreOptions) -> botocore.session.Session:
    """Return the library's session for the profile of the options. Reads no credentials yet."""
    return botocore.session.Session(profile=options.profile)


def read_account(session: botocore.session.Session, options: StoreOptions) -> Account:
    """Return where the credentials of this session come from, judged by its configuration.

    Raises:
        CredentialsError: the profile asks for a one-time code, and there is no terminal to ask on.
    """
    # As in the library: keys in the environment win, unless the profile is named on the command.
    if options.profile is None and os.environ.get("AWS_ACCESS_KEY_ID"):
        return Account(
            "the AWS_ variables",
            "Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary keys, "
            "AWS_SESSION_TOKEN to valid values.",
        )
    profile = str(session.get_config_variable("profile") or "default")
    profiles = session.full_config.get("profiles", {})
    config = profiles.get(profile, {})
    account = Account(f"profile {profile!r}", _fix(profile, profiles))
    if "mfa_serial" in config and "role_arn" in config and not _has_terminal():
        raise CredentialsError(
            f"{account.name} needs a one-time code (mfa_serial), and there is no terminal to "
            "ask for it",
            hint=account.fix,
        )
    return account


def _fix(profile: str, profiles: Mapping[str, Mapping[str, Any]], depth: int = 0) -> str:
    """Return what to do when the credentials of a profile do not work."""
    config = profiles.get(profile, {})
    option = "" if profile == "default" else f" --profile {shlex.quote(profile)}"
    where = f"profile {profile!r} in ~/.aws/config"
    if "sso_session" in config or "sso_start_url" in config:
        return f"Sign in again: `aws sso login{option}`."
    if "login_session" in config:
        return f"Sign in again: `aws login{option}`."
    if "credential_process" in config:
        return f"Run the credential_process of {where} by hand, and correct what it reports."
    if "mfa_serial" in config:
        return (
            "Run the command in a terminal, or set the AWS_ variables to what "
            f"`aws sts assume-role` gives for {where}."
        )
    if "web_identity_token_file" in config:
        return f"Check web_identity_token_file and role_arn of {where}."
    if "source_profile" in config:
        source = str(config["source_profile"])
        if source != profile and source in profiles and depth < 5:
            return f"Check role_arn of {where}. {_fix(source, profiles, depth + 1)}"
        return f"Check source_profile and role_arn of {where}."
    if "aws_access_key_id" in config:
        return f"Check the keys of profile {profile!r} in ~/.aws/credentials."
    return _NO_SOURCE


def _has_terminal() -> bool:
    try:
        with Path("/dev/tty").open("rb"):
            return True
    except OSError:
        return False


def open_client(
    session: botocore.session.Session, options: StoreOptions, *, signature: str | None = None
) -> Any:
    """Return an S3 client of the session. `signature` forces a signature version, such as s3v4."""
    return session.create_client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        config=Config(
            connect_timeout=min(_CONNECT_S, options.timeout_s),
            read_timeout=options.timeout_s,
            retries={"mode": "standard", "total_max_attempts": options.attempts},
            max_pool_connections=2 * options.workers,
            # The library's own CRC32 in a trailer is refused by R2, older MinIO, GCS and Ceph. The
            # checksum that we send goes in a header instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Given in full: otherwise the library assembles it again for every request, twice.
            user_agent=f"dsmops/{__version__} Botocore/{botocore.__version__}",
            signature_version=signature,
        ),
    )
