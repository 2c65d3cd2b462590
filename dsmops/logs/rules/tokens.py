"""Shapes of the access tokens that vendors issue: one table, from which rules and tests are made.

A shape is a fixed start or mark, and characters of an alphabet around it. Lengths are the least
that the source allows, so that a longer token of the next year is still found.

Sources are the vendors' own pages on token formats where they have one, else the public rules of
gitleaks 8.x ("gitleaks") or GitHub's "Supported secret scanning patterns" ("GitHub list"). Shapes
are facts; patterns and examples are our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsmops.logs.rules.edits import whole_edit
from dsmops.logs.rules.rule import Rule

_ALNUM = "A-Za-z0-9"
_HEX = "a-fA-F0-9"
_URL_SAFE = r"\w-"
_BASE64 = "A-Za-z0-9+/="


@dataclass(frozen=True, slots=True)
class TokenShape:
    """The shape of one vendor's tokens.

    `least_before` characters, one of `marks`, `least` characters. `alphabet` is the inside of a
    character class. `mixed` says that the start is also an ordinary word, so what follows must hold
    a digit and stand apart from names.
    """

    vendor: str
    marks: tuple[str, ...]
    alphabet: str
    least: int
    source: str
    before: str = ""
    least_before: int = 0
    mixed: bool = False


def _of(vendor: str, marks: str, alphabet: str, least: int, source: str) -> TokenShape:
    return TokenShape(vendor, tuple(marks.split()), alphabet, least, source)


_GITHUB = "docs.github.com: about authentication, GitHub's token formats"
_GITLAB = "docs.gitlab.com: security/tokens, token prefixes"
_SLACK = "docs.slack.dev: authentication/tokens"
_STRIPE = "docs.stripe.com: keys"
_DIGITALOCEAN = "docs.digitalocean.com: reference/api, token prefixes"
_HASHICORP = "developer.hashicorp.com: vault/docs/concepts/tokens"
_GITLEAKS = "gitleaks"
LIST = "GitHub list"

TOKEN_SHAPES: tuple[TokenShape, ...] = (
    _of("Hugging Face", "hf_ api_org_", _ALNUM, 30, "huggingface.co: docs/hub/security-tokens"),
    _of("Hugging Face OAuth", "hf_oauth_ hf_jwt_", r"\w.-", 30, LIST),
    _of("GitHub", "ghp_ gho_ ghu_ ghs_ ghr_", _ALNUM, 30, _GITHUB),
    _of("GitHub fine-grained", "github_pat_", r"\w", 20, _GITHUB),
    _of(
        "GitLab",
        "glpat- gldt- glrt- glrtr- glcbt- glptt- glft- glimt- glagent- gloas- glsoat- glffct- "
        "glwt- GR1348941",
        r"\w.-",
        20,
        _GITLAB,
    ),
    _of("GitLab session", "_gitlab_session=", _ALNUM, 20, _GITLAB),
    _of("Slack", "xoxa- xoxb- xoxc- xoxd- xoxe- xoxo- xoxp- xoxr- xoxs-", r"\w%-", 10, _SLACK),
    _of("Slack refresh", "xoxe.xoxp- xoxe.xoxb- xapp-", _URL_SAFE, 10, _SLACK),
    _of(
        "Slack webhook",
        "hooks.slack.com/services/ hooks.slack.com/workflows/ hooks.slack.com/triggers/",
        "A-Za-z0-9+/",
        20,
        _SLACK,
    ),
    _of("Stripe", "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_", _ALNUM, 10, _STRIPE),
    _of("Stripe webhook", "whsec_", _BASE64, 20, _STRIPE),
    _of("SendGrid", "SG.", r"\w=.-", 40, "docs.sendgrid.com: API keys"),
    _of("Docker Hub", "dckr_pat_ dckr_oat_", _URL_SAFE, 20, LIST),
    _of("DigitalOcean", "dop_v1_ doo_v1_ dor_v1_", _HEX, 40, _DIGITALOCEAN),
    _of("DigitalOcean Spaces", "DO00", "A-Z0-9", 16, _DIGITALOCEAN),
    _of("Replicate", "r8_", _ALNUM, 30, "replicate.com: docs, API tokens"),
    _of("Groq", "gsk_", _ALNUM, 30, "console.groq.com: docs, API keys"),
    _of("xAI", "xai-", _ALNUM, 30, "docs.x.ai: API keys"),
    _of("NVIDIA", "nvapi-", _URL_SAFE, 40, "docs.nvidia.com: NGC user guide, API keys"),
    _of("OpenAI and alike", "sk-proj- sk-svcacct- sk-admin- sk-None-", _URL_SAFE, 20, _GITLEAKS),
    _of("Anthropic", "sk-ant-", _URL_SAFE, 20, _GITLEAKS),
    _of("OpenRouter", "sk-or-v1-", _HEX, 40, "openrouter.ai: docs, authentication"),
    _of("LangSmith", "lsv2_pt_ lsv2_sk_ ls__", r"\w", 30, LIST),
    _of("Langfuse", "sk-lf- pk-lf-", "a-f0-9-", 30, "langfuse.com: docs, API keys"),
    TokenShape("OpenAI, DeepSeek, others", ("sk-",), _URL_SAFE, 20, _GITLEAKS, mixed=True),
    _of("Perplexity", "pplx-", _ALNUM, 40, _GITLEAKS),
    TokenShape("Fireworks", ("fw_",), _ALNUM, 22, LIST, mixed=True),
    _of("Cerebras", "csk-", _ALNUM, 40, LIST),
    _of("Tavily", "tvly-", _URL_SAFE, 20, LIST),
    _of("Firecrawl", "fc-", "a-f0-9", 32, LIST),
    _of("ElevenLabs", "sk_", "a-f0-9", 48, LIST),
    _of("Weights & Biases", "wandb_v1_", r"\w", 30, "docs.wandb.ai: API keys"),
    TokenShape("Modal", ("ak-", "as-"), _ALNUM, 22, "modal.com: docs, token set", mixed=True),
    _of("RunPod", "rpa_", "A-Z0-9", 30, "docs.runpod.io: API keys"),
    _of("Google API", "AIza", _URL_SAFE, 35, "cloud.google.com: docs, API keys"),
    _of("Google OAuth", "ya29. GOCSPX-", r"\w.-", 20, LIST),
    _of("Google refresh", "1//0", _URL_SAFE, 30, LIST),
    _of("Google HMAC", "GOOG1E GOOG", "A-Z0-9", 20, "cloud.google.com: storage, HMAC keys"),
    _of("npm", "npm_", _ALNUM, 30, "docs.npmjs.com: about access tokens"),
    _of("PyPI", "pypi-", _URL_SAFE, 20, "PyPI help: API tokens"),
    _of("RubyGems", "rubygems_", _HEX, 40, _GITLEAKS),
    _of("crates.io", "cio", _ALNUM, 32, "crates.io: API tokens"),
    _of("NuGet", "oy2", "a-z0-9", 43, LIST),
    _of("Clojars", "CLOJARS_", "a-z0-9", 50, _GITLEAKS),
    _of("Vault", "hvs. hvb. hvr.", _URL_SAFE, 20, _HASHICORP),
    TokenShape("Vault before 1.10", ("s.", "b.", "r."), _ALNUM, 24, _HASHICORP, mixed=True),
    TokenShape(
        "Terraform Cloud",
        (".atlasv1.",),
        "A-Za-z0-9=_-",
        40,
        "developer.hashicorp.com: terraform, API tokens",
        before=_ALNUM,
        least_before=10,
    ),
    TokenShape(
        "Azure client secret",
        tuple(f"{digit}Q~" for digit in range(10)),
        r"\w.~-",
        30,
        _GITLEAKS,
        before=r"\w.~",
        least_before=3,
    ),
    _of("Azure DevOps, storage", "AZDO AzCa ACRx", "A-Za-z0-9+/=", 40, LIST),
    _of("AWS session", "IQoJb3JpZ2lu FwoGZXIvYXdz", _BASE64, 60, "docs.aws.amazon.com: STS"),
    _of("AWS Bedrock", "ABSK bedrock-api-key-", _BASE64, 30, _GITLEAKS),
    _of("Alibaba Cloud", "LTAI", _ALNUM, 16, _GITLEAKS),
    _of("Tencent Cloud", "AKID", _ALNUM, 32, LIST),
    _of("Databricks", "dapi", "a-f0-9-", 32, _GITLEAKS),
    _of("Grafana before 9", "eyJrIjoi", _BASE64, 40, _GITLEAKS),
    _of("Grafana", "glsa_ glc_", _BASE64 + "_", 30, _GITLEAKS),
    _of("Sentry", "sntrys_ sntryu_", _BASE64 + "_", 30, _GITLEAKS),
    _of("New Relic", "NRAK- NRII- NRIQ- NRJS- NRRA- NRAA-", _URL_SAFE, 19, LIST),
    _of("Datadog", "ddapi_ ddapp_", _ALNUM, 30, LIST),
    _of("Dynatrace", "dt0c01. dt0s01. dt0s16.", r"\w.", 40, _GITLEAKS),
    _of("Doppler", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"\w.", 40, _GITLEAKS),
    _of("1Password", "ops_eyJ A3-", r"A-Za-z0-9+/=-", 25, _GITLEAKS),
    _of("age", "AGE-SECRET-KEY-1", "A-Z0-9", 40, _GITLEAKS),
    _of("Airtable", "pat", _ALNUM + ".", 60, _GITLEAKS),
    _of("Atlassian", "ATATT3 ATCTT3 ATBB", r"\w=-", 20, LIST),
    _of("Artifactory", "AKCp cmVmd", _ALNUM, 50, _GITLEAKS),
    _of("Adobe", "p8e-", _ALNUM + "-", 30, _GITLEAKS),
    _of("Cloudflare", "v1.0-", "a-f0-9-", 60, _GITLEAKS),
    _of("Cloudflare token", "cfut_ cfat_ cfk_", r"\w", 30, LIST),
    _of("ClickHouse", "4b1d", _ALNUM, 38, _GITLEAKS),
    _of("Contentful", "CFPAT-", _URL_SAFE, 40, LIST),
    _of("Discord webhook", "discord.com/api/webhooks/", r"\w/-", 40, LIST),
    _of("Duffel", "duffel_test_ duffel_live_", r"\w=-", 40, _GITLEAKS),
    _of("EasyPost", "EZAK EZTK", _ALNUM, 50, _GITLEAKS),
    _of("Facebook", "EAAM EAAC EAAG EAAB", _ALNUM, 60, _GITLEAKS),
    _of("Figma", "figd_ figo_", _URL_SAFE, 30, LIST),
    _of("Flutterwave", "FLWSECK_TEST- FLWSECK- FLWPUBK_TEST-", _ALNUM, 12, _GITLEAKS),
    _of("Fly.io", "fo1_ fm1a_ fm1r_ fm2_", r"\w+/=-", 40, _GITLEAKS),
    _of("Frame.io", "fio-u- ffio-u-", r"\w=-", 60, _GITLEAKS),
    _of("Harness", "pat. sat.", r"\w.-", 60, _GITLEAKS),
    _of("Heroku", "HRKU-", _URL_SAFE, 30, _GITLEAKS),
    _of("Infracost", "ico-", _ALNUM, 32, _GITLEAKS),
    _of("Intra42", "s-s4t2ud- s-s4t2af-", "a-f0-9", 60, _GITLEAKS),
    _of("Linear", "lin_api_ lin_oauth_", _ALNUM, 32, _GITLEAKS),
    TokenShape("MaxMind", ("_mmk",), r"\w", 0, _GITLEAKS, before=r"\w", least_before=36),
    _of(
        "Microsoft Teams webhook",
        "webhook.office.com/webhookb2/ outlook.office.com/webhook/",
        r"\w@/-",
        60,
        _GITLEAKS,
    ),
    _of("Neon", "napi_", _ALNUM, 40, LIST),
    _of("Netlify", "nfp_ nfo_ nfc_", _ALNUM, 30, LIST),
    _of("Notion", "ntn_ secret_", _ALNUM, 40, _GITLEAKS),
    _of("Octopus Deploy", "API-", "A-Z0-9", 24, _GITLEAKS),
    _of("OpenShift", "sha256~", _URL_SAFE, 40, _GITLEAKS),
    _of("PlanetScale", "pscale_tkn_ pscale_oauth_ pscale_pw_", r"\w=.-", 30, _GITLEAKS),
    _of("Polar", "polar_oat_ polar_pat_", _ALNUM, 30, LIST),
    _of("Postman", "PMAK-", _ALNUM + "-", 50, _GITLEAKS),
    _of("PostHog", "phx_ phs_", _ALNUM, 30, LIST),
    _of("Prefect", "pnu_ pnb_", _ALNUM, 36, _GITLEAKS),
    _of("Pulumi", "pul-", "a-f0-9", 40, _GITLEAKS),
    _of("ReadMe", "rdme_", "a-z0-9", 60, _GITLEAKS),
    _of("Scalingo", "tk-us-", _URL_SAFE, 40, _GITLEAKS),
    _of("Sendinblue", "xkeysib- xsmtpsib-", "a-zA-Z0-9-", 60, _GITLEAKS),
    _of("SettleMint", "sm_aat_ sm_pat_ sm_sat_", _ALNUM, 16, _GITLEAKS),
    _of("Shippo", "shippo_live_ shippo_test_", _HEX, 40, _GITLEAKS),
    _of("Shopify", "shpat_ shpca_ shppa_ shpss_", _HEX, 32, _GITLEAKS),
    _of("Sourcegraph", "sgp_ slk_ sgd_", r"\w", 40, _GITLEAKS),
    _of("Square", "EAAA sq0atp- sq0csp- sq0idp-", _URL_SAFE, 22, _GITLEAKS),
    _of("Supabase", "sbp_ sb_secret_ sb_publishable_", r"\w", 30, LIST),
    _of("Tailscale", "tskey-", _URL_SAFE, 20, "tailscale.com: kb, key prefixes"),
    TokenShape("Twilio", ("SK", "AC"), _HEX, 32, _GITLEAKS, mixed=True),
    _of("Vercel", "vcp_ vci_ vca_ vcr_ vck_", _ALNUM, 24, LIST),
    TokenShape("Mailchimp", ("-us",), "0-9", 1, _GITLEAKS, before="a-f0-9", least_before=32),
    _of("Plaid", "access-production- access-sandbox-", "a-f0-9-", 30, _GITLEAKS),
    _of("Lob", "live_pub_ test_pub_ live_ test_", "a-f0-9", 31, _GITLEAKS),
    _of("HubSpot", "pat-na1- pat-na2- pat-eu1-", "a-f0-9-", 30, LIST),
    _of("Typeform", "tfp_", r"\w.=-", 40, _GITLEAKS),
    _of("Dropbox", "sl.", r"\w=-", 60, _GITLEAKS),
    _of("X (Twitter)", "AAAAAAAAAAAAAAAAAAAAAA", _ALNUM + "%", 20, _GITLEAKS),
    _of("Mailgun", "key-", "a-f0-9", 32, LIST),
    _of("MongoDB Atlas", "mdb_sa_sk_", _URL_SAFE, 30, LIST),
    _of("Yandex", "AQVN", r"\w=.-", 30, LIST),
    _of("Zuplo and Unkey", "zpka_ unkey_", r"\w", 16, LIST),
    _of("RSA of JSON Web Keys", "ZXlK", _BASE64, 30, _GITLEAKS),
    _of("Authress", "scauth_ authress_", r"a-z0-9+/_=.-", 60, _GITLEAKS),
    _of("Adafruit IO", "aio_", _ALNUM, 26, "io.adafruit.com: API keys"),
    _of("Dependency-Track", "odt_", _ALNUM, 24, "docs.dependencytrack.org: API keys"),
    _of("Jina", "jina_", _ALNUM, 40, "jina.ai: API keys"),
    _of("SonarQube", "sqp_ squ_ sqa_", _HEX, 40, "docs.sonarsource.com: tokens"),
    _of("Voiceflow", "VF.DM. VF.WS.", r"\w.-", 30, "docs.voiceflow.com: API keys"),
    _of("Teamwork", "tkn.v1_", _BASE64, 40, "apidocs.teamwork.com: tokens"),
    _of("PubNub", "sec-c- sub-c- pub-c-", _ALNUM + "-", 36, "pubnub.com: docs, keys"),
    _of("Pixie", "px-api- px-dep-", "a-z0-9-", 36, "docs.px.dev: API keys"),
    _of("Scrapfly", "scp-live- scp-test-", _ALNUM, 30, "scrapfly.io: docs, API keys"),
    _of("Ionic", "ion_", _ALNUM, 40, "ionic.io: docs, tokens"),
    _of("FullStory", "na1. eu1.", "A-Za-z0-9+/=", 90, "developer.fullstory.com: API keys"),
    TokenShape(
        "GoCardless", ("live_", "sandbox_"), r"\w=-", 40, "developer.gocardless.com: API keys",
        mixed=True,
    ),
    _of("Paddle", "pdl_live_apikey_ pdl_sdbx_apikey_", r"\w", 40, "developer.paddle.com: API keys"),
    _of("Pinecone", "pcsk_", r"\w", 40, "docs.pinecone.io: API keys"),
    _of("Render", "rnd_", _ALNUM, 24, "render.com: docs, API keys"),
    _of("Pydantic Logfire", "pylf_v1_", r"\w", 40, "logfire.pydantic.dev: write tokens"),
    _of("Together", "tgp_v1_", _URL_SAFE, 30, "docs.together.ai: API keys"),
    _of("E2B", "e2b_", _HEX, 32, "e2b.dev: docs, API keys"),
    _of("LlamaCloud", "llx-", _ALNUM, 30, "docs.llamaindex.ai: API keys"),
    TokenShape("Voyage AI", ("pa-",), r"\w-", 40, "docs.voyageai.com: API keys", mixed=True),
    _of("Cartesia", "sk_car_", r"\w", 20, "docs.cartesia.ai: API keys"),
    _of("Helicone", "sk-helicone- pk-helicone-", _URL_SAFE, 20, "docs.helicone.ai: API keys"),
    _of("LaunchDarkly", "api- sdk- mob-", "a-f0-9-", 36, "docs.launchdarkly.com: keys"),
    _of("Honeycomb", "hcaik_ hcalk_ hcxik_ hcbik_", "a-z0-9", 30, "docs.honeycomb.io: API keys"),
    _of("Axiom", "xaat- xapt- xait-", "a-f0-9-", 36, "axiom.co: docs, tokens"),
    _of("dbt", "dbtc_ dbtu_", r"\w=-", 30, "docs.getdbt.com: tokens"),
    _of("CircleCI", "CCIPAT_ CCIPRJ_", r"\w", 40, "circleci.com: docs, tokens"),
    _of("Buildkite", "bkua_ bkaj_ bkct_", "a-z0-9", 30, "buildkite.com: docs, tokens"),
    _of("Deno Deploy", "ddp_ ddw_", _ALNUM, 36, "docs.deno.com: tokens"),
    _of("Snyk", "snyk_uat. snyk_sat.", r"\w.-", 30, "docs.snyk.io: tokens"),
    _of("Infisical", "st.", "a-f0-9.-", 60, "infisical.com: docs, service tokens"),
    _of("MailerSend", "mlsn.", "a-f0-9", 50, "developers.mailersend.com: tokens"),
    _of("Stytch", "secret-live- secret-test-", r"\w=-", 24, "stytch.com: docs, secrets"),
    _of("Lichess", "lip_", _ALNUM, 20, "lichess.org: API"),
    _of("WakaTime", "waka_", _ALNUM + "-", 30, "wakatime.com: API keys"),
    _of("CockroachDB", "CCDB1_", r"\w", 40, "cockroachlabs.com: docs, API keys"),
    _of("Bitbucket Data Center", "BBDC-", _BASE64, 30, "confluence.atlassian.com: HTTP tokens"),
    _of("Yandex Cloud", "t1. y0_ YCA YCN YCM YCP", r"\w=.-", 36, "yandex.cloud: docs, tokens"),
    _of("Volcengine", "AKLT", _ALNUM, 30, "volcengine.com: docs, keys"),
    _of("Private key in base64", "LS0tLS1CRUdJTi LS0tLSBCRUdJTi", _BASE64, 40, "RFC 7468"),
    TokenShape(
        "Telegram bot", (":AA",), _URL_SAFE, 32, "core.telegram.org: bots", before=r"\d",
        least_before=8,
    ),
    TokenShape(
        "Facebook app", ("|", "%7C"), r"\w-", 27, _GITLEAKS, before=r"\d", least_before=15,
    ),
)  # fmt: skip


def token_pattern() -> str:
    """Return a verbose pattern that matches any token of the table."""
    ordinary = "|".join(
        rf"(?: {_any_of(marks)} ) [{alphabet}]{{{least},}}"
        for (alphabet, least), marks in _grouped(mixed=False).items()
    )
    mixed = "|".join(
        rf"(?: {_any_of(marks)} ) (?=[{alphabet}]{{0,40}}?\d) [{alphabet}]{{{least},}}"
        for (alphabet, least), marks in _grouped(mixed=True).items()
    )
    inner = (
        rf"(?<![{shape.before}]) [{shape.before}]{{{shape.least_before},80}} "
        rf"(?: {_any_of(shape.marks)} ) [{shape.alphabet}]{{{shape.least},}}"
        for shape in TOKEN_SHAPES
        if shape.before
    )
    # One look back for all of them: most characters of a line stand inside a word.
    return "|".join(
        (
            rf"(?<![A-Za-z0-9]) (?: {ordinary} )",
            rf"(?<![\w-]) (?: {mixed} )",
            *inner,
        )
    )


def token_hint() -> str:
    """Return a pattern that finds any mark of the table in a line whose digits all read 0."""
    ordinary = sorted(
        {
            re.sub(r"\d", "0", mark)
            for shape in TOKEN_SHAPES
            if not shape.before
            for mark in shape.marks
        }
    )
    inner = {
        re.escape(re.sub(r"\d", "0", mark))
        for shape in TOKEN_SHAPES
        if shape.before
        for mark in shape.marks
    }
    # A mark at a boundary, and enough behind it that it is not a word of a message.
    return (
        rf"(?<![A-Za-z0])(?:{_trie(ordinary)})[\w.%+/=@~-]{{9}}"
        rf"|\w(?:{'|'.join(sorted(inner))})(?:[\w.=~-]{{26}}|(?<=_mmk)|(?<=-us)0)"
    )


def _grouped(*, mixed: bool) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = {}
    for shape in TOKEN_SHAPES:
        if shape.mixed == mixed and not shape.before:
            found.setdefault((shape.alphabet, shape.least), []).extend(shape.marks)
    return found


def _any_of(marks: list[str] | tuple[str, ...]) -> str:
    return _trie(sorted(set(marks)))


def _trie(words: list[str]) -> str:
    """Return a pattern of some words by their first letters.

    It is 10 times faster than one branch for each word.
    """
    if "" in words:
        return ""
    branches = []
    for first in sorted({word[0] for word in words}):
        rest = [word[1:] for word in words if word[0] == first]
        # Of two words of which one begins with the other, the longer is tried first.
        longer = sorted({word for word in rest if word})
        inner = _trie(longer) if longer else ""
        if "" in rest:
            inner = f"(?:{inner})?" if inner else ""
        elif len(longer) > 1:
            inner = f"(?:{inner})"
        branches.append(re.escape(first) + inner)
    return "|".join(branches)


TOKEN = Rule(
    "token",
    needles=(),
    hint=token_hint(),
    source=token_pattern(),
    edit=whole_edit("key"),
)
