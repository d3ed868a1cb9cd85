"""The Hub of the other tests accepts and refuses what the real client expects."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from support.hub_server import sha256
from support.hub_writes import READ_ONLY, WritableHub

REPO = "alice/head"
BIG = bytes(range(256)) * 200


def add(name: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(name, data)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_a_repository_and_one_commit(hub: WritableHub, tmp_path: Path):
    api = HfApi()
    api.create_repo(REPO, private=True)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(REPO)
    assert status(error) == 409
    first = api.model_info(REPO).sha
    done = api.create_commit(REPO, [add("a.txt", b"a"), add("w.bin", BIG)], commit_message="one", parent_commit=first)
    assert hub.files(REPO) == {"a.txt": b"a", "w.bin": BIG}
    assert Path(hf_hub_download(REPO, "w.bin", revision=done.oid, cache_dir=tmp_path)).read_bytes() == BIG
    tree = {f.path: f for f in api.list_repo_tree(REPO, recursive=True)}
    assert tree["w.bin"].lfs.sha256 == sha256(BIG)
    assert tree["a.txt"].lfs is None
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit(REPO, [add("a.txt", b"b")], commit_message="two", parent_commit=first)
    assert status(error) == 412
    assert hub.files(REPO)["a.txt"] == b"a"
    api.create_commit(REPO, [CommitOperationDelete("a.txt")], commit_message="three")
    assert set(hub.files(REPO)) == {"w.bin"}
    assert hub.repos[REPO].private
    api.update_repo_settings(REPO, private=False)
    assert not hub.repos[REPO].private


def test_refs(hub: WritableHub):
    api = HfApi()
    api.create_repo(REPO)
    pull = api.create_commit(REPO, [add("a.txt", b"a")], commit_message="one", create_pr=True)
    assert pull.pr_revision == "refs/pr/1"
    assert hub.files(REPO) == {}
    assert hub.files(REPO, "refs/pr/1") == {"a.txt": b"a"}
    api.create_branch(REPO, branch="x")
    api.create_commit(REPO, [add("b.txt", b"b")], commit_message="two", revision="x")
    api.create_tag(REPO, tag="v1", revision=hub.repos[REPO].refs["x"])
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {b.name for b in refs.branches} == {"main", "x"}
    assert [(t.name, t.target_commit) for t in refs.tags] == [("v1", hub.repos[REPO].refs["x"])]
    assert [p.ref for p in refs.pull_requests] == ["refs/pr/1"]
    assert {f.path for f in api.list_repo_tree(REPO, revision="v1")} == {"b.txt", ".gitattributes"}


def test_a_blob_must_have_its_digest(hub: WritableHub):
    import urllib.request
    from urllib.error import HTTPError

    request = urllib.request.Request(f"{hub.url}/put/{'0' * 64}", data=b"x", method="PUT")
    with pytest.raises(HTTPError) as error:
        urllib.request.urlopen(request)
    error.value.close()
    assert error.value.code == 400


def test_who_may_write(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    for token, repo, expected in (("hf_bad", REPO, 401), (READ_ONLY, REPO, 403), ("hf_good", "bob/head", 403)):
        with pytest.raises(HfHubHTTPError) as error:
            HfApi(token=token).create_repo(repo)
        assert status(error) == expected
    HfApi().create_repo(REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info(REPO)
