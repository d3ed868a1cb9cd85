"""Fill the generated tables of the documentation.

Those of docs/layouts.md and README.md come from the codecs' contracts and eagle3hub/head/aux_defaults.toml, those of
docs/lint.md from the rules, docs/cli.md from the commands themselves; how to install, in README.md and docs/index.md,
from eagle3hub/system/installation.toml. The names of layouts in schemas/manifest.schema.json come from the registry,
the Hub's tasks there from eagle3hub/card/vocabulary.py; the numbers of engine versions, in pages about what is pinned,
from eagle3hub/engines/data. docs/json.md comes from schemas/; where one of these says ``x-copied-from``, that part is
copied from another.

    python docs/generate.py            rewrite the tables
    python docs/generate.py --check    exit with 1 if a table is not what the code says (the tests do this)

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main

from eagle3hub.card import vocabulary
from eagle3hub.checkpoint.source import kinds
from eagle3hub.cli.app import build
from eagle3hub.cli.output import grouped, metavar
from eagle3hub.engines import ENGINES
from eagle3hub.engines.preflight import contracts, current_contracts, only_read
from eagle3hub.engines.preflight.probed import probed
from eagle3hub.engines.specs import default_version, engine_data, engine_module, engine_title
from eagle3hub.head.aux_defaults import Layer, aux_default, boundaries, shown, special_trainers
from eagle3hub.layouts import LAYOUTS, READERS
from eagle3hub.layouts.base import FEATURES, Contract, Layout
from eagle3hub.lint import RULES, Rule
from eagle3hub.lint.model import FAMILIES
from eagle3hub.system.installation import Index, index, manual
from eagle3hub.system.resources import read_toml

PAGE = Path(__file__).parent / "layouts.md"
LINT_PAGE = Path(__file__).parent / "lint.md"
ENGINES_PAGE = Path(__file__).parent / "engines.md"
CLI_PAGE = Path(__file__).parent / "cli.md"
MANIFEST_PAGE = Path(__file__).parent / "manifest.md"
JSON_PAGE = Path(__file__).parent / "json.md"
SCHEMAS = Path(__file__).parent.parent / "schemas"
MANIFEST_SCHEMA = SCHEMAS / "manifest.schema.json"
IMPORTED_SCHEMA = SCHEMAS / "imported.schema.json"
NO_RELEASE = [
    "",
    "There is no release on the package index yet, and the name `eagle3hub` may be anybody's there: nothing of this",
    "project installs it by name.",
]
PUBLISHED_PAGE = Path(__file__).parent / "published.md"
PUBLISHED = Path(__file__).parent.parent / "tests" / "published" / "expected.toml"
TO = ("universal", "speculators")
START_PAGES = (Path(__file__).parent.parent / "README.md", Path(__file__).parent / "index.md")
PINNED_PAGES = (
    *START_PAGES,
    *sorted(Path(__file__).parent.glob("serving/*.md")),
    *sorted(Path(__file__).parent.glob("trainers/*.md")),
    *(Path(__file__).parent / f"{name}.md" for name in ("engines", "troubleshooting")),
)
"""Pages about the pinned versions. Others are records: of what was run, on the version they name."""
CARDS = tuple(sorted(Path(__file__).parent.parent.glob("examples/cards/*/README.md")))
_TABLE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def spelling(layouts: Mapping[str, Layout]) -> list[str]:
    """How each layout spells what all of them have."""
    columns: dict[str, Callable[[Contract], str]] = {
        "names of the decoder layer": lambda c: f"`{c.tensor_prefix}*`",
        "`d2t` (always offsets)": lambda c: c.vocab_dtype,
        "`t2d`": lambda c: "BOOL" if c.has_t2d else "never",
        "map of a full vocabulary": lambda c: _full_vocabulary(c),
        "header metadata": lambda c: "none" if c.metadata is None else _pairs(c.metadata),
        "aux layer ids": lambda c: c.aux_ids or "not written",
        "must be given": lambda c: "; ".join(f"{need.what}: {need.how}" for need in c.needs) or "nothing",
    }
    body = [
        [f"{layout.contract.title} (`{name}`)", *(say(layout.contract) for say in columns.values())]
        for name, layout in layouts.items()
    ]
    return _table(["layout", *columns], body)


def versions(layouts: Mapping[str, Layout]) -> list[str]:
    """Whose folders each codec reads, and which one it writes."""
    body = [
        [f"{layout.contract.title} (`{name}`)", "; ".join(layout.contract.reads) or "–", layout.contract.writes or "–"]
        for name, layout in layouts.items()
    ]
    return _table(["layout", "reads", "writes"], body)


def features(layouts: Mapping[str, Layout]) -> list[str]:
    """What each layout can hold besides the core every head has."""
    body = [[f.title, f"`{_code(f.name)}`", *(_held(c, f.name) for c in _contracts(layouts))] for f in FEATURES]
    return _table(["a head with", "code of the refusal", *(f"`{name}`" for name in layouts)], body)


def refusals(layouts: Mapping[str, Layout]) -> list[str]:
    """Why a layout refuses, where there is more to say than that it has no place, and where to go instead."""
    body = []
    for f in FEATURES:
        able = [f"`{name}`" for name, layout in layouts.items() if f.name in layout.contract.expresses]
        for name, layout in layouts.items():
            if f.name not in layout.contract.expresses and f.name in layout.contract.cannot:
                body.append([f.title, f"`{name}`", layout.contract.cannot[f.name], ", ".join(able) or "nowhere"])
    return _table(["a head with", "refused by", "because", "fits into"], body)


def aux_defaults(layouts: Mapping[str, Layout]) -> list[str]:
    """The layers each trainer taps where nothing is named, in both numberings, and for a target of 30 layers."""
    common, depth = aux_default(), 30

    def row(who: str, layers: Sequence[Layer]) -> list[str]:
        example = ", ".join(str(layer.number(depth)) for layer in layers)
        return [who, shown(layers), shown(boundaries(layers)), f"after-layer {example}"]

    rows = [row("trainers and engines", common.layers)]
    for name in special_trainers():
        title, own = layouts[name].contract.title, aux_default(name)
        rows += [row(f"{title}, for a `{kind}` target", layers) for kind, layers in own.targets.items()]
        if own.merges:
            rows.append([f"{title}, for a small target", *["the same; equal layers become one"] * 2, "the same"])
    return _table(["who", "after-layer ids", "boundary ids", f"L = {depth}"], rows)


def overview(layouts: Mapping[str, Layout]) -> list[str]:
    """Every layout in one line, for README.md."""
    body = []
    for name, layout in layouts.items():
        c = layout.contract
        readers = vocabulary.layout(name).written_for or "none"
        stored = f"`d2t` {c.vocab_dtype}" + (", `t2d`" if c.has_t2d else "")
        body.append([f"`{name}`", c.card_title, readers, f"`{c.tensor_prefix}*`", stored, c.aux_ids or "not written"])
    return _table(
        ["layout", "whose", "written for", "tensor names", "vocabulary map", "aux layer ids"],
        body,
    )


def readers(layouts: Mapping[str, Layout]) -> list[str]:
    """The layouts that are read and not written."""
    rest = {name: reader.contract for name, reader in READERS.items() if name not in layouts}
    return _table(["layout", "reads"], [[f"{c.title} (`{name}`)", "; ".join(c.reads)] for name, c in rest.items()])


def others(_layouts: Mapping[str, Layout]) -> list[str]:
    """What is recognised and not read, and who serves it."""
    body = [[_capital(kind.what), _capital(kind.served), f"`layout-{kind.code}`"] for kind in kinds()]
    return _table(["a folder with", "who serves it", "code of the refusal"], body)


def _capital(text: str) -> str:
    """A sentence's first letter; that of a name such as vLLM or llama.cpp stays."""
    first = text.partition(" ")[0]
    return text if "." in first or first[1:] != first[1:].lower() else text[:1].upper() + text[1:]


