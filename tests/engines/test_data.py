"""The data of engine versions: every key is read, every file exists, and a new folder adds a version."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.versions import forget

from eagle3hub.engines import ENGINES, specs
from eagle3hub.engines.preflight import contracts, current_contracts
from eagle3hub.engines.preflight.contracts import RopeReading, common_rules
from eagle3hub.engines.preflight.probed import probed
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import (
    DATA,
    DEVICES,
    default_version,
    engine_data,
    engine_title,
    interface,
    known_version,
    version_data,
    versions_with,
)
from eagle3hub.errors import UnavailableError, UsageError
from eagle3hub.jobs.plan import image_for
from eagle3hub.system.resources import read_toml

ROOT = Path(__file__).resolve().parents[2]
ALL = [(engine, v) for engine in ENGINES for v in sorted(p.name for p in (DATA / engine).iterdir() if p.is_dir())]


def append(file: Path, text: str) -> None:
    file.write_text(text + file.read_text())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("common.toml", lambda engine: engine_data(engine)),
        ("VERSION/engine.toml", lambda engine: version_data(engine)),
        ("VERSION/contract.toml", lambda engine: current_contracts()),
    ],
)
def test_a_key_that_nothing_reads_is_refused(data: Path, engine: str, file: str, read):
    name = file.replace("VERSION", default_version(engine))
    append(data / engine / name, 'aux_convention = "boundary"\n')
    forget()
    known = {"common.toml": "pinned", "engine.toml": "greedy_only", "contract.toml": "later_norm"}[Path(name).name]
    with pytest.raises(ValueError, match=rf"{engine}/{re.escape(name)}.*'aux_convention'; known keys: .*\b{known}\b"):
        read(engine)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("engine.toml", 'greedy_only = ["cpu"]', 'greedy_only = "cpu"', "greedy_only must be a list, but it is 'cpu'"),
        (
            "engine.toml",
            'greedy_only = ["cpu"]',
            'greedy_only = ["npu"]',
            r"greedy_only\[0\] must be one of 'cpu', 'cu",
        ),
        ("engine.toml", "disk_gib = 2.5", 'disk_gib = "2.5"', "environments.cpu, disk_gib|disk_gib must be a number"),
        ("engine.toml", "disk_gib = 2.5", "disk = 2.5", "environments.cpu: nothing reads the key 'disk'"),
        ("engine.toml", "disk_gib = 2.5\n", "", "environments.cpu: the key 'disk_gib' is missing"),
        ("engine.toml", 'config = "--spec', 'configs = "--spec', "flags must be one of"),
        ("probed.json", '"value": "input_layernorm"', '"value": 1', "later_norm must be a string, but it is 1"),
        ("probed.json", '"boundary"', '"before"', "must be one of 'boundary', 'after'"),
        ("probed.json", '"effect": "right"', '"effect": "wrong"', "effect must be one of 'right'"),
        ("probed.json", '"device"', '"place"', "nothing reads the key 'place'"),
        ("contract.toml", "mla-query = { source", "mla-query = { sauce", "mla-query: nothing reads the"),
        ("contract.toml", "mla-query = {", "mla-no-query = {", "codes no finding has: .*'mla-no-query'"),
    ],
)
def test_a_wrong_value_is_refused_by_file_and_key(data: Path, file: str, old: str, new: str, said: str):
    first = versions_with("vllm", file)[0]  # the one that builds on none
    path = data / "vllm" / first / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget()
    with pytest.raises(ValueError, match=said):
        version_data("vllm", first) if file == "engine.toml" else contracts()


def test_every_folder_holds_what_its_version_needs_and_nothing_else():
    assert {p.name for p in DATA.iterdir()} == {*ENGINES, "common"}
    for engine, version in ALL:
        folder = DATA / engine / version
        names = {p.name for p in folder.iterdir()}
        environments = version_data(engine, version).environments if "engine.toml" in names else {}
        wanted = {f"requirements-{device}.txt" for device in environments}
        wanted |= {"requirements-sources.txt" for one in environments.values() if one.sources}
        assert names & {"engine.toml", "contract.toml"}, folder
        assert names - {"engine.toml", "contract.toml", "interface.json", "probed.json"} == wanted, folder
        for device, one in environments.items():
            lines = (folder / f"requirements-{device}.txt").read_text().splitlines()
            assert f"{one.distribution}=={version}" in lines, folder
        if "interface.json" in names:
            assert json.loads((folder / "interface.json").read_text())["version"] == version


def stated(table: dict[str, Any], path: str) -> bool:
    """Whether a contract states a term."""
    found: Any = table
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


@pytest.mark.parametrize(("engine", "version"), [pair for pair in ALL if probed(*pair) is not None])
def test_a_contract_states_nothing_that_was_probed(engine: str, version: str):
    """Beside the words for a rule stands the effect that they are for, which is the one that was found."""
    found, document = probed(engine, version), read_toml(DATA / engine / version / "contract.toml")
    assert found is not None
    assert (found.engine, found.version) == (engine, version)
    own = document.get("runners", {})
    for table, runner in ((document, None), *((own[name], found.runners.get(name)) for name in own)):
        terms = found.terms if runner is None else {**found.terms, **runner.terms}
        assert not [path for path in terms if stated(table, path)]
        rules = found.rules if runner is None else {**found.rules, **runner.rules}
        for code, ruling in table.get("rules", {}).items():
            if code in rules and ("effect" in ruling or "says" in ruling):
                effect = ruling.get("effect", common_rules()[code].effect)
                assert (code, effect) == (code, rules[code].effect)
                assert "says" in ruling


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_data_names_is_there(engine: str):
    both = {*versions_with(engine, "engine.toml")} & {*versions_with(engine, "contract.toml")}
    assert default_version(engine) in both
    assert {*engine_data(engine).beside} <= {v for name, v in ALL if name == engine}
    for version in both:
        runners = {f"{version} {runner}" for runner in version_data(engine, version).runners.values()} or {version}
        assert runners == {c.version for c in contracts() if (c.engine, c.version.split()[0]) == (engine, version)}
        image = version_data(engine, version).image
        assert image is None or version in image.address
    assert set(DEVICES) == set(specs.Device.__args__)


def test_a_folder_more_is_a_version_more(data: Path, tmp_path: Path):
    old = default_version("vllm")
    before = {(c.version, c.title): c for c in current_contracts() if c.engine == "vllm"}
    new = data / "vllm" / "9.8"
    new.mkdir()
    (new / "engine.toml").write_text(f'builds_on = "{old}"\ngreedy_only = []\n')
    (new / "contract.toml").write_text(
        f'builds_on = "{old}"\nfc_bias = true\n[runners.V2.rope]\nreader = "top_level"\ntypes = []\n'
        '[rules]\nbias = { effect = "right", says = "loads {names}", source = "read" }\n'
    )
    forget()
    assert {c.version for c in current_contracts() if c.engine == "vllm"} == {v for v, _ in before}, "not pinned yet"
    serving = Serving("org/t", "org/d")
    assert make_recipe("vllm", serving, "9.8").argv == make_recipe("vllm", serving, old).argv
    with pytest.raises(UnavailableError, match="no tested environment"):
        append_pin(data, "9.8")
        specs.environment_spec("vllm", "cpu")
    with pytest.raises(UnavailableError, match="no image"):
        image_for(["vllm"])
    assert interface("vllm") is None
    one, two = (c for c in current_contracts() if c.engine == "vllm" and c.version.startswith("9.8 "))
    assert (one.title, two.title) == ("vLLM 9.8 V1 (CPU)", "vLLM 9.8 V2 (GPU)")
    assert (one.version, two.version, two.parallel_drafting_by) == ("9.8 V1", "9.8 V2", "9.8 V1")
    (was,) = (c for c in before.values() if c.version == f"{old} V1")
    assert one.rules.keys() == was.rules.keys()
    assert (one.fc_bias, one.rope, one.rules["bias"].effect) == (True, was.rope, "right")
    assert (two.fc_bias, two.rope) == (True, RopeReading("top_level", frozenset()))
    assert was.rules["bias"].effect != "right"
    assert version_data("vllm").greedy_only == ()


def append_pin(data: Path, version: str) -> None:
    file = data / "vllm" / "common.toml"
    file.write_text(re.sub(r'^pinned = ".*"$', f'pinned = "{version}"', file.read_text(), flags=re.MULTILINE))
    forget()


def test_versions_are_in_their_order():
    shuffled = ["main", "0.10", "0.2.1", "0.2", "0.2rc1", "0.2rc10", "0.2rc2"]
    assert sorted(shuffled, key=specs._age) == ["0.2rc1", "0.2rc2", "0.2rc10", "0.2", "0.2.1", "0.10", "main"]


@pytest.mark.parametrize(
    ("asked", "judged", "how"),
    [
        ("1.2", "1.2", None),
        ("1.2.0", "1.2", None),
        ("v1.2.0+cu129", "1.2", None),
        ("1.2.1", "1.2", None),
        ("1.2.1.post1", "1.2", None),
        ("1.2rc3", "1.2", "is not a version that eagle3hub knows"),
        ("1.10.0.dev3+g12", "1.10", None),
        ("1.9.5", "1.2", "is not a version that eagle3hub knows"),
        ("1.10.1", "1.10", None),
        ("1.20.1", "1.10", "is newer than every version that eagle3hub knows"),
        ("2.0rc1", "1.10", "is newer than every version that eagle3hub knows"),
        ("0.9", "1.1", "is older than every version that eagle3hub knows"),
    ],
)
def test_a_version_that_is_not_known_is_judged_as_the_nearest_one(
    data: Path, asked: str, judged: str, how: str | None
):
    for folder in (data / "trtllm").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for version in ("1.1", "1.2", "1.10"):
        (data / "trtllm" / version).mkdir()
        (data / "trtllm" / version / "engine.toml").touch()
    forget()
    found = known_version("trtllm", asked)
    title = engine_title("trtllm")
    assert found.version == judged
    assert found.warning == (how and f"{title} {asked} {how}: it is judged as {judged}")


def test_a_version_with_a_recipe_and_no_contract_says_what_is_not_known(data: Path):
    other = data / "vllm" / "9.8"
    other.mkdir()
    (other / "engine.toml").write_text(f'builds_on = "{default_version("vllm")}"\n')
    forget()
    assert known_version("vllm", "9.8").warning is None
    found = known_version("vllm", "9.8", "contract.toml")
    assert found.warning == f"how vLLM 9.8 reads a head is not known: it is judged as {found.version}"
    found = known_version("vllm", "9.8", "interface.json")
    assert found.warning == f"what vLLM 9.8 accepts is not known: it is judged as {found.version}"


@pytest.mark.parametrize("text", ["", "main", "newest", "b7000", "9"])
def test_text_that_is_no_version_is_a_usage_error_that_lists_the_versions(text: str):
    with pytest.raises(UsageError) as raised:
        known_version("vllm", text)
    assert raised.value.code == "usage-engine-version"
    assert default_version("vllm") in str(raised.value.hint)


def test_no_module_and_no_test_writes_a_pinned_version():
    found = []
    for engine in ENGINES:
        version = default_version(engine)
        told = (
            [version] if version.count(".") > 1 else [f"{engine_title(engine)} {version}", f'"{engine}", "{version}"']
        )
        literal = re.compile("|".join(rf"(?<![\d.]){re.escape(one)}(?![\w.]*\d)" for one in told))
        for file in [*(ROOT / "eagle3hub").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
            text = file.read_text()
            lines = enumerate(text.splitlines() if version in text else (), 1)
            found += [f"{file.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in lines if literal.search(line)]
    assert found == []


def test_what_the_linter_says_of_vllm_holds_for_the_pinned_version():
    assert "draft_sample_method" in interface("vllm").speculative_config
