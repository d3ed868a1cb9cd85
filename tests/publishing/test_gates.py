"""Every gate is broken once, and then nothing may be published."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing.folders import REPO, write_reports
from support.hub_writes import WritableHub
from support.versions import SGLANG_JAX

from eagle3hub.card.folder import public_form
from eagle3hub.publishing import GATES, gates, secrets
from eagle3hub.publishing.derived import measured_well
from eagle3hub.publishing.files import LocalFile, file_of_bytes, read_folder
from eagle3hub.validation.report import load_report

Cli = Callable[..., tuple[int, str, str]]
SECRET = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zC0eF"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def engine_failed(release: Path) -> None:
    write_reports(release, release / "release.yaml", verdict="inconclusive")


def engine_absent(release: Path) -> None:
    write_reports(release, release / "release.yaml", verdict="unavailable")


def flip_a_bit(release: Path) -> None:
    path = release / "modelopt" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def serve_modelopt_on_sglang_jax(release: Path) -> None:
    command = "python -m sgl_jax.launch_server --speculative-draft-model-path ./head/modelopt"
    with (release / "README.md").open("a") as card:
        card.write(f"\n```bash\nhf download {REPO} --local-dir head\n{command}\n```\n")


def no_license(release: Path) -> None:
    replace(release / "README.md", "license: apache-2.0\n", "")


def secret_in_report(release: Path) -> None:
    edit_json(release / "eagle3hub.json", note=f"--token {SECRET}")


def disguised_pickle(release: Path) -> None:
    (release / "assets").mkdir()
    (release / "assets" / "chart.png").write_bytes(pickle.dumps({"a": 1}))


def disguised_program(release: Path) -> None:
    (release / "assets").mkdir()
    (release / "assets" / "chart.png").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64))


BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no manifest": (lambda r: (r / "release.yaml").unlink(), "publish-manifest", "there is no release.yaml"),
    "no config": (lambda r: (r / "config.json").unlink(), "publish-head", "no config.json"),
    "no report": (
        lambda r: (r / "reports" / "modelopt-cpu.json").unlink(),
        "publish-unmeasured",
        "the head in modelopt",
    ),
    "no report of the root": (
        lambda r: (r / "reports" / "specforge-cpu.json").unlink(),
        "publish-unmeasured",
        "the head in the root",
    ),
    "no engine": (engine_absent, "publish-unmeasured", "no report covers the head in the root"),
    "not passed": (engine_failed, "publish-report", "says inconclusive"),
    "other bytes": (flip_a_bit, "publish-report", "measured a head with other bytes"),
    "not a report": (lambda r: (r / "reports" / "x.json").write_text("{}"), "publish-report", "reports/x.json"),
    "no card": (lambda r: (r / "README.md").unlink(), "publish-card", "no README.md"),
    "bad card": (
        lambda r: replace(r / "README.md", "license: apache-2.0", "license: apache2"),
        "publish-card",
        "README.md:",
    ),
    "refused recipe": (
        serve_modelopt_on_sglang_jax,
        "publish-recipe",
        f"sglang-jax {SGLANG_JAX} refuses the files in the folder modelopt/ (NVIDIA ModelOpt layout)",
    ),
    "no license": (no_license, "publish-license", "states no license"),
    "pickle": (lambda r: (r / "extra.bin").write_bytes(b"x"), "publish-pickle", "extra.bin"),
    "disguised pickle": (disguised_pickle, "publish-pickle", "assets/chart.png"),
    "program as a picture": (
        disguised_program,
        "publish-kind",
        "assets/chart.png is an ELF program, not a PNG picture",
    ),
    "optimizer": (lambda r: (r / "optimizer.safetensors").write_bytes(b"x"), "publish-training-state", "optimizer"),
    "link": (lambda r: (r / "NOTICE").symlink_to("/etc/hostname"), "publish-link", "NOTICE is a link"),
    "linked folder": (lambda r: (r / "more").symlink_to("/etc"), "publish-link", "more is a link"),
    ".env": (lambda r: (r / ".env").write_text("A=b\n"), "publish-outside", ".env"),
    "editor's copy": (lambda r: (r / "README.md~").write_text("x"), "publish-outside", "README.md~"),
    "hub token": (secret_in_report, "publish-secret", "eagle3hub.json:"),
    "key": (
        lambda r: (r / "NOTICE").write_text("-----BEGIN RSA PRIVATE KEY-----\nx\n"),
        "publish-secret",
        "NOTICE:1 holds what looks like a secret (Private Key)",
    ),
    "cloud key": (
        lambda r: (r / "NOTICE").write_text("id AKIA" + "IOSFODNN7EXAMPLQ"),
        "publish-secret",
        "AWS Access Key",
    ),
    "two names": (
        lambda r: (r / "notice").write_text("x") + (r / "NOTICE").write_text("x"),
        "publish-name",
        "the same name",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_before_anything_is_sent(hub: WritableHub, release: Path, cli: Cli, name: str):
    damage, code, words = BROKEN[name]
    damage(release)
    status, out, err = cli("publish", release, "--repo", REPO, "--json", "--quiet")
    document = json.loads(out)
    assert (status, err) == (1, "")
    assert any(p["code"] == code and words in p["message"] for p in document["problems"]), document["problems"]
    assert SECRET not in out
    assert hub.uploads == []
    status, out, _ = cli("publish", release, "--repo", REPO)
    assert status == 1
    assert f"refused {code}" in out
    assert hub.uploads == []


@pytest.mark.parametrize("missing", ["kingfisher_sdk", "PIL"])
@pytest.mark.parametrize("command", ["publish", "publish --dry-run", "release"])
def test_nothing_is_published_unsearched(
    hub: WritableHub,
    release: Path,
    manifest: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    missing: str,
):
    """Without the packages that search for secrets a release is refused, before anything is measured or sent."""
    monkeypatch.setattr(secrets, "find_spec", lambda name: None if name == missing else object())
    argv = ["release", manifest, "--work", tmp_path / "w"] if command == "release" else [*command.split(), release]
    status, out, _ = cli(*argv, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (4, "unavailable-publish-extra")
    assert "searched for secrets" in error["message"]
    assert re.search(r"-m pip install .*(kingfisher|\[publish\])", error["hint"])
    assert hub.uploads == []
    assert not (tmp_path / "w").exists()


def test_every_gate_is_broken_once():
    elsewhere = {
        "publish-visibility",
        "publish-size",
        "publish-layouts",
        "publish-terms",
        "publish-blanks",
        "publish-signature",
    }
    assert {code for _, code, _ in BROKEN.values()} == set(GATES) - elsewhere


def test_an_untouched_folder_passes_every_gate(hub: WritableHub, release: Path, manifest: Path, cli: Cli):
    document = json.loads(cli("publish", release, "--manifest", manifest, "--dry-run", "--json")[1])
    assert document["problems"] == []


def test_a_file_too_large_for_the_hub(hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eagle3hub.publishing.gates.MAX_FILE", (release / "model.safetensors").stat().st_size - 1)
    status, out, _ = cli("publish", release, "--repo", REPO)
    assert status == 1
    assert "refused publish-size model.safetensors" in out


def said(files: list[LocalFile]) -> list[tuple[str, str]]:
    return [(p.code, p.message) for p in gates._names(REPO, files)]


def named(*paths: str) -> list[LocalFile]:
    return [file_of_bytes(path, b"12345") for path in paths]


def test_names_of_files_up_to_the_longest_that_the_hub_takes():
    longest = f"{'a' * 127}/{'b' * 127}"
    assert len(longest) == 255
    assert said(named("README.md", "reports/a b.json", longest)) == []
    for bad in (f"{longest}b", f"{longest}bb", "bell\x07.txt", "a\\b.txt"):
        assert said(named("README.md", bad)) == [("publish-name", f"{bad!r} cannot be the name of a file on the Hub")]


def test_names_that_some_systems_take_for_one():
    assert said(named("notice", "NOTICE")) == [("publish-name", "notice and NOTICE are the same name on some systems")]
    assert said(named("a/notice", "b/notice")) == []


def test_the_largest_file_and_the_most_files(monkeypatch: pytest.MonkeyPatch):
    files = named("a", "b")
    for most, largest, found in (
        (2, 5, []),
        (1, 5, [("publish-size", "2 files are more than 1")]),
        (2, 4, [("publish-size", f"{name} is larger than 50 GB") for name in "ab"]),
    ):
        monkeypatch.setattr(gates, "MAX_FILES", most)
        monkeypatch.setattr(gates, "MAX_FILE", largest)
        assert said(files) == found


@pytest.mark.parametrize(
    ("verdict", "digest", "well"),
    [
        ("pass", None, True),
        ("fail", None, False),
        ("inconclusive", None, False),
        ("unavailable", None, False),
        ("pass", "0" * 64, False),
        ("pass", "f" * 64, False),
    ],
)
def test_only_a_report_that_passed_on_a_head_of_the_folder_settles_what_was_assumed(
    release: Path, verdict: str, digest: str | None, well: bool
):
    write_reports(release, release / "release.yaml", verdict=verdict)
    (release / "reports" / "modelopt-cpu.json").unlink()
    path = release / "reports" / "specforge-cpu.json"
    report = json.loads(path.read_text())
    if digest is not None:
        report["head"]["digest"] = f"sha256:{digest}"
        path.write_text(json.dumps(report))
    assert load_report(path).verdict == verdict
    assert measured_well(read_folder(release)[0]) is well


@pytest.mark.parametrize("repo", ["alice/a--b", "alice", "alice/x.git", "alice/..", "a/b/c"])
def test_names_the_hub_does_not_take(hub: WritableHub, release: Path, cli: Cli, repo: str):
    status, out, _ = cli("publish", release, "--repo", repo)
    assert status == 1
    assert "refused publish-name" in out
    assert hub.requests == []


def test_the_manifest_demands_engines_and_layouts(
    hub: WritableHub, release: Path, manifest: Path, cli: Cli, tmp_path: Path
):
    text = manifest.read_text()
    asked = tmp_path / "asked.yaml"
    asked.write_text(text.replace("engine: vllm", "engine: vllm,sglang").replace("[modelopt]", "[speculators]"))
    status, out, _ = cli("publish", release, "--manifest", asked, "--json")
    messages = [p["message"] for p in json.loads(out)["problems"]]
    assert status == 1
    assert "release.yaml in the folder differs from what asked.yaml gives" in messages
    status, out, _ = cli("publish", write_release_of(release, asked), "--json")
    messages = [p["message"] for p in json.loads(out)["problems"]]
    assert status == 1
    assert "the head in the root was not measured by sglang" in messages
    assert "the manifest asks for speculators, which is missing" in messages
    assert "modelopt holds a head that the manifest does not name" in messages


def write_release_of(release: Path, manifest: Path) -> Path:
    """Put another manifest's public form into the folder."""
    for name, content in public_form(manifest, publish={}).items():
        (release / name).write_bytes(content)
    return release


def test_a_waived_gate_is_on_the_record(hub: WritableHub, release: Path, manifest: Path, cli: Cli):
    write_reports(release, manifest, ["publish-report"], verdict="inconclusive")
    (release / ".env").write_text("A=b\n")
    argv = ("publish", release, "--repo", REPO, "--allow", "publish-report", "--json")
    status, out, _ = cli(*argv)
    assert status == 1, "one gate waived is not two"
    assert hub.uploads == []
    (release / ".env").unlink()
    status, out, err = cli(*argv)
    document = json.loads(out)
    assert status == 0, err
    assert [p["code"] for p in document["waived"]] == ["publish-report"]
    assert "Waived: publish-report: reports/specforge-cpu.json says inconclusive" in document["description"]
    sent = [r for r in hub.requests if "/commit/" in r.path]
    assert len(sent) == 1


def test_only_known_gates_can_be_waived(release: Path, cli: Cli):
    status, _, err = cli("publish", release, "--repo", REPO, "--allow", "everything")
    assert status == 2
    assert "publish-secret" in err
