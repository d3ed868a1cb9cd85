"""Secrets that are known by their own form, whatever stands beside them; everything works on bytes.

Here are the kinds that Kingfisher (see `secret_search`) lacks or knows only in part, and those that matter most to a
release of weights, so that none of them hangs on another project's list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eagle3hub.publishing.placeholders import classes, is_placeholder

Match = re.Match[bytes]
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")


def any_value(_: Match, value: str) -> bool:
    """Anything but a placeholder."""
    return not is_placeholder(value)


def mixed(_: Match, value: str) -> bool:
    """Letters and digits, as nearly every random run of its length has."""
    return _DIGIT.search(value) is not None and _LETTER.search(value) is not None and not is_placeholder(value)


def of_three(_: Match, value: str) -> bool:
    """Small letters, capitals and digits."""
    return classes(re.sub(r"[^A-Za-z0-9]", "", value)) == 3 and not is_placeholder(value)


def _hub(match: Match, value: str) -> bool:
    if match["login"]:
        return mixed(match, value.partition("_")[2])
    return of_three(match, value) if match["short"] else not is_placeholder(value)


def _discord(match: Match, value: str) -> bool:
    before = match.string[max(0, match.start() - 29) : match.start()]
    return re.search(rb"(?<![\w.\-])[MNO][A-Za-z\d_\-]{23,27}$", before) is not None and of_three(match, value)


def _dashed(match: Match, _: str) -> bool:
    return match.string[max(0, match.start() - 5) : match.start()].rstrip().endswith(b"----")


def _telegram(match: Match, value: str) -> bool:
    before = match.string[max(0, match.start() - 11) : match.start()]
    return re.search(rb"(?<!\d)\d{8,10}$", before) is not None and not is_placeholder(value)


def _mailchimp(match: Match, _: str) -> bool:
    before = match.string[max(0, match.start() - 33) : match.start()]
    return re.search(rb"(?<![0-9A-Za-z])[0-9a-f]{32}$", before) is not None


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret.

    Attributes:
        starts: what a match begins with, in small letters, for a quick search.
        pattern: tried where one of ``starts`` stands. It looks at 300 bytes at most, or at runs that begin where no
            other can, so that the whole search is linear.
        holds: whether what matched is a secret; it is given `secret_of` the match, too.
        within: whether a letter or digit may stand before it.
    """

    kind: str
    starts: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    holds: Callable[[Match, str], bool] = any_value
    within: bool = False

    def find(self, data: bytes, small: bytes, *, anywhere: bool = False) -> Iterator[int]:
        """Where it stands in ``data``; ``small`` is ``data`` in small letters; ``anywhere``: within words, too."""
        for start in self.starts:
            at = small.find(start)
            while at >= 0:
                after = at + len(start)
                if anywhere or self.within or at == 0 or not data[at - 1 : at].isalnum():
                    match = self.pattern.match(data, at)
                    if match is not None and self.holds(match, secret_of(match)):
                        yield at
                        after = max(after, match.end())
                at = small.find(start, after)


def secret_of(match: Match) -> str:
    """The first group that matched, else the whole match, as text."""
    found = next((g for g in match.groups() if g is not None), match[0])
    return found.decode("utf-8", "replace")


def rule(
    kind: str, starts: str, pattern: str, holds: Callable[[Match, str], bool] = any_value, *, within: bool = False
) -> Rule:
    """A `Rule`, its ``starts`` written with bars between them."""
    return Rule(kind, tuple(starts.encode().split(b"|")), re.compile(pattern.encode()), holds, within)


