"""Runs a workflow's steps on this machine, in order, as GitHub's runner would.

``run:`` steps are executed for real, with the shell and the environment variables they would have there. Steps that
use an action are carried out by a stand-in of that action; an action without one is an error. A job that is not
reached, because something it needs failed, is skipped.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from workflows.expressions import as_text, condition, fill

from eagle3hub._version import __version__

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {
    None: ["bash", "-e"],
    "bash": ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"],
    "python": ["python"],
}
OURS = "eagle3hub/eagle3hub"
COMMIT = "c0ffee" + 34 * "7"
"""The commit that our workflows are of, here."""
ADDRESS = f"git+https://github.com/{OURS}@{COMMIT}"
LEVELS = {None: 0, "none": 0, "read": 1, "write": 2}
SECRET = re.compile(r"[A-Z_][A-Z0-9_]*")
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


@dataclass
class Job:
    """What became of one job, or of one leg of its matrix."""

    name: str
    result: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    ran: list[str] = field(default_factory=list)
    env: list[Mapping[str, str]] = field(default_factory=list)


@dataclass
class Runner:
    """A machine for workflows of ``repository``, a folder that checkout copies; pip "installs" ``site`` (`make_site`).

    ``env`` is what the surroundings add to every step, for example where the Hub is; jobs after ``last`` are left
    out. ``artifacts``, ``attested`` (paths) and ``uploaded_sarif`` are what the jobs left with GitHub, ``to_index``
    (paths) what they sent to the package index; ``installed`` is what pip was asked for, by job, and ``environments``
    are those that jobs ran in.
    """

    repository: Path
    work: Path
    site: Path
    env: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    last: str | None = None
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    installed: list[tuple[str, str]] = field(default_factory=list)
    environments: list[str] = field(default_factory=list)
    attested: list[str] = field(default_factory=list)
    to_index: list[str] = field(default_factory=list)
    uploaded_sarif: list[Path] = field(default_factory=list)

    def run(self, workflow: Path, inputs: Mapping[str, Any] | None = None) -> str:
        """Run a workflow that is started by hand; ``failure`` or ``success``."""
        assert all(SECRET.fullmatch(name) for name in self.secrets), "GitHub keeps no secret of such a name"
        document = load(workflow)
        triggers = document["on"] or {}
        asked = triggers.get("workflow_dispatch") or {}
        return self._run(document, _inputs(asked.get("inputs") or {}, inputs or {}), self.secrets, None)

    def result(self, name: str) -> str:
        """What became of a job, all its legs together."""
        results = [job.result for job in self.jobs[name]]
        return next((r for r in ("failure", "skipped") if r in results), "success")

    def _run(
        self,
        document: Mapping[str, Any],
        inputs: Mapping[str, Any],
        secrets: Mapping[str, str],
        granted: Mapping[str, str] | None,
    ) -> str:
        waiting = dict(document["jobs"])
        while waiting and self.last not in self.jobs:
            name = next(n for n, job in waiting.items() if not set(_list(job.get("needs"))) & set(waiting))
            job = waiting.pop(name)
            needs = {n: {"result": self.result(n), "outputs": _outputs(self.jobs[n])} for n in _list(job.get("needs"))}
            contexts = {
                "inputs": inputs,
                "secrets": secrets,
                "needs": needs,
                "github": {
                    "repository": "owner/heads",
                    "workflow": document["name"],
                    "ref": "refs/heads/main",
                    "server_url": "https://github.com",
                },
                "job": {"workflow_repository": OURS, "workflow_sha": COMMIT},
            }
            _check_permissions(name, job.get("permissions", document.get("permissions")), granted)
            if any(n["result"] != "success" for n in needs.values()):
                self.jobs[name] = [Job(name, "skipped")]
            elif "uses" in job:
                self.jobs[name] = [Job(name, self._call(job, contexts))]
            else:
                legs = _legs(job, contexts)
                self.jobs[name] = [self._job(name, job, document, {**contexts, "matrix": leg}) for leg in legs]
        return "failure" if any(self.result(n) == "failure" for n in self.jobs) else "success"

    def _call(self, job: Mapping[str, Any], contexts: Mapping[str, Any]) -> str:
        """A job that calls a reusable workflow of this project."""
        path, _, pin = str(job["uses"]).partition("@")
        file = ROOT / ".github/workflows" / path.rpartition("/")[2]
        assert path.startswith("./") or re.fullmatch(r"[0-9a-f]{40}", pin), f"{job['uses']} is not pinned"
        document = load(file)
        call = document["on"]["workflow_call"]
        given = {k: fill(v, contexts) for k, v in (job.get("with") or {}).items()}
        secrets = {k: fill(v, contexts) for k, v in (job.get("secrets") or {}).items()}
        unknown = set(secrets) - set(call.get("secrets") or {})
        assert not unknown, f"the workflow takes no secrets {unknown}"
        return self._run(document, _inputs(call["inputs"], given), secrets, job.get("permissions") or {})

    def _job(self, name: str, job: Mapping[str, Any], document: Mapping[str, Any], contexts: dict[str, Any]) -> Job:
        made = Job(name)
        number = sum(map(len, self.jobs.values())) + len(list(self.work.glob(f"{name}-*")))
        space = self.work / f"{name}-{number}"
        (space / "workspace").mkdir(parents=True)
        (space / "bin").mkdir()
        _write_tools(space / "bin")
        contexts["env"] = env = {
            k: as_text(fill(v, contexts)) for k, v in {**document.get("env", {}), **job.get("env", {})}.items()
        }
        fill(job["runs-on"], contexts)
        if "environment" in job:
            self.environments.append(as_text(fill(job["environment"], contexts)))
        shell = document.get("defaults", {}).get("run", {}).get("shell")
        contexts["steps"] = {}
        self._steps(made, job["steps"], contexts, space, env, shell)
        made.outputs = {k: as_text(fill(v, contexts)) for k, v in (job.get("outputs") or {}).items()}
        return made

    def _steps(
        self,
        made: Job,
        steps: list[Mapping[str, Any]],
        contexts: dict[str, Any],
        space: Path,
        env: Mapping[str, str],
        shell: str | None,
    ) -> None:
        for step in steps:
            failed = made.result == "failure"
            status = {"success": not failed, "failure": failed, "cancelled": False}
            if not condition(step.get("if"), contexts, status):
                continue
            mine = {**env, **{k: as_text(fill(v, contexts)) for k, v in (step.get("env") or {}).items()}}
            made.ran.append(str(fill(step.get("name") or step.get("uses"), contexts)))
            if "uses" in step:
                with_ = {k: fill(v, contexts) for k, v in (step.get("with") or {}).items()}
                outputs = self._use(made, str(step["uses"]), with_, contexts, space, mine)
                if "id" in step:
                    contexts["steps"][step["id"]] = {"outputs": outputs}
            else:
                self._execute(made, step, contexts, space, mine, step.get("shell", shell))

    def _execute(
        self,
        made: Job,
        step: Mapping[str, Any],
        contexts: Mapping[str, Any],
        space: Path,
        env: Mapping[str, str],
        shell: str | None,
    ) -> None:
        script, output, summary = space / "step", space / "output", space / "summary"
        script.write_text(fill(step["run"], contexts))
        output.write_text("")
        summary.write_text("")
        surroundings = {
            "PATH": f"{space / 'bin'}:{os.environ['PATH']}",
            "HOME": str(space),
            "LANG": "C.UTF-8",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "owner/heads",
            "GITHUB_WORKSPACE": str(space / "workspace"),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "RUNNER_TEMP": str(space),
            "GITHUB_ACTION_PATH": str(ROOT),
            "PYTHONPATH": f"{space / 'bin'}:{self.site}",
        }
        made.env.append(env)
        done = subprocess.run(
            [*SHELLS[shell], str(script)],
            cwd=space / "workspace",
            env={**surroundings, **self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        made.log += done.stdout
        asked = space / "bin" / "asked"
        if asked.exists():
            self.installed += [(made.name, line) for line in asked.read_text().splitlines()]
            asked.unlink()
        made.summary += summary.read_text()
        values = dict(line.split("=", 1) for line in output.read_text().splitlines())
        if done.returncode:
            made.result = "failure"
        if "id" in step:
            contexts["steps"][step["id"]] = {"outputs": values, "outcome": "failure" if done.returncode else "success"}

    def _use(
        self,
        made: Job,
        action: str,
        with_: Mapping[str, Any],
        contexts: dict[str, Any],
        space: Path,
        env: Mapping[str, str],
    ) -> dict[str, str]:
        """Use an action, and return its outputs; only our own has any here."""
        here = space / "workspace"
        if action == "./" or (PINNED.fullmatch(action) and action.startswith(f"{OURS}@")):
            document = yaml.safe_load((ROOT / "action.yml").read_text())
            inner = {**contexts, "inputs": _inputs(document["inputs"], with_), "steps": {}}
            self._steps(made, document["runs"]["steps"], inner, space, env, None)
            return {name: as_text(fill(one["value"], inner)) for name, one in document["outputs"].items()}
        assert PINNED.fullmatch(action), f"{action} is not pinned by its commit"
        actions: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
            "actions/checkout": self._checkout,
            "actions/setup-python": lambda *_: None,
            "actions/upload-artifact": self._upload,
            "actions/download-artifact": self._download,
            "actions/attest-build-provenance": self._attest,
            "pypa/gh-action-pypi-publish": self._to_index,
            "github/codeql-action/upload-sarif": lambda to, w: self.uploaded_sarif.append(to / w["sarif_file"]),
        }
        actions[action.partition("@")[0]](here, with_)
        return {}

    def _checkout(self, here: Path, with_: Mapping[str, Any]) -> None:
        assert with_["persist-credentials"] is False
        if "repository" in with_:  # ours, beside the caller's
            assert (with_["repository"], with_["ref"]) == (OURS, COMMIT)
            part = with_["sparse-checkout"]
            shutil.copytree(ROOT / part, here / with_["path"] / part)
            return
        shutil.copytree(self.repository, here, dirs_exist_ok=True)

    def _upload(self, here: Path, with_: Mapping[str, Any]) -> None:
        name, path = with_["name"], here / with_["path"]
        assert name not in self.artifacts, f"there is an artifact {name} already"
        if not path.is_dir() or not any(path.iterdir()):
            assert with_["if-no-files-found"] == "ignore", f"nothing to upload in {path}"
            return
        self.artifacts[name] = Path(shutil.copytree(path, self.work / "artifacts" / name))

    def _download(self, here: Path, with_: Mapping[str, Any]) -> None:
        pattern = with_.get("pattern", with_.get("name"))
        found = {n: path for n, path in self.artifacts.items() if fnmatch.fnmatch(n, pattern)}
        assert found or "pattern" in with_, f"there is no artifact {pattern}"
        for name, path in found.items():
            inside = name if "pattern" in with_ and not with_.get("merge-multiple") else "."
            shutil.copytree(path, here / with_["path"] / inside, dirs_exist_ok=True)

    def _attest(self, here: Path, with_: Mapping[str, Any]) -> None:
        pattern = with_["subject-path"]
        found = here.glob(pattern + "/*" if pattern.endswith("**") else pattern)
        self.attested += [str(p.relative_to(here)) for p in found if p.is_file()]

    def _to_index(self, here: Path, with_: Mapping[str, Any]) -> None:
        self.to_index += [str(p.relative_to(here)) for p in (here / with_["packages-dir"]).iterdir()]


def load(path: Path) -> Any:
    """A workflow, with ``on`` under its name (YAML 1.1 takes it for a truth)."""
    document = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in document.items()}


def _inputs(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(given) - set(declared)
    assert not unknown, f"there are no inputs {unknown}"
    missing = {name for name, about in declared.items() if about.get("required") and name not in given}
    assert not missing, f"the inputs {missing} are missing"
    return {name: given.get(name, about.get("default")) for name, about in declared.items()}


def _check_permissions(job: str, asked: Mapping[str, str] | None, granted: Mapping[str, str] | None) -> None:
    """A called workflow never has more than its caller: GitHub does not start it."""
    for scope, level in (asked or {}).items():
        if granted is not None:
            assert LEVELS[level] <= LEVELS[granted.get(scope)], f"{job} asks for {scope}: {level}, its caller has less"


def _legs(job: Mapping[str, Any], contexts: Mapping[str, Any]) -> list[dict[str, Any]]:
    legs: list[dict[str, Any]] = [{}]
    for axis, values in job.get("strategy", {}).get("matrix", {}).items():
        legs = [{**leg, axis: value} for leg in legs for value in fill(values, contexts)]
    return legs


def called_with(folder: Path, inputs: Mapping[str, Any]) -> Path:
    """The example's caller in a folder, and what it hands to the workflow instead of the example's."""
    document = load(ROOT / "examples/actions/release-my-head.yml")
    document["on"] = {"workflow_dispatch": {}}
    document["jobs"]["release"]["with"] = dict(inputs)
    document["jobs"]["release"]["secrets"]["HF_JOBS_TOKEN"] = "${{ secrets.HF_JOBS_TOKEN }}"
    calling = folder / "calling.yml"
    calling.write_text(yaml.safe_dump(document))
    return calling


def _outputs(legs: list[Job]) -> dict[str, str]:
    """The outputs of a job: of what several legs of a matrix set, the last; a leg that sets nothing takes nothing."""
    found: dict[str, str] = {}
    for leg in legs:
        found |= {name: value for name, value in leg.outputs.items() if value or name not in found}
    return found


def make_site(folder: Path) -> Path:
    """A folder that holds this tree's package as its wheel would leave it."""
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "eagle3hub", folder / "eagle3hub", ignore=without)
    (folder / "eagle3hub/_data").mkdir()
    for name in ("templates", "schemas", "examples"):
        (folder / "eagle3hub/_data" / name).symlink_to(ROOT / name)
    return folder


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


