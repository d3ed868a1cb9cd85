"""Whatever the bytes: Eagle3HubError or nothing, one line, soon, in little memory.

The ten-minute runs are `benchmarks/fuzz.py`; here is the same in seconds, and proof that it would notice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzzing import NASTY, Damage, Workbench, attempt
from support.sampling import examples

from eagle3hub.checkpoint.safetensors import MAX_HEADER_BYTES
from eagle3hub.checkpoint.source import MAX_JSON_BYTES
from eagle3hub.errors import SourceError

ROOT = Path(__file__).parents[1]
FUZZ = ROOT / "benchmarks" / "fuzz.py"
MEMORY_MB = 300
quick = settings(max_examples=examples(0.15), suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(NASTY)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("fuzz"))


def survives(bench: Workbench, name: str, data: bytes) -> None:
    found = attempt(name, bench.targets[name], data)
    assert found is None, found.what


@pytest.mark.slow
def test_the_inputs_it_starts_from_are_read(bench: Workbench):
    for name, seeds in bench.seeds.items():
        if name != "pickle":
            bench.targets[name](seeds[0])
    assert {"header", "index", "target"} < bench.targets.keys()
    assert sum(name.startswith("config:") for name in bench.targets) >= 4


@pytest.mark.slow
@quick
@given(number=st.integers(0, 2**32))
def test_damaged_files(bench: Workbench, number: int):
    damage = Damage(number, bench.seeds)
    for name, seeds in bench.seeds.items():
        survives(bench, name, damage(seeds[number % len(seeds)]))


@quick
@given(data=st.binary(max_size=300), length=st.integers(0, 300))
def test_arbitrary_bytes(bench: Workbench, data: bytes, length: int):
    for name in bench.targets:
        survives(bench, name, data)
    survives(bench, "header", length.to_bytes(8, "little") + data)


@pytest.mark.slow
@quick
@given(values=st.lists(st.tuples(st.integers(0, 10**6), json_values), min_size=1, max_size=3))
def test_any_field_may_hold_anything(bench: Workbench, values: list):
    for name, seeds in bench.seeds.items():
        if name.startswith(("config:", "record:", "target", "index")):
            config = json.loads(seeds[0])
            for place, value in values:
                here = config
                keys = sorted(here)
                if place % 3 == 0:  # one level down
                    nested = [k for k in keys if isinstance(here[k], dict) and here[k]]
                    here = here[nested[place % len(nested)]] if nested else here
                keys = sorted(here)
                here[keys[place % len(keys)]] = value
            survives(bench, name, json.dumps(config).encode())


LARGE = """
import re, sys
from pathlib import Path
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.errors import InputError
try:
    open_checkpoint(sys.argv[1])
except InputError as e:
    print(e)
else:
    print("read")
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
FILLINGS = {
    "empty objects": lambda n: b'{"x":[' + b"{}," * (n // 3 - 4) + b"{}]}",
    "empty lists": lambda n: b'{"x":[' + b"[]," * (n // 3 - 4) + b"[]]}",
    "names": lambda n: b"{" + b",".join(b'"%07x":0' % i for i in range(n // 12)) + b"}",
    "one name": lambda n: b"{" + b'"":0,' * (n // 5 - 2) + b'"":0}',
    "a wide text": lambda n: b'{"x":"' + "é😀".encode() + b"a" * (n - 20) + b'"}',
    "nesting": lambda n: b"[" * n,
    "digits": lambda n: b'{"x":' + b"9" * (n - 10) + b"}",
}


JSON_FILES = ["config.json", "eagle3hub.json", "model.safetensors.index.json"]


@pytest.mark.slow
@pytest.mark.parametrize("filling", FILLINGS)
def test_the_largest_json_there_may_be_costs_little(bench: Workbench, tmp_path: Path, filling: str):
    for name in JSON_FILES:
        (tmp_path / name).write_bytes(FILLINGS[filling](MAX_JSON_BYTES))
    header = FILLINGS[filling](MAX_HEADER_BYTES)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    opened_in_little_memory(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "config.json").write_bytes(b"{}" + b" " * 1_000_000)
    opened_in_little_memory(tmp_path)


@pytest.mark.parametrize("file", [*JSON_FILES, "model.safetensors"])
def test_larger_json_is_refused_unread(bench: Workbench, tmp_path: Path, file: str):
    for path in (bench.folder / "specforge").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    prefix = (95_000_000).to_bytes(8, "little") if file == "model.safetensors" else b""
    (tmp_path / file).write_bytes(prefix + b"[" * 95_000_000)
    assert "larger than" in (said := opened_in_little_memory(tmp_path)) or "claims a header of 95000000" in said


def opened_in_little_memory(folder: Path) -> str:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LARGE, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    said, peak = done.stdout.splitlines()
    assert int(peak) / 1000 < MEMORY_MB, said
    assert time.monotonic() - started < 20
    return said


@pytest.mark.slow
def test_the_driver_runs_and_reports(tmp_path: Path):
    done = run("--minutes", "0.03", "--seed", "1", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["executions"] > 50
    assert report["peak_mb"] < MEMORY_MB
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raise KeyError('dtype')", "KeyError"),
        ("import time; time.sleep(30)", "took more than"),
        ("global hoard; hoard = bytearray(b'x') * 400_000_000", "more than 300 MB"),
        ("from eagle3hub.errors import SourceError as E; e = E('x'); e.message = 'two\\nlines'; raise e", "control"),
    ],
)
def test_the_driver_notices_what_it_is_there_for(tmp_path: Path, broken: str, says: str):
    code = (
        "import runpy, sys\n"
        "import eagle3hub.checkpoint.safetensors as header\n"
        "real = header.read_header\n"
        "def broken(path):\n"
        "    if path.name == 'loose.safetensors' and path.read_bytes()[:8] != FIRST:\n"
        f"        {broken}\n"
        "    return real(path)\n"
        "header.read_header = broken\n"
        "import support.fuzzing\n"
        "FIRST = b''\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = run("--minutes", "0.002", "--seed", "2", "--only", "header", "--keep", str(tmp_path / "kept"), code=code)
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    assert says in done.stdout
    assert list((tmp_path / "kept").iterdir())


def run(*options: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = [str(FUZZ)] if code is None else ["-c", code, str(FUZZ)]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}
    return subprocess.run([sys.executable, *start, *options], capture_output=True, text=True, env=env, timeout=120)


def test_an_error_is_one_line_whatever_is_in_it():
    error_text = "no\\x1b[31m such\\nfile " + "x" * 1000
    error = SourceError("no\x1b[31m such\nfile " + "x" * 1000, hint="a\tb")
    assert error.message.isprintable()
    assert str(error) == error.message
    assert error.message.startswith("no\\x1b[31m such\\nfile xxx")
    assert len(error.message) <= 800
    assert error.message.endswith(f"({len(error_text)} characters)")
    assert error.hint == "a\\tb"
