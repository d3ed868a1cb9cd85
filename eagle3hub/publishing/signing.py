"""Sign the files of a release and check signatures, with a key or with an identity."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import HubError, SourceError, UnavailableError
from eagle3hub.network import bounds
from eagle3hub.network.bounds import Alarm, within
from eagle3hub.publishing.files import SUMS
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.progress import tell_after
from eagle3hub.system.reading import read_bytes
from eagle3hub.system.text import visible

if TYPE_CHECKING:
    from model_signing import hashing

# Signatures without a key, by the identity of a workflow's job, through the public sigstore services
#
# Fulcio gives the identity a certificate for a few minutes, and Rekor logs the signature. Both are on the network, and
# so are the roots of trust that a check needs. Source: sigstore 4.5.1 and model-signing 1.1.1, as read. No test
# reaches the services; the tests cover what leads to them, and the messages when they cannot be reached.


_LONGEST = 300
_PATIENCE = 5
"""The services may take this many times the limit of one question: they are three, and all files are hashed."""
_SILENCE = 2.0
_WORD = Path("sigstore")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that must have signed.

    ``name`` is the name in the certificate, a workflow's address; ``issuer`` is the service that vouched for it.
    """

    name: str
    issuer: str


def is_keyless(key: Path) -> bool:
    """Return whether the word ``sigstore`` was given in the place of a key."""
    return key == _WORD


def identity_token() -> str:
    """Return the identity token of this job, without asking anybody. Raises UnavailableError if it has none."""
    from sigstore.oidc import IdentityError, detect_credential

    try:
        with within(bounds.seconds()):
            token = detect_credential()
    except (IdentityError, TimeoutError):
        token = None
    if not token:
        raise UnavailableError(
            "there is no identity to sign with",
            hint="give the job the permission id-token: write in GitHub Actions; elsewhere sign with a key",
            code="sign-no-identity",
        )
    return token


@contextmanager
def sigstore_services(doing: str) -> Iterator[None]:
    """Turn every error of the services' clients, and a wait that is too long, into HubError (``sign-services``)."""
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


def is_by_identity(bundle: bytes) -> bool:
    """Return whether a signature that `signed_digests` accepts was made without a key."""
    material = json.loads(bundle).get("verificationMaterial")
    return isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material)


# Signatures over every file of a release, by the package model-signing
#
# A private key signs and its public key checks, or a workflow's identity signs and its name checks (see above). The
# signature is a sigstore bundle, ``model.sig`` in the root, over the SHA-256 of each file. The list of digests is not
# signed, because it names the signature. What a signature covers can be read without the package; who signed cannot.


SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, SUMS)


def signed_digests(bundle: bytes) -> dict[str, str]:
    """Return the SHA-256 by path of the files a signature covers. Raises SourceError if it is no signature."""
    try:
        statement = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"], validate=True))
        found = {str(r["name"]): str(r["digest"]) for r in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise SourceError(f"{SIGNATURE} is not a signature of a model", code="source-signature") from e
    return found


def check_key(key: Path) -> None:
    """Check, before any work, that a key or ``sigstore`` in its place can sign. Raises as `sign_folder`."""
    _package("signing")
    if is_keyless(key):
        identity_token()
    else:
        _hint(key)


def sign_folder(folder: Path, key: Path, files: Mapping[str, str], earlier: bytes | None = None) -> bytes:
    """Write a signature over the files of ``folder``, unless a good one exists, and return its bytes.

    Args:
        key: an elliptic curve private key in PEM, not encrypted; or ``sigstore`` for the identity of this job.
        files: SHA-256 by path of everything in the folder that must be signed.
        earlier: a signature to keep if this key made it over these bytes, so that signing again changes nothing.

    Raises UnavailableError without the package or an identity, SourceError if the key cannot be used, and HubError if
    the sigstore services cannot be used.
    """
    signing = _package("signing")
    here = folder / SIGNATURE
    for bundle in (earlier, _bundle(here)):
        if bundle is not None and _still_good(bundle, key, files):
            if not here.is_file() or _bundle(here) != bundle:
                replace_file(here, bundle)
            return bundle
    with scratch_folder() as scratch:
        made = scratch / SIGNATURE
        if is_keyless(key):
            token = identity_token()
            with sigstore_services("sign this"):
                signer = signing.Config().use_sigstore_signer(identity_token=token)
                signer.set_hashing_config(_hashing()).sign(folder, made)
        else:
            try:
                read_bytes(key)  # the package would wait for ever for a pipe
                signer = signing.Config().use_elliptic_key_signer(private_key=key)
            except (OSError, TypeError, ValueError) as e:
                raise _bad_key(key) from e
            signer.set_hashing_config(_hashing()).sign(folder, made)
        bundle = made.read_bytes()
    replace_file(here, bundle)
    return bundle


def check_signature(files: Mapping[str, Path], signature: Path, by: Path | Identity) -> str | None:
    """Return why a signature is not a good one of ``files`` by its supposed maker, or None if it is.

    Args:
        files: for each path in the repository, where its bytes are.
        by: the maker's public key, or the identity that signed without a key.

    Raises UnavailableError without the package, SourceError if the key cannot be used, and HubError without the
    network.
    """
    verifying = _package("verifying")
    if isinstance(by, Identity):
        if not is_by_identity(read_bytes(signature)):
            return "it was made with a key, not by an identity"
        with sigstore_services("be asked whom to trust"):
            verifier = verifying.Config().use_sigstore_verifier(identity=by.name, oidc_issuer=by.issuer)
    else:
        try:
            read_bytes(by)  # the package would wait for ever for a pipe
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=by)
        except (OSError, TypeError, ValueError) as e:
            raise _bad_key(by) from e
    with scratch_folder() as scratch:
        for path, source in files.items():
            link = scratch / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve())
        try:
            verifier.set_hashing_config(_hashing().set_allow_symlinks(True)).verify(scratch, signature)
        except Exception as e:  # the package and those below it raise whatever their parsers raise
            return str(e) or "it was made with another key, or its statement was changed"
    return None


def _bundle(path: Path) -> bytes | None:
    return read_bytes(path) if path.is_file() else None


def _still_good(bundle: bytes, key: Path, files: Mapping[str, str]) -> bool:
    try:
        if signed_digests(bundle) != dict(files):
            return False
        if is_keyless(key):
            return is_by_identity(bundle)
        return bool(json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"] == _hint(key))
    except (SourceError, ValueError, KeyError, TypeError):
        return False


def _hint(key: Path) -> str:
    """Return what the bundle states of its key: the SHA-256 of the public half, as PEM text."""
    from cryptography.hazmat.primitives import serialization

    try:
        public = serialization.load_pem_private_key(read_bytes(key), None).public_key()
    except (OSError, TypeError, ValueError) as e:
        raise _bad_key(key) from e
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _hashing() -> hashing.Config:
    config: hashing.Config = _package("hashing").Config()
    return config.set_ignored_paths(paths=UNSIGNED)


def _package(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as e:
        raise UnavailableError(
            "signatures need the package model-signing",
            hint=command_for_extra("sign"),
            code="sign-not-installed",
        ) from e


def _bad_key(key: Path) -> SourceError:
    return SourceError(
        f"{key.name} is not a key that can be used",
        hint="an elliptic curve key in PEM, not encrypted: openssl ecparam -name prime256v1 -genkey -noout",
        code="source-key",
    )
