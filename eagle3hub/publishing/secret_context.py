"""Secrets that are known by what stands beside them: names they are assigned to, headers, addresses, whole files."""

from __future__ import annotations

import base64
import binascii
import re

from eagle3hub.publishing.placeholders import classes, entropy, is_placeholder, is_wordy
from eagle3hub.publishing.secret_rules import Match, Rule, any_value, mixed, rule

ASSIGNED = "password, key or token"
_NO_KEY = re.compile(rb"commit|revision|\bsha|\bgit\b|hash|digest|blob|tree|checksum", re.I)
_SPACE = re.compile(r"\s")
_PASSWORD = re.compile(r"pass|pwd", re.I)
_NO_VALUE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$|[~.]{0,2}/|[A-Za-z]:[\\/]|[a-z][a-z0-9+.\-]*://")
_OF_A_KEY = re.compile(
    rb"(?:api|access|auth|account|private|signing|encryption|license|master|subscription|service)[_\-]?$", re.I
)
_OF_A_HOST = re.compile(rb"(?:git[a-z]*|gh|hf|azure|ado|devops)[_\-]?$", re.I)
_CONSTANT = re.compile(rb"(?:[A-Z0-9]+_)+[A-Z]{3,}$")


def _no_digest(match: Match, value: str) -> bool:
    return not is_placeholder(value) and _NO_KEY.search(match[0]) is None


def _user_and_password(_: Match, value: str) -> bool:
    """Whether base64 says ``user:password``."""
    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return False
    user, colon, password = text.partition(":")
    return bool(colon) and text.isprintable() and not is_placeholder(password or user)


def _signed(match: Match, value: str) -> bool:
    around = match.string[max(0, match.start() - 400) : match.end() + 400]
    return re.search(rb"[?&;]s[vper]=", around) is not None and not is_placeholder(value)


def _password(_: Match, value: str) -> bool:
    return len(value) >= 4 and not is_placeholder(value) and "…" not in value


def _is_words(value: str, quoted: bool) -> bool:
    return is_wordy(value) and not (quoted and any(map(str.isdigit, value)))


def _assigned(match: Match, value: str) -> bool:
    """Whether a value given to a name such as ``api_key`` or ``password`` is a secret, not a reference or a word."""
    value = value.strip()
    quoted = match["bare"] is None
    kinds = classes(value)
    if kinds < 2 or len(value) < 6 or (not quoted and match.string[match.end() : match.end() + 1] in (b"(", b"[")):
        return False
    if _SPACE.search(value) or _NO_VALUE.match(value) or is_placeholder(value):
        return False
    if _PASSWORD.search(match["name"].decode()):
        return len(value) >= (6 if quoted else 8) and not _is_words(value, quoted)
    if match["said"] is not None and not quoted and kinds < 3:
        return False
    before = match.string[max(0, match.start() - 40) : match.end("name")]
    if len(value) < (12 if quoted or _CONSTANT.search(before) else 16) or is_wordy(value):
        return False
    if value.isalpha():
        return len(value) >= 24 and entropy(value) >= 4
    return entropy(value) >= (2.8 if len(value) < 20 else 3.0) and mixed(match, value)


_KEYWORD = (
    r"password|passwd|passphrase|passwort|pwd|pass|"
    r"secret(?:[_-]?access)?(?:[_-]?key)?|"
    r"token(?:[_-]?secret)?|credentials?|key|pat|auth"
)
_ASSIGNED = (
    rf"(?i:(?P<name>{_KEYWORD}))(?:[\"'`]?\]|[\"'`])?"
    r"(?:\s{0,4}(?::=|=>|==?|:(?:\s{0,2}[A-Za-z_][\w.\[\]| ]{0,30}?\s{0,2}=)?)\s{0,4}|[ \t]{0,3},[ \t]{0,3}(?=[\"'])"
    r"|(?P<said>\s{1,4}(?i:is|was):?\s{1,4})|>(?=[^<>\s]{1,300}</))"
    r"(?:[bruf]{0,2}\"(?P<double>[^\"\r\n]{1,300})\"?|[bruf]{0,2}'(?P<single>[^'\r\n]{1,300})'?|`([^`\r\n]{1,300})`"
    r"|(?P<bare>[^\x00-\x20\x7f-\xff\"'`,;(){}\[\]<>|\\]{1,300}))"
)


def _value(match: Match) -> str:
    found = next(g for g in (*match.group("double", "single", "bare"), *match.groups()) if g is not None)
    return found.decode("utf-8", "replace")


