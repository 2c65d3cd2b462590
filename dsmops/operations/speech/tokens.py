"""Which tokens (JWT) a server takes beside its keys, as the options of `worker` and `up` say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.errors import InputError
from dsmops.extras import TOKENS, require_worker

if TYPE_CHECKING:
    from dsmops.worker.serving.token_keys import TokenSettings

KEYS_VARIABLE = "DSMOPS_JWT_KEYS"
SECRET_VARIABLE = "DSMOPS_JWT_SECRET"  # noqa: S105 a name, not a secret
AUDIENCE_VARIABLE = "DSMOPS_JWT_AUDIENCE"
ISSUER_VARIABLE = "DSMOPS_JWT_ISSUER"
LEEWAY_VARIABLE = "DSMOPS_JWT_LEEWAY"
_MOST_CALLER_CHARS = 80


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """The options `--jwt-*`. Without keys and secret no token is taken."""

    keys: str | None = None
    secret: str | None = field(default=None, repr=False)
    audiences: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    leeway_s: float | None = None

    @property
    def are_taken(self) -> bool:
        """Whether tokens let anyone in."""
        return self.keys is not None or self.secret is not None

    def check(self) -> list[str]:
        """Return what the operator should know. No address is asked.

        Raises:
            InputError: a key is unusable, or there is no key for the rules that were given.
            FileAccessError: the file of keys cannot be read.
            ExtraMissingError: a library is not installed.
        """
        settings = self.settings()
        if settings is None:
            if self.audiences or self.issuers or self.leeway_s is not None:
                raise InputError(
                    "--jwt-audience, --jwt-issuer and --jwt-leeway need keys that check tokens",
                    hint="Add --jwt-keys FILE|URL or --jwt-secret SECRET.",
                    code="jwt.keys",
                )
            return []
        from dsmops.worker.serving.token_keys import check_tokens

        return check_tokens(settings)

    def settings(self) -> TokenSettings | None:
        """Return what the server gets, None where it takes no tokens.

        A caller is written into the log as `format-log` would leave it: an e-mail address, for
        example, as the same pseudonym.
        """
        if not self.are_taken:
            return None
        require_worker("checking tokens", TOKENS)
        from dsmops.logs import Redactor, load_or_create_key
        from dsmops.worker.serving.token_keys import TokenSettings
        from dsmops.worker.serving.tokens import DEFAULT_LEEWAY_S, TokenRules

        redactor = Redactor(load_or_create_key())
        leeway_s = DEFAULT_LEEWAY_S if self.leeway_s is None else self.leeway_s
        return TokenSettings(
            self.keys,
            self.secret,
            TokenRules(self.audiences, self.issuers, leeway_s),
            show_caller=lambda caller: redactor.part(caller[:_MOST_CALLER_CHARS]),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that tell another process the same; arguments could be listed.

        A file is named from the root on: the other process may work in another folder.
        """
        keys = self.keys or ""
        values = {
            KEYS_VARIABLE: keys if "://" in keys or not keys else str(Path(keys).absolute()),
            SECRET_VARIABLE: self.secret or "",
            AUDIENCE_VARIABLE: " ".join(self.audiences),
            ISSUER_VARIABLE: " ".join(self.issuers),
            LEEWAY_VARIABLE: "" if self.leeway_s is None else str(self.leeway_s),
        }
        return {name: value for name, value in values.items() if value}


NO_TOKENS = TokenOptions()
