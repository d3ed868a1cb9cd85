"""Imports point one way, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "eagle3hub"

# Lowest first; a module may import from its own tier and from lower ones.
TIERS = [
    {
        *(
            "_version",
            "errors",
            "progress",
            "resources",
            "network",
            "schema_faults",
            "typed",
            "documents",
            "units",
            "yaml_lines",
            "visible",
            "charts",
        ),
        "installation",
        *("reading", "held"),
    },
    {"vocab", "head", "fields", "checkpoint", "metrics"},
    {
        *("target", "target_types", "layouts", "engines", "prompts"),
        *("destination", "places", "staging", "source_tree", "report", "tensor_diff"),
    },
    {"preflight"},
    {"transforms"},
    {"reference"},
    {"command"},
    {"verify", "describe", "comparison", "conversion_plan"},
    {"conversion", "validation", "card", "demo_target", "bench"},
    {"publishing"},
    {"jobs"},
    {"release", "release_parts", "release_summary", "releases"},
    {"demo"},
    {"cli", "__init__", "__main__"},
]
ALLOWED_IN = {
    "torch": {"engines/workers", "reference"},
    "transformers": {"engines/workers", "reference"},
    "vllm": {"engines/workers"},
    "sglang": {"engines/workers"},
    "sgl_kernel": {"engines/workers"},
    "tensorrt_llm": {"engines/workers"},
    "xllamacpp": {"engines/workers"},
    "gguf": {"engines/workers"},
    "huggingface_hub": {
        "checkpoint/hub.py",
        "checkpoint/hub_failures.py",
        "checkpoint/hub_rules.py",
        "checkpoint/resuming.py",
        "card/metadata.py",
        "publishing/remote.py",
        "jobs/api.py",
    },
    "model_signing": {"publishing/signing.py"},
    "sigstore": {"publishing/keyless.py"},
    "cryptography": {"publishing/signing.py"},
    "kingfisher_sdk": {"publishing/secret_search.py"},
    "defusedxml": {"publishing/svg.py"},
    "PIL": {"publishing/jpeg.py"},
    "matplotlib": {"charts"},
    "markdown_it": {"card/lint/parse.py", "card/markdown.py", "card/preview.py"},
    "pybtex": {"card/bibliography.py", "card/lint/bibtex.py"},
    "typer": {"cli"},
    "rich": {"cli", "validation/render.py", "validation/matrix_render.py", "bench/terminal.py"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tier(module: str) -> int:
    (found,) = [i for i, names in enumerate(TIERS) if module in names]
    return found


def test_every_module_has_a_tier():
    for path, _ in modules():
        tier(path.split("/")[0].removesuffix(".py"))


def test_imports_point_downwards():
    for path, tree in modules():
        here = tier(path.split("/")[0].removesuffix(".py"))
        for name in imports(tree):
            if name.startswith("eagle3hub.") and path != "__init__.py":
                assert tier(name.split(".")[1]) <= here, f"{path} imports {name}"


def test_heavy_packages_stay_where_they_belong():
    for path, tree in modules():
        for name in imports(tree):
            places = ALLOWED_IN.get(name.split(".")[0])
            assert places is None or any(path.startswith(p) for p in places), f"{path} imports {name}"


def test_no_file_grows_beyond_a_sitting():
    for path, _ in modules():
        lines = len((PACKAGE / path).read_text().splitlines())
        assert lines <= 420, f"{path} has {lines} lines"
