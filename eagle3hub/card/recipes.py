"""Print how to serve a head: each engine's recipe, checked against what the head's files allow."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eagle3hub.card import vocabulary
from eagle3hub.card.manifest import EngineNote, Manifest
from eagle3hub.card.reports import Run
from eagle3hub.card.served import Choice, Prospect, Served, captured, choose, prospect
from eagle3hub.engines.base import Verdict
from eagle3hub.engines.recipes import make_recipe
from eagle3hub.engines.specs import default_version
from eagle3hub.errors import assert_never
from eagle3hub.validation.derive import head_name

# Serving recipes from a report, with published names in place of the measured ones.


@dataclass(frozen=True, slots=True)
class ServeRecipe:
    """How to serve the release on one engine; ``command``, ``yaml`` and ``python`` may be empty.

    ``remarks`` are sentences about the files it serves; ``folder`` is their folder in the repository, empty for the
    root.
    """

    engine: str
    command: str
    yaml: str
    python: str
    folder: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tested:
    """What the runs show about serving.

    Attributes:
        recipes: tested recipes, each for files that pass the preflight.
        withheld: why a tested recipe is not printed, by engine.
        engines: names of the engines whose recipe is printed.
    """

    recipes: tuple[ServeRecipe, ...]
    withheld: Mapping[str, str]
    engines: tuple[str, ...]


def tested(runs: Sequence[Run], manifest: Manifest, folders: Sequence[Served]) -> Tested:
    """Return the recipes of the runs that passed, of the main layout if its files pass the preflight.

    If they do not, the recipe is that of another layout of the release that passed on the same engine.
    """
    passed = [run for run in runs if run.passed and run.entry.recipe is not None]
    by_folder = {one.folder: one for one in folders}
    recipes: list[ServeRecipe] = []
    withheld: dict[str, str] = {}
    engines: list[str] = []
    for engine in dict.fromkeys(run.entry.engine for run in passed):
        mine = [run for run in passed if run.entry.engine == engine]
        main = [run for run in mine if run.layout == manifest.layouts.main]
        root = by_folder.get("")
        usable = [(run, found) for run in main if (found := _prospect(run, root)) is None or found.works]
        against = None if usable else _against(main or mine, root)
        if against is not None:
            others = [(run, by_folder.get(manifest.layouts.folder(run.layout))) for run in mine if run not in main]
            usable = [(run, found) for run, one in others if one and (found := _prospect(run, one)) and found.works]
            usable = [(run, found) for run, found in usable if run.layout == usable[0][0].layout]
        made = [_recipe(run, manifest, found, against) for run, found in usable]
        recipes += made
        engines += [engine] if made else []
        if against is not None and not made:
            withheld[engine] = f"No command is printed, although a report says that it passed: {against}"
    return Tested(tuple(dict.fromkeys(recipes)), withheld, tuple(engines))


def _prospect(run: Run, one: Served | None) -> Prospect | None:
    if one is None:
        return None
    entry = run.entry
    engine, version, device = entry.engine, entry.version, entry.device
    capture = captured((entry.recipe.yaml if entry.recipe is not None else None) or "")
    here = prospect(one, engine, version, device, capture)
    if here.warning and not here.works:  # what passed on that version weighs more than another version's contract
        judged = f"{here.warning}, which {here.does_to_them}, but here it passed"
        return Prospect("unchecked", here.title, warning=judged)
    return replace(here, but=prospect(one, engine, version, None, capture).but)  # readers have other devices


def _against(runs: Sequence[Run], main: Served | None) -> str | None:
    """Return, as a sentence, why the main layout's files should not be served as in these runs; None if they may."""
    for run in runs:
        found = _prospect(run, main)
        if main is not None and found is not None and not found.works:
            return f"{found.says(main.place)}."
    return None


def _recipe(run: Run, manifest: Manifest, found: Prospect | None, against: str | None) -> ServeRecipe:
    folder = manifest.layouts.folder(run.layout)
    remarks = [against] if against else []
    if folder:
        title = vocabulary.layout(run.layout).title
        remarks.append(f"The command below fetches and serves the {title} layout instead, which was tested.")
    if found is not None and found.warning:
        remarks.append(f"{found.warning}.")
    if found is not None and found.but:
        remarks.append(f"But {found.but}.")
    return serve_recipe(run, manifest, folder, tuple(remarks))


def fetched(manifest: Manifest, folder: str) -> tuple[str, str]:
    """Return the command that fetches one layout's folder of the repository, and the path of its files then.

    Engines take a repository's root by its id, but no folder of it. If each layout has a branch, the branch has the
    folder's name.
    """
    repo = manifest.release.repo
    copy = repo.rpartition("/")[2]
    if manifest.publish.branch_per_layout:
        command = ["hf", "download", repo, "--revision", folder, "--local-dir", f"{copy}-{folder}"]
        return shlex.join(command), f"./{copy}-{folder}"
    command = ["hf", "download", repo, "--include", f"{folder}/*", "--local-dir", copy]
    return shlex.join(command), f"./{copy}/{folder}"


