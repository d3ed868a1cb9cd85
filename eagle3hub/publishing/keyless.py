"""Signatures without a key: by the identity that a workflow's job has, through the public sigstore services.

Fulcio gives a certificate of some minutes for the identity, Rekor logs the signature; both, and the roots of trust
that checking needs, are on the network. Read in sigstore 4.5.1 and model-signing 1.1.1. No test reaches the services:
what is tested is what leads to them, and what is said when they cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.errors import HubError, UnavailableError
from eagle3hub.network import bounds
from eagle3hub.network.alarm import Alarm, within
from eagle3hub.progress import tell_after
from eagle3hub.visible import visible

_LONGEST = 300
_PATIENCE = 5
"""So many times as long as a question to the Hub may the services take: there are three, and all files are hashed."""
_SILENCE = 2.0
_WORD = Path("sigstore")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must have signed: ``name`` as the certificate has it, a workflow's address, and the issuer that vouched."""

    name: str
    issuer: str


def is_keyless(key: Path) -> bool:
    """Whether the word ``sigstore`` stands in the place of a key."""
    return key == _WORD


def own_token() -> str:
    """The identity token of the job this runs in. Raises UnavailableError where there is none; nobody is asked."""
    from sigstore.oidc import IdentityError, detect_credential

    try:
        with within(bounds.seconds()):
            token = detect_credential()
    except (IdentityError, TimeoutError):
        token = None
    if not token:
        raise UnavailableError(
            "there is no identity to sign with",
            hint="in GitHub Actions the job needs the permission id-token: write; elsewhere sign with a key",
            code="sign-no-identity",
        )
    return token


@contextmanager
def services(doing: str) -> Iterator[None]:
    """Turn whatever the services' clients raise into HubError (``sign-services``), also where they take too long."""
    seconds = _PATIENCE * bounds.seconds()
    rang = Alarm()
    try:
        with tell_after(_SILENCE, f"waiting for the public sigstore services, to {doing}"), within(seconds) as rang:
            yield
    except Exception as e:  # the clients raise their own errors, those of requests, urllib3 and tuf
        why = next((visible(line.strip()) for line in str(e).splitlines() if line.strip()), type(e).__name__)
        why = f"no answer within {seconds:g} seconds" if rang.rang else why[:_LONGEST]
        raise HubError(
            f"the public sigstore services cannot {doing}: {why}",
            hint="check the network and try again later",
            code="sign-services",
        ) from e


def by_certificate(bundle: bytes) -> bool:
    """Whether a signature, as `eagle3hub.publishing.signing.covered` accepts it, was made without a key."""
    material = json.loads(bundle).get("verificationMaterial")
    return isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material)
