"""The second half of ``make demo``: publish the demo's release, read it back, and serve what was downloaded.

    python tests/publishing/publish_demo.py build/demo

There is a Hub on loopback for as long as this runs; everything that talks to it is the real thing: the commands of
the package, huggingface_hub's own ``snapshot_download``, and the engines of the manifest. The copy must have the
same bytes and count the same rounds. An engine is not run again on bytes it has served in an earlier demo.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.hub_writes import WritableHub  # noqa: E402

from eagle3hub.card.manifest import load_manifest, validation_settings  # noqa: E402
from eagle3hub.checkpoint.digest import folder_digest  # noqa: E402
from eagle3hub.cli.app import run  # noqa: E402

TOKEN = "hf_demo"
TAG = "v1.0"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder that eagle3hub demo made")
    parser.add_argument("--manifest", type=Path, default=ROOT / "examples" / "smollm2-135m" / "release.yaml")
    parser.add_argument("--engine", default="vllm", help="what serves the copy: one of the manifest's engines")
    parser.add_argument("--target", type=Path, help="folder of the target; default: the demo's")
    args = parser.parse_args(argv)
    copy = args.release.with_name(args.release.name + "-from-the-hub")
    served = copy.with_suffix(".json")
    repo = load_manifest(args.manifest).release.repo
    with WritableHub() as hub, tempfile.TemporaryDirectory() as home:
        hub.tokens[TOKEN] = repo.split("/")[0]
        os.environ.update(hub.env(Path(home), TOKEN), HF_HUB_DISABLE_PROGRESS_BARS="1")
        manifest = os.path.relpath(args.manifest)
        publish = ["publish", str(args.release), "--manifest", manifest, "--stage", "--tag", TAG, "--quiet"]
        command(publish)
        sent = len(hub.uploads)
        started = time.monotonic()
        command(publish, shown=False)
        took = time.monotonic() - started
        print(f"published again: {len(hub.uploads) - sent} uploads, {took:.1f} s\n")
        command(["verify", f"hf://{repo}@{TAG}", "--quiet"])
        download(repo, copy)
    same_bytes(args.release, copy)
    if served_before(served, copy):
        print(f"these bytes were served before: {served.as_posix()}\n")
    else:
        serve(copy, served, args)
    return compare(args.release, served, args.engine)


def command(argv: list[str], shown: bool = True) -> None:
    """Run a command of the package as if typed. The demo ends if one fails."""
    if shown:
        print(f"$ eagle3hub {' '.join(argv)}", flush=True)
    with nullcontext() if shown else redirect_stdout(io.StringIO()):
        status = run(argv)
    if status:
        sys.exit(status)
    if shown:
        print(flush=True)


def download(repo: str, copy: Path) -> None:
    from huggingface_hub import snapshot_download

    print(f">>> snapshot_download({repo!r}, revision={TAG!r}, local_dir={copy.as_posix()!r})")
    snapshot_download(repo, revision=TAG, local_dir=copy)


def same_bytes(release: Path, copy: Path) -> None:
    files = [p.relative_to(release) for p in release.rglob("*") if p.is_file()]
    other = [str(f) for f in files if (release / f).read_bytes() != (copy / f).read_bytes()]
    if other:
        sys.exit(f"not what was released: {', '.join(other)}")
    print(f"{len(files)} files, every byte as released\n")


def served_before(served: Path, copy: Path) -> bool:
    return served.is_file() and json.loads(served.read_text())["head"]["digest"] == folder_digest(copy)[0]


def serve(copy: Path, served: Path, args: argparse.Namespace) -> None:
    from eagle3hub.releasing.demo import ensure_target

    asked = validation_settings(load_manifest(args.manifest)) | {"engine": args.engine}
    del asked["target"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items() if value not in (None, [])]
    target = args.target or ensure_target()
    command(["validate", str(copy), f"--target={target}", *options, f"--report={served}"])


def compare(release: Path, served: Path, engine: str) -> int:
    """Compare the copy's numbers with the release's own report of the main layout."""
    copied = json.loads(served.read_text())
    reports = [json.loads(p.read_text()) for p in sorted((release / "reports").glob("*.json"))]
    (released,) = [r for r in reports if r["head"]["digest"] == copied["head"]["digest"]]
    there, here = acceptance(released, engine), acceptance(copied, engine)
    for name, found in (("released", there), ("downloaded", here)):
        counts = " / ".join(map(str, found["accepted_per_position"]))
        print(f"{name:10}  {engine}: τ {found['mean_acceptance_length']:.4f}, {found['rounds']} rounds, {counts}")
    print("the same" if here == there else "NOT the same")
    return 0 if here == there else 1


def acceptance(report: Mapping[str, Any], engine: str) -> Mapping[str, Any]:
    (found,) = [e["acceptance"] for e in report["engines"] if e["engine"] == engine]
    return found


if __name__ == "__main__":
    sys.exit(main())