def serve_recipe(run: Run, manifest: Manifest, folder: str = "", remarks: tuple[str, ...] = ()) -> ServeRecipe:
    """Return the recipe of a run for the published repository, or for the ``folder`` of it that was tested.

    The recipe names the head as `head_name` does, and the target as the report does. These names become Hub ids only
    as the value of a key or option that names a model; elsewhere the same word may mean something else (a folder may
    be called ``eagle3``).
    """
    recipe, head = run.entry.recipe, head_name(run.report.head.source)
    assert recipe is not None
    fetch, place = fetched(manifest, folder) if folder else ("", manifest.release.repo)
    published = {head: place, run.report.target.name: manifest.target.id}
    command = _command(recipe.server_command, recipe.env, published)
    if recipe.prepare:  # the commands fetch folders with the measured names: put the published names there
        lines = []
        for measured, name in published.items():
            if "/" not in measured and not (folder and name == place):
                lines.append(shlex.join(["hf", "download", name, "--local-dir", measured]))
        if folder:
            lines += [fetch, shlex.join(["ln", "-s", place, head])]
        command = "\n".join([*lines, *recipe.prepare, command])
    elif folder and command:
        command = f"{fetch}\n{command}"
    return ServeRecipe(
        engine=f"{vocabulary.engine(recipe.engine)} {recipe.version}".strip(),
        command=command,
        yaml=_yaml(recipe.yaml or "", published),
        python=_python(recipe.python, published),
        folder=folder,
        remarks=remarks,
    )


def folded(command: str, env: Mapping[str, str] | None = None) -> str:
    """Break one shell line into one option a line."""
    return _command(command, env or {}, {})


def _command(text: str, env: Mapping[str, str], published: Mapping[str, str]) -> str:
    lines: list[str] = []
    previous = ""
    for word in shlex.split(text.replace("\\\n", " ")):
        shown = shlex.quote(_renamed(word, previous, published))
        if lines and not word.startswith("--"):
            lines[-1] += f" {shown}"
        else:
            lines.append(shown)
        previous = word
    prefix = "".join(f"{key}={shlex.quote(str(value))} " for key, value in env.items()) if lines else ""
    return prefix + " \\\n  ".join(lines)