TABLES: dict[str, Callable[[Mapping[str, Layout]], list[str]]] = {
    "versions": versions,
    "spelling": spelling,
    "features": features,
    "refusals": refusals,
    "aux-defaults": aux_defaults,
    "readers": readers,
    "others": others,
}


def filled(page: str, layouts: Mapping[str, Layout] = LAYOUTS) -> str:
    """docs/layouts.md with every table as the code has it. Raises ValueError if a table is missing or unknown."""
    return _filled(page, {name: table(layouts) for name, table in TABLES.items()})


def filled_lint(page: str, rules: Mapping[str, Rule] = RULES) -> str:
    """docs/lint.md with a table for each family of rules. Raises ValueError if a table is missing or unknown."""
    families: dict[str, list[list[str]]] = {family: [] for family in FAMILIES}
    for code, rule in sorted(rules.items()):
        what = f"**{rule.title}.** {rule.why} *{rule.fix}*"
        families[code[:2]].append([code, rule.severity, what])
    return _filled(
        page, {name: _table(["code", "severity", "what, why, *fix*"], rows) for name, rows in families.items()}
    )


def filled_cli(page: str, root: Any = None) -> str:
    """docs/cli.md with every command of the command line. Raises ValueError if a table is missing or unknown."""
    root = root or typer.main.get_command(build())
    lines = []
    for name, command in commands(root):
        lines += [f"## {name}", "", *_manual(name, command), ""]
    return _filled(page, {"options": _options(root.params), "commands": lines[:-1]})


