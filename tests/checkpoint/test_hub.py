"""Heads on the Hub, through the real client: what is transferred, what is kept, and what is said when it fails."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import heads
from support.hub_server import HubServer
from support.pickles import pickled

from eagle3hub.address import HubAddress, parse_address
from eagle3hub.checkpoint.folder import open_checkpoint, read_tensor
from eagle3hub.errors import SourceError
from eagle3hub.validation import run as validate_run
from eagle3hub.validation.report import MeasuredTarget
from eagle3hub.validation.target import identify_target

Cli = Callable[..., tuple[int, str, str]]
REPO = "alice/head"
SOURCE = f"hf://{REPO}"
MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"


def weights_files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in {".safetensors", ".bin", ".pt"}]


def document(done: tuple[int, str, str]) -> dict[str, Any]:
    status, out, err = done
    assert (status, err) == (0, ""), err or out
    return json.loads(out)


# What is transferred


def test_inspect_of_a_large_head_transfers_little(hub: HubServer, cache: Path, example_head: Path, cli: Cli):
    """The example head is 18 MB; its header and its map are all that is needed."""
    commit = hub.commit(REPO, example_head)
    size = (example_head / "model.safetensors").stat().st_size
    found = document(cli("inspect", SOURCE, "--json"))
    assert size > 17_000_000
    assert hub.served < 120_000
    assert weights_files(cache) == []
    local = document(cli("inspect", example_head, "--json"))
    assert found.pop("source") == f"{SOURCE}@{commit}"
    local.pop("source")
    assert found == local
    assert found["vocab_map"]["status"] == "ok"


def test_inspect_of_a_pickle_transfers_little(hub: HubServer, cache: Path, example_head: Path, cli: Cli):
    local = document(cli("inspect", example_head, "--json"))
    hub.commit(REPO, pickled(example_head))
    found = document(cli("inspect", SOURCE, "--from", "specjax", "--json"))
    assert hub.served < 400_000
    assert weights_files(cache) == []
    for doc in (found, local):
        doc["tensors"].sort(key=lambda t: t["name"])
    assert found["tensors"] == local["tensors"]
    assert found["vocab_map"] == local["vocab_map"]


def test_no_token_reaches_another_host(
    hub: HubServer, example_head: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli
):
    hub.commit(REPO, example_head, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    document(cli("inspect", SOURCE, "--json"))
    document(cli("convert", SOURCE, tmp_path / "out", "--to", "specforge", "--json"))
    elsewhere = [r for r in hub.requests if r.host.startswith("localhost")]
    assert elsewhere, "large files are redirected"
    assert {r.token for r in elsewhere} == {None}
    assert {r.token for r in hub.requests if r.host.startswith("127.0.0.1")} == {"hf_good"}


@pytest.mark.parametrize("layout", heads.MAKERS)
def test_a_head_on_the_hub_converts_like_a_local_one(hub: HubServer, tmp_path: Path, cli: Cli, layout: str):
    source = heads.MAKERS[layout](tmp_path / "head")
    commit = hub.commit(REPO, source)
    arguments = ("--to", layout, "--json")
    remote = document(cli("convert", SOURCE, tmp_path / "a", *arguments))
    local = document(cli("convert", source, tmp_path / "b", *arguments))
    assert remote["source"] == f"{SOURCE}@{commit}"
    assert remote["verified"]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    one, other = (json.loads((tmp_path / d / "eagle3hub.json").read_text()) for d in "ab")
    assert one["source"]["name"] == f"{SOURCE}@{commit}"
    assert one["source"]["files"] == other["source"]["files"]
    assert remote["tensors"] == local["tensors"]


def test_a_dry_run_and_a_refusal_download_no_weights(hub: HubServer, cache: Path, example_head: Path, tmp_path, cli):
    hub.commit(REPO, example_head)
    plan = document(cli("convert", SOURCE, tmp_path / "out", "--to", "specforge", "--dry-run", "--json"))
    assert (plan["dry_run"], len(plan["tensors"])) == (True, 15)
    (tmp_path / "taken").mkdir()
    assert cli("convert", SOURCE, tmp_path / "taken", "--to", "specforge")[0] == 3
    assert cli("convert", SOURCE, tmp_path / "out", "--to", "specforge", "--strict")[0] == 3
    assert weights_files(cache) == []
    assert hub.served < 1_000_000


def test_nothing_is_downloaded_for_a_destination_that_cannot_be_written(
    hub: HubServer, cache: Path, example_head: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    hub.commit(REPO, example_head)
    real = os.mkdir

    def failing(path: Any, *rest: Any, **options: Any) -> None:
        if Path(path).name.startswith(".out.eagle3hub-"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        real(path, *rest, **options)

    monkeypatch.setattr(os, "mkdir", failing)
    status, _, err = cli("convert", SOURCE, tmp_path / "out", "--to", "specforge")
    assert status == 3
    assert "the disk is full" in err
    assert weights_files(cache) == []


def test_an_interrupted_download_goes_on_where_it_stopped(
    hub: HubServer, example_head: Path, tmp_path: Path, cli: Cli, waits: list[float]
):
    hub.commit(REPO, example_head)
    size = (example_head / "model.safetensors").stat().st_size
    hub.fail("/cdn/", method="GET", cut_after=15_000_000, times=1)
    document(cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "--json"))
    assert hub.faults[0].times == 0, "the connection was cut"
    resumed = [r.range for r in hub.requests if r.method == "GET" and r.path.startswith("/cdn/")][-1]
    assert resumed == f"bytes={14 << 20}-", "the client keeps whole pieces of 1 MiB and asks for the rest"
    assert hub.served < 15_000_000 + size - (14 << 20) + 300_000
    same = load_file(tmp_path / "out/model.safetensors")
    assert all((same[k] == v).all() for k, v in load_file(example_head / "model.safetensors").items())


def stopped_on_the_way(hub: HubServer, cli: Cli, out: Path) -> list[Path]:
    """A run whose connection breaks for good; the files it leaves of the weights."""
    from huggingface_hub import constants

    hub.fail("/cdn/", method="GET", cut_after=15_000_000, times=1)
    hub.fail("/cdn/", method="GET", cut_after=10, times=99)
    assert cli("convert", SOURCE, out, "--to", "specjax", "-q")[0] == 5
    hub.faults.clear()
    hub.requests.clear()
    return [p for p in Path(constants.HF_HUB_CACHE).rglob("*.eagle3hub") if p.stat().st_size == 14 << 20]


def test_a_later_run_goes_on_where_one_stopped(
    hub: HubServer, cache: Path, example_head: Path, tmp_path: Path, cli: Cli, waits: list[float]
):
    hub.commit(REPO, example_head)
    assert len(stopped_on_the_way(hub, cli, tmp_path / "out")) == 1
    document(cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "--json"))
    parts = [r.range for r in hub.requests if r.method == "GET" and r.path.startswith("/cdn/")]
    assert parts[-1] == f"bytes={14 << 20}-"
    assert hub.served < (example_head / "model.safetensors").stat().st_size - (14 << 20) + 400_000
    assert list(cache.rglob("*.eagle3hub")) == []
    same = load_file(tmp_path / "out/model.safetensors")
    assert all((same[k] == v).all() for k, v in load_file(example_head / "model.safetensors").items())


def test_what_an_earlier_run_left_is_held_to_the_digest(
    hub: HubServer, example_head: Path, tmp_path: Path, cli: Cli, waits: list[float]
):
    hub.commit(REPO, example_head)
    (part,) = stopped_on_the_way(hub, cli, tmp_path / "out")
    with part.open("r+b") as f:
        f.seek(5_000_000)
        f.write(b"other")
    status, _, err = cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "-q")
    assert (status, "is not the file the Hub announced" in err, part.exists()) == (5, True, False)
    document(cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "--json"))


def test_a_file_that_another_process_fetches_is_left_to_the_client(
    hub: HubServer, example_head: Path, tmp_path: Path, cli: Cli, waits: list[float]
):
    hub.commit(REPO, example_head)
    (part,) = stopped_on_the_way(hub, cli, tmp_path / "out")
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        document(cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "--json"))
    assert part.stat().st_size == 14 << 20


def test_progress_of_a_download(hub: HubServer, example_head: Path):
    hub.commit(REPO, example_head)
    seen: list[tuple[str, float | None]] = []
    open_checkpoint(SOURCE, progress=lambda message, fraction=None: seen.append((message, fraction)))
    fractions = [f for message, f in seen if message == "downloading model.safetensors"]
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)


def test_the_client_accepts_this_hub(hub: HubServer, example_head: Path):
    """The server is one to the client's own snapshot_download, tree and refs as well."""
    from huggingface_hub import HfApi, snapshot_download

    commit = hub.commit(REPO, {**folder_bytes(example_head), "deep/er.txt": b"x"})
    folder = Path(snapshot_download(REPO))
    assert folder.name == commit
    assert (folder / "deep/er.txt").read_bytes() == b"x"
    assert all((folder / name).read_bytes() == data for name, data in folder_bytes(example_head).items())
    assert [b.target_commit for b in HfApi().list_repo_refs(REPO).branches] == [commit]
    assert HfApi().whoami("hf_good")["name"] == "alice"


