"""What nobody can see never reaches a terminal: hostile strings in whatever a command prints, for every command."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from benchmarking.recorded import AS_TRAINED, measured, plan
from publishing import folders
from support import heads
from support.commands import leaves, root

from eagle3hub.cli import app
from eagle3hub.cli.output import console
from eagle3hub.system.text import escaped_json, visible

EVIL = "e\x1b[31mv\x1b]0;title\x07\u202eil\u2066\u200b\u2028\x85\r\x9b2J\x7f\U000e0041\u3164x"
"""A colour, a window title, bidi marks, a zero-width space, separators, C1, a tag, a filler."""
NAME = EVIL.replace("/", "")
EXAMPLE = Path(__file__).parent.parent / "examples" / "smollm2-135m"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1"}
Argv = list[object]


def hidden(text: str) -> list[str]:
    """The characters of ``text`` that a terminal would act on or not show."""
    return sorted(
        {
            f"U+{ord(c):04X}"
            for c in text
            if c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c == "\u3164")
        }
    )


def test_what_is_hostile_is_seen_as_such():
    assert len(hidden(EVIL)) >= 11
    assert hidden(visible(EVIL)) == hidden(visible(EVIL, keep_lines=True)) == []
    assert visible(visible(EVIL)) == visible(EVIL)
    assert visible("नी\u200dन 👩\u200d💻") == "नी\u200dन 👩\u200d💻", "joiners that a script or an emoji needs"
    assert "\u200d" not in visible("ow\u200dner")
    assert hidden(escaped_json(json.dumps({EVIL: [EVIL]}, ensure_ascii=False))) == []
    assert json.loads(escaped_json(json.dumps({EVIL: ["\ud800", EVIL]}, ensure_ascii=False))) == {
        EVIL: ["\ud800", EVIL]
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a command reads, with the hostile name wherever a name is free."""
    here = tmp_path_factory.mktemp("hostile")
    head = heads.specforge(here / f"head{NAME}")
    config = json.loads((head / "config.json").read_text())
    config |= {"model_type": EVIL, "torch_dtype": EVIL, EVIL: EVIL, "_name_or_path": EVIL}
    (here / "odd").mkdir()
    shutil.copy(head / "model.safetensors", here / "odd")
    (here / "odd" / "config.json").write_text(json.dumps({**config, "architectures": [EVIL]}))
    (head / "config.json").write_text(json.dumps({**json.loads((head / "config.json").read_text()), EVIL: EVIL}))
    target = heads.target(here / f"target{NAME}")
    document = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**document, "model_type": EVIL, "architectures": [EVIL]}))
    (here / "card.md").write_text(
        f"---\nlicense: {json.dumps(EVIL)}\ntags: [{json.dumps(EVIL)}]\n---\n# {EVIL}\n\n{EVIL} `{EVIL}`\n"
    )
    (here / f"{NAME}.md").write_text(
        f'```bash\nvllm serve {EVIL} --speculative-config \'{{"method": "{EVIL}"}}\' --{EVIL} 3\n```\n'
    )
    (here / "bad.json").write_text(json.dumps({"schema": EVIL, EVIL: EVIL}))
    rates = {"conditional_accept_rates": [0.5], "marginal_accept_rates": [0.5], "mean_accept_length": 1.5}
    named = {"draft_checkpoint": {"path": EVIL}, "target_model": {"path": EVIL}, "per_category": {EVIL: 1.5}}
    said = {
        "schema_version": "1.0",
        "measured": True,
        "num_speculative_tokens": 1,
        "measurement_conditions": {EVIL: EVIL},
    }
    measured(plan(heads=(replace(AS_TRAINED, name=EVIL),), base=EVIL)).save(here / "results.json")
    (here / "p.json").write_text(json.dumps({**said, **rates, **named}))
    (here / "run").mkdir()
    task = {"label": EVIL, "words": [EVIL], "expected": {}}
    run = {"kind": "bench", "version": EVIL, "cwd": EVIL, "tasks": [task], "profile": {}}
    (here / "run" / "run.json").write_text(json.dumps({"schema": "eagle3hub/slurm-run/1", **run}))
    (here / "bad.yaml").write_text(yaml.safe_dump({"schema": EVIL, EVIL: EVIL}))
    manifest = yaml.safe_load((EXAMPLE / "release.yaml").read_text())
    shutil.copytree(EXAMPLE / "head", here / "project" / "head")
    manifest["release"] |= {"title": EVIL, "summary": EVIL}
    manifest |= {"limitations": [EVIL], "reports": []}
    (here / "project" / "release.yaml").write_text(yaml.safe_dump(manifest))
    (here / "prompts.jsonl").write_text(json.dumps({"question_id": EVIL, "category": EVIL, "turns": 3}))
    release = here / "release"
    (here / "made").mkdir()
    folders.make_release(release, folders.write_manifest(here / "made" / "release.yaml"))
    (release / NAME).write_text(EVIL)
    (release / f"{NAME}.json").symlink_to("nowhere")
    return here


