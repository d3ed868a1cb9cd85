"""Add a version of an engine: everything that this project holds about it, from an environment that has it.

    python tools/engine_version.py ENGINE VERSION [--python PATH] [--device cpu] [--pin] [--no-probe]
    make engine-version ENGINE=vllm VERSION=1.2.3 ENGINE_PYTHON=/path/to/python

PATH is the interpreter of an environment that has the version. The command writes ``eagle3hub/engines/data/ENGINE/
VERSION``:

- ``engine.toml`` and ``contract.toml`` that build on those of the pinned version, with environments and image under
  the new number, and, from the sources of vLLM, SGLang and sglang-jax, the types of targets that it drafts for;
- ``requirements-DEVICE.txt``, frozen from the environment, where its distribution is the one that we install; where
  pip completes the list, with the versions that the package asks for;
- ``interface.json``, as the package reports it (vLLM, SGLang, sglang-jax);
- ``probed.json``, what ``eagle3hub engines probe`` found (those three and llama.cpp), unless ``--no-probe`` is given.

It names the version in ``common.toml`` (``beside``, or ``pinned`` with ``--pin``), writes every generated page and
table anew, and prints the files that changed, the minutes it took, and what only a person can do. Run again, it makes
the same anew and keeps what was written into ``engine.toml`` and ``contract.toml`` by hand. Without ``--python`` it
writes only what needs no package.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import target_types

from eagle3hub.engines import ENGINES
from eagle3hub.engines.environments import installed_version
from eagle3hub.engines.specs import DATA, EnvironmentData, default_version, version_data, versions_with

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "eagle3hub/engines/workers/interface_worker.py"
ASKED = ("vllm", "sglang", "sglang_jax")
"""Engines whose package tells its interface and its types of targets."""
PROBED = (*ASKED, "llamacpp")
"""Engines that are probed."""
_OWN = re.compile(r"^\[(?:environments|image)\b.*?(?=^\s*#|^\[(?!environments|image)|\Z)", re.DOTALL | re.MULTILINE)
_TELL = (
    'import importlib.metadata as m; print(*sorted({f\'{d.name.lower().replace("_", "-")}=={d.version}\' '
    "for d in m.distributions()}), sep='\\n')"
)


_NEEDS = (
    "import importlib.metadata as m, sys; "
    "print(*(need for need in m.requires(sys.argv[1]) or () if 'extra ==' in need), sep='\\n')"
)


def frozen(python: Path) -> dict[str, str]:
    """Return the version of every distribution that an interpreter has, without local parts, by name."""
    out = subprocess.run([str(python), "-s", "-c", _TELL], stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = (line.partition("==") for line in out.splitlines() if "==" in line)
    return {name: version.partition("+")[0] for name, _, version in lines}


def installable(engine: str, version: str, device: str, has: dict[str, str] | None) -> EnvironmentData | None:
    """Return the environment of the pinned version for a device, if the new version can be installed in the same way.

    That is so where the interpreter has the distribution that we install, in the new version. An environment that pip
    completes, or of another device than the interpreter's, is taken over untried.
    """
    found = next((one for name, one in version_data(engine).environments.items() if name == device), None)
    if found is None or found.resolve or has is None or has.get(found.distribution) == version:
        return found
    return None


def engine_toml(engine: str, old: str, new: str, left_out: dict[str, str]) -> str:
    """Return ``engine.toml`` of ``new``, which builds on that of ``old`` and has its own environments and image.

    ``left_out`` says by device why there is no environment.
    """
    tables = _OWN.findall((DATA / engine / old / "engine.toml").read_text())
    gone = tuple(f"[environments.{device}{end}" for device in left_out for end in "].")
    kept = [table.strip() for table in tables if not table.startswith(gone)]
    own = "".join(f"{table}\n\n" for table in kept).replace(old, new)
    why = "".join(f'{device} = "{reason}"\n' for device, reason in left_out.items())
    none = f"[no_environment]\n{why}\n" if why else ""
    said = f"# What follows is that of {old} under the new number: not tried.\n\n" if kept else ""
    return f'builds_on = "{old}"\n\n{none}{said}{own}'.rstrip() + "\n"


def requirements(
    engine: str, device: str, environment: EnvironmentData, version: str, has: dict[str, str] | None
) -> str:
    """Return ``requirements-DEVICE.txt``: the comments of the pinned version's file, and what the environment has.

    Where pip completes the list, or there is no environment, it is that version's list with the new number.
    """
    old = default_version(engine)
    text = (DATA / engine / old / f"requirements-{device}.txt").read_text()
    if environment.resolve or has is None:
        return text.replace(f"{environment.distribution}=={old}", f"{environment.distribution}=={version}")
    head = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#")).replace(old, version)
    left_out = {"pip", "wheel", *environment.leaves_out}
    return head + "".join(f"{name}=={number}\n" for name, number in sorted(has.items()) if name not in left_out)


def completed(text: str, distribution: str, device: str, python: Path) -> str:
    """Return a list that pip completes, with the versions that the package in ``python`` asks for.

    They are those of the extra that is called as the device is, where it has one.
    """
    command = [str(python), "-s", "-c", _NEEDS, distribution]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    extra = re.compile(rf"""extra == ["']{device}["']""")
    needs = [need.partition(";")[0].strip() for need in told.splitlines() if extra.search(need)]
    for need in needs:
        name = re.escape(re.match(r"[\w.-]+(?:\[[^]]*\])?", need)[0])  # type: ignore[index]
        text = re.sub(rf"^{name}==.*$", need, text, flags=re.MULTILINE)
    return text


def interface(engine: str, python: Path) -> str:
    """Return ``interface.json`` as the package in ``python`` reports it."""
    command = [str(python), "-s", str(WORKER), "--dump", engine]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    document = json.loads(told[told.index("{") :])
    document["version"] = document["version"].partition("+")[0]
    return json.dumps(document, indent=0, sort_keys=True) + "\n"


def named(text: str, version: str, *, pin: bool) -> str:
    """Return ``common.toml`` with a version among those beside the pinned one, or as the pinned one."""
    old = re.findall(r'^pinned = "(.*)"$', text, re.MULTILINE)[0]
    listed = re.findall(r"^beside = \[(.*)\]$", text, re.MULTILINE)
    beside = [one.strip().strip('"') for one in listed[0].split(",")] if listed else []
    wanted = [one for one in [*beside, old if pin else version] if one != (version if pin else old)]
    line = "beside = [" + ", ".join(f'"{one}"' for one in dict.fromkeys(wanted)) + "]"
    text = text.replace(f'pinned = "{old}"', f'pinned = "{version if pin else old}"')
    if listed:
        return re.sub(r"^beside = \[.*\]$", line, text, flags=re.MULTILINE)
    return re.sub(r'^(pinned = ".*")$', rf"\1\n{line}", text, flags=re.MULTILINE)


def make(engine: str, version: str, python: Path | None, device: str, *, pin: bool, probe: bool) -> Iterator[str]:
    """Write all there is to write, and yield what only a person can do.

    Raises SystemExit if the interpreter has another version.
    """
    has = None if python is None else frozen(python)
    found = None if python is None else installed_version(engine, python)
    if python is not None and found != version:
        raise SystemExit(f"{python} has {engine} {found}, not {version}")
    old, folder = default_version(engine), DATA / engine / version
    folder.mkdir(exist_ok=True)
    if not (folder / "engine.toml").exists():
        kept = {name: installable(engine, version, name, has if name == device else None) for name in _devices(engine)}
        why = f"{version_data(engine).environments[device].distribution} has no {version}" if device in kept else ""
        left_out = {name: why for name, one in kept.items() if one is None}
        (folder / "engine.toml").write_text(engine_toml(engine, old, version, left_out))
    contract = folder / "contract.toml"
    if old in versions_with(engine, "contract.toml") and not contract.exists():
        contract.write_text(f'builds_on = "{old}"\n')
    for name in _devices(engine):
        environment = installable(engine, version, name, has if name == device else None)
        file = folder / f"requirements-{name}.txt"
        if environment is None:
            continue
        there = has if name == device else None
        asks = environment.resolve and has is not None and environment.distribution in has
        if there is not None or asks or not file.exists():
            text = requirements(engine, name, environment, version, there)
            if asks and python is not None:
                text = completed(text, environment.distribution, name, python)
            file.write_text(text)
        if there is None and not environment.resolve:
            yield f"freeze {file.name} from an environment: run this again with --python and --device {name}"
    if python is None:
        yield "run this again with --python: interface, types of targets and probe come from the package"
    elif engine in ASKED:
        (folder / "interface.json").write_text(interface(engine, python))
        target_types.write(engine, version, *target_types.targets(engine, python))
    else:
        yield f"write interface.json by hand: the package of {engine} does not tell it"
    if version_data(engine, old).drafts_wrongly:
        yield f"run the tests on {engine} with {version}: does it still draft wrongly (drafts_wrongly in engine.toml)?"
    if python is not None and probe and engine in PROBED:
        _probe(engine, python, device, folder / "probed.json")
    common = DATA / engine / "common.toml"
    common.write_text(named(common.read_text(), version, pin=pin))
    _generate()
    yield f"read what else {version} does otherwise with a head, and state it in contract.toml, with its source"
    yield "look at every changed line of the generated pages and of tests/published/expected.toml"
    yield "add a line to CHANGELOG.md; run make test-all"


def _devices(engine: str) -> tuple[str, ...]:
    return tuple(version_data(engine).environments)


def _probe(engine: str, python: Path, device: str, file: Path) -> None:
    command = [sys.executable, "-m", "eagle3hub", "engines", "probe", engine, "--python", str(python)]
    subprocess.run([*command, "--device", device, "--output", str(file)], check=True, cwd=ROOT)


def _generate() -> None:
    """Write the table of published heads, and the pages that rest on it, in processes that read the data anew."""
    table = [sys.executable, "tests/published/table.py"]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    told = subprocess.run(table, check=True, cwd=ROOT, env=env, stdout=subprocess.PIPE).stdout
    (ROOT / "tests/published/expected.toml").write_bytes(told)
    subprocess.run([sys.executable, "docs/generate.py"], check=True, cwd=ROOT)


def main() -> None:
    """Parse the command line, make the version, and say what changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("version")
    parser.add_argument("--python", type=Path, help="interpreter that has the new version")
    parser.add_argument("--device", default="cpu", help="device that it runs on (default: cpu)")
    parser.add_argument("--pin", action="store_true", help="make it the pinned version")
    parser.add_argument("--no-probe", action="store_true", help="do not probe it")
    given = parser.parse_args()
    started = time.monotonic()
    todo = list(make(given.engine, given.version, given.python, given.device, pin=given.pin, probe=not given.no_probe))
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout.splitlines()
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(f"{minutes:.1f} minutes, {len(changed)} files:\n" + "".join(f"{line}\n" for line in changed))
    sys.stdout.write("Left to do:\n" + "".join(f"- {line}\n" for line in todo))


if __name__ == "__main__":
    main()
