"""Imports point one way, nothing goes in a circle, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "eagle3hub"
EXAMPLE = PACKAGE.parent / "examples/smollm2-135m/head"

# Lowest first; a package or loose module imports only from itself and from those above it in this list.
ORDER = [
    *(
        "_version",
        "errors",
        "address",
        "system",
        "network",
        "checkpoint",
        "head",
        "layouts",
        "metrics",
        "prompts",
        "engines",
    ),
    *("conversion", "inspection", "comparison", "reference", "probing", "charts", "validation", "benchmarking"),
    *("card", "lint", "publishing", "jobs", "releasing", "cli", "__init__", "__main__"),
]
MOST_MODULES = 264
ALLOWED_IN = {
    "torch": {"engines/workers", "reference", "probing"},
    "transformers": {"engines/workers", "reference"},
    "vllm": {"engines/workers"},
    "sglang": {"engines/workers"},
    "sgl_kernel": {"engines/workers"},
    "tensorrt_llm": {"engines/workers"},
    "xllamacpp": {"engines/workers"},
    "gguf": {"engines/workers"},
    "numpy": {"engines/workers"},  # and where it is installed, by checkpoint/numbers.py
    "tree_sitter": {"engines/check/shell.py"},
    "tree_sitter_bash": {"engines/check/shell.py"},
    "huggingface_hub": {
        "checkpoint/hub.py",
        "checkpoint/remote.py",
        "card/metadata.py",
        "publishing/remote.py",
        "jobs/api.py",
    },
    "model_signing": {"publishing/signing.py"},
    "sigstore": {"publishing/signing.py"},
    "cryptography": {"publishing/signing.py"},
    "kingfisher_sdk": {"publishing/secrets.py"},
    "defusedxml": {"publishing/kinds.py"},
    "PIL": {"publishing/content.py", "reference/images.py"},
    "pyarrow": {"prompts/sets.py"},
    "matplotlib": {"charts"},
    "markdown_it": {"lint/parse.py", "card/markdown.py", "card/preview.py"},
    "pybtex": {"card/bibliography.py", "lint/parse.py"},
    "typer": {"cli"},
    "rich": {"cli", "validation/render.py", "benchmarking/terminal.py"},
}

# Rooms and modules where a document has no types yet, or has them no longer, and is a mapping of Any. Elsewhere only
# `to_json` and its like have one (docs/architecture.md).
AT_THE_BORDER = [
    # documents of any kind: reading, schemas, building dataclasses, printing
    *("system", "cli", "publishing/kinds.py"),
    # config.json and headers as they were found, and config.json to be written
    *("checkpoint", "head/fields.py", "head/target.py", "head/rope.py", "head/quantization.py"),
    *("layouts/flat.py", "layouts/interpret.py", "layouts/speculators.py", "layouts/provenance.py"),
    *("probing/heads.py", "probing/questions.py"),
    # the package's own data before they are dataclasses
    *("head/aux_defaults.py", "engines/specs.py", "engines/preflight/contracts.py", "engines/preflight/probed.py"),
    # what workers, servers and other programs are sent and answer
    *("engines/process.py", "engines/vllm.py", "engines/endpoints", "probing/run.py", "validation/states.py"),
    *("reference/template_worker.py", "benchmarking/serving/load.py", "card/exchange.py"),
    # manifests, front matter, and records of releases and jobs
    *("card/manifest.py", "card/imported.py", "card/folder.py", "card/starter.py", "card/preview.py"),
    *("card/metadata.py", "lint/model.py", "releasing", "jobs"),
]
MOST_AT_THE_BORDER = 214
TO_AND_FROM_JSON = {"to_json", "from_json", "document", "described", "describe"}


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple((str(p.relative_to(PACKAGE)), ast.parse(p.read_text())) for p in sorted(PACKAGE.rglob("*.py")))


@cache
def imports(tree: ast.Module) -> tuple[str, ...]:
    """Every imported name, those inside functions included."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def room(path: str) -> str:
    """The package, or the loose module, that a file belongs to."""
    return path.split("/")[0].removesuffix(".py")


def dotted(path: str) -> str:
    return "eagle3hub." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def graph() -> dict[str, set[str]]:
    """For each module, the modules it imports."""
    trees = {dotted(path): tree for path, tree in modules() if path != "__init__.py"}
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        wanted = {n if n in trees else n.rpartition(".")[0] for n in imports(tree)}
        found[name] = (wanted & set(trees)) - {name}
    return found


def circle(edges: Mapping[str, Set[str]]) -> list[str]:
    """Nodes that reach themselves: what is left when nodes without open imports are taken away, again and again."""
    left = dict(edges)
    while done := [name for name, wanted in left.items() if not wanted & set(left)]:
        for name in done:
            del left[name]
    return sorted(left)


def test_every_module_has_a_place_in_the_order():
    assert {room(path) for path, _ in modules()} == set(ORDER)


