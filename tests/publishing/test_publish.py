"""Publish to a Hub on loopback with the real client: the plan, what is sent, and what the Hub has afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from publishing.conftest import TOKEN
from publishing.folders import REPO
from support.hub_writes import READ_ONLY, WritableHub

from eagle3hub.card.folder import complete
from eagle3hub.checkpoint.digest import folder_digest

Cli = Callable[..., tuple[int, str, str]]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def document(done: tuple[int, str, str], status: int = 0) -> dict[str, Any]:
    assert done[0] == status, done[1] + done[2]
    return json.loads(done[1])


def test_a_dry_run_sends_nothing(hub: WritableHub, release: Path, manifest: Path, cli: Cli):
    argv = ("publish", release, "--manifest", manifest, "--dry-run", "--stage", "--tag", "v1")
    plan = document(cli(*argv, "--json"))
    assert (plan["repo"], plan["exists"], plan["tag"]) == (REPO, False, "v1")
    assert plan["visibility"] == "private, public when verified"
    (commit,) = plan["commits"]
    listed = {f["path"]: f for f in commit["files"]}
    assert set(listed) == {*contents(release), "SHA256SUMS"}
    assert {f["state"] for f in listed.values()} == {"new"}
    assert listed["config.json"]["size"] == (release / "config.json").stat().st_size
    assert plan["problems"] == plan["waived"] == []
    assert hub.uploads == []
    status, out, _ = cli(*argv)
    assert status == 0
    assert "modelopt/model.safetensors" in out
    assert "published" not in out


def test_published_once_and_again(hub: WritableHub, release: Path, manifest: Path, cli: Cli, tmp_path: Path):
    argv = ("publish", release, "--manifest", manifest, "--tag", "v1", "--json")
    done = document(cli(*argv))
    files = hub.files(REPO)
    assert {n: b for n, b in files.items() if n != "SHA256SUMS"} == contents(release)
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2, "the repository's first commit, and ours"
    assert repo.tags == {"v1": repo.refs["main"]}
    assert done["published"] == [{"ref": "main", "commit": repo.refs["main"]}]
    assert not repo.private
    copy = Path(snapshot_download(REPO, local_dir=tmp_path / "copy"))
    assert folder_digest(copy)[0] == folder_digest(release)[0]
    before, asked = hub.uploads, len(hub.requests)
    again = document(cli(*argv))
    assert hub.uploads == before
    assert again["uploaded"] == {}
    assert again["published"] == done["published"]
    assert len(hub.requests) > asked, "it is verified again"


def one_more_section(release: Path) -> None:
    """The makers' own text for the card belongs into the manifest."""
    text = (release / "release.yaml").read_text() + "sections:\n- title: Thanks\n  text: To all.\n"
    (release / "release.yaml").write_text(text)
    complete(release, release / "release.yaml")
    assert "## Thanks\n\nTo all.\n" in (release / "README.md").read_text()


@pytest.mark.slow
def test_what_changed_is_what_is_sent(hub: WritableHub, release: Path, cli: Cli):
    document(cli("publish", release, "--repo", REPO, "--json"))
    one_more_section(release)
    (release / "NOTICE").write_text("A notice.\n")
    puts = sum(u.startswith("PUT") for u in hub.uploads)
    done = document(cli("publish", release, "--repo", REPO, "--json"))
    states = {f["path"]: f["state"] for f in done["commits"][0]["files"]}
    assert {p: s for p, s in states.items() if s != "unchanged"} == {
        "README.md": "changed",
        "NOTICE": "new",
        "SHA256SUMS": "changed",
        "release.yaml": "changed",
        "release.json": "changed",
    }
    large = [
        n
        for n in states
        if states[n] != "unchanged" and (release / n).is_file() and (release / n).stat().st_size >= 10_000
    ]
    assert sum(u.startswith("PUT") for u in hub.uploads) == puts + len(large)
    (release / "NOTICE").unlink()
    hub.commit(REPO, {"somebody.txt": b"else's"})
    done = document(cli("publish", release, "--repo", REPO, "--json"))
    assert done["commits"][0]["removed"] == ["NOTICE"]
    assert done["commits"][0]["kept"] == ["somebody.txt"]
    assert "NOTICE" not in hub.files(REPO)
    assert hub.files(REPO)["somebody.txt"] == b"else's"


def test_staged_is_private_until_verified(hub: WritableHub, release: Path, cli: Cli):
    seen: list[bool] = []
    hub.fail("/tree/", before=lambda: seen.append(hub.repos[REPO].private), times=9)
    document(cli("publish", release, "--repo", REPO, "--stage", "--json"))
    assert seen
    assert all(seen)
    assert not hub.repos[REPO].private
    assert hub.uploads[-1] == f"PUT /api/models/{REPO}/settings"