CASES: dict[str, Callable[[Path], list[Argv]]] = {
    "inspect": lambda at: [
        ["inspect", at / f"head{NAME}", "--target", at / f"target{NAME}", "--tensors"],
        ["inspect", at / "odd"],
        ["inspect", at / NAME],
        ["inspect", EVIL],
    ],
    "convert": lambda at: [
        ["convert", at / f"head{NAME}", at / f"out{NAME}", "--to", "specforge", "--dry-run"],
        ["convert", at / "odd", at / NAME, "--to", EVIL],
        ["convert", at / f"head{NAME}", at / f"out{NAME}", "--to", "specjax", "--set", f"{EVIL}={EVIL}", "--dry-run"],
    ],
    "diff": lambda at: [
        ["diff", at / f"head{NAME}", at / "release", "--tensors"],
        ["diff", at / f"head{NAME}", at / "odd"],
        ["diff", at / f"head{NAME}", at / f"head{NAME}"],
    ],
    "validate": lambda at: [
        ["validate", at / f"head{NAME}", "--target", at / f"target{NAME}"],
        ["validate", at / f"head{NAME}", "--target", at / f"target{NAME}", "--prompts", at / "prompts.jsonl"],
        ["validate", at / "odd", "--target", EVIL, "--engine", EVIL],
    ],
    "states": lambda at: [
        ["states", at / f"target{NAME}", "--output", at / f"states{NAME}"],
        ["states", EVIL, "--output", at / NAME, "--aux-layers", EVIL],
    ],
    "bench": lambda at: [
        ["bench", at / f"head{NAME}", "--target", at / f"target{NAME}", "--datasets", at / "prompts.jsonl"],
        ["bench", at / "odd", "--target", EVIL, "--datasets", EVIL],
        ["bench", "--list-datasets"],
    ],
    "compare-reports": lambda at: [
        ["compare-reports", at / "results.json", at / "results.json", "--html", at / f"{NAME}.html"],
        ["compare-reports", at / "bad.json", at / "results.json"],
        ["compare-reports", at / NAME, at / "results.json"],
    ],
    "recipe": lambda at: [
        ["recipe", at / f"head{NAME}", "--target", EVIL, "--engine", "vllm"],
        ["recipe", at / f"head{NAME}", "--target", "alice/target", "--engine", "sglang", "--set", f"a={EVIL}"],
        ["recipe", at / "odd", "--target", at / f"target{NAME}"],
    ],
    "publish": lambda at: [
        ["publish", at / "release", "--repo", EVIL, "--dry-run"],
        ["publish", at / "release", "--repo", "alice/head", "--dry-run"],
        ["publish", at / NAME, "--repo", "a/b"],
    ],
    "verify": lambda at: [["verify", at / "release", "--digest", EVIL], ["verify", f"hf://alice/{NAME}"]],
    "release": lambda at: [
        ["release", at / "project" / "release.yaml", "--until", "convert", "--output", at / f"rel{NAME}"],
        ["release", at / "bad.yaml"],
        ["release", at / NAME],
    ],
    "demo": lambda at: [
        ["demo", "--output", at / "release", "--engine-python", f"vllm={EVIL}"],
        ["demo", "--output", at / "card.md" / NAME],
    ],
    "card write": lambda at: [
        ["card", at / "project" / "release.yaml"],
        ["card", at / "bad.yaml"],
        ["card", "write", at / "card.md", "--check"],
        ["card", at / "card.md", "--check", "--sarif"],
        ["card", at / "project" / "release.yaml", "--check"],
        ["card", at / "project" / "release.yaml", "--report", at / "bad.json"],
    ],
    "card init": lambda at: [
        ["card", "init", at / f"head{NAME}", "--target", EVIL],
        ["card", "init", at / f"head{NAME}", "--target", "alice/t", "--output", at / f"{NAME}.new"],
    ],
    "card preview": lambda at: [
        ["card", "preview", at / "card.md", "--output", at / f"{NAME}.html"],
        ["card", "preview", at / NAME, "--output", at / "x.html"],
    ],
    "engines install": lambda at: [["engines", "install", EVIL], ["engines", "install", "vllm", "--device", EVIL]],
    "engines list": lambda at: [["engines", "list"]],
    "engines doctor": lambda at: [
        ["engines", "doctor", EVIL],
        ["engines", "doctor", "vllm", "--engine-python", f"vllm={at / NAME}"],
    ],
    "engines remove": lambda at: [["engines", "remove", EVIL], ["engines", "remove", "vllm", "--device", EVIL]],
    "engines probe": lambda at: [
        ["engines", "probe", EVIL],
        ["engines", "probe", "vllm", "--only", EVIL],
        ["engines", "probe", "vllm", "--python", at / NAME, "--output", at / f"{NAME}.json"],
    ],
    "engines check": lambda at: [
        ["engines", "check", at / f"{NAME}.md"],
        ["engines", "check", at / "bad.json"],
        ["engines", "check", at / NAME],
    ],
    "jobs collect": lambda at: [["jobs", "collect", EVIL], ["jobs", "collect", f"a/{EVIL}"]],
    "profile": lambda at: [["profile", at / "bad.json"], ["profile", at / NAME], ["profile", at / "p.json"]],
    "card import": lambda at: [
        ["card", "import", at / name, "--measured-by", EVIL] for name in ("bad.json", NAME, "p.json")
    ],
    "jobs status": lambda at: [
        ["jobs", "status", EVIL],
        ["jobs", "status", at / NAME],
        ["jobs", "status", at / "run"],
    ],
    "jobs cancel": lambda at: [["jobs", "cancel", EVIL], ["jobs", "cancel", at / "run"]],
    "jobs resume": lambda at: [["jobs", "resume", EVIL], ["jobs", "resume", at / "run", "--slurm-profile", EVIL]],
}
"""What each command is called with. A new command needs cases: hostile names in everything it prints."""