def test_imports_point_one_way():
    for path, tree in modules():
        here = ORDER.index(room(path))
        for name in imports(tree):
            if name.startswith("eagle3hub.") and path != "__init__.py":
                assert ORDER.index(name.split(".")[1]) <= here, f"{path} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    assert circle(graph()) == []


def test_no_package_has_a_name_of_its_own_that_one_of_its_modules_takes():
    """Importing ``eagle3hub.head.fields`` would replace a ``fields`` of ``eagle3hub/head/__init__.py``."""
    for path, tree in modules():
        folder = (PACKAGE / path).parent
        if not path.endswith("__init__.py") or folder == PACKAGE:
            continue
        package, inner = dotted(path), {p.stem for p in folder.iterdir()}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and not str(node.module).startswith(package):
                names = {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = {node.name}
            else:
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            assert not names & inner, f"{path}: {names & inner}"


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_the_house_stays_small_enough_to_know():
    paths = [path for path, _ in modules()]
    loose = [path for path in paths if "/" not in path]
    assert len(paths) <= MOST_MODULES
    assert len(loose) <= 7, loose


def test_heavy_packages_stay_where_they_belong():
    for path, tree in modules():
        for name in imports(tree):
            places = ALLOWED_IN.get(name.split(".")[0])
            assert places is None or any(path.startswith(p) for p in places), f"{path} imports {name}"


def untyped(path: str, tree: ast.AST) -> int:
    """How many mappings of Any the module's annotations have, those of `TO_AND_FROM_JSON` left out."""
    found = 0
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name in TO_AND_FROM_JSON:
            continue
        if isinstance(node, ast.Subscript) and ast.unparse(node) in ("dict[str, Any]", "Mapping[str, Any]"):
            found += 1
        else:
            found += untyped(path, node)
    return found


def test_mappings_of_anything_stay_at_the_border():
    found = dict.fromkeys(AT_THE_BORDER, 0)
    for path, tree in modules():
        if path.startswith("engines/workers/") or not (count := untyped(path, tree)):
            continue
        place = next((place for place in AT_THE_BORDER if path == place or path.startswith(f"{place}/")), None)
        assert place is not None, (
            f"{path} has {count}: give the value a type, or Mapping[str, object] and look into it"
        )
        found[place] += count
    assert all(found.values()), "a place without one is no longer of the border"
    assert sum(found.values()) <= MOST_AT_THE_BORDER


@pytest.mark.parametrize(
    ("command", "also"),
    [
        (["inspect", "HEAD"], {"inspection"}),
        (["convert", "HEAD", "OUT", "--to", "modelopt", "--num-target-layers", "30"], {"conversion"}),
    ],
)
def test_a_command_imports_only_what_it_needs(command: list[str], also: set[str], tmp_path: Path):
    """Starting costs more than reading a head: the check of commands, runs of engines and pickles stay out."""
    places = {"HEAD": str(EXAMPLE), "OUT": str(tmp_path / "out")}
    code = (
        "import sys\n"
        "from eagle3hub.cli.app import run\n"
        f"status = run({[places.get(word, word) for word in command]!r})\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = set(done.stderr.splitlines()[-1].split())
    ours = {name.removeprefix("eagle3hub.") for name in loaded if name.startswith("eagle3hub.")}
    rooms = {"_version", "address", "checkpoint", "cli", "engines", "errors", "head", "layouts", "system"}
    assert done.returncode == 0, done.stderr
    assert {name.partition(".")[0] for name in ours} == rooms | also
    assert {name.split(".")[1] for name in ours if name.startswith("engines.")} == {"preflight", "specs"}
    assert "checkpoint.pickles" not in ours
    assert not loaded & {"torch", "yaml", "jsonschema", "jinja2", "huggingface_hub"}


@pytest.mark.slow
def test_without_numpy_the_same_is_written_and_found(tmp_path: Path):
    """`pip install .` alone brings no numpy: the commands run without it, and their results are the same."""
    code = (
        "import sys\n"
        "if sys.argv.pop(1) == 'without':\n"
        "    sys.modules['numpy'] = None\n"
        "from eagle3hub.cli.app import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )

    def result(way: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, way, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    for way in ("with", "without"):
        (tmp_path / way).mkdir()
        for dtype in ("fp16", "fp32"):
            convert = ("convert", str(EXAMPLE), f"{way}/{dtype}", "--to", "specforge", "--num-target-layers", "30")
            result(way, *convert, "--dtype", dtype)
    for dtype in ("fp16", "fp32"):
        with_numpy, without = (tmp_path / way / dtype / "model.safetensors" for way in ("with", "without"))
        assert with_numpy.read_bytes() == without.read_bytes()
    found = [result(way, "diff", str(EXAMPLE), "with/fp16") for way in ("with", "without")]
    assert "tensors are bit-equal" in found[0]
    assert found[0] == found[1]