def test_staged_and_wrong_stays_private(hub: WritableHub, release: Path, cli: Cli):
    hub.garble.add("model.safetensors")
    status, out, err = cli("publish", release, "--repo", REPO, "--stage", "--tag", "v1")
    assert (status, out) == (5, "")
    assert "is not what was uploaded: model.safetensors has other bytes" in err
    assert hub.repos[REPO].private
    assert hub.repos[REPO].tags == {}
    document(cli("publish", release, "--repo", REPO, "--stage", "--tag", "v1", "--json"))
    assert not hub.repos[REPO].private
    assert hub.files(REPO)["model.safetensors"] == (release / "model.safetensors").read_bytes()


def test_a_pull_request_once(hub: WritableHub, release: Path, cli: Cli):
    hub.commit(REPO, {"README.md": b"old"})
    argv = ("publish", release, "--repo", REPO, "--create-pr", "--json")
    done = document(cli(*argv))
    assert done["pull_request"].endswith("/discussions/1")
    assert hub.files(REPO) == {"README.md": b"old"}
    assert hub.files(REPO, "refs/pr/1")["config.json"] == (release / "config.json").read_bytes()
    before = hub.uploads
    again = document(cli(*argv))
    assert again["published"][0]["ref"] == "refs/pr/1"
    assert hub.uploads == before


@pytest.mark.slow
def test_a_branch_for_each_layout(hub: WritableHub, release: Path, cli: Cli):
    argv = ("publish", release, "--repo", REPO, "--branch-per-layout", "--json")
    done = document(cli(*argv))
    assert [made["ref"] for made in done["published"]] == ["modelopt", "main"]
    main, other = hub.files(REPO), hub.files(REPO, "modelopt")
    assert not any(name.startswith("modelopt/") for name in main)
    assert other["model.safetensors"] == (release / "modelopt" / "model.safetensors").read_bytes()
    assert other["config.json"] == (release / "modelopt" / "config.json").read_bytes()
    before = hub.uploads
    document(cli(*argv))
    assert hub.uploads == before


SHELF = "alice/heads-64f9a55bb3115b4f513ec026"


