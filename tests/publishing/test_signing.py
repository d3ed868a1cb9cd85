"""Signatures over a release: made with a private key, checked from the Hub, and not made twice."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from publishing.folders import REPO
from publishing.test_publish import one_more_section
from support.hub_writes import WritableHub

from eagle3hub.publishing import plan
from eagle3hub.publishing.files import parse_digest_list
from eagle3hub.publishing.signing import check_signature

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_signed_once_and_checked(hub: WritableHub, release: Path, cli: Cli, keys: Path, tmp_path: Path):
    argv = ("publish", release, "--repo", REPO, "--sign", keys / "mine.pem", "--json")
    status, out, err = cli(*argv)
    assert status == 0, out + err
    before = hub.uploads
    assert cli(*argv)[0] == 0
    assert hub.uploads == before, "a good signature stays as it is"
    status, out, _ = cli("verify", f"hf://{REPO}")
    assert status == 0
    assert "by whom, --key KEY tells" in out
    status, out, err = cli("verify", f"hf://{REPO}", "--key", keys / "mine.pub")
    assert status == 0, out + err
    assert "signature: by mine.pub, over all" in out
    status, out, _ = cli("verify", f"hf://{REPO}", "--key", keys / "other.pub")
    assert status == 1
    assert "differs signature: " in out
    # anybody else can check it with the package's own command
    copy = Path(snapshot_download(REPO, local_dir=tmp_path / "copy"))
    shutil.rmtree(copy / ".cache")
    own = [sys.executable, "-m", "model_signing", "verify", "key", copy, "--signature", copy / "model.sig"]
    done = subprocess.run(
        [*map(str, own), "--public_key", str(keys / "mine.pub")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one_more_section(release)
    assert cli(*argv)[0] == 0
    assert cli("verify", f"hf://{REPO}", "--key", keys / "mine.pub")[0] == 0, "what changed is signed anew"
    assert cli(*argv[:-2], keys / "other.pem")[0] == 0
    assert cli("verify", f"hf://{REPO}", "--key", keys / "other.pub")[0] == 0, "another key signs anew"


def test_a_folder_that_is_made_anew_keeps_its_signature(release: Path, keys: Path):
    def sign(key: str, earlier: bytes | None) -> bytes:
        plan.sign_if_asked(release, plan.PublishOptions(sign=keys / key), earlier)
        made = (release / "model.sig").read_bytes()
        (release / "model.sig").unlink()
        return made

    first = sign("mine.pem", None)
    assert sign("mine.pem", None) != first, "signatures are random"
    assert sign("mine.pem", first) == first
    assert sign("other.pem", first) != first
    (release / "NOTICE").write_text("new")
    assert sign("mine.pem", first) != first


@pytest.mark.slow
def test_a_signature_over_other_files_is_refused(hub: WritableHub, release: Path, cli: Cli, keys: Path):
    argv = ("publish", release, "--repo", REPO)
    assert cli(*argv, "--sign", keys / "mine.pem", "--dry-run")[0] == 0
    (release / "NOTICE").write_text("new")
    status, out, _ = cli(*argv)
    assert status == 1
    assert "refused publish-signature NOTICE is not what model.sig was made for" in out
    (release / "model.sig").write_text("{}")
    status, out, _ = cli(*argv)
    assert status == 1
    assert "model.sig is not a signature of a model" in out
    assert hub.uploads == []


@pytest.mark.slow
def test_a_signed_release_that_was_changed_with_its_list(hub: WritableHub, release: Path, cli: Cli, keys: Path):
    """Somebody with write access can fake the list of digests and the statement, but not the signature."""
    (release / "LICENSE").write_text("Apache License\n")
    assert cli("publish", release, "--repo", REPO, "--sign", keys / "mine.pem")[0] == 0
    files = hub.files(REPO)
    sums = parse_digest_list(files["SHA256SUMS"].decode())

    def forge(**changed: bytes) -> None:
        new = {**files, **changed}
        digests = {name: hashlib.sha256(new[name]).hexdigest() for name in sums}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        hub.commit(REPO, {**changed, "SHA256SUMS": lines.encode()})

    card = files["LICENSE"] + b"\nTrust me.\n"
    forge(LICENSE=card)
    status, out, _ = cli("verify", f"hf://{REPO}")
    assert status == 1
    assert "the signature covers other files" in out
    bundle = json.loads(files["model.sig"])
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    for resource in statement["predicate"]["resources"]:
        if resource["name"] == "LICENSE":
            resource["digest"] = hashlib.sha256(card).hexdigest()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    forge(**{"LICENSE": card, "model.sig": json.dumps(bundle).encode()})
    assert cli("verify", f"hf://{REPO}")[0] == 0, "nothing but the key can tell"
    assert cli("verify", f"hf://{REPO}", "--key", keys / "mine.pub")[0] == 1


@pytest.mark.slow
def test_what_a_key_cannot_do(hub: WritableHub, release: Path, cli: Cli, keys: Path):
    for key in (keys / "mine.pub", keys / "nothing.pem", release / "config.json"):
        status, _, err = cli("publish", release, "--repo", REPO, "--sign", key)
        assert status == 3
        assert f"{key.name} is not a key that can be used" in err
    status, _, err = cli("publish", release, "--repo", REPO, "--sign", keys / "mine.pem", "--branch-per-layout")
    assert status == 2
    assert cli("publish", release, "--repo", REPO)[0] == 0
    status, out, _ = cli("verify", f"hf://{REPO}", "--key", keys / "mine.pub")
    assert status == 1
    assert "there is no signature" in out
    assert not (release / "model.sig").exists()


def test_without_the_package(hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    for name in ("model_signing", "model_signing.signing"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, err = cli("publish", release, "--repo", REPO, "--sign", "key.pem")
    assert status == 4
    assert f"{sys.executable} -m pip install 'model-signing>=" in err


def test_a_release_that_is_not_published_yet_is_signed(two_heads: Path, cli: Cli, keys: Path, tmp_path: Path):
    made = tmp_path / "made"
    argv = ("release", f"{two_heads}#one", "--until", "card", "--output", made, "--sign", keys / "mine.pem")
    status, out, err = cli(*argv, "--json")
    assert status == 0, out + err
    assert "model.sig" in {file["path"] for file in json.loads(out)["files"]}
    signature = (made / "model.sig").read_bytes()
    signed = {p.relative_to(made).as_posix(): p for p in made.rglob("*") if p.is_file() and p.name != "model.sig"}
    assert check_signature(signed, made / "model.sig", keys / "mine.pub") is None
    assert check_signature(signed, made / "model.sig", keys / "other.pub") is not None
    assert cli(*argv, "--force")[0] == 0
    assert (made / "model.sig").read_bytes() == signature, "the same files keep their signature"


def test_what_cannot_be_signed_stops_a_release_at_once(two_heads: Path, cli: Cli, keys: Path, tmp_path: Path):
    argv = ("release", f"{two_heads}#one", "--output", tmp_path / "made")
    status, _, err = cli(*argv, "--until", "convert", "--sign", keys / "mine.pem")
    assert status == 2
    assert "--sign covers the whole release" in err
    status, _, err = cli(*argv, "--until", "card", "--sign", keys / "mine.pub")
    assert status == 3
    assert "mine.pub is not a key" in err
    assert not (tmp_path / ".eagle3hub").exists(), "found before anything is measured"
