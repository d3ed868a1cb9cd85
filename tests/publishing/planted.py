"""Secrets of the right form, made at random each time, so that this repository contains none."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

LETTERS = string.ascii_letters
WORD = LETTERS + string.digits
URL64 = WORD + "-_"
BASE64 = WORD + "+/"
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits

Maker = Callable[[random.Random], str]


def some(chars: str, count: int) -> Maker:
    return lambda rng: "".join(rng.choice(chars) for _ in range(count))


def form(*parts: str | Maker) -> Maker:
    """Join texts and random runs."""
    return lambda rng: "".join(part if isinstance(part, str) else part(rng) for part in parts)


def mixed(count: int, chars: str = WORD) -> Maker:
    """Return a random run with a small letter, a capital and a digit, as nearly every random run has."""
    return lambda rng: "".join(
        rng.sample(
            [rng.choice("abcdefgh"), rng.choice("JKLMNP"), rng.choice("23456789"), *some(chars, count - 3)(rng)], count
        )
    )


def _json64(document: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def jwt(rng: random.Random) -> str:
    claims = _json64({"sub": some(WORD, 12)(rng), "iat": rng.randrange(10**9, 2 * 10**9)})
    return f"{_json64({'alg': 'HS256', 'typ': 'JWT'})}.{claims}.{some(URL64, 43)(rng)}"


def pem(kind: str) -> Maker:
    def make(rng: random.Random) -> str:
        lines = [some(BASE64, 64)(rng) for _ in range(6)]
        return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])

    return make


def service_account(rng: random.Random) -> str:
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "heads",
            "private_key_id": some(HEX, 40)(rng),
            "private_key": pem("PRIVATE KEY")(rng) + "\n",
            "client_email": "a@heads.iam.gserviceaccount.com",
        }
    )


def basic(rng: random.Random) -> str:
    return "Authorization: Basic " + base64.b64encode(("alice:" + mixed(14)(rng)).encode()).decode()


def docker_config(rng: random.Random) -> str:
    return json.dumps({"auths": {"ghcr.io": {"auth": base64.b64encode(("al:" + mixed(20)(rng)).encode()).decode()}}})


ONE_WORD: dict[str, Maker] = {
    "Hub access token": form("hf_", some(LETTERS, 34)),
    "Hub organisation token": form("api_org_", some(LETTERS, 34)),
    "Hub workflow token": form("hf_jwt_", mixed(42)),
    "Hub workflow token, a JWT": form("hf_jwt_", jwt),
    "Hub OAuth token": form("hf_oauth_", jwt),
    "GitHub personal token": form("ghp_", mixed(36)),
    "GitHub OAuth token": form("gho_", mixed(36)),
    "GitHub server token": form("ghs_", mixed(36)),
    "GitHub user token": form("ghu_", mixed(36)),
    "GitHub refresh token": form("ghr_", mixed(76)),
    "GitHub fine-grained token": form("github_pat_", mixed(22), "_", mixed(59)),
    "GitLab token": form("glpat-", mixed(20)),
    "GitLab runner token": form("glrt-", mixed(20)),
    "GCP API key": form("AIza", mixed(35, URL64)),
    "Google OAuth secret": form("GOCSPX-", mixed(28, URL64)),
    "Google OAuth access token": form("ya29.", mixed(120, URL64)),
    "W&B key, new form": form("wandb_v1_", mixed(22), "_", mixed(55)),
    "W&B key of an own server": form("local-", some(HEX, 40)),
    "AWS key id": form("AKIA", some(string.ascii_uppercase + "234567", 16)),
    "AWS temporary key id": form("ASIA", some(string.ascii_uppercase + "234567", 16)),
    "Anthropic key": form("sk-ant-api03-", mixed(93, URL64), "AA"),
    "Anthropic admin key": form("sk-ant-admin01-", mixed(93, URL64), "AA"),
    "Anthropic OAuth token": form("sk-ant-oat01-", mixed(93, URL64), "AA"),
    "OpenAI key": form("sk-", mixed(20), "T3BlbkFJ", mixed(20)),
    "OpenAI project key": form("sk-proj-", mixed(74, URL64), "T3BlbkFJ", mixed(74, URL64)),
    "OpenAI project key, short": form("sk-proj-", mixed(48)),
    "OpenAI service key": form("sk-svcacct-", mixed(74, URL64), "T3BlbkFJ", mixed(74, URL64)),
    "key of the sk- form": form("sk-", mixed(48)),
    "DeepSeek key": form("sk-", some(HEX, 32)),
    "OpenRouter key": form("sk-or-v1-", some(HEX, 64)),
    "NVIDIA key": form("nvapi-", mixed(64, URL64)),
    "npm token": form("npm_", mixed(36)),
    "PyPI token": form("pypi-AgEIcHlwaS5vcmc", mixed(150, URL64)),
    "Docker token": form("dckr_pat_", mixed(27, URL64)),
    "Docker organisation token": form("dckr_oat_", mixed(32, URL64)),
    "Replicate token": form("r8_", mixed(37)),
    "Kaggle token": form("KGAT_", some(HEX, 32)),
    "Groq key": form("gsk_", mixed(52)),
    "Fireworks key": form("fw_", mixed(24)),
    "Together key": form("tgp_v1_", mixed(43, URL64)),
    "xAI key": form("xai-", mixed(80)),
    "Perplexity key": form("pplx-", mixed(48)),
    "Cerebras key": form("csk-", some(string.ascii_lowercase + string.digits, 48)),
    "RunPod key": form("rpa_", some(UPPER, 46)),
    "LangSmith key": form("lsv2_pt_", some(HEX, 32), "_", some(HEX, 10)),
    "Databricks token": form("dapi", some(HEX, 32)),
    "DigitalOcean token": form("dop_v1_", some(HEX, 64)),
    "Vault token": form("hvs.", mixed(95, URL64)),
    "Slack bot token": form("xoxb-", some("123456789", 12), "-", some("123456789", 12), "-", mixed(24)),
    "Slack user token": form(
        "xoxp-", some("123456789", 12), "-", some("123456789", 12), "-", some("123456789", 12), "-", some(HEX, 32)
    ),
    "Slack app token": form("xapp-1-A", some(UPPER, 10), "-", some("123456789", 13), "-", some(HEX, 64)),
    "Slack webhook": form("https://hooks.slack.com/services/T", some(UPPER, 8), "/B", some(UPPER, 8), "/", mixed(24)),
    "Discord token": form("MT", mixed(24), ".", mixed(6), ".", mixed(38, URL64)),
    "Discord webhook": form("https://discord.com/api/webhooks/", some("123456789", 18), "/", mixed(68, URL64)),
    "Telegram token": form(some("123456789", 10), ":AA", mixed(33, URL64)),
    "Stripe key": form("sk_live_", mixed(24)),
    "Stripe restricted key": form("rk_live_", mixed(99)),
    "SendGrid key": form("SG.", mixed(22, URL64), ".", mixed(43, URL64)),
    "Twilio key": form("SK", some(HEX, 32)),
    "Mailchimp key": form(some(HEX, 32), "-us", some("123456789", 1)),
    "Shopify token": form("shpat_", some(HEX, 32)),
    "JWT": jwt,
    "age key": form("AGE-SECRET-KEY-1", some("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)),
    "Azure client secret": form(mixed(3), "8Q~", mixed(34)),
    "private key": pem("PRIVATE KEY"),
    "RSA key": pem("RSA PRIVATE KEY"),
    "EC key": pem("EC PRIVATE KEY"),
    "encrypted key": pem("ENCRYPTED PRIVATE KEY"),
    "OpenSSH key": pem("OPENSSH PRIVATE KEY"),
    "PGP key": pem("PGP PRIVATE KEY BLOCK"),
}
"""Secrets with a form of their own."""

IN_CONTEXT: dict[str, Maker] = {
    "W&B key": form("WANDB_API_KEY=", some(HEX, 40)),
    "W&B key at login": form("wandb login ", some(HEX, 40)),
    "W&B key in code": form('wandb.login(key="', some(HEX, 40), '")'),
    "W&B key in netrc": form("machine api.wandb.ai login user password ", some(HEX, 40)),
    "W&B key in words": form("my wandb api key is ", some(HEX, 40)),
    "AWS secret key": form("AWS_SECRET_ACCESS_KEY=", mixed(40, BASE64)),
    "AWS secret key, ini": form("aws_secret_access_key = ", mixed(40, BASE64)),
    "AWS secret key, JSON": form('"SecretAccessKey": "', mixed(40, BASE64), '"'),
    "AWS session token": form("AWS_SESSION_TOKEN=", mixed(300, BASE64)),
    "GCP service account": service_account,
    "Kaggle file": form('{"username": "alice", "key": "', some(HEX, 32), '"}'),
    "Kaggle key": form("KAGGLE_KEY=", some(HEX, 32)),
    "Azure SAS": form(
        "https://heads.blob.core.windows.net/c?sv=2023-11-03&se=2027-01-01&sr=c&sp=r&sig=",
        mixed(43, WORD),
        "%3D",
    ),
    "Azure storage key": form("AccountName=heads;AccountKey=", mixed(86, BASE64), "==;"),
    "bearer header": form("Authorization: Bearer ", mixed(32)),
    "bearer in curl": form('curl -H "Authorization: Bearer ', mixed(40), '"'),
    "bearer in code": form('headers={"Authorization": "Bearer ', mixed(32, URL64), '"}'),
    "basic header": basic,
    "password in a URL": form("https://alice:", mixed(16), "@git.example.org/heads"),
    "token in a git URL": form("https://", mixed(30), ":x-oauth-basic@github.com/a/b"),
    "password of a database": form("postgresql://svc:", mixed(16), "@db.internal:5432/runs"),
    "Docker login": docker_config,
    "Modal secret": form("MODAL_TOKEN_SECRET=as-", mixed(22)),
    "Modal id": form("MODAL_TOKEN_ID=ak-", mixed(22)),
    "Together key, old form": form("TOGETHER_API_KEY=", some(HEX, 64)),
    "Cohere key": form("COHERE_API_KEY=", mixed(40)),
    "Mistral key": form("MISTRAL_API_KEY=", mixed(32)),
    "Comet key": form("COMET_API_KEY=", mixed(25)),
    "password in code": form('password = "', mixed(14), '"'),
    "password in YAML": form("db_password: ", mixed(14)),
    "password in JSON": form('{"password": "', mixed(12), '"}'),
    "API key in code": form('client = OpenAI(api_key="', mixed(40), '")'),
    "token in JSON": form('{"access_token": "', mixed(40, URL64), '"}'),
    "client secret": form("CLIENT_SECRET=", mixed(32)),
    "secret key in YAML": form("secret_key: '", mixed(50, WORD + "!@#^*-_"), "'"),
}
"""Secrets known by their surroundings."""

KINDS: dict[str, Maker] = ONE_WORD | IN_CONTEXT


def plant(kind: str, seed: int = 0) -> str:
    """Make a secret of a kind. The same seed makes the same secret."""
    return KINDS[kind](random.Random(f"{kind} {seed}"))
