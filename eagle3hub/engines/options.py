"""Parse the values of ``--engine-python``, ``--engine-version`` and ``--endpoint``."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from eagle3hub.engines import ENGINES, engine_name
from eagle3hub.engines.specs import known_version
from eagle3hub.errors import UsageError

ENDPOINT_ENGINES = ("vllm", "sglang")
ENDPOINT_KEY = "EAGLE3HUB_ENDPOINT_API_KEY"
"""Environment variable that holds the API key for the servers of ``--endpoint``."""


def engine_pythons(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["sglang=/path/python"]`` into a mapping. Raises UsageError for anything else."""
    out = {}
    for pair in pairs:
        engine, _, path = pair.partition("=")
        name = engine.replace("-", "_")
        if not path or name not in ENGINES:
            raise UsageError(
                f"--engine-python {pair!r} is not ENGINE=PATH",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-python",
            )
        out[name] = path
    return out


def engine_versions(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["vllm=0.19.0"]`` into a mapping. Raises UsageError for anything else, and for what is no version."""
    out = {}
    for pair in pairs:
        engine, _, version = pair.partition("=")
        if not version:
            raise UsageError(
                f"--engine-version {pair!r} is not ENGINE=VERSION",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-version",
            )
        out[engine_name(engine)] = version
        known_version(engine_name(engine), version)
    return out


def endpoint_urls(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["vllm=http://host:8000"]`` into a mapping, without a final ``/v1``. Raises UsageError otherwise."""
    out: dict[str, str] = {}
    for pair in pairs:
        engine, _, url = pair.partition("=")
        if engine not in ENDPOINT_ENGINES:
            raise _endpoint(
                f"--endpoint names {engine!r}", f"servers of {' and '.join(ENDPOINT_ENGINES)} can be measured"
            )
        if engine in out:
            raise _endpoint(f"--endpoint names {engine} twice", "measure one server of an engine at a time")
        out[engine] = _base_url(engine, url)
    return out


def _base_url(engine: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise _endpoint(f"--endpoint {engine} has no address", f"write {engine}=http://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise _endpoint(
            f"the address of the {engine} server holds more than scheme, host, port and path",
            f"put an API key into the environment variable {ENDPOINT_KEY}",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _endpoint(message: str, hint: str) -> UsageError:
    return UsageError(message, hint=hint, code="usage-endpoint")
