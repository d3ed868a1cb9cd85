"""Access tokens: where they come from, and that they are stored and printed nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing.conftest import TOKEN
from publishing.folders import REPO
from support.hub_writes import WritableHub

from eagle3hub.cli import app
from eagle3hub.system.text import redacted

Cli = Callable[..., tuple[int, str, str]]
MAIN = "from eagle3hub.cli.app import main; main()"
ACCESS = "hf_jwt_" + "Zx9" * 14
IDENTITY = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZXBvIn0.c2lnbmF0dXJl"
RUNNER = "runner-secret-of-this-job"


@pytest.fixture
def workflow(hub: WritableHub, home: Path) -> dict[str, str]:
    """Set the environment of a GitHub Actions job that the repository trusts, without another token."""
    hub.trusted = {REPO: ACCESS}
    hub.identity = {"asked with": RUNNER, "is": IDENTITY}
    hub.commit(REPO, {"README.md": b"old"})
    return {
        **hub.env(home),
        "GITHUB_ACTIONS": "true",
        "HF_OIDC_RESOURCE": REPO,
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{hub.url}/actions/identity?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": RUNNER,
    }


def publish(
    release: Path, workflow: dict[str, str], tmp_path: Path, *more: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Publish from another process that can write only to this folder."""
    place = tmp_path / "place"
    for name in ("home", "tmp"):
        (place / name).mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | workflow
    env |= {
        "HOME": str(place / "home"),
        "HF_HOME": str(place / "home" / "hf"),
        "TMPDIR": str(place / "tmp"),
        "PYTHONPATH": str(Path(app.__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
    }
    argv = [sys.executable, "-c", MAIN, "--debug", "publish", str(release), "--repo", REPO, "--tag", "v1", *more]
    return subprocess.run(argv, env=env, cwd=place, capture_output=True, text=True), place


@pytest.mark.slow
def test_a_workflow_publishes_with_its_identity_alone(
    hub: WritableHub, release: Path, workflow: dict[str, str], tmp_path: Path
):
    done, place = publish(release, workflow, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"]
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].refs["main"]}
    asked = [r.path.partition("?")[0] for r in hub.requests if "identity" in r.path or "oauth" in r.path]
    assert asked == ["/actions/identity", "/oauth/token"], "one token serves the whole publication"
    for r in hub.requests:
        assert r.token in (ACCESS, RUNNER if "identity" in r.path else ACCESS, None), "no other token is used"
    nowhere(done, place)


@pytest.mark.slow
def test_a_job_of_another_system_publishes_with_the_identity_that_it_was_given(
    hub: WritableHub, release: Path, workflow: dict[str, str], tmp_path: Path
):
    """As in GitLab, where a job finds its identity in a variable."""
    elsewhere = {name: value for name, value in workflow.items() if "ACTIONS" not in name}
    done, place = publish(release, elsewhere | {"HF_OIDC_ID_TOKEN": IDENTITY}, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    asked = [r.path.partition("?")[0] for r in hub.requests if "identity" in r.path or "oauth" in r.path]
    assert asked == ["/oauth/token"]
    nowhere(done, place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "method", "how"),
    [
        ("/commit/", "POST", {"status": 403}),
        ("/preupload/", "POST", {"status": 400}),
        ("/put/", "PUT", {"status": 403, "times": 99}),
        ("/commit/", "POST", {"status": 400, "headers": {"X-Error-Message": f"no: Bearer {ACCESS}"}}),
        ("/oauth/token", "POST", {"status": 401, "headers": {"X-Error-Message": f"bad token {IDENTITY}"}}),
    ],
)
def test_no_failure_tells_a_token(
    hub: WritableHub, release: Path, workflow: dict[str, str], tmp_path: Path, path: str, method: str, how: dict
):
    hub.fail(path, method, **how)
    done, place = publish(release, workflow, tmp_path)
    assert done.returncode == 5, done.stderr
    assert "Traceback" in done.stderr
    nowhere(done, place)


def nowhere(done: subprocess.CompletedProcess[str], place: Path) -> None:
    """Assert that no output, command line or file of the process contains a secret."""
    written = b"".join(p.read_bytes() for p in place.rglob("*") if p.is_file())
    seen = done.stdout + done.stderr + str(done.args) + written.decode("utf-8", errors="replace")
    for secret in (ACCESS, IDENTITY, RUNNER, "signature="):
        assert secret not in seen, secret


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"HF_OIDC_RESOURCE": "alice/other"}, "HF_OIDC_RESOURCE asks for a token for alice/other"),
        ({"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another-secret"}, "GitHub gave no token for HF_OIDC_RESOURCE"),
        ({"ACTIONS_ID_TOKEN_REQUEST_URL": ""}, "`permissions: id-token: write`"),
        ({"GITHUB_ACTIONS": "", "HF_TOKEN": TOKEN}, "there is no identity to get a token"),
        ({"HF_OIDC_ID_TOKEN": "eyJ.other.x"}, "must name this workflow's repository, branch and file"),
    ],
)
def test_identities_that_are_not_trusted(
    hub: WritableHub,
    release: Path,
    workflow: dict[str, str],
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    words: str,
):
    monkeypatch.delenv("HF_TOKEN")
    for name, value in {**workflow, **changes}.items():
        if not name.startswith("HF_") or "OIDC" in name or "TOKEN" in name:
            monkeypatch.setenv(name, value)
    hub.trusted["alice/other"] = hub.trusted.pop(REPO) if "HF_OIDC_RESOURCE" in changes else "hf_unused"
    status, _, err = cli("publish", release, "--repo", REPO)
    assert status == 5
    assert words in err
    assert hub.uploads == []


def test_what_is_taken_out_of_tracebacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "planted-value")
    monkeypatch.setenv("A_TOKEN_COUNT", "12")
    monkeypatch.setenv("A_LONG_TOKEN", "planted" * 400)
    monkeypatch.setenv("HF_TOKEN_PATH", "/etc/hostname")
    for secret in (
        "planted-value",
        "planted" * 400,
        ACCESS,
        IDENTITY,
        "Authorization: Bearer abc.def",
        "https://cdn.example/put/abc?X-Signature=planted&y=1",
        "https://user:planted@example.org/x",
    ):
        text = redacted(f"Illegal header value b'{secret}' at /etc/hostname, 12 times")
        assert "***" in text
        assert not any(s in text for s in ("planted", "Zx9", "eyJ", "abc.def"))
        assert text.startswith("Illegal header value b'")
        assert text.endswith("' at /etc/hostname, 12 times")
    for harmless in ("huggingface_hub.hf_hub_download(repo)", "https://huggingface.co/api/models/a/b"):
        assert redacted(harmless) == harmless


def test_a_mistake_of_the_program_tells_no_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HF_TOKEN", "planted-value")
    monkeypatch.setattr(sys, "argv", ["eagle3hub", "publish", "x"])
    monkeypatch.setattr(app, "_command", lambda _wanted: (_ for _ in ()).throw(ValueError("with planted-value")))
    with pytest.raises(SystemExit) as stopped:
        app.main()
    err = capsys.readouterr().err
    assert stopped.value.code == 70
    assert "ValueError: with ***" in err