_PYTHON = """\
#!/bin/sh
[ "$1 $2" = "-m pip" ] && exec "{python}" "{bin}/install.py" "$@"
exec "{python}" "$@"
"""
_INSTALL = """\
import json, sys
from pathlib import Path

here = Path(__file__).parent
module, pip, install, *options, requirement = sys.argv[1:]
assert (module, pip, install) == ("-m", "pip", "install"), sys.argv
if requirement.startswith("--requirement="):
    assert options == ["--require-hashes", "--only-binary=:all:"], options
    assert "--hash=sha256:" in Path(requirement.partition("=")[2]).read_text()
    (here / "locked").touch()
    sys.exit()
assert not options or (options == ["--no-deps", "--no-build-isolation"] and (here / "locked").exists()), options
with (here / "asked").open("a") as file:
    print(requirement, file=file)
name, _, address = requirement.partition(" @ ")
if address:  # what pip writes down (PEP 610)
    url, _, commit = address.removeprefix("git+").rpartition("@")
    direct = {"url": url, "vcs_info": {"vcs": "git", "requested_revision": commit, "commit_id": commit}}
else:
    direct = {"url": Path(requirement.partition("[")[0]).as_uri(), "dir_info": {}}
about = here / "eagle3hub-VERSION.dist-info"
about.mkdir(exist_ok=True)
lines = ("Metadata-Version: 2.1", "Name: eagle3hub", "Version: VERSION", "Provides-Extra: validate")
(about / "METADATA").write_text("\\n".join(lines) + "\\n")
(about / "direct_url.json").write_text(json.dumps(direct))
""".replace("VERSION", __version__)


def _write_tools(folder: Path) -> None:
    """``python``, ``eagle3hub`` and ``hf`` of this interpreter.

    Its pip takes one thing to install, notes it, and leaves what pip leaves of where that came from.
    """
    scripts = {
        "python": _PYTHON.format(python=sys.executable, bin=folder),
        "eagle3hub": _tool("import sys; from eagle3hub.cli.app import main; main()"),
        "hf": _tool("from huggingface_hub.cli.hf import main; main()"),
    }
    (folder / "install.py").write_text(_INSTALL)
    for name, script in scripts.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


def _tool(code: str) -> str:
    return f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n'
