"""The Python API: what it exports, the types that a user's checker sees, and the documentation's examples."""

from __future__ import annotations

import ast
import builtins
import html
import inspect
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from benchmarking.recorded import measured, plan
from support import heads

import eagle3hub
from eagle3hub import CompareOptions, ConvertOptions
from eagle3hub.benchmarking.chart import charts
from eagle3hub.errors import Eagle3HubError
from eagle3hub.head import Assumption

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
FUNCTIONS = ("bench", "compare", "convert", "inspect", "lint_card", "publish", "release", "render_card", "replay")
FUNCTIONS += ("validate", "verify")
_BLOCK = re.compile(r"(?P<mark><!-- [^>]+ -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)


def test_the_exported_names_are_the_documented_ones():
    table = PAGE.read_text(encoding="utf-8").partition("## Everything there is")[2]
    documented = [
        name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]
    assert sorted(documented) == sorted(eagle3hub.__all__) == eagle3hub.__all__
    assert {*FUNCTIONS} <= {*eagle3hub.__all__}
    assert [*dir(eagle3hub)] == sorted([*eagle3hub.__all__, "open"])


def test_every_error_is_exported():
    def every(kind: type[Eagle3HubError]) -> list[type[Eagle3HubError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in every(sub))]

    public = {kind for kind in every(Eagle3HubError) if kind.__module__ == "eagle3hub.errors"}
    assert {getattr(eagle3hub, kind.__name__) for kind in public} == public


def test_what_is_no_name_of_the_package_is_said():
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        eagle3hub.opne  # noqa: B018


@pytest.mark.slow
def test_importing_everything_leaves_open_alone_and_torch_out():
    code = (
        "import builtins, sys\n"
        "import eagle3hub\n"
        "assert not [n for n in sys.modules if n.startswith('eagle3hub.') and n != 'eagle3hub._version']\n"
        "from eagle3hub import *\n"
        "assert open is builtins.open\n"
        "assert convert is eagle3hub.convert and replay.__name__ == 'replay'\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print(eagle3hub.open.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("open_head\n", 0), done.stderr
    assert eagle3hub.open is not builtins.open


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_a_clear_signature(name: str):
    """Few parameters, none that takes anything, and every one of them typed."""
    function = getattr(eagle3hub, name)
    parameters = inspect.signature(function).parameters.values()
    assert function.__name__ == name
    assert len(parameters) <= 7
    assert not [p for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert not [p for p in parameters if p.annotation in (p.empty, "Any")]


@pytest.mark.parametrize("name", [n for n in eagle3hub.__all__ if n.endswith("Options")])
def test_options_are_frozen_values(name: str):
    options = getattr(eagle3hub, name)
    assert is_dataclass(options)
    one = options()
    assert replace(one) == one
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(one)[0].name, None)


MOST_PARAMETERS = 10
TYPER = {"cli"}


def test_no_function_takes_many_parameters():
    """Options travel as one value; only the signatures that Typer reads as a command's options are longer."""
    for package in ("cli", "conversion", "jobs", "releasing", "publishing"):
        for path in sorted((ROOT / "eagle3hub" / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    arguments = [*node.args.args, *node.args.kwonlyargs]
                    is_command = package in TYPER and any(
                        "Annotated" in ast.dump(a) or _is_option(a) for a in arguments
                    )
                    assert is_command or len(arguments) <= MOST_PARAMETERS, f"{path}: {node.name}"
                    kwargs = node.args.kwarg
                    assert kwargs is None or path.name in ("output.py", "bench.py"), f"{path}: {node.name}"


def _is_option(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation).endswith(("Option", "Flag"))


# What a user's type checker sees.


USER = """\
from importlib.util import find_spec
from pathlib import Path

import eagle3hub
from eagle3hub import (
    BenchOptions, CompareOptions, ConvertOptions, Eagle3HubError, InspectOptions, PublishOptions, ReadOptions,
    ReleaseOptions, ReplayOptions, Transforms, ValidateOptions, VerifyOptions,
)


def told(message: str, fraction: float | None = None) -> None:
    print(message, fraction)


def everything(source: str, folder: Path, target: str) -> str:
    head: eagle3hub.Head = eagle3hub.open(source)
    seen: eagle3hub.Inspection = eagle3hub.inspect(source, InspectOptions(target=target), progress=told)
    options = ConvertOptions(target=target, read=ReadOptions(rope_theta=1e4), transforms=Transforms(dtype="bf16"))
    done: eagle3hub.Conversion = eagle3hub.convert(head.source, folder, "universal", options, progress=told)
    both: eagle3hub.Comparison = eagle3hub.compare(source, done.destination, CompareOptions(target=target))
    replay: eagle3hub.Replay = eagle3hub.replay(source, target, ReplayOptions(draft_tokens=5))
    report: eagle3hub.Report = eagle3hub.validate(source, target, ValidateOptions(engine="reference"))
    results: eagle3hub.Results = eagle3hub.bench([source], target, BenchOptions(), folder=folder)
    card: eagle3hub.RenderedCard = eagle3hub.render_card(folder / "release.yaml")
    lint: eagle3hub.LintResult = eagle3hub.lint_card(source)
    made: list[eagle3hub.Release] = eagle3hub.release("release.yaml", ReleaseOptions(publish=PublishOptions()))
    sent: eagle3hub.Published | eagle3hub.PublishPlan = eagle3hub.publish(folder, dry_run=True)
    verified: eagle3hub.Verified = eagle3hub.verify("hf://owner/name", VerifyOptions(digest="sha256:0"))
    try:
        head.raise_for_errors()
    except Eagle3HubError as error:
        return error.code + (error.hint or "")
    length = None if replay.acceptance is None else replay.acceptance.mean_acceptance_length
    return " ".join(map(str, (
        seen.sound, both.verdict, length, report.verdict, results.verdict, card.text, lint.counts, len(made), sent,
        verified.verdict,
    )))
"""


def mypy(*scripts: Path) -> tuple[int, str]:
    """Type check scripts as on a machine without torch, whose thousands of modules no public signature names.

    The cache is their own: the settings of `make lint` differ and would clear it.
    """
    folder = scripts[0].parent
    (folder / "mypy.ini").write_text("[mypy]\n[mypy-torch.*,transformers.*]\nfollow_imports = skip\n")
    cache = ROOT / ".mypy_cache" / "user"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", "--cache-dir", str(cache)]
    done = subprocess.run(
        [*command, *map(str, scripts)], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="no mypy here")
def test_a_users_script_is_typed(tmp_path: Path):
    """As an installed package is seen: ``py.typed`` counts, and a mistake of the user is found."""
    (tmp_path / "user.py").write_text(USER)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(USER.replace("ReplayOptions(draft_tokens=5)", 'ReplayOptions(draft_tokens="5")'))
    status, said = mypy(tmp_path / "user.py", wrong)
    fault, end = said.splitlines()
    assert (status, end) == (1, "Found 1 error in 1 file (checked 2 source files)"), said
    assert fault.startswith("wrong.py:") and 'incompatible type "str"; expected "int"' in fault


# The examples of the page.


def blocks() -> list[tuple[bool, str]]:
    """(whether it needs the demo's target, code) of each block."""
    return [("target" in (m["mark"] or ""), m["code"]) for m in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("examples", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_examples_do_what_they_say(here: Path):
    config = heads.target(here / "config", heads.dims(hidden=576, vocab=49152))
    names: dict[str, object] = {"config_only": config}
    for needs_target, code in blocks():
        if not needs_target:
            exec(compile(code, str(PAGE), "exec"), names)


@pytest.mark.slow
def test_the_examples_that_measure(here: Path, smollm2_target: Path):
    names: dict[str, object] = {"target": smollm2_target, "eagle3hub": eagle3hub}
    assert sum(needs for needs, _ in blocks()) == 3
    for needs_target, code in blocks():
        if needs_target:
            exec(compile(code, str(PAGE), "exec"), names)


# What a notebook shows.


EVIL = "<script>alert(1)</script>"


def shown(one: object) -> str:
    """The text of the HTML of an object; raises where something in it could run or is not closed."""
    page: str = one._repr_html_()  # type: ignore[attr-defined]
    assert page.count("<div") == page.count("</div>")
    assert "<script" not in page
    assert not re.search(r"<(?!/?(?:div|strong|table|thead|tr|th|td|span)\b)", page)
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def test_a_notebook_shows_a_head_and_what_is_wrong_with_it(tmp_path: Path, target: Path):
    source = heads.specjax(tmp_path / "head")
    head = eagle3hub.open(source, layout="specjax")
    head.source, head.target_name = EVIL, "a\x1b[31m & b"
    text = shown(head)
    assert EVIL in text and "specjax" in text and "\x1b" not in text
    head.assumptions = [Assumption("aux", None, "w", "s"), Assumption("rope_theta", 1e4, "w", "s")]
    text = " ".join(shown(head).split())
    assert "the default aux layers w" in text and "rope_theta = 10000 w" in text
    broken = heads.specjax(tmp_path / "broken", d2t=heads.sorted_ids(heads.dims()))
    found = eagle3hub.inspect(broken, eagle3hub.InspectOptions(layout="specjax", target=target))
    assert "absolute target ids" in shown(found)
    assert not found.sound


def test_a_notebook_shows_a_comparison(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    eagle3hub.convert(source, tmp_path / "out", "modelopt", ConvertOptions(target=heads.target(tmp_path / "t")))
    text = shown(eagle3hub.compare(source, tmp_path / "out"))
    assert "tensors are bit-equal" in text
    other = heads.specforge(tmp_path / "other", rms_norm_eps=1e-3)
    found = eagle3hub.compare(source, other, CompareOptions())
    assert "different" in shown(found) and "rms_norm_eps" in shown(found)


def test_a_notebook_shows_a_report():
    from card import card_samples

    report = eagle3hub.Report.from_json(card_samples.make_report())
    text = shown(report)
    assert report.verdict in text and report.target.name in text
    assert all(entry.reason in text and entry.name in text for entry in report.engines)
    assert EVIL in shown(replace(report, head=replace(report.head, source=EVIL)))


def test_a_notebook_shows_results_and_their_charts(tmp_path: Path):
    results = measured(plan())
    text = shown(results)
    for word in ("as-trained", "smoke", "reference", "pass", "1.453 (1.35 to 1.58)", "1 of 1 measurements"):
        assert word in text
    results.save(tmp_path / "a.json")
    assert "all prompts have the same counters" in shown(
        eagle3hub.compare_reports(tmp_path / "a.json", tmp_path / "a.json")
    )
    bundle = next(iter(charts(results).values()))._repr_mimebundle_(include=None, exclude=None)
    assert "<svg " in bundle["image/svg+xml"] and bundle["text/plain"].startswith("Acceptance length")


class Notebook(ModuleType):
    """IPython's side of a notebook: a display that can be updated."""

    def __init__(self, kernel: bool) -> None:
        super().__init__("IPython")
        self.lines: list[str] = []
        self.get_ipython = lambda: SimpleNamespace(kernel=1) if kernel else SimpleNamespace()

    def display(self, one: object, *, display_id: bool) -> Notebook:
        assert display_id
        self.update(one)
        return self

    def update(self, one: object) -> None:
        self.lines.append(repr(one))


def test_progress_shows_itself_in_a_notebook_and_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    notebook = Notebook(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    shown_progress = eagle3hub.ShownProgress(after=0)
    shown_progress("reading\x1b[31m", 0.25)
    shown_progress("too soon", 0.3)
    shown_progress.of_bytes(5_000_000, 5_000_000)
    shown_progress("reading", 1.0)
    assert [line.rpartition(" (")[0] for line in notebook.lines] == [
        "reading⟨U+001B⟩[31m 25%",
        "reading 100%, 5 MB of 5 MB",
    ]
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "IPython", Notebook(kernel=False))
    eagle3hub.ShownProgress(after=0)("writing")
    eagle3hub.ShownProgress(after=60)("too soon")
    assert capsys.readouterr().err == "writing\n"