def test_every_command_has_cases():
    assert set(CASES) == {name for name, _ in leaves(root())}


def texts(argv: Argv) -> list[str]:
    return [os.fsdecode(a) if isinstance(a, Path) else str(a) for a in argv]


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["words", "json"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_hidden_is_printed(
    name: str, more: list[str], place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(place / f"cache{NAME}"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shown = ""
    for argv in CASES[name](place):
        if more and "--sarif" in argv:
            continue
        status = app._run([*texts(argv), *more])
        printed = capsys.readouterr()
        assert status != 70, printed.err
        assert hidden(printed.out) == hidden(printed.err) == [], argv
        if more:
            json.loads(printed.out)
        shown += printed.out + printed.err
    silent = more and name in ("card init", "card preview")  # which have no --json
    assert "31mv" in shown or silent or name in ("engines list", "demo"), "the hostile name is printed somewhere"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["html", "markdown", "csv", "preview"])
def test_nothing_hidden_is_in_pages(name: str, place: Path, tmp_path: Path):
    from card import card_samples

    from eagle3hub.benchmarking.chart import write_all
    from eagle3hub.card.preview import write_page
    from eagle3hub.validation.render import save_html
    from eagle3hub.validation.report import Report

    if name == "html":
        report = card_samples.make_report("specforge")
        report["prompts"]["name"] = report["target"]["name"] = EVIL
        save_html(Report.from_json(report), tmp_path / "page")
        Report.from_json(report).save(tmp_path / "report.json")
    elif name == "preview":
        write_page(place / "card.md", tmp_path / "page")
    else:
        write_all(measured(plan(heads=(replace(AS_TRAINED, name=EVIL),), base=EVIL)), tmp_path)
    for path in (p for p in tmp_path.rglob("*") if p.suffix not in (".png", ".svg") and p.is_file()):
        assert hidden(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["inspect", EVIL], ["--version"], ["card"], ["inspect", "--help"], [EVIL]])
def test_the_streams_of_a_process_are_clean(tmp_path: Path, argv: list[str]):
    """Below every console there is a net: whatever writes to the streams of the process."""
    done = subprocess.run(
        [sys.executable, "-m", "eagle3hub", *argv], capture_output=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert hidden(done.stdout.decode() + done.stderr.decode()) == []


@pytest.mark.slow
def test_a_terminal_gets_the_styles_of_this_program_and_no_other(place: Path):
    for argv, styled in (
        (["inspect", place / f"head{NAME}"], True),
        (["inspect", "--help"], True),
        (["inspect", EVIL], False),
    ):
        reader, writer = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "eagle3hub", *texts(argv)],
            stdout=writer,
            stderr=writer,
            env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(writer)
        data = b""
        try:
            while chunk := os.read(reader, 65536):
                data += chunk
        except OSError:  # the other end is closed
            pass
        process.wait(60)
        os.close(reader)
        text = data.decode().replace("\r\n", "\n")
        assert ("\x1b[1m" in text) == styled, text
        assert "\x1b]0" not in text
        assert "\x1b[31mv" not in text
        assert set(hidden(text)) <= {"U+001B"}


def test_what_a_library_prints_is_cleaned(tmp_path: Path):
    code = (
        "import sys, warnings, logging; from eagle3hub.cli import output; output.outlive_readers()\n"
        f"print({EVIL!r}); sys.stderr.write({EVIL!r}); sys.stdout.writelines([{EVIL!r}])\n"
        f"warnings.warn({EVIL!r}); logging.warning({EVIL!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT, check=True)
    assert hidden(done.stdout.decode() + done.stderr.decode()) == []
    assert done.stdout.decode().count("31mv") == 2


def test_a_table_is_as_wide_as_it_looks(capsys: pytest.CaptureFixture[str]):
    from rich.table import Table
    from rich.text import Text

    table = Table("a", EVIL)
    table.add_row(EVIL, Text(EVIL))
    console().print(table)
    console().print(EVIL, markup=False)
    out = capsys.readouterr().out
    assert hidden(out) == []
    assert len({len(line) for line in out.splitlines()[:3]}) == 1
