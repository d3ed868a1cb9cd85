"""The writing half of the Hub's protocol: repositories, preupload, LFS, commits, branches, tags, pull requests.

A commit is refused unless its parent is the branch's head (412), a blob unless its bytes have the digest it is
stored under. Who may write is decided by the token: its owner's namespace only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import unquote

from support.hub_server import (
    _REPO,
    _REVISION,
    LFS_FROM,
    ROUTES,
    Commit,
    HubServer,
    Repo,
    _Handler,
    blob_id,
    is_lfs,
    sha256,
)

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
READ_ONLY = "hf_readonly"


class WritableHub(HubServer):
    """A Hub that takes uploads.

    ``garble`` names files whose last byte the next commit stores wrongly. ``trusted`` maps repositories to the tokens
    that a workflow gets for them; the runner's own service, which vouches for the workflow, answers here as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens[READ_ONLY] = "alice"
        self.garble: set[str] = set()
        self.trusted: dict[str, str] = {}
        self.identity = {"asked with": "a-runner's-secret", "is": "eyJh.an-identity.x"}

    @property
    def uploads(self) -> list[str]:
        """What was sent that changes the Hub: methods and paths, in order."""
        steps = ("/commit/", "/repos/create", "/tag/", "/branch/", "/settings", "/items")
        return [f"{r.method} {r.path}" for r in self.requests if r.method == "PUT" or any(s in r.path for s in steps)]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.repos[repo_id].resolve(revision) if repo_id in self.repos else None
        return {} if commit is None else {n: b for n, b in commit.files.items() if n != ".gitattributes"}

    def rot(self, data: bytes) -> None:
        """Let a stored large file change its bytes without the Hub noticing."""
        self.blobs[sha256(data)] = data[:-1] + bytes([data[-1] ^ 1])


def add_commit(hub: HubServer, repo: Repo, files: dict[str, bytes], parent: str | None, ref: str) -> Commit:
    text = json.dumps([parent, len(repo.commits), {n: sha256(b) for n, b in files.items()}])
    commit = Commit(hashlib.sha1(text.encode()).hexdigest(), parent, files)
    repo.commits[commit.oid] = commit
    repo.refs[ref] = commit.oid
    hub.blobs.update({sha256(b): b for b in files.values() if is_lfs(b)})
    return commit


def may_write(h: _Handler, repo_id: str) -> bool:
    token = h.request_seen.token or ""
    owner = h.hub.tokens.get(token)
    if h.hub.trusted.get(repo_id) == token:
        return True
    if owner is None:
        h.send_json({"error": "Invalid username or password."}, 401)
    elif owner != repo_id.split("/")[0] or token == READ_ONLY:
        h.send_json({"error": "You don't have the rights"}, 403, **{"X-Error-Message": "Forbidden"})
    else:
        return True
    return False


def repo_for_write(h: _Handler, repo_id: str) -> Repo | None:
    if not may_write(h, repo_id):
        return None
    if repo_id not in h.hub.repos:
        h.send_json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
    return h.hub.repos.get(repo_id)


def _vouch(h: _Handler) -> None:
    """A workflow's identity, as GitHub's runner gives it to a job that may ask."""
    if h.request_seen.token != h.hub.identity["asked with"] or h.query.get("audience") != [h.hub.url]:
        h.send_json({"message": "no"}, 401)
    else:
        h.send_json({"count": 1, "value": h.hub.identity["is"]})


def _exchange(h: _Handler) -> None:
    """An hour's token for one repository, for an identity that its owner trusts."""
    asked = json.loads(h.body)
    token = h.hub.trusted.get(asked["resource"])
    right = asked["subject_token"] == h.hub.identity["is"] and asked["grant_type"].endswith("token-exchange")
    if token is None or not right:
        h.send_json({"error": "access_denied", "error_description": "No trusted publisher matches"}, 403)
        return
    h.hub.tokens[token] = "a workflow"
    h.send_json({"access_token": token, "token_type": "bearer", "expires_in": 3600})


def _create(h: _Handler) -> None:
    asked = json.loads(h.body)
    owner = asked.get("organization") or h.hub.tokens.get(h.request_seen.token or "", "")
    repo_id = f"{owner}/{asked['name']}"
    if not may_write(h, repo_id):
        return
    url = f"{h.hub.url}/{repo_id}"
    if repo_id in h.hub.repos:
        h.send_json({"error": "You already created this model repo", "url": url}, 409)
        return
    repo = h.hub.repo(repo_id, private=asked.get("visibility") == "private")
    add_commit(h.hub, repo, {".gitattributes": ATTRIBUTES}, None, "main")
    h.send_json({"url": url, "name": repo_id})


def _validate_yaml(h: _Handler) -> None:
    h.send_json({"errors": [], "warnings": []})


def _preupload(h: _Handler, repo: str, revision: str) -> None:
    found = repo_for_write(h, repo)
    if found is None:
        return
    now = found.resolve(revision)
    files: list[dict[str, Any]] = []
    for file in json.loads(h.body)["files"]:
        data = now.files.get(file["path"]) if now else None
        mode = "lfs" if file["size"] >= LFS_FROM else "regular"
        oid = None if data is None else sha256(data) if is_lfs(data) else blob_id(data)
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    h.send_json({"files": files})


