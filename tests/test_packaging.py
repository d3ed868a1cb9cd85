"""The wheel carries everything the program needs besides its code."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_finds_its_templates_schemas_and_example(tmp_path: Path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import json, eagle3hub\n"
        "from eagle3hub.system.resources import data_path, schema\n"
        "from eagle3hub.prompts import datasets, load_prompts\n"
        "names = ['templates/card', 'templates/report/style.css', 'examples/smollm2-135m/head/model.safetensors']\n"
        "found = [str(data_path(n)) for n in names if data_path(n).exists()]\n"
        "names = ('provenance', 'report', 'matrix', 'manifest', 'acceptance-reference', 'bench')\n"
        "ids = [schema(n)['title'] for n in names]\n"
        "from eagle3hub.engines import ENGINES, specs\n"
        "from eagle3hub.engines.preflight import contracts\n"
        "data = {e: [specs.default_version(e), sorted(str(f) for f in (specs.DATA / e).rglob('*.*') if f.is_file())]"
        " for e in ENGINES}\n"
        "print(json.dumps({'package': eagle3hub.__file__, 'found': found, 'ids': ids, 'data': data,\n"
        "                  'contracts': len(contracts()), 'flags': len(specs.interface('vllm').flags),\n"
        "                  'prompts': len(load_prompts('smoke').prompts), 'sets': len(datasets())}))\n"
    )
    # isolated from the checkout: -P keeps the current folder out, PYTHONPATH puts the unpacked wheel first
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["package"].startswith(str(tmp_path))
    assert len(seen["found"]) == 3
    assert all(path.startswith(str(tmp_path)) for path in seen["found"])
    assert seen["prompts"] == 16
    data = ROOT / "eagle3hub" / "engines" / "data"
    for engine, (version, files) in seen["data"].items():
        assert version in {path.name for path in (data / engine).iterdir()}
        assert all(file.startswith(str(tmp_path)) for file in files)
        assert len(files) == sum(path.is_file() for path in (data / engine).rglob("*"))
    assert seen["contracts"] >= 8
    assert seen["flags"] > 100
    assert seen["sets"] >= 6