def test_gated_and_in_a_collection(hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    hub.collections[SHELF] = ["alice/other"]
    seen: list[object] = []
    hub.fail("/preupload/", "POST", before=lambda: seen.append(hub.repos[REPO].gated))
    argv = ("publish", release, "--repo", REPO, "--stage", "--gated", "manual", "--collection", SHELF)
    status, out, err = cli(*argv)
    assert status == 0, err
    assert "new, public, access by asking (manual)" in out
    assert f"collection: {SHELF}\n" in out
    assert seen == ["manual"], "no byte is there before the gate"
    assert hub.repos[REPO].gated == "manual"
    assert not hub.repos[REPO].private, "one setting leaves the other as it is"
    assert hub.collections[SHELF] == ["alice/other", REPO]
    before = hub.uploads
    again = document(cli(*argv, "--json"))
    assert (again["gated"], again["collection"], again["collected"]) == ("manual", SHELF, True)
    assert hub.uploads == before
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "is gated" in cli("verify", f"hf://{REPO}")[2]


def test_a_collection_that_is_not_there_is_found_before_anything_is_sent(hub: WritableHub, release: Path, cli: Cli):
    status, _, err = cli("publish", release, "--repo", REPO, "--collection", SHELF)
    assert status == 5
    assert f"there is no collection {SHELF}" in err
    assert hub.uploads == []


@pytest.mark.slow
def test_the_manifest_says_how_to_publish(hub: WritableHub, release: Path, manifest: Path, cli: Cli):
    hub.collections[SHELF] = []
    text = manifest.read_text() + f"\npublish:\n  stage: true\n  gated: auto\n  collection: {SHELF}\n"
    asked = manifest.with_name("publish.yaml")
    asked.write_text(text)
    argv = ("publish", release, "--manifest", asked, "--dry-run", "--json")
    plan = document(cli(*argv))
    assert plan["visibility"] == "private, public when verified"
    assert (plan["gated"], plan["collection"], plan["collected"]) == ("auto", SHELF, False)
    assert document(cli(*argv, "--private"))["visibility"] == "private"
    assert document(cli(*argv, "--gated", "manual"))["gated"] == "manual"
    pull = document(cli(*argv, "--create-pr"), status=1)
    assert (pull["visibility"], pull["gated"], pull["collection"]) == ("public", None, None)
    assert [p["code"] for p in pull["problems"]] == ["publish-visibility"]
    assert cli(*argv, "--gated", "sometimes")[0] == 2
    asked.write_text(text.replace("gated: auto", "gated: sometimes"))
    status, out, _ = cli(*argv)
    assert status == 3
    assert "publish.gated" in out


def test_a_tag_is_not_moved(hub: WritableHub, release: Path, cli: Cli):
    document(cli("publish", release, "--repo", REPO, "--tag", "v1", "--json"))
    (release / "NOTICE").write_text("A notice.\n")
    before = hub.uploads
    status, _, err = cli("publish", release, "--repo", REPO, "--tag", "v1")
    assert status == 2
    assert "the tag v1 exists already" in err
    assert hub.uploads == before


@pytest.mark.parametrize(
    ("token", "code"), [(None, "hub-no-token"), ("hf_bad", "hub-auth"), (READ_ONLY, "hub-forbidden")]
)
def test_without_the_right_token(
    hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, token: str | None, code: str
):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    status, out, err = cli("publish", release, "--repo", REPO, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (5, code)
    assert token is None or token not in out + err
    assert REPO not in hub.repos


@pytest.mark.slow
def test_no_output_holds_the_token(
    hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, waits: list[float]
):
    printed = ""
    for fault in ({}, {"status": 500, "times": 99}, {"status": 403}, {"cut_after": 0, "times": 99}):
        hub.faults.clear()
        if fault:
            hub.fail("/commit/|preupload", "POST", **fault)
        (release / "NOTICE").write_text(f"{fault}\n")
        for flags in ((), ("--json",)):
            _, out, err = cli("--debug", "publish", release, "--repo", REPO, *flags)
            printed += out + err
    assert "Traceback" in printed
    assert TOKEN not in printed
    assert "signature=" not in printed


# What the Hub has afterwards


def test_verify_a_published_repository(hub: WritableHub, release: Path, cli: Cli):
    document(cli("publish", release, "--repo", REPO, "--tag", "v1", "--json"))
    found = document(cli("verify", f"hf://{REPO}@v1", "--json"))
    assert found["verdict"] == "pass"
    assert {f["path"] for f in found["files"]} == set(contents(release))
    assert found["heads"] == [{"folder": "", "layout": "specforge"}, {"folder": "modelopt", "layout": "modelopt"}]
    assert found["unlisted"] == []
    hub.commit(REPO, {"extra.bin": b"x", "eagle3hub.json": b"{}"})
    status, out, _ = cli("verify", f"hf://{REPO}")
    assert status == 1
    assert "eagle3hub.json has other bytes" in out
    assert "not listed: extra.bin" in out


@pytest.mark.slow
def test_verify_sees_bytes_that_rotted_under_their_name(hub: WritableHub, release: Path, cli: Cli):
    document(cli("publish", release, "--repo", REPO, "--json"))
    hub.rot((release / "modelopt" / "model.safetensors").read_bytes())
    found = document(cli("verify", f"hf://{REPO}", "--json"), status=1)
    assert found["faults"] == ["modelopt/model.safetensors has other bytes than were published"]


def test_verify_of_what_somebody_else_published(hub: WritableHub, example_head: Path, cli: Cli):
    hub.commit(REPO, example_head)
    status, _, err = cli("verify", f"hf://{REPO}")
    assert status == 3
    assert "there is no SHA256SUMS" in err


@pytest.mark.slow
def test_names_from_the_hub_are_shown_as_they_are(release: Path, manifest: Path, hub: WritableHub, cli: Cli):
    """Controls and bidi marks in what the Hub sends are shown, and have no effect."""
    evil = "e\x1b[31mv\u202eil\u2066\x9b2J\u200b"
    assert cli("publish", release, "--repo", REPO, "--manifest", manifest)[0] == 0
    there = hub.repos[REPO].commits[hub.repos[REPO].refs["main"]].files
    listed = there["SHA256SUMS"].decode() + f"{'0' * 64}  {evil}\n"
    hub.commit(REPO, {f"{evil}.bin": b"x", "SHA256SUMS": listed.encode(), "README.md": f"---\n{evil}: [\n".encode()})
    hub.commit("alice/other", {"config.json": b"{}", f"{evil}.safetensors": b"x", "README.md": f"# {evil}".encode()})
    for argv in (
        ("verify", f"hf://{REPO}"),
        ("publish", release, "--repo", REPO, "--manifest", manifest, "--dry-run"),
        ("card", f"hf://{REPO}", "--check"),
        ("card", "hf://alice/other", "--check"),
        ("inspect", "hf://alice/other"),
        ("inspect", f"hf://alice/other@{evil}"),
    ):
        for more in ((), ("--json",)):
            status, out, err = cli(*argv, *more)
            assert status != 70
            assert [c for c in out + err if c in evil and not c.isprintable()] == []
    hub.commit("alice/third", {"SHA256SUMS": b"\xff\xfe not text"})
    status, out, _ = cli("verify", "hf://alice/third", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "source-sums")
