"""The options `--jwt-*` of the commands that serve."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.operations.speech.tokens import (
    AUDIENCE_VARIABLE,
    ISSUER_VARIABLE,
    KEYS_VARIABLE,
    LEEWAY_VARIABLE,
    SECRET_VARIABLE,
    TokenOptions,
)

JwtKeysOpt = Annotated[
    str | None,
    typer.Option(
        "--jwt-keys",
        metavar="FILE|URL",
        envvar=KEYS_VARIABLE,
        help="Take tokens (JWT) that these keys (JWKS) have signed.",
    ),
]
JwtSecretOpt = Annotated[
    str | None,
    typer.Option(
        "--jwt-secret",
        metavar="SECRET",
        envvar=SECRET_VARIABLE,
        help="Take tokens (JWT, HS256) signed with this secret.",
    ),
]
JwtAudienceOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--jwt-audience",
        metavar="AUD",
        envvar=AUDIENCE_VARIABLE,
        help="Take tokens for this audience only. Repeatable.",
    ),
]
JwtIssuerOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--jwt-issuer",
        metavar="ISS",
        envvar=ISSUER_VARIABLE,
        help="Take tokens of this issuer only. Repeatable.",
    ),
]
JwtLeewayOpt = Annotated[
    float | None,
    typer.Option(
        "--jwt-leeway",
        metavar="S",
        min=0,
        max=300,
        envvar=LEEWAY_VARIABLE,
        help="Seconds by which clocks may differ. Default: 30.",
    ),
]


def token_options(
    keys: str | None,
    secret: str | None,
    audiences: list[str] | None,
    issuers: list[str] | None,
    leeway_s: float | None,
) -> TokenOptions:
    """Return the values of the options."""
    return TokenOptions(keys, secret, tuple(audiences or ()), tuple(issuers or ()), leeway_s)