def _named(match: Match, _: str) -> bool:
    """Whether something is assigned that is a secret by its name and its form.

    ``key``, ``pat`` and ``auth`` count after such words as ``api``, and in constants such as KAGGLE_KEY; ``pass``
    counts after another word.
    """
    name = match["name"].lower()
    before = match.string[max(0, match.start() - 40) : match.start()]
    if name == b"pat" and not _OF_A_HOST.search(before):
        return False
    if name in (b"key", b"auth") and not (_OF_A_KEY.search(before) or _CONSTANT.search(before + match["name"])):
        return False
    if name == b"pass" and not before.endswith((b"_", b"-")):
        return False
    return _assigned(match, _value(match))


CONTEXT: tuple[Rule, ...] = (
    rule(
        "W&B key",
        "wandb|w&b|weights",
        r"(?i:wandb|w&b|weights\W{0,3}(?:and|&amp;|n)?\W{0,3}biases)[\s\S]{0,100}?(?<![0-9A-Za-z])([0-9a-f]{40})(?![0-9A-Za-z])",
        _no_digest,
        within=True,
    ),
    rule(
        "AWS secret key",
        "secret",
        r"(?i:secret[\s_\-]{0,2}(?:access[\s_\-]{0,2})?key)[\"']?\s{0,4}(?::|=>|=|,)\s{0,4}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        within=True,
    ),
    rule(
        "AWS session token",
        "session",
        r"(?i:session[_\-]?token)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([A-Za-z0-9/+=]{60})",
        within=True,
    ),
    rule(
        "Google service account", '"private_key_id"', r'"private_key_id"\s{0,4}:\s{0,4}"([0-9a-f]{40})"', within=True
    ),
    rule(
        "Kaggle key",
        '"username"',
        r'"username"\s{0,4}:\s{0,4}"[^"\r\n]{1,80}"\s{0,4},\s{0,4}"key"\s{0,4}:\s{0,4}"([0-9a-f]{32})"',
        within=True,
    ),
    rule(
        "Kaggle key",
        '"key"',
        r'"key"\s{0,4}:\s{0,4}"([0-9a-f]{32})"\s{0,4},\s{0,4}"username"\s{0,4}:',
        within=True,
    ),
    rule("Azure signature", "sig=", r"sig=([A-Za-z0-9%/+_\-]{40,120}=?)", _signed),
    rule("Azure storage key", "accountkey=", r"(?i:AccountKey)=([A-Za-z0-9+/]{86}==)", within=True),
    rule("Azure access key", "sharedaccesskey=", r"(?i:SharedAccessKey)=([A-Za-z0-9+/]{43}=)", within=True),
    rule(
        "signed address",
        "x-amz-signature=|x-goog-signature=",
        r"(?i:X-(?:Amz|Goog)-Signature)=([0-9a-f]{64,300})",
        within=True,
    ),
    rule(
        "bearer token",
        "bearer",
        r"(?i:bearer)(?:[\s:=\"',]|%20){1,6}([A-Za-z0-9._~+/\-]{16,300}=*)",
        lambda m, v: mixed(m, v) and not is_wordy(v),
    ),
    rule(
        "user and password",
        "basic",
        r"(?i:basic)\s{1,4}([A-Za-z0-9+/]{8,300}={0,2})(?![A-Za-z0-9+/=])",
        _user_and_password,
    ),
    rule("login of a registry", '"auth"', r'"auth"\s{0,4}:\s{0,4}"([A-Za-z0-9+/]{8,300}={0,2})"', _user_and_password),
    rule(
        "password in an address",
        "://",
        r"://[^\s/:@\"'<>`{}]{0,80}:([^\s/@\"'<>`]{1,200})@[\w.\-\[]",
        _password,
        within=True,
    ),
    rule(
        "token in an address", "http", r"(?i:https?)://([\w.\-]{20,200})(?::[\w\-]{0,40})?@[\w\-]", mixed, within=True
    ),
    rule("password in .netrc", "login", r"login\s{1,4}\S{1,80}\s{1,4}password\s{1,4}(\S{4,200})", any_value),
    rule(
        "token on a command line",
        "--",
        r"--[a-z\-]{0,20}(?:token|key|password|secret)(?:=|\s{1,3})[\"']?([^\x00-\x20\x7f-\xff\"'`$<{\[\\]{12,300})",
        lambda m, v: mixed(m, v) and not is_wordy(v) and not _NO_VALUE.match(v),
        within=True,
    ),
    rule(
        ASSIGNED,
        "pass|pwd|secret|key|token|credential|pat|auth",
        _ASSIGNED,
        _named,
        within=True,
    ),
)
"""Secrets known by their surroundings."""
