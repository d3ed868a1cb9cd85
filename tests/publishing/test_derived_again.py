"""``verify`` needs only the public repository: anybody can make the card again, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import snapshot_download
from publishing.folders import REPO
from publishing.tampering import TAMPERINGS, rerecord
from support.hub_writes import WritableHub

from eagle3hub.card.folder import complete
from eagle3hub.card.manifest import PublishSettings
from eagle3hub.checkpoint.digest import release_digest
from eagle3hub.publishing.files import read_folder

Cli = Callable[..., tuple[int, str, str]]


def listed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Upload files with a correct list of digests, as somebody with write access could."""
    sums = "".join(f"{hashlib.sha256(b).hexdigest()}  {n}\n" for n, b in sorted(files.items()) if n != "SHA256SUMS")
    return {**files, "SHA256SUMS": sums.encode()}


def push(hub: WritableHub, folder: Path) -> None:
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub.commit(REPO, listed(files))


@pytest.mark.slow
def test_anybody_makes_the_card_again(hub: WritableHub, release: Path, cli: Cli, tmp_path: Path):
    assert cli("publish", release)[0] == 0
    shutil.rmtree(release)
    status, out, err = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["faults"], document["unchecked"]) == (0, "pass", [], []), err
    copy = Path(snapshot_download(REPO, local_dir=tmp_path / "copy"))
    status, out, err = cli("card", copy / "release.yaml")
    assert status == 0, err
    assert out.encode() == (copy / "README.md").read_bytes()


@pytest.mark.slow
def test_nothing_of_this_machine_is_published(hub: WritableHub, release: Path, manifest: Path, cli: Cli):
    assert cli("publish", release)[0] == 0
    for name, content in hub.files(REPO).items():
        for place in (manifest.parent, Path.home(), release.parent):
            assert str(place).encode() not in content, name


PLACES = ("τ of 9.9 at K = 3", "a number on the card", "a chart of other numbers", "counts that collapse", "another K")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_what_was_edited_on_the_hub_does_not_follow(hub: WritableHub, release: Path, cli: Cli, name: str):
    edit, _, words = TAMPERINGS[name]
    edit(release)
    rerecord(release)
    push(hub, release)
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["verdict"]) == (1, "fail")
    assert any(words in fault for fault in document["faults"]), document["faults"]


@pytest.mark.slow
def test_a_manifest_taken_away_is_a_fault(hub: WritableHub, release: Path, cli: Cli):
    (release / "release.yaml").unlink()
    push(hub, release)
    status, out, _ = cli("verify", f"hf://{REPO}")
    assert status == 1
    assert "there is no release.yaml, so reports, card and charts cannot be derived again" in out


def test_what_cannot_be_made_again_here_is_not_called_fine(
    hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    push(hub, release)
    monkeypatch.setattr("eagle3hub.card.folder.version", lambda _: "0.0")
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["faults"]) == (1, "inconclusive", [])
    assert "were drawn by matplotlib" in document["unchecked"][0]
    monkeypatch.undo()
    monkeypatch.setattr("eagle3hub.card.folder.__version__", "9.9.9")
    status, out, _ = cli("verify", release, "--json")
    document = json.loads(out)
    assert (status, document["verdict"]) == (1, "inconclusive")
    assert "cannot be made again here" in document["unchecked"][0]


@pytest.mark.slow
def test_a_branch_for_each_layout_is_put_together_again(hub: WritableHub, release: Path, cli: Cli):
    complete(release, release / "release.yaml", publish=PublishSettings(branch_per_layout=True))
    status, out, err = cli("publish", release)
    assert status == 0, out + err
    assert "modelopt/config.json" not in hub.files(REPO)
    for branch in ("main", "modelopt"):
        status, out, err = cli("verify", f"hf://{REPO}@{branch}", "--json")
        assert status == 0, out + err
    other = dict(hub.files(REPO, "modelopt"))
    other["config.json"] = other["config.json"].replace(b"{", b'{"note": 1,', 1)
    hub.commit(REPO, listed(other), revision="modelopt")
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    assert status == 1
    assert any("measured a head with other bytes" in fault for fault in json.loads(out)["faults"])


def last_step(hub: WritableHub, home: Path, repo: str, digest: str) -> tuple[int, str]:
    """Run the last step of release.yml as it is written there, and return what it prints."""
    workflow = yaml.safe_load((Path(__file__).parents[2] / ".github/workflows/release.yml").read_text())
    step = workflow["jobs"]["publish"]["steps"][-1]
    environment = {
        **os.environ,
        **hub.env(home, "hf_good"),
        "HF_HUB_OFFLINE": "0",
        "REPO": repo,
        "DIGEST": digest,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]], env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("branches", [False, True])