# Revisions and folders


def test_a_branch_is_resolved_once_and_recorded(hub: HubServer, tmp_path: Path, cli: Cli):
    old = hub.commit(REPO, heads.specforge(tmp_path / "old"))
    new = hub.commit(REPO, heads.specforge(tmp_path / "new", rms_norm_eps=1e-6))
    hub.repos[REPO].refs["refs/pr/1"] = old
    hub.repos[REPO].refs["feature/x"] = old
    for text, commit, eps in (
        (SOURCE, new, 1e-6),
        (f"{SOURCE}@main", new, 1e-6),
        (f"{SOURCE}@{old}", old, 1e-5),
        (f"{SOURCE}@refs/pr/1", old, 1e-5),
        (f"{SOURCE}@feature%2Fx", old, 1e-5),
    ):
        found = document(cli("inspect", text, "--json"))
        assert (found["source"], found["semantics"]["rms_norm_eps"]) == (f"{SOURCE}@{commit}", eps)


def test_a_branch_that_moves_while_it_is_read_gives_one_commit(hub: HubServer, tmp_path: Path, monkeypatch):
    from eagle3hub.checkpoint import hub as client

    hub.commit(REPO, heads.specforge(tmp_path / "old"))
    real = client.list_files
    moved: list[str] = []

    def then_move(repo_id: str, revision: str | None = None) -> client.Listing:
        listing = real(repo_id, revision)
        if not moved:
            moved.append(hub.commit(REPO, {"extra.json": b"{}", **folder_bytes(heads.modelopt(tmp_path / "new"))}))
        return listing

    monkeypatch.setattr(client, "list_files", then_move)
    found = open_checkpoint(SOURCE, headers_only=True)
    assert found.source == f"{SOURCE}@{moved[0]}"
    assert "layers.0.hidden_norm.weight" in found.tensors
    assert (found.folder / "extra.json").exists(), "the list of files is that of the same commit"


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_of_a_repository(hub: HubServer, tmp_path: Path, cli: Cli):
    source = heads.specforge(tmp_path / "head")
    hub.commit(REPO, {f"heads/a/{n}": b for n, b in folder_bytes(source).items()} | {"README.md": b"#"})
    found = document(cli("inspect", f"{SOURCE}/heads/a", "--json"))
    assert found["source"].endswith("/heads/a")
    assert document(cli("convert", f"{SOURCE}@main/heads/a", tmp_path / "out", "--to", "modelopt", "--json"))
    status, _, err = cli("inspect", SOURCE)
    assert status == 3
    hint = f"hint: name a folder of the repository that has one: {SOURCE}/heads/a"
    assert err.splitlines() == [f"error: there is no config.json in {SOURCE}", hint]
    hub.repos[REPO].refs["feature/x"] = hub.repos[REPO].refs["main"]
    hinted = cli("inspect", f"{SOURCE}@feature%2Fx/heads")[2].split()[-1]
    assert hinted == f"{SOURCE}@feature%2Fx/heads/a"
    assert document(cli("inspect", hinted, "--json"))
    hub.commit("alice/weights", {"model.safetensors": b""})
    status, _, err = cli("inspect", "hf://alice/weights")
    assert (status, "hint: no folder of the repository has one" in err) == (3, True)