FORMS: tuple[Rule, ...] = (
    rule(
        "Hub access token",
        "hf_",
        r"hf_(?:(?P<login>(?:jwt|oauth)_[\w.\-]{20,300})|([A-Za-z0-9]{30,200})|(?P<short>[A-Za-z0-9]{20,29})(?!\w))",
        _hub,
    ),
    rule("Hub organisation token", "api_org_", r"api_org_([A-Za-z0-9]{30,200})"),
    rule("GitHub token", "gh", r"gh[pousr]_([A-Za-z0-9]{30,255})"),
    rule("GitHub token", "github_pat_", r"github_pat_(\w{40,255})"),
    rule("GitLab token", "gl", r"gl(?:pat|rt|rtr|dt|ptt|cbt|ft|soat|agent|imt|oas)-([\w.\-]{18,300})", mixed),
    rule("Google API key", "aiza", r"AIza([\w\-]{35})"),
    rule("Google OAuth secret", "gocspx-", r"GOCSPX-([\w\-]{24,40})"),
    rule("Google access token", "ya29.", r"ya29\.([\w\-]{20,300})"),
    rule("W&B key", "wandb_v1_", r"wandb_v1_(\w{20,200})"),
    rule("W&B key", "local-", r"local-([0-9a-f]{40})(?![0-9a-f])"),
    rule("AWS Access Key", "akia|asia|abia|acca", r"(?:AKIA|ASIA|ABIA|ACCA)([A-Z0-9]{16})(?![A-Za-z0-9])"),
    rule(
        "API key",
        "sk-|sk_",
        r"sk-(?:ant|proj|svcacct|admin|or-v1|or|lf|kimi|svc)-([\w\-]{20,200})|sk[\-_]([A-Za-z0-9]{20,200})",
        mixed,
    ),
    rule("NVIDIA key", "nvapi-", r"nvapi-([\w\-]{30,200})", mixed),
    rule("npm token", "npm_", r"npm_([A-Za-z0-9]{30,200})"),
    rule("PyPI token", "pypi-", r"pypi-([\w\-]{50,300})", mixed),
    rule("Docker token", "dckr_", r"dckr_[po]at_([\w\-]{20,100})", mixed),
    rule("Replicate token", "r8_", r"r8_([A-Za-z0-9]{30,100})"),
    rule("Kaggle token", "kgat_", r"KGAT_([0-9A-Za-z]{30,100})"),
    rule("Groq key", "gsk_", r"gsk_([A-Za-z0-9]{40,100})"),
    rule("Fireworks key", "fw_", r"fw_([A-Za-z0-9]{20,40})(?![A-Za-z0-9_])", of_three),
    rule("Together key", "tgp_v1_", r"tgp_v1_([\w\-]{30,100})", mixed),
    rule("LangSmith key", "lsv2_", r"lsv2_[a-z]{2}_([0-9a-f]{32}_[0-9a-f]{10})"),
    rule("Modal token", "ak-|as-", r"a[ks]-([A-Za-z0-9]{22})(?![\w\-])", of_three),
    rule("Slack token", "xox", r"xox[abeoprs]-([\w\-]{20,300})", mixed),
    rule("Slack token", "xapp-", r"xapp-([\w\-]{30,300})", mixed),
    rule("Slack webhook", "hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/([\w/]{30,200})", mixed),
    rule("Discord webhook", "/api/webhooks/", r"/api/webhooks/\d{17,20}/([\w\-]{50,100})", within=True),
    rule("Discord token", ".", r"\.([\w\-]{6}\.[\w\-]{27,45})", _discord, within=True),
    rule("Telegram token", ":aa", r":(AA[\w\-]{33})(?![\w\-])", _telegram, within=True),
    rule("Stripe key", "k_live_|k_test_|k_prod_", r"k_(?:live|test|prod)_([A-Za-z0-9]{16,200})", mixed, within=True),
    rule("webhook secret", "whsec_", r"whsec_([A-Za-z0-9+/=]{32,100})"),
    rule("SendGrid key", "sg.", r"SG\.([\w\-]{16,32}\.[\w\-]{16,64})", mixed),
    rule("Mailchimp key", "-us", r"-us\d{1,2}(?!\w)", _mailchimp, within=True),
    rule("JSON Web Token", "eyj", r"(?<![\w\-])(eyJ[\w\-]{10,8000}\.[\w\-]{10,16000}\.[\w\-]{10,8000})", within=True),
    rule("Azure client secret", "8q~|7q~", r"[78]Q~([\w.~\-]{31,34})", of_three, within=True),
    rule("Private Key", "begin", r"BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}", _dashed, within=True),
    rule("Private Key", "putty-user-key-file-", r"PuTTY-User-Key-File-\d", within=True),
)
"""Secrets known by their own form. What people publish to try (AKIAIOSFODNN7EXAMPLE) is a placeholder."""
