"""Find secrets in text: by their own form, by what stands around them, and without placeholders."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

from eagle3hub.errors import UnavailableError
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.resources import cache_dir

# Placeholders: what examples write in the place of a secret


_OF_EXAMPLES = """
    a abc abcd abcdef abcdefg access admin and api apikey auth basic bearer be bot changeit changeme client
    credential credentials default demo dev dummy empty enter example fake fixme foo bar baz fill from get given
    go goes here hf hidden huggingface id in insert is it jwt key keys like lm local localhost login masked me
    my name needed no none not null nil nope of ollama omitted openai optional or org os pass passphrase passwd
    password paste pat placeholder please private put pwd random real redacted removed replace replaced required
    root s sample sdk secret secrets see set sglang sha sk some something string str studio test tests testing
    text that the this tbd to todo token tokens true false type undefined unused unset use used user username
    value values vllm wandb with write xxx x xx xxxx you your yours yyy zzz bool boolean int integer number
    object any unknown hello world
"""
_WORDS = frozenset(_OF_EXAMPLES.split())
_NUMBERS = re.compile(r"(?:0*1?2?3?4?5?6?7?8?9?0?)")
_REFERENCE = re.compile(
    r"""
    \$[A-Z_][A-Z0-9_]* | \$[a-z_]+ | \$\{[^}]*\} | \$\([^)]*\) | %[A-Za-z_]+% | \{[^}]*\}+ | <[^>]*> | \[[^\]]*\]
    | \([^)]*\) | &lt;[^&]*&gt; | [*•.…·_#?\-]+ | !(?:vault|secret|env|ENV|Ref|Sub)\b.*
    | env(?:iron)?[.:\[(].* | (?:os|process|secrets|env|vars|config|settings|args|self)\.[a-zA-Z_.]+[\[(]?.*
    """,
    re.X | re.S,
)
_WITHIN = re.compile(r"\$\{|\{\{|\.\.\.|…|•••|\*\*\*\*|getenv|os\.environ|process\.env|<[a-z_ -]{2,40}>", re.I)
_EXAMPLE = re.compile(r"EXAMPLE|example|placeholder|PLACEHOLDER|changeme|CHANGEME|redacted|REDACTED")
_YOURS = re.compile(r"(?:^|[^a-z])(?:your|my)[_\-. ]|(?:^|[_\-. ])(?:goes|here)$|replace[_-]", re.I)
_REPEATED = re.compile(r"(.)\1{7}", re.S)
_WORD_PART = re.compile(
    r"[A-Z]?[a-z]{0,14}[0-9]{0,3}|[A-Z]{1,14}[0-9]{0,3}|[0-9]{1,4}|(?:[A-Z]?[a-z]{3,15}|[A-Z]{2,5})+"
)
_CLASSES = tuple(re.compile(kind) for kind in (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]"))
_NEXT = {"9": "0", "z": "A", "Z": "0"}


@lru_cache(maxsize=4096)
def is_placeholder(value: str) -> bool:
    """Return whether a value only stands for a secret: a reference, words, a repeated character, the alphabet.

    A random run of 16 characters or more almost never passes as a placeholder (the chance is below 1 in 10^6). A
    password passes only if it consists of words that examples use.
    """
    value = value.strip().strip("\"'`")
    if not value or _REFERENCE.fullmatch(value) or _WITHIN.search(value) or _EXAMPLE.search(value):
        return True
    inside = [c for c in value if c.isalnum()]
    if len(set(inside)) <= 2 or _REPEATED.search(value) or _in_order(value):
        return True
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    if all(_is_word(part) for part in parts):
        return True
    return _YOURS.search(value) is not None and all(_WORD_PART.fullmatch(part) for part in parts)


@lru_cache(maxsize=4096)
def is_wordy(value: str) -> bool:
    """Return whether a value reads as an identifier or words: ``max_new_tokens``, ``draft-head-v2.1``."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    return all(_WORD_PART.fullmatch(part) for part in parts) and (len(parts) > 1 or _CLASSES[2].search(value) is None)


def character_classes(value: str) -> int:
    """Count the classes of characters in a value: small letters, capitals, digits, others."""
    return sum(kind.search(value) is not None for kind in _CLASSES)


def bits_per_character(value: str) -> float:
    """Return the Shannon entropy of a value's characters, in bits per character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_word(part: str) -> bool:
    small = part.lower()
    letters = small.rstrip("0123456789")
    return (letters in _WORDS or not letters) and _NUMBERS.fullmatch(small[len(letters) :]) is not None


def _in_order(value: str) -> bool:
    """Return whether runs of five or more ascending characters make up three fifths of a value."""
    covered, run = 0, 1
    for before, after in zip(value, [*value[1:], ""], strict=True):
        if after and (_NEXT.get(before) == after or (after.isalnum() and ord(after) == ord(before) + 1)):
            run += 1
            continue
        covered += run if run >= 5 else 0
        run = 1
    return covered >= 0.6 * len(value)


# Secrets with a form of their own, whatever stands beside them (all rules work on bytes)
#
# These are the kinds that Kingfisher (see `find_secrets`) lacks or knows only in part, and the kinds that matter most
# to a release of weights, so that finding those does not depend on another project's list.


Match = re.Match[bytes]
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")


def is_no_placeholder(_: Match, value: str) -> bool:
    """Accept anything but a placeholder."""
    return not is_placeholder(value)


def has_letter_and_digit(_: Match, value: str) -> bool:
    """Accept a value with a letter and a digit. Nearly every random run of its length has both."""
    return _DIGIT.search(value) is not None and _LETTER.search(value) is not None and not is_placeholder(value)


def has_three_classes(_: Match, value: str) -> bool:
    """Accept a value with small letters, capitals and digits."""
    return character_classes(re.sub(r"[^A-Za-z0-9]", "", value)) == 3 and not is_placeholder(value)


def _hub(match: Match, value: str) -> bool:
    if match["login"]:
        return has_letter_and_digit(match, value.partition("_")[2])
    return has_three_classes(match, value) if match["short"] else not is_placeholder(value)


def _discord(match: Match, value: str) -> bool:
    before = match.string[max(0, match.start() - 29) : match.start()]
    return re.search(rb"(?<![\w.\-])[MNO][A-Za-z\d_\-]{23,27}$", before) is not None and has_three_classes(
        match, value
    )


def _dashed(match: Match, _: str) -> bool:
    return match.string[max(0, match.start() - 5) : match.start()].rstrip().endswith(b"----")


def _telegram(match: Match, value: str) -> bool:
    before = match.string[max(0, match.start() - 11) : match.start()]
    return re.search(rb"(?<!\d)\d{8,10}$", before) is not None and not is_placeholder(value)


def _mailchimp(match: Match, _: str) -> bool:
    before = match.string[max(0, match.start() - 33) : match.start()]
    return re.search(rb"(?<![0-9A-Za-z])[0-9a-f]{32}$", before) is not None


@dataclass(frozen=True, slots=True)
class SecretRule:
    """A rule that finds one kind of secret.

    Attributes:
        starts: how a match begins, in small letters, for a quick search.
        pattern: tried at each of ``starts``. It looks at 300 bytes at most, or at runs that begin where no other
            run can begin, so that the whole search takes linear time.
        holds: takes a match and its `secret_of`, and returns whether it is a secret.
        within: whether a letter or digit may stand before the match.
    """

    kind: str
    starts: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    holds: Callable[[Match, str], bool] = is_no_placeholder
    within: bool = False

    def offsets(self, data: bytes, small: bytes, *, anywhere: bool = False) -> Iterator[int]:
        """Yield the offset of each secret in ``data``.

        ``small`` is ``data`` in small letters. With ``anywhere``, a secret may also stand inside a word.
        """
        for start in self.starts:
            at = self._next(data, small, start, 0)
            while at >= 0:
                after = at + len(start)
                if anywhere or self.within or at == 0 or not data[at - 1 : at].isalnum():
                    match = self.pattern.match(data, at)
                    if match is not None and self.holds(match, secret_of(match)):
                        yield at
                        after = max(after, match.end())
                at = self._next(data, small, start, after)

    def _next(self, data: bytes, small: bytes, start: bytes, after: int) -> int:
        if len(start) > 1:
            return small.find(start, after)
        match = self.pattern.search(data, after)  # a character is in too many places to look at each of them here
        return -1 if match is None else match.start()


def secret_of(match: Match) -> str:
    """Return the first group that matched, or else the whole match, as text."""
    found = next((g for g in match.groups() if g is not None), match[0])
    return found.decode("utf-8", "replace")


def secret_rule(
    kind: str,
    starts: str,
    pattern: str,
    holds: Callable[[Match, str], bool] = is_no_placeholder,
    *,
    within: bool = False,
) -> SecretRule:
    """Make a `SecretRule`; a bar separates the texts in ``starts``."""
    return SecretRule(kind, tuple(starts.encode().split(b"|")), re.compile(pattern.encode()), holds, within)


FORMS: tuple[SecretRule, ...] = (
    secret_rule(
        "Hub access token",
        "hf_",
        r"hf_(?:(?P<login>(?:jwt|oauth)_[\w.\-]{20,300})|([A-Za-z0-9]{30,200})|(?P<short>[A-Za-z0-9]{20,29})(?!\w))",
        _hub,
    ),
    secret_rule("Hub organisation token", "api_org_", r"api_org_([A-Za-z0-9]{30,200})"),
    secret_rule("GitHub token", "gh", r"gh[pousr]_([A-Za-z0-9]{30,255})"),
    secret_rule("GitHub token", "github_pat_", r"github_pat_(\w{40,255})"),
    secret_rule(
        "GitLab token",
        "gl",
        r"gl(?:pat|rt|rtr|dt|ptt|cbt|ft|soat|agent|imt|oas)-([\w.\-]{18,300})",
        has_letter_and_digit,
    ),
    secret_rule("Google API key", "aiza", r"AIza([\w\-]{35})"),
    secret_rule("Google OAuth secret", "gocspx-", r"GOCSPX-([\w\-]{24,40})"),
    secret_rule("Google access token", "ya29.", r"ya29\.([\w\-]{20,300})"),
    secret_rule("W&B key", "wandb_v1_", r"wandb_v1_(\w{20,200})"),
    secret_rule("W&B key", "local-", r"local-([0-9a-f]{40})(?![0-9a-f])"),
    secret_rule("AWS Access Key", "akia|asia|abia|acca", r"(?:AKIA|ASIA|ABIA|ACCA)([A-Z0-9]{16})(?![A-Za-z0-9])"),
    secret_rule(
        "API key",
        "sk-|sk_",
        r"sk-(?:ant|proj|svcacct|admin|or-v1|or|lf|kimi|svc)-([\w\-]{20,200})|sk[\-_]([A-Za-z0-9]{20,200})",
        has_letter_and_digit,
    ),
    secret_rule("NVIDIA key", "nvapi-", r"nvapi-([\w\-]{30,200})", has_letter_and_digit),
    secret_rule("npm token", "npm_", r"npm_([A-Za-z0-9]{30,200})"),
    secret_rule("PyPI token", "pypi-", r"pypi-([\w\-]{50,300})", has_letter_and_digit),
    secret_rule("Docker token", "dckr_", r"dckr_[po]at_([\w\-]{20,100})", has_letter_and_digit),
    secret_rule("Replicate token", "r8_", r"r8_([A-Za-z0-9]{30,100})"),
    secret_rule("Kaggle token", "kgat_", r"KGAT_([0-9A-Za-z]{30,100})"),
    secret_rule("Groq key", "gsk_", r"gsk_([A-Za-z0-9]{40,100})"),
    secret_rule("Fireworks key", "fw_", r"fw_([A-Za-z0-9]{20,40})(?![A-Za-z0-9_])", has_three_classes),
    secret_rule("Together key", "tgp_v1_", r"tgp_v1_([\w\-]{30,100})", has_letter_and_digit),
    secret_rule("LangSmith key", "lsv2_", r"lsv2_[a-z]{2}_([0-9a-f]{32}_[0-9a-f]{10})"),
    secret_rule("Modal token", "ak-|as-", r"a[ks]-([A-Za-z0-9]{22})(?![\w\-])", has_three_classes),
    secret_rule("Slack token", "xox", r"xox[abeoprs]-([\w\-]{20,300})", has_letter_and_digit),
    secret_rule("Slack token", "xapp-", r"xapp-([\w\-]{30,300})", has_letter_and_digit),
    secret_rule(
        "Slack webhook",
        "hooks.slack.com/",
        r"hooks\.slack\.com/(?:services|workflows)/([\w/]{30,200})",
        has_letter_and_digit,
    ),
    secret_rule("Discord webhook", "/api/webhooks/", r"/api/webhooks/\d{17,20}/([\w\-]{50,100})", within=True),
    secret_rule("Discord token", ".", r"\.([\w\-]{6}\.[\w\-]{27,45})", _discord, within=True),
    secret_rule("Telegram token", ":aa", r":(AA[\w\-]{33})(?![\w\-])", _telegram, within=True),
    secret_rule(
        "Stripe key",
        "k_live_|k_test_|k_prod_",
        r"k_(?:live|test|prod)_([A-Za-z0-9]{16,200})",
        has_letter_and_digit,
        within=True,
    ),
    secret_rule("webhook secret", "whsec_", r"whsec_([A-Za-z0-9+/=]{32,100})"),
    secret_rule("SendGrid key", "sg.", r"SG\.([\w\-]{16,32}\.[\w\-]{16,64})", has_letter_and_digit),
    secret_rule("Mailchimp key", "-us", r"-us\d{1,2}(?!\w)", _mailchimp, within=True),
    secret_rule(
        "JSON Web Token", "eyj", r"(?<![\w\-])(eyJ[\w\-]{10,8000}\.[\w\-]{10,16000}\.[\w\-]{10,8000})", within=True
    ),
    secret_rule("Azure client secret", "8q~|7q~", r"[78]Q~([\w.~\-]{31,34})", has_three_classes, within=True),
    secret_rule("Private Key", "begin", r"BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}", _dashed, within=True),
    secret_rule("Private Key", "putty-user-key-file-", r"PuTTY-User-Key-File-\d", within=True),
)
"""Secrets with a form of their own. A published example such as AKIAIOSFODNN7EXAMPLE is a placeholder."""


# Secrets known by their surroundings: the names they are assigned to, headers, addresses, whole files


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
    """Return whether the base64 text decodes to ``user:password``."""
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
    """Return whether a value assigned to a name such as ``api_key`` is a secret, not a reference or a word."""
    value = value.strip()
    quoted = match["bare"] is None
    kinds = character_classes(value)
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
        return len(value) >= 24 and bits_per_character(value) >= 4
    return bits_per_character(value) >= (2.8 if len(value) < 20 else 3.0) and has_letter_and_digit(match, value)


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
    """Return whether an assignment gives a secret, by its name and by the form of its value.

    ``key``, ``pat`` and ``auth`` count after words such as ``api``, and in constants such as KAGGLE_KEY. ``pass``
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


CONTEXT: tuple[SecretRule, ...] = (
    secret_rule(
        "W&B key",
        "wandb|w&b|weights",
        r"(?i:wandb|w&b|weights\W{0,3}(?:and|&amp;|n)?\W{0,3}biases)[\s\S]{0,100}?(?<![0-9A-Za-z])([0-9a-f]{40})(?![0-9A-Za-z])",
        _no_digest,
        within=True,
    ),
    secret_rule(
        "AWS secret key",
        "secret",
        r"(?i:secret[\s_\-]{0,2}(?:access[\s_\-]{0,2})?key)[\"']?\s{0,4}(?::|=>|=|,)\s{0,4}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        within=True,
    ),
    secret_rule(
        "AWS session token",
        "session",
        r"(?i:session[_\-]?token)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([A-Za-z0-9/+=]{60})",
        within=True,
    ),
    secret_rule(
        "Google service account", '"private_key_id"', r'"private_key_id"\s{0,4}:\s{0,4}"([0-9a-f]{40})"', within=True
    ),
    secret_rule(
        "Kaggle key",
        '"username"',
        r'"username"\s{0,4}:\s{0,4}"[^"\r\n]{1,80}"\s{0,4},\s{0,4}"key"\s{0,4}:\s{0,4}"([0-9a-f]{32})"',
        within=True,
    ),
    secret_rule(
        "Kaggle key",
        '"key"',
        r'"key"\s{0,4}:\s{0,4}"([0-9a-f]{32})"\s{0,4},\s{0,4}"username"\s{0,4}:',
        within=True,
    ),
    secret_rule("Azure signature", "sig=", r"sig=([A-Za-z0-9%/+_\-]{40,120}=?)", _signed),
    secret_rule("Azure storage key", "accountkey=", r"(?i:AccountKey)=([A-Za-z0-9+/]{86}==)", within=True),
    secret_rule("Azure access key", "sharedaccesskey=", r"(?i:SharedAccessKey)=([A-Za-z0-9+/]{43}=)", within=True),
    secret_rule(
        "signed address",
        "x-amz-signature=|x-goog-signature=",
        r"(?i:X-(?:Amz|Goog)-Signature)=([0-9a-f]{64,300})",
        within=True,
    ),
    secret_rule(
        "bearer token",
        "bearer",
        r"(?i:bearer)(?:[\s:=\"',]|%20){1,6}([A-Za-z0-9._~+/\-]{16,300}=*)",
        lambda m, v: has_letter_and_digit(m, v) and not is_wordy(v),
    ),
    secret_rule(
        "user and password",
        "basic",
        r"(?i:basic)\s{1,4}([A-Za-z0-9+/]{8,300}={0,2})(?![A-Za-z0-9+/=])",
        _user_and_password,
    ),
    secret_rule(
        "login of a registry", '"auth"', r'"auth"\s{0,4}:\s{0,4}"([A-Za-z0-9+/]{8,300}={0,2})"', _user_and_password
    ),
    secret_rule(
        "password in an address",
        "://",
        r"://[^\s/:@\"'<>`{}]{0,80}:([^\s/@\"'<>`]{1,200})@[\w.\-\[]",
        _password,
        within=True,
    ),
    secret_rule(
        "token in an address",
        "http",
        r"(?i:https?)://([\w.\-]{20,200})(?::[\w\-]{0,40})?@[\w\-]",
        has_letter_and_digit,
        within=True,
    ),
    secret_rule(
        "password in .netrc", "login", r"login\s{1,4}\S{1,80}\s{1,4}password\s{1,4}(\S{4,200})", is_no_placeholder
    ),
    secret_rule(
        "token on a command line",
        "--",
        r"--[a-z\-]{0,20}(?:token|key|password|secret)(?:=|\s{1,3})[\"']?([^\x00-\x20\x7f-\xff\"'`$<{\[\\]{12,300})",
        lambda m, v: has_letter_and_digit(m, v) and not is_wordy(v) and not _NO_VALUE.match(v),
        within=True,
    ),
    secret_rule(
        ASSIGNED,
        "pass|pwd|secret|key|token|credential|pat|auth",
        _ASSIGNED,
        _named,
        within=True,
    ),
)
"""Secrets that are known by their surroundings."""


# The search, with Kingfisher's rules and the rules above
#
# Kingfisher (MongoDB, Apache-2.0) contains the rules of Betterleaks, the successor of gitleaks, and of Google's Veles:
# 488 rules (version 1.5). Vectorscan runs them inside this process, in linear time and without the network. Kingfisher
# can also ask a provider whether a secret works; that is never called here.


_LEFT_OUT = frozenset({"betterleaks.aws-secret-access-key"})
"""Rules of Kingfisher that match more than secrets. `CONTEXT` finds what they look for."""


_ASCII = bytes(c if 0 < c < 128 else 32 for c in range(256))
"""Kingfisher takes letters of other scripts as parts of a word, and text with zero bytes as UTF-16."""
_SPACED = bytes(32 if chr(c) in "<>()[]{}|*&,;!?#^\\" else c for c in range(256))
_STOP = re.compile(rb"\.(?=\s|$)")
"""Some rules of Kingfisher ask for a space or a quote after a secret, so other marks become spaces."""
_DIGEST = re.compile(rb"sha(?:1|224|256|384|512)[=:\- ]{1,2}[\w+/\-]{0,90}$", re.I)


def find_secrets(data: bytes, *, anywhere: bool = False, forms: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Yield (offset, kind, sure) for every secret in ``data``.

    Several rules may find the same secret. A kind that is not sure counts only if no sure one was found there.

    Args:
        data: text in any encoding that keeps ASCII bytes.
        anywhere: the bytes before a secret are not text, and may be a letter by chance.
        forms: look only for secrets with a form of their own (`FORMS`). ``data`` was put together, so neighbours
            in it mean nothing.
    """
    for at, kind, sure in _of_forms(data, anywhere) if forms else _all(data, anywhere):
        if _DIGEST.search(data, max(0, at - 100), at) is None:
            yield at, kind, sure


def _of_forms(data: bytes, anywhere: bool) -> Iterator[tuple[int, str, bool]]:
    small = data.lower()
    for rule in FORMS:
        for at in rule.offsets(data, small, anywhere=anywhere):
            yield at, rule.kind, True


def _all(data: bytes, anywhere: bool) -> Iterator[tuple[int, str, bool]]:
    small = data.lower()
    for rule in (*FORMS, *CONTEXT):
        for at in rule.offsets(data, small, anywhere=anywhere):
            yield at, rule.kind, rule.kind != ASSIGNED
    ascii_only = data.translate(_ASCII)
    for text in (ascii_only, _STOP.sub(b" ", ascii_only.translate(_SPACED))):
        for finding in _kingfisher().scan(text):
            if finding.visible and finding.rule_id not in _LEFT_OUT and not is_placeholder(finding.secret):
                yield int(finding.location["start_offset"]), _words(finding.rule_id), False


def require_scanner() -> None:
    """Raise UnavailableError (``unavailable-publish-extra``) where the packages that search a release are missing."""
    if find_spec("kingfisher_sdk") is None or find_spec("PIL") is None:
        raise UnavailableError(
            "a release is searched for secrets before it is published, and this environment lacks what searches it",
            hint=command_for_extra("publish"),
            code="unavailable-publish-extra",
        )


@cache
def _kingfisher() -> Any:
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules(cache_dir=cache_dir() / "secret-rules"), base64=False)


def _words(rule: str) -> str:
    """Turn the id of a rule into words: ``openai api key`` for ``betterleaks.openai-api-key``."""
    return re.sub(r"\.\d+$", "", rule).rpartition(".")[2].rpartition("/")[2].replace("-", " ")