def test_small_json_files_come_along(hub: HubServer, tmp_path: Path):
    side = {"hf_quant_config.json": b'{"a": 1}', "adapter_config.json": b"{}", "tokenizer.json": b" " * 70_000}
    files = {**folder_bytes(heads.specforge(tmp_path / "head")), **side, "deeper/x.json": b"{}", "README.md": b"#"}
    hub.commit(REPO, files)
    folder = open_checkpoint(SOURCE, headers_only=True).folder
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "config.json", "hf_quant_config.json"]
    assert (folder / "hf_quant_config.json").read_bytes() == side["hf_quant_config.json"]


def test_shards_and_an_index(hub: HubServer, tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    from safetensors.torch import save_file

    halves = sorted(tensors)[:7], sorted(tensors)[7:]
    files = {}
    for i, names in enumerate(halves, 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: tensors[n] for n in names}, source / file)
        files |= dict.fromkeys(names, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    hub.commit(REPO, source)
    remote, local = open_checkpoint(SOURCE, headers_only=True), open_checkpoint(source)
    assert remote.header_sha256 == local.header_sha256
    assert {n: read_tensor(r) for n, r in remote.tensors.items()} == {
        n: read_tensor(r) for n, r in local.tensors.items()
    }
    assert not any(r.path.exists() for r in remote.tensors.values())
    downloaded = open_checkpoint(SOURCE)
    assert [p.name for p in downloaded.weights] == sorted(set(files.values()))
    assert {n: r.path for n, r in downloaded.tensors.items()} == {n: r.path for n, r in remote.tensors.items()}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://a/b", HubAddress("a/b", None, "")),
        ("hf://a/b/", HubAddress("a/b", None, "")),
        ("hf://a/b@v1.0", HubAddress("a/b", "v1.0", "")),
        ("hf://a/b@refs/pr/12/x/y", HubAddress("a/b", "refs/pr/12", "x/y")),
        ("hf://a/b@f%2Fg/x", HubAddress("a/b", "f/g", "x")),
        ("hf://a/b.c-d/x y", HubAddress("a/b.c-d", None, "x y")),
    ],
)
def test_addresses(text: str, address: HubAddress):
    assert parse_address(text) == address
    assert str(address) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://a",
        "hf:///a/b",
        "hf://a/b@",
        "hf://a/b@x y",
        "hf://a/b/../c",
        "hf://a/b//c",
        "hf://-a/b",
        "hf://a/b\n",
    ],
)
def test_addresses_that_are_none(text: str, cli: Cli):
    with pytest.raises(SourceError, match="is not the address of a model on the Hub"):
        parse_address(text)
    assert cli("inspect", text)[0] == 3


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("alice/head", "hf://alice/head"),
        ("alice/head@v1", "hf://alice/head@v1"),
        ("hf:alice/head", "hf://alice/head"),
        ("https://huggingface.co/alice/head", "hf://alice/head"),
        ("https://hf.co/alice/head/tree/main/heads/a/", "hf://alice/head@main/heads/a"),
        ("head", None),
        ("some/folder/here", None),
    ],
)
def test_a_model_named_otherwise_is_hinted_at_by_its_address(
    tmp_path: Path, cli: Cli, monkeypatch, text: str, address: str | None
):
    monkeypatch.chdir(tmp_path)
    hint = "hint: name the folder that holds config.json"
    status, _, err = cli("inspect", text)
    assert status == 3
    assert err.splitlines() == [
        f"error: {text} does not exist",
        hint if address is None else f"{hint}, or write {address} for a model on the Hub",
    ]
    if address is not None:
        assert str(parse_address(address)) == address