def filled_engines(page: str) -> str:
    """docs/engines.md with the share of rules that were executed, by version and runner."""
    rows = []
    for terms in contracts():
        number = terms.version.partition(" ")[0]
        rules, left = only_read(terms)
        found = probed(terms.engine, number)
        if not rules or "no-eagle3" in terms.rules:
            continue
        done = "not probed" if found is None else f"{100 * (rules - len(left)) // rules} % of {rules}"
        held = "–" if found is None else str(len(found.terms))
        rest = "all" if len(left) == rules else ", ".join(f"`{code}`" for code in left) or "none"
        rows.append([terms.title, done, held, rest])
    return _filled(page, {"probed": _table(["version", "rules executed", "terms executed", "rules only read"], rows)})


def filled_published(page: str, rows: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """docs/published.md with what is said of every published head, from the table that the tests hold."""
    rows = read_toml(PUBLISHED) if rows is None else rows
    shown = [c for c in current_contracts() if c.rules.get("no-eagle3") is None]
    titles = [c.title.replace(" (CPU)", "").replace(" (GPU)", "") for c in shown]
    heads, refused = [], []
    for name, row in rows.items():
        head = name.replace("__", "/", 1)
        if "refused" in row:
            refused.append([head, f"`{row['refused']}`", row["says"].partition(f"{name} ")[2]])
            continue
        taps = row["aux"] if isinstance(row["aux"], str) else ", ".join(map(str, row["aux"]))
        verdicts = [str(row[f"{c.engine} {c.version}"]).partition(",")[0].replace("_", " ") for c in shown]
        heads.append([head, row["layout"], taps, *verdicts, *(row[to].removeprefix("refused-") for to in TO)])
    columns = ["head", "layout", "after layers", *titles, *(f"to {to}" for to in TO)]
    return _filled(
        page,
        {"published": _table(columns, heads), "not-read": _table(["folder", "code", "what is said of it"], refused)},
    )


def filled_start(page: str, known: Index | None = None) -> str:
    """README.md or docs/index.md with the commands that install, and the layouts where the page has a place for them.

    Raises ValueError if the place of the commands is missing.
    """
    known = known or index()
    lines = [f"$ {line}" for line in manual(known)]
    mark = "<!-- not run: changes the environment it is run in; tests/test_installation.py does it in another -->"
    tables = {"install": [mark, "```console", *lines, "```", *([] if known.released else NO_RELEASE)]}
    if "<!-- table: layouts -->" in page:
        tables["layouts"] = overview(LAYOUTS)
    return _filled(page, tables)


def filled_schema(text: str, names: Sequence[str] | None = None) -> str:
    """schemas/manifest.schema.json with the Hub's tasks and the names of all layouts, in the order of the registry."""
    schema = json.loads(text)
    layouts = schema["properties"]["layouts"]["properties"]
    for place in (layouts["main"], layouts["also"]["items"]):
        place["enum"] = list(LAYOUTS if names is None else names)
    schema["properties"]["release"]["properties"]["pipeline_tag"]["enum"] = list(vocabulary.HUB_TASKS)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def filled_copies(text: str) -> str:
    """A schema with each part that says ``x-copied-from`` as it is there: NAME#/$defs/PART, or NAME# for the whole.

    So every schema stands alone, and each part is written in one place.
    """
    schema = json.loads(text)
    for name, part in schema.get("$defs", {}).items():
        if (source := part.get("x-copied-from")) is not None:
            schema["$defs"][name] = {"x-copied-from": source, **_part(source)}
    indent = len(text.split("\n")[1]) - len(text.split("\n")[1].lstrip())
    return json.dumps(schema, indent=indent, ensure_ascii=False) + "\n"


def _part(source: str) -> dict[str, Any]:
    name, _, path = source.partition("#")
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    for step in path.split("/")[1:]:
        found = found[step]
    if path:
        return found
    kept = ("type", "additionalProperties", "required", "properties")
    whole = {"description": f"{found['title']}.", **{key: found[key] for key in kept}}
    whole["required"] = [key for key in found["required"] if key != "schema"]  # of a document inside another
    return whole


def filled_json(page: str, schemas: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """docs/json.md with the documents of every command and the fields of each."""
    known = schemas or {f.name.partition(".")[0]: json.loads(f.read_text()) for f in sorted(SCHEMAS.iterdir())}
    printed = {name: schema for name, schema in known.items() if "x-commands" in schema or name == "progress"}
    rows = []
    for command, _ in [("eagle3hub", None), *commands(typer.main.get_command(build()))]:
        links = [f"[`{name}`](#{name})" for name, schema in printed.items() if command in schema.get("x-commands", ())]
        if links:
            rows.append([f"`{command}`" if command != "eagle3hub" else "any, if it fails", ", ".join(links)])
    lines = []
    for name, schema in printed.items():
        lines += [
            f"## {name}",
            "",
            f"{schema['title']}: `schemas/{name}.schema.json`. {schema.get('description', '')}",
        ]
        lines[-1] = lines[-1].rstrip()
        lines += ["", *_documented(schema), ""]
        for part, inner in schema.get("$defs", {}).items():
            if "x-copied-from" not in inner and "properties" in inner:
                lines += [f"### {name}: {part}", "", inner.get("description", ""), "", *_documented(inner), ""]
            elif (source := inner.get("x-copied-from", "")).split("#")[0] in printed:
                whole, _, inside = source.partition("#")
                there = inside.rpartition("/")[2]
                headed = "properties" in printed[whole].get("$defs", {}).get(there, {})
                anchor = f"{whole}-{there}" if headed else whole
                lines += [f"`{part}` is as in [{whole}](#{anchor}).", ""]
    return _filled(page, {"documents": _table(["command", "documents"], rows), "fields": lines[:-1]})


def _documented(schema: Mapping[str, Any]) -> list[str]:
    rows = [[name, _allowed(field), field.get("description", "")] for name, field in _fields(schema, "")]
    return _table(["field", "holds", "meaning"], rows)


def filled_manifest(page: str, schema: Mapping[str, Any] | None = None) -> str:
    """The page of the manifest with a row for every field of its schema, and of that of imported measurements."""
    whole = json.loads(MANIFEST_SCHEMA.read_text()) if schema is None else schema
    imported = json.loads(IMPORTED_SCHEMA.read_text())
    return _filled(page, {"manifest": _table_of_fields(whole), "imported": _table_of_fields(imported)})


def _table_of_fields(schema: Mapping[str, Any]) -> list[str]:
    rows = [[name, _allowed(field), field.get("description", "")] for name, field in _fields(schema, "")]
    return _table(["field", "allowed", "meaning"], rows)


def _fields(schema: Mapping[str, Any], parent: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every field below a schema with its name in print; those of a list's entries follow the list."""
    for name, field in schema.get("properties", {}).items():
        path = f"{parent}{name}"
        yield f"**`{path}`**" if name in schema.get("required", ()) else f"`{path}`", field
        yield from _fields(field, f"{path}.")
        yield from _fields(field.get("items", {}), f"{path}[].")
        if isinstance(field.get("additionalProperties"), dict):
            yield from _fields(field["additionalProperties"], f"{path}.NAME.")


def _allowed(field: Mapping[str, Any]) -> str:
    """Return what a field may hold, in the words of its errors."""
    if "x-allowed" in field:
        return str(field["x-allowed"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" if value is not None else "null" for value in field["enum"])
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_allowed(one) for one in field["anyOf"])
    named = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}
    named |= {"integer": "a whole number", "number": "a number"}
    if "$ref" in field.get("items", {}):
        named["array"] = f"a list of {_allowed(field['items'])}"
    types = [field["type"]] if isinstance(field.get("type"), str) else field.get("type", ())
    return " or ".join(named.get(one, one) for one in types) or "anything"


def pinned(page: str) -> str:
    """A page with the pinned version wherever an engine is named with a number.

    TensorRT-LLM is left alone: pages name several of its versions. A column that follows keeps its place if it can.
    """
    for engine in ENGINES:
        if engine != "trtllm":
            title, version = engine_title(engine), default_version(engine)
            build = next((c.title.partition(f"{title} ")[2] for c in current_contracts() if c.engine == engine), "")
            names = "|".join(re.escape(name) for name in {title, engine, engine_module(engine)})
            page = _numbered(page, rf"(?<![\w-])(?:{names})`? ", r"\d+\.[\w.]*\w", version, engine_data(engine).beside)
            if re.fullmatch(r"b\d+", build):
                page = _numbered(page, rf"{re.escape(title)} ", r"b\d+", build, ())
    return page


def spelled(page: str) -> str:
    """A card of examples/cards with the pinned version of each engine that its recipes are spelled for."""
    for engine in ENGINES:
        name = rf"Spelled for {re.escape(engine_title(engine))} "
        page = _numbered(page, name, r"\S+(?= by eagle3hub)", default_version(engine), ())
    return page


def _numbered(page: str, name: str, number: str, version: str, other: Sequence[str]) -> str:
    def said(m: re.Match[str]) -> str:
        if m["number"] in other:
            return m[0]
        room = len(m["number"] + m["room"]) - len(version) if m["room"] else 0
        return m["name"] + version + (" " * max(2, room) if m["room"] else "")

    return re.sub(rf"(?P<name>{name})(?P<number>{number})(?P<room>(?: {{2,}})?)", said, page)


def commands(group: Any, name: str = "eagle3hub") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it, in the order of ``--help``."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _manual(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [(p.metavar or p.name.upper()) if p.required else f"[{p.metavar or p.name.upper()}]" for p in arguments]
    required = [f"{p.opts[0]} {metavar(p)}" for p in command.params if p not in arguments and p.required]
    yield from ("```text", " ".join([name, *words, *required, "[OPTIONS]"]), "```", "")
    for paragraph in command.help.split("\n\n"):
        text = " ".join(paragraph.split())
        example = text.removeprefix("Example: ")
        mark = "<!-- not run: an example of the help; the files in it are yours -->"
        yield from ([mark, "```console", f"$ {example}", "```"] if example != text else [text])
        yield ""
    if arguments:
        yield from _table(["argument", "meaning"], [[f"`{p.metavar or p.name.upper()}`", p.help] for p in arguments])
        yield ""
    for title, found in grouped(command).items():
        if title != "Options":
            yield from ("", f"{title}:", "")
        yield from _options(found)


def _options(params: Sequence[Any]) -> list[str]:
    rows = []
    for p in params:
        words = [*p.opts, *p.secondary_opts]
        spelled = ", ".join(f"`{word}`" for word in words) + ("" if p.is_flag else f" {metavar(p)}")
        rows.append([spelled, p.help, "required" if p.required else _default(p)])
    return _table(["option", "meaning", "default"], rows)


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if option.is_flag:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`" if option.secondary_opts else ""
    return "" if option.default in (None, "") or not option.show_default else f"`{option.default}`"


def _filled(page: str, tables: Mapping[str, Sequence[str]]) -> str:
    names = [m["name"] for m in _TABLE.finditer(page)]
    if sorted(names) != sorted(tables):
        raise ValueError(f"the page has the tables {names}, the generator knows {list(tables)}")
    return _TABLE.sub(lambda m: m[1] + "\n".join(tables[m["name"]]) + "\n" + m[4], page)


def _full_vocabulary(c: Contract) -> str:
    if "full_vocabulary" not in c.expresses:
        return "no full vocabulary"
    return "identity (zeros, all true)" if c.identity_map else "left out"


def _held(contract: Contract, feature: str) -> str:
    """Whether a layout holds a feature, or for which engines only."""
    if feature in contract.expresses:
        return "yes"
    some = [engine for engine in contract.engines if engine in contract.held_for.get(feature, ())]
    return f"for {', '.join(some)}" if some else "**no**"


def _contracts(layouts: Mapping[str, Layout]) -> list[Contract]:
    return [layout.contract for layout in layouts.values()]


def _code(feature: str) -> str:
    return f"refused-{feature.replace('_', '-')}"


def _pairs(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"`{k}: {v}`" for k, v in metadata.items())


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite or check the pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(argv)
    status = 0
    start = [(page, filled_start) for page in START_PAGES]
    pages = [
        (PAGE, filled),
        (LINT_PAGE, filled_lint),
        (ENGINES_PAGE, filled_engines),
        (CLI_PAGE, filled_cli),
        (MANIFEST_PAGE, filled_manifest),
        (JSON_PAGE, filled_json),
        (PUBLISHED_PAGE, filled_published),
        *start,
    ]
    numbers = [*((page, pinned) for page in PINNED_PAGES), *((page, spelled) for page in CARDS)]
    copies = [(path, filled_copies) for path in sorted(SCHEMAS.iterdir()) if "x-copied-from" in path.read_text()]
    for path, fill in ((MANIFEST_SCHEMA, filled_schema), *copies, *pages, *numbers):
        page = path.read_text()
        fresh = fill(page)
        if not options.check:
            path.write_text(fresh)
        elif page != fresh:
            sys.stderr.write(f"{path.name} is not what the code says: run python docs/generate.py\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
