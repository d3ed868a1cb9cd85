from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from publishing import folders
from support.hub_server import client_of
from support.hub_writes import WritableHub

from eagle3hub.checkpoint import remote

TOKEN = "hf_good"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf-home")


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """Start a Hub on loopback that accepts uploads, and log huggingface_hub in to it."""
    monkeypatch.setattr(remote, "_LISTINGS", {})
    with WritableHub() as server, client_of(server, home, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``release``, ready to be published, and ``release.yaml``. Tests must not change it."""
    here = tmp_path_factory.mktemp("made")
    folders.make_release(here / "release", folders.write_manifest(here / "release.yaml"))
    return here


@pytest.fixture
def manifest(made: Path) -> Path:
    return made / "release.yaml"


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the release folder for this test alone."""
    return Path(shutil.copytree(made / "release", tmp_path / "release"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Skip the waits before another try, and collect the seconds that they would have taken."""
    collected: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: collected.append(seconds))
    return collected


@pytest.fixture
def two_heads(tmp_path: Path) -> Path:
    """Return a manifest of two heads, ``one`` and ``two``, that name the same tiny target."""
    from workflows import agreeing  # torch is not needed by the others

    document = yaml.safe_load((folders.EXAMPLE / "release.yaml").read_text())
    del document["head"]
    target = agreeing.make_target(tmp_path / "target")
    document["target"] = {"id": "alice/target", "license": "apache-2.0", "path": str(target)}
    document["layouts"] = {"main": "specforge"}
    document["validate"] = {"engine": "reference", "num_prompts": 8, "max_new_tokens": 8}
    document["heads"] = []
    for name in ("one", "two"):
        agreeing.make_head(tmp_path / name)
        document["heads"].append({"name": name, "head": {"source": name}, "release": {"repo": f"alice/{name}"}})
    return folders.write_yaml(tmp_path / "release.yaml", document)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two pairs of keys, ``mine`` and ``other``, each with its ``.pub``."""
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub").write_bytes(public)
    return folder