# Targets


def test_a_target_named_by_its_address(hub: HubServer, target: Path, tmp_path: Path, cli: Cli):
    """Its revision says which config is read; what is recorded, and what an engine is told, is its Hub id."""
    head = heads.specforge(tmp_path / "head")
    hub.repos["alice/target"].refs["kept"] = hub.commit("alice/target", target)
    hub.commit("alice/target", {"config.json": b"{}"})
    for text in ("alice/target@kept", "hf://alice/target@kept"):
        assert document(cli("inspect", head, "--target", text, "--json"))["target"]["name"] == "alice/target"
        recipe = document(cli("recipe", head, "--engine", "vllm", "--target", text, "--json"))
        assert recipe["server_command"].startswith("vllm serve alice/target --")
    for text in ("hf://alice/target/sub", "alice/target@kept/sub", "hf://alice"):
        status, _, err = cli("inspect", head, "--target", text)
        assert (status, f"error: the target {text} is neither a folder nor a Hub id" in err) == (3, True)


# Offline


def test_what_was_converted_once_converts_offline(hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch):
    from huggingface_hub import constants

    commit = hub.commit(REPO, heads.specforge(tmp_path / "head"))
    document(cli("convert", SOURCE, tmp_path / "a", "--to", "modelopt", "--json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    for text in (SOURCE, f"{SOURCE}@{commit}"):
        assert document(cli("inspect", text, "--json"))["source"] == f"{SOURCE}@{commit}"
    document(cli("convert", SOURCE, tmp_path / "b", "--to", "modelopt", "--json"))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert len(hub.requests) == asked


def test_offline_without_the_weights(hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch):
    from huggingface_hub import constants

    hub.commit(REPO, heads.specforge(tmp_path / "head"))
    document(cli("inspect", SOURCE, "--json"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in (SOURCE, "hf://alice/other"):
        status, out, err = cli("inspect", source)
        assert (status, out) == (5, "")
        assert "HF_HUB_OFFLINE is set, and the cache does not have" in err


def test_a_hub_that_is_away_is_replaced_by_the_cache(
    hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch, waits: list[float]
):
    from huggingface_hub import constants

    commit = hub.commit(REPO, heads.specforge(tmp_path / "head"))
    document(cli("convert", SOURCE, tmp_path / "a", "--to", "modelopt", "--json"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", away)
    template = away + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert document(cli("inspect", SOURCE, "--json"))["source"] == f"{SOURCE}@{commit}"
    status, _, err = cli("inspect", "hf://alice/other")
    assert (status, "the Hub cannot be reached" in err) == (5, True)


# Other commands, and a process of its own


def test_validate_downloads_the_head_first(hub: HubServer, tmp_path: Path, target: Path):
    commit = hub.commit(REPO, heads.specjax(tmp_path / "head", d2t=heads.sorted_ids(heads.dims())))
    report = validate_run.validate(SOURCE, target=str(target)).document
    assert report["head"]["source"] == f"{SOURCE}@{commit}"
    assert {f["path"] for f in report["head"]["files"]} == {"config.json", "model.safetensors"}
    assert report["static"]["problems"][0]["code"] == "vocab-absolute"


def process(*argv: object, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    words = [sys.executable, "-c", MAIN, *map(str, argv)]
    return subprocess.run(words, env={**kept, **env}, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_client_prints_nothing_of_its_own(hub: HubServer, example_head: Path, tmp_path: Path):
    """Its warnings would show signed URLs, and its progress bars would mix with ours."""
    hub.commit(REPO, example_head)
    hub.fail("/cdn/", method="GET", cut_after=5_000_000)
    done = process("convert", SOURCE, tmp_path / "out", "--to", "specjax", "-q", **hub.env(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.faults[0].times == 0


@pytest.mark.slow
def test_the_environment_of_the_client_is_respected(hub: HubServer, tmp_path: Path):
    hub.commit(REPO, heads.specforge(tmp_path / "head"), private=True)

    def inspect(**env: str) -> subprocess.CompletedProcess[str]:
        return process("inspect", SOURCE, **env)

    fine = inspect(**hub.env(tmp_path / "home", "hf_good"))
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "specforge" in fine.stdout
    denied = inspect(**hub.env(tmp_path / "home2"))
    assert denied.returncode == 5
    assert denied.stderr.startswith("error: there is no model alice/head on the Hub, or it is private\nhint: ")
    wrong = inspect(**hub.env(tmp_path / "home3", "hf_wrong_secret"))
    assert wrong.returncode == 5
    assert "hf_wrong" not in wrong.stdout + wrong.stderr
    offline = inspect(**hub.env(tmp_path / "home4", "hf_good"), HF_HUB_OFFLINE="1")
    assert offline.returncode == 5
    assert "HF_HUB_OFFLINE is set" in offline.stderr


def test_a_report_tells_how_a_target_on_the_hub_is_quantized(hub: HubServer, tmp_path: Path):
    target = heads.target(tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    hub.commit("alice/target", target)
    assert identify_target("alice/target").identity == MeasuredTarget("alice/target", None, None, None, "FP8 (fp8)")
    assert identify_target("alice/none").quantization is None, "nothing else needs the Hub's answer"