def test_the_last_step_of_the_workflow_passes_for_what_was_published(
    hub: WritableHub, release: Path, cli: Cli, tmp_path: Path, branches: bool
):
    complete(release, release / "release.yaml", publish=PublishSettings(branch_per_layout=branches))
    files, _ = read_folder(release)
    digest = release_digest({f.path: f.sha256 for f in files})
    assert cli("publish", release)[0] == 0
    assert last_step(hub, tmp_path / "home", REPO, digest)[0] == 0, last_step(hub, tmp_path / "home", REPO, digest)[1]
    branch, name = ("modelopt", "config.json") if branches else ("main", "modelopt/config.json")
    other = dict(hub.files(REPO, branch))
    other[name] = other[name].replace(b"{", b'{"note": 1,', 1)
    hub.commit(REPO, listed(other), revision=branch)
    status, said = last_step(hub, tmp_path / "home", REPO, digest)
    assert status == 1
    assert "the digest of the heads is" in said


@pytest.mark.slow
def test_other_bytes_on_another_branch_are_named(hub: WritableHub, release: Path, cli: Cli):
    complete(release, release / "release.yaml", publish=PublishSettings(branch_per_layout=True))
    assert cli("publish", release)[0] == 0
    other = dict(hub.files(REPO, "modelopt"))
    other["config.json"] += b"\n"
    hub.commit(REPO, other, revision="modelopt")
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    assert status == 1
    assert "on the branch modelopt, config.json has other bytes than were published" in json.loads(out)["faults"]


@pytest.mark.slow
def test_a_waived_gate_is_said_and_no_fault(hub: WritableHub, release: Path, cli: Cli):
    from publishing.folders import write_reports

    write_reports(release, release / "release.yaml", ["publish-report"], verdict="inconclusive")
    assert cli("publish", release, "--allow", "publish-report")[0] == 0
    status, out, err = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["verdict"]) == (0, "pass"), out + err
    assert any("says inconclusive" in what for what in document["waived"])


@pytest.mark.slow
def test_templates_of_others_are_not_run(hub: WritableHub, release: Path, cli: Cli, tmp_path: Path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "_limitations.md.j2").write_text("## Limitations\n\n{% for i in range(3) %}{{ i }}{% endfor %}\n")
    complete(release, release / "release.yaml", templates=own)
    assert cli("publish", release)[0] == 0
    assert b"012" in hub.files(REPO)["README.md"]
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["faults"]) == (1, "inconclusive", [])
    assert "the makers' own templates" in document["unchecked"][0]
    copy = Path(snapshot_download(REPO, local_dir=tmp_path / "copy"))
    assert cli("verify", copy)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["model-00002.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "m.py"]
)
def test_a_file_on_no_list_that_engines_would_load_is_a_fault(
    hub: WritableHub, release: Path, cli: Cli, name: str, tmp_path: Path
):
    assert cli("publish", release)[0] == 0
    hub.commit(REPO, {**hub.files(REPO), "notes.txt": b"hello\n", f"modelopt/{name}": b"{}"})
    status, out, _ = cli("verify", f"hf://{REPO}", "--json")
    document = json.loads(out)
    assert (status, document["unlisted"]) == (1, [f"modelopt/{name}", "notes.txt"])
    assert (
        f"modelopt/{name} lies beside a head and is not on the list of digests: engines may load it"
        in document["faults"]
    )
    status, out, _ = cli("publish", release, "--json")
    document = json.loads(out)
    assert status == 1
    assert [(p["code"], p["message"].split()[0]) for p in document["problems"]] == [
        ("publish-outside", f"modelopt/{name}")
    ]


def test_a_file_and_a_folder_of_one_name_are_a_fault(tmp_path: Path):
    from eagle3hub.publishing.verify import _derived, _Whole

    file = tmp_path / "some"
    file.write_text("x")
    manifest = tmp_path / "release.yaml"
    manifest.write_text(PLAIN)
    paths = {"release.yaml": manifest, "charts": file, "charts/a.png": file}
    whole = _Whole(dict.fromkeys(paths, "0" * 64), paths, [])
    (tmp_path / "place").mkdir()
    (fault,) = _derived(tmp_path / "place", REPO, whole).faults
    assert fault.startswith("charts/a.png cannot lie beside the other files")


PLAIN = """\
schema: eagle3hub/manifest/1
head: {source: .}
target: {id: owner/target, license: apache-2.0}
release: {repo: alice/head, summary: A head., license: mit}
layouts: {main: specforge}
speculative_tokens: 3
"""


@pytest.mark.slow
@pytest.mark.parametrize("field", ["source", "release", "files"])
@pytest.mark.parametrize("value", [None, [], "x", 3, {}, {"files": [1]}, {"files": "x"}, {"commit": 1}, [{"path": 1}]])
def test_a_record_of_another_shape_is_no_mistake_of_the_program(release: Path, cli: Cli, field: str, value: object):
    record = json.loads((release / "eagle3hub.json").read_text())
    (release / "eagle3hub.json").write_text(json.dumps({**record, field: value}))
    status, _, err = cli("verify", release, "--json")
    assert status == 1, err
    assert cli("card", release / "release.yaml")[0] in (0, 3)