def _renamed(word: str, previous: str, published: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={_renamed(value, option, published)}"
    if word.startswith("{"):
        try:
            return json.dumps(_renamed_models(json.loads(word), published))
        except ValueError:
            return word
    serves = previous in ("serve", "trtllm-serve")
    return published.get(word, word) if serves or _names_a_model(previous) else word


def _names_a_model(option: str) -> bool:
    return option.startswith("--") and "model" in option


def _renamed_models(value: Any, published: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed_models(item, published) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: published.get(item, item)
        if isinstance(item, str) and "model" in key
        else _renamed_models(item, published)
        for key, item in value.items()
    }


_MODEL_VALUE = re.compile(r"""(\w*model\w*['"]?\s*[=:]\s*)(['"])([^'"\n]*)\2""")
_MODEL_LINE = re.compile(r"""^(\s*\w*model\w*:\s*)(['"]?)([^'"\n]*)\2$""", re.M)


def _python(text: str, published: Mapping[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{published.get(match[3], match[3])}{match[2]}"

    return _MODEL_VALUE.sub(swap, text)


def _yaml(text: str, published: Mapping[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{published.get(match[3], match[3])}{match[2]}"

    return _MODEL_LINE.sub(swap, text)


# Engines that the makers have a note on: their words, and the recipe of an engine that was not tested here.


NOT_READ = "Not checked: the head's files were not read."
NOT_TESTED = "not tested here"


def _became_here(verdict: Verdict) -> str:
    """Say in words how an engine's run ended."""
    match verdict:
        case "pass":
            return "passed here"
        case "fail":
            return "failed here"
        case "inconclusive":
            return "tested here, inconclusive"
        case "unavailable":
            return "could not be run here"
    return assert_never(verdict)


def _withheld(verdict: Verdict | None) -> str:
    """Return why no untested recipe is printed for an engine with this verdict on the main layout.

    It is empty if one is printed.
    """
    match verdict:
        case "pass":
            return "No command is printed: the report in which it passed did not pass as a whole."
        case "fail":
            return "No command is printed: it failed here."
        case "inconclusive" | "unavailable" | None:
            return ""
    return assert_never(verdict)


@dataclass(frozen=True, slots=True)
class Noted:
    """One engine of the manifest's notes.

    Attributes:
        install: shell lines of the makers, printed as code. pull_requests: (owner/name#123, address).
        engine, name: the engine's name in print, and eagle3hub's. heading: the engine, and how its run ended here.
        remarks: sentences about the recipe, or about why there is none. lead: the line before the recipe.
        command, yaml, python: the recipe; empty where none is printed.
    """

    engine: str
    name: str
    heading: str
    version: str
    requires: str
    requires_link: str
    pull_requests: tuple[tuple[str, str], ...]
    note: str
    install: str
    settings: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    lead: str
    command: str
    yaml: str
    python: str


def noted(
    manifest: Manifest,
    runs: Sequence[Run],
    folders: Sequence[Served],
    tested: Collection[str],
    tool: str,
    benched: Collection[str] = (),
) -> list[Noted]:
    """Return every engine of the manifest's notes, in order.

    ``folders`` are the release's, opened. A recipe is printed for the first folder whose files the engine reads
    correctly, by the preflight. ``tested`` are engines whose tested recipe the card already prints, or says why not;
    ``benched`` are those that a benchmark on the card ran on.
    """
    became = {note.engine: _became(manifest, runs, note.engine, benched) for note in manifest.engines}
    return [
        _noted(manifest, note, runs, folders, tool, became[note.engine], is_tested=note.engine in tested)
        for note in manifest.engines
    ]


def _became(manifest: Manifest, runs: Sequence[Run], engine: str, benched: Collection[str]) -> str:
    """Say in words how an engine's runs ended here."""
    state = outcome(runs, engine, manifest.layouts.main)
    if state:
        return _became_here(state)
    elsewhere = outcome(runs, engine)
    if elsewhere:
        return f"{_became_here(elsewhere)} with another layout"
    return "benchmarked here, not validated" if engine in benched else NOT_TESTED


def outcome(runs: Sequence[Run], engine: str, layout: str | None = None) -> Verdict | None:
    """Return an engine's verdict on one layout or on any: a pass if there is one, else the worst; None if not run."""
    mine = [run for run in runs if run.entry.engine == engine and layout in (None, run.layout)]
    verdicts = {run.entry.verdict for run in mine}
    return next((verdict for verdict in _DECIDING if verdict in verdicts), None)


_DECIDING: tuple[Verdict, ...] = ("pass", "fail", "inconclusive", "unavailable")
"""Verdicts in order: of several, the first one in this list is shown."""


def _noted(
    manifest: Manifest,
    note: EngineNote,
    runs: Sequence[Run],
    folders: Sequence[Served],
    tool: str,
    became: str,
    *,
    is_tested: bool,
) -> Noted:
    title, version = vocabulary.engine(note.engine), default_version(note.engine)
    state = outcome(runs, note.engine, manifest.layouts.main)
    remarks: tuple[str, ...] = ()
    lead = command = yaml = python = ""
    if is_tested:
        pass
    elif why := _withheld(state):
        remarks = (why,)
    else:
        settled = any(run.passed for run in runs)  # all are of one head, whose training is the same in every layout
        chosen = choose(
            folders,
            note.engine,
            version,
            capture=note.aux_layers,
            tensor_parallel=note.tensor_parallel or 1,
            settled=settled,
        )
        remarks = chosen.remarks if chosen is not None else (NOT_READ,)
        if chosen is None or chosen.folder is not None:
            how = "never run with these files" if became == NOT_TESTED else "as it has not passed a test"
            lead = f"Spelled for {title} {version} by {tool}, {how}:"
            command, yaml, python = _engine_recipe(manifest, note, chosen)
    return Noted(
        engine=title,
        name=note.engine,
        heading=", ".join(filter(None, (title, note.title, became))),
        version=note.version,
        requires=note.requires,
        requires_link=note.requires_link,
        pull_requests=tuple((_pull_request(url), url) for url in note.pull_requests),
        note=note.note,
        install=note.install,
        settings=note.settings,
        remarks=remarks,
        lead=lead,
        command=command,
        yaml=yaml,
        python=python,
    )


def _pull_request(url: str) -> str:
    """Write the address of a pull request as its hosts do: owner/name#123."""
    owner, name, *_, number = url.removeprefix("https://").split("/")[1:]
    return f"{owner}/{name}#{number}"


def _parallel(one: Served) -> bool:
    return one.subject.truth.parallel_drafting


def _engine_recipe(manifest: Manifest, note: EngineNote, chosen: Choice | None) -> tuple[str, str, str]:
    """Write command, YAML and Python for a folder of the release; no Python where it would leave out flags or env."""
    repo = manifest.release.repo
    folder = chosen.folder.folder if chosen is not None and chosen.folder is not None else ""
    fetch, head = fetched(manifest, folder) if folder else ("", repo)
    serving = replace(
        note.serving(manifest.target.id, head, manifest.speculative_tokens),
        parallel_drafting=chosen is not None and chosen.folder is not None and _parallel(chosen.folder),
        on_hub=frozenset({manifest.target.id, repo}),
    )
    made = make_recipe(note.engine, serving)
    lines = [*([fetch] if fetch else []), *made.prepare, folded(made.server_command, {**made.env, **note.env})]
    return "\n".join(lines), made.yaml or "", "" if note.flags or note.env else made.python