def _batch(h: _Handler, repo: str) -> None:
    if repo_for_write(h, repo) is None:
        return
    objects: list[dict[str, Any]] = []
    for wanted in json.loads(h.body)["objects"]:
        if wanted["oid"] not in h.hub.blobs:
            wanted["actions"] = {"upload": {"href": f"{h.hub.cdn}/put/{wanted['oid']}?signature=secret"}}
        objects.append(wanted)
    h.send_json({"transfer": "basic", "objects": objects})


def _put(h: _Handler, oid: str) -> None:
    if sha256(h.body) != oid:
        h.send_json({"error": "digest mismatch"}, 400)
        return
    h.hub.blobs[oid] = h.body
    h.send_json({})


def _commit(h: _Handler, repo: str, revision: str) -> None:
    found = repo_for_write(h, repo)
    if found is None:
        return
    lines = [json.loads(line) for line in h.body.splitlines()]
    base = found.resolve(revision)
    if base is None:
        h.send_json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        return
    if lines[0]["value"].get("parentCommit", base.oid) != base.oid:
        h.send_json({"error": "The branch has moved"}, 412)
        return
    files = dict(base.files)
    for line in lines[1:]:
        key, value = line["key"], line["value"]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in h.hub.blobs:
                h.send_json({"error": "LFS pointer pointed to a file that does not exist"}, 400)
                return
            files[value["path"]] = h.hub.blobs[value["oid"]]
        else:
            del files[value["path"]]
    for name in h.hub.garble & set(files):
        files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    h.hub.garble = set()
    ref = unquote(revision)
    number = 1 + sum(r.startswith("refs/pr/") for r in found.refs)
    if "create_pr" in h.query:
        ref = f"refs/pr/{number}"
    commit = add_commit(h.hub, found, files, base.oid, ref)
    h.send_json(
        {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{h.hub.url}/{repo}/commit/{commit.oid}",
            "pullRequestUrl": f"{h.hub.url}/{repo}/discussions/{number}" if "create_pr" in h.query else None,
        }
    )


def _branch(h: _Handler, repo: str, name: str) -> None:
    found = repo_for_write(h, repo)
    if found is None:
        return
    if name in found.refs:
        h.send_json({"error": "Reference already exists"}, 409)
        return
    found.refs[name] = found.resolve(json.loads(h.body or b"{}").get("startingPoint", "main")).oid
    h.send_json({})


def _tag(h: _Handler, repo: str, revision: str) -> None:
    found = repo_for_write(h, repo)
    if found is None:
        return
    name = json.loads(h.body)["tag"]
    if name in found.tags:
        h.send_json({"error": "Tag reference exists already"}, 409)
        return
    found.tags[name] = found.resolve(revision).oid
    h.send_json({})


def _settings(h: _Handler, repo: str) -> None:
    found = repo_for_write(h, repo)
    if found is not None:
        asked = json.loads(h.body)
        found.private = asked.get("visibility", "private" if found.private else "public") == "private"
        found.gated = asked.get("gated", found.gated)
        h.send_json({"private": found.private})


def _collection(h: _Handler, slug: str) -> None:
    found = h.hub.collections.get(slug)
    if found is None:
        h.send_json({"error": "Collection not found"}, 404)
        return
    items = [{"_id": str(i), "id": repo, "type": "model", "position": i} for i, repo in enumerate(found)]
    about = {"title": slug, "owner": {"name": slug.split("/")[0]}, "lastUpdated": "2026-11-01T00:00:00.000Z"}
    shown = {"position": 0, "private": False, "theme": "green", "upvotes": 0}
    h.send_json({"slug": slug, "items": items, **about, **shown})


def _collect(h: _Handler, slug: str) -> None:
    if not may_write(h, slug):
        return
    repo = json.loads(h.body)["item"]["id"]
    if slug in h.hub.collections and repo in h.hub.collections[slug]:
        h.send_json({"error": "Item already in collection"}, 409)
        return
    if slug in h.hub.collections:
        h.hub.collections[slug].append(repo)
    _collection(h, slug)


WritableHub.routes = [
    ("GET", "/actions/identity", _vouch),
    ("POST", "/oauth/token", _exchange),
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate_yaml),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REVISION}", _preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/put/(?P<oid>[0-9a-f]{64})", _put),
    ("POST", rf"/api/models/{_REPO}/commit/{_REVISION}", _commit),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<name>[^/]+)", _branch),
    ("POST", rf"/api/models/{_REPO}/tag/{_REVISION}", _tag),
    ("PUT", rf"/api/models/{_REPO}/settings", _settings),
    ("GET", r"/api/collections/(?P<slug>[^/]+/[^/]+)", _collection),
    ("POST", r"/api/collections/(?P<slug>[^/]+/[^/]+)/items", _collect),
    *ROUTES,
]
