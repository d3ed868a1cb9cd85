"""C511: commands that serve the card's own files on an engine that gets these files wrong.

This is the only rule that looks at weights. It needs the opened folders beside the card, and checks them with the
preflight, as ``inspect`` does.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eagle3hub.card import vocabulary
from eagle3hub.card.served import Prospect, Served, captured, fewer_devices, layout_that_works, prospect
from eagle3hub.engines.check.commands import parse_flags
from eagle3hub.engines.check.snippets import ServerCommand, Snippet, extract_snippets
from eagle3hub.engines.specs import default_version, engine_title
from eagle3hub.head.aux_defaults import AUX_CAPTURE
from eagle3hub.lint.model import Card, Violation, rule

_COMMAND = 20_000
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DRAFT_FLAGS = ("--speculative-draft-model-path", "--speculative-draft-model")
_DRAFT_KEYS = ("speculative_model", "speculative_model_dir", "pytorch_weights_path")
_SERVER = re.compile(r"^(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)")
_RESULTS = re.compile(r"(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/blob/[\w.-]+/reports/")
_BASE = re.compile(r"^base_model:\s*(\S+)\s*$", re.M)
_NEEDS = re.compile(r"(?:needs?|requires?|since|from|before|>=?|at least)\W*$", re.I)


@dataclass(frozen=True, slots=True)
class DraftUse:
    """A place where a card starts an engine with a draft head.

    ``head`` is as written; ``line`` starts at 1; ``devices`` is the number that the draft is split over, as far as the
    card says so.
    """

    engine: str
    head: str
    line: int
    capture: tuple[int, ...] | None = None
    devices: int = 1


def draft_uses(text: str) -> list[DraftUse]:
    """Return every draft head that commands, YAML and Python in ``text`` name, sorted by line."""
    found = extract_snippets(text)
    out: list[DraftUse] = []
    for command in found.commands:
        out += _of_command(command)
    for snippet in found.yaml:
        out += _of_yaml(snippet)
    for snippet in found.python:
        out += _of_python(snippet)
    out += _of_conversions(text)
    return sorted(dict.fromkeys(out), key=lambda use: use.line)


def _of_command(command: ServerCommand) -> Iterator[DraftUse]:
    given = {name.replace("_", "-"): value for name, value in parse_flags(command.words).items()}
    heads: list[tuple[str, str | None]] = []
    if command.engine in ("sglang", "sglang_jax", None):
        heads += [(command.engine or "sglang", given.get(flag)) for flag in _DRAFT_FLAGS]
    if command.engine in ("vllm", None):
        heads.append(("vllm", _vllm_model(given.get("--speculative-config"))))
        heads.append(("vllm", given.get("--speculative-config.model")))
    for engine, head in heads:
        if head:
            devices = next((value for flag in _SPLIT if (value := _short(command, given, flag))), None)
            drafts = _vllm_config(given.get("--speculative-config")).get("draft_tensor_parallel_size", devices)
            yield DraftUse(engine, head, command.where.line_of(head), devices=_count(drafts))


_SPLIT = ("--tensor-parallel-size", "--tp-size", "--tp", "-tp")


def _short(command: ServerCommand, given: Mapping[str, str | None], flag: str) -> str | None:
    """Return the value of a flag, which may have one dash alone."""
    if flag in command.words[:-1] and flag not in given:
        return command.words[command.words.index(flag) + 1]
    return given.get(flag)


def _count(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 4 and int(text) else 1


def _vllm_model(config: str | None) -> str | None:
    return _eagle3_model(_vllm_config(config))


def _vllm_config(config: str | None) -> dict[str, object]:
    try:
        found = json.loads(config or "")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _eagle3_model(config: Mapping[str, object]) -> str | None:
    model = config.get("model")
    return model if isinstance(model, str) and config.get("method", "eagle3") == "eagle3" else None


def _of_yaml(snippet: Snippet) -> Iterator[DraftUse]:
    import yaml

    try:
        document = yaml.safe_load(snippet.text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    config = document.get("speculative_config") if isinstance(document, dict) else None
    given = config if isinstance(config, dict) else {}
    for head in (given.get(key) for key in _DRAFT_KEYS):
        if isinstance(head, str):
            yield DraftUse("trtllm", head, snippet.line_of(head), captured(snippet.text))


def _of_python(snippet: Snippet) -> Iterator[DraftUse]:
    try:
        tree = ast.parse(snippet.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        line = snippet.start + getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.Dict):
            config = {k: v for k, v in _literal(node).items() if isinstance(k, str)}
            model = _eagle3_model(config) if "method" in config else None
            if model is not None:
                yield DraftUse("vllm", model, line)
        elif isinstance(node, ast.Call):
            given = {k.arg: _literal_of(k.value) for k in node.keywords if k.arg}
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for flag in _DRAFT_FLAGS:
                head: object = given.get(flag.lstrip("-").replace("-", "_"))
                if isinstance(head, str):
                    yield DraftUse("sglang", head, line, devices=_count(given.get("tp_size")))
            for key in _DRAFT_KEYS if "Eagle" in name else ():
                layers = given.get(AUX_CAPTURE)
                head = given.get(key)
                if isinstance(head, str):
                    yield DraftUse(
                        "trtllm", head, line, tuple(layers) if isinstance(layers, list) and layers else None
                    )


def _literal(node: ast.Dict) -> dict[object, object]:
    return {_literal_of(k): _literal_of(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}


def _literal_of(node: ast.expr) -> object:
    try:
        found = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, str | int | list | tuple) else None


def _of_conversions(text: str) -> Iterator[DraftUse]:
    for line, words in _shell(text, "convert_hf_to_gguf"):
        at = next((i for i, word in enumerate(words) if "convert_hf_to_gguf" in word), len(words))
        if "--target-model-dir" in words and at + 1 < len(words):  # this one is the draft's
            yield DraftUse("llamacpp", words[at + 1], line)


def _shell(text: str, word: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each shell line that contains ``word``, with its line number.

    Continuation lines are joined. A command of more than `_COMMAND` characters is left out.
    """
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if word not in line:
            continue
        end, size = i, len(line)
        while size <= _COMMAND and lines[end].rstrip().endswith("\\") and end + 1 < len(lines):
            end += 1
            size += len(lines[end])
        if size > _COMMAND:
            continue
        joined = " ".join(part.rstrip().removesuffix("\\") for part in lines[i : end + 1])
        try:
            yield i + 1, shlex.split(joined)
        except ValueError:
            continue


def downloads(text: str) -> dict[str, tuple[str, str]]:
    """Return the local folders that commands in ``text`` download repositories into.

    The result maps each folder to (repository, branch).
    """
    found: dict[str, tuple[str, str]] = {}
    for _, words in _shell(text, "download"):
        if "download" not in words or not {"hf", "huggingface-cli"} & set(words):
            continue
        repo = next((w for w in words[words.index("download") + 1 :] if _ID.fullmatch(w)), None)
        given = parse_flags(words)
        folder = given.get("--local-dir")
        if repo and folder:
            found[_plain(folder)] = (repo, given.get("--revision") or "")
    for _, words in _shell(text, "clone"):
        address = next((w for w in words if _SERVER.match(w)), None)
        if "clone" in words and address:
            repo = _SERVER.sub("", address).strip("/")
            folder = next(iter(words[words.index(address) + 1 :]), repo.rpartition("/")[2])
            found[_plain(folder)] = (repo, "")
    return found


def _plain(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def refused_uses(
    text: str, folders: Sequence[Served], own: Collection[str] | None = None
) -> Iterator[tuple[int, str, str]]:
    """Yield (line, what is wrong, what to do) for each use of these folders on an engine that gets them wrong.

    A version that is not known, and is judged as another, is left to `judged_uses`.

    Args:
        own: the ids of the repository that holds the folders; None to take the id from the text, if it gives one.
    """
    for line, seen, place, fix in _refused(text, folders, own):
        if not seen.warning:
            yield line, seen.says(place), fix


def judged_uses(
    text: str, folders: Sequence[Served], own: Collection[str] | None = None
) -> Iterator[tuple[int, str, str]]:
    """Yield the same as `refused_uses`, for versions that are not known and are judged as others."""
    for line, seen, place, fix in _refused(text, folders, own):
        if seen.warning:
            yield line, seen.says(place), fix


def _refused(
    text: str, folders: Sequence[Served], own: Collection[str] | None
) -> Iterator[tuple[int, Prospect, str, str]]:
    for use, one in _uses(text, folders, own):
        seen = _seen(one, use, text)
        if seen is not None and not seen.works:
            yield use.line, seen, one.place, _fix(use, folders, one)


def doubtful_uses(
    text: str, folders: Sequence[Served], own: Collection[str] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line, what is not known) for each use of these folders that is right only if an assumption is true.

    Args:
        own: as in `refused_uses`.
    """
    for use, one in _uses(text, folders, own):
        seen = _seen(one, use, text)
        if seen is not None and seen.kind == "depends":
            yield use.line, f"{seen.title} gets the files in {one.place} right if the head was {seen.condition}"


def _uses(text: str, folders: Sequence[Served], own: Collection[str] | None) -> Iterator[tuple[DraftUse, Served]]:
    """Yield each use of a head in a text, with the folder it names."""
    found, copies = draft_uses(text), downloads(text)
    own = _own(text, found, copies) if own is None else own
    here = {one.folder: one for one in folders}
    for use in found:
        folder = _folder(use.head, own, copies, here)
        one = None if folder is None else here.get(folder)
        if one is not None:
            yield use, one


def _own(text: str, found: Sequence[DraftUse], copies: Mapping[str, tuple[str, str]]) -> set[str]:
    """Return the repository that a card belongs to.

    That is the repository its results link to, or else the only draft head that its commands name.
    """
    linked = set(_RESULTS.findall(text))
    if len(linked) == 1:
        return linked
    named = {head for use in found if _ID.fullmatch(head := _plain_id(use.head))} | {
        repo for repo, _ in copies.values()
    }
    named -= set(_BASE.findall(text))
    return named if len(named) == 1 else set()


def _plain_id(head: str) -> str:
    """Return a name without the Hub's address before it and without a revision after it."""
    return _SERVER.sub("", head).partition("@")[0]


def _folder(
    head: str, own: Collection[str], copies: Mapping[str, tuple[str, str]], here: Collection[str]
) -> str | None:
    """Return the folder of the repository that a name in a command means, or None if it means something else."""
    name = _plain_id(head)
    for repo in own:
        if name == repo:
            return ""
        if name.startswith(f"{repo}/"):
            inside = name[len(repo) + 1 :].strip("/")
            return inside if inside in here else None
    path = _plain(name)
    if name.startswith("./") and path in here:
        return path
    places = {folder: branch for folder, (repo, branch) in copies.items() if repo in own}
    if "/" in name and not _ID.fullmatch(name):  # a folder with the name of the repository
        places = {**dict.fromkeys((repo.rpartition("/")[2] for repo in own), ""), **places}
    for place, branch in sorted(places.items(), key=lambda item: -len(item[0])):
        if path == place:
            return branch if branch in here else ""
        if path.startswith(f"{place}/"):
            inside = path[len(place) + 1 :]
            return inside if inside in here else None
    return None


def _seen(one: Served, use: DraftUse, text: str) -> Prospect | None:
    """Return what the engine does with the files, by the best of the versions that the text may mean.

    None if none of those is known.
    """
    found: Prospect | None = None
    for version in _versions(use, text):
        found = prospect(one, use.engine, version, None, use.capture, use.devices)
        if found.works:
            return found
    return found


def _versions(use: DraftUse, text: str) -> list[str]:
    """Return the engine version that a use means; empty if the text names what is no version.

    It is the last version named before the use, unless that is a bound; else the version that recipes are written for.
    """
    title = re.escape(vocabulary.engine(use.engine))
    before = "\n".join(text.split("\n")[: use.line])
    said = [m for m in re.finditer(rf"{title}\s+v?(\d[\w.]*\w|main)", before, re.I) if not _bound(m, before)]
    return [said[-1][1] if said else default_version(use.engine)]


def _bound(m: re.Match[str], text: str) -> bool:
    after = text[m.end() : m.end() + 20]
    return bool(
        _NEEDS.search(text[max(0, m.start() - 20) : m.start()]) or re.match(r"\s*(?:or|and) \w+er\b|\+", after)
    )


def _fix(use: DraftUse, folders: Sequence[Served], one: Served) -> str:
    version = default_version(use.engine)
    for other in folders:
        if other.folder != one.folder and prospect(other, use.engine, version, None, use.capture, use.devices).works:
            where = f"the folder {other.folder}/" if other.folder else "the repository's root"
            return f"Serve {where}, whose files {engine_title(use.engine)} takes, or leave the command out."
    if use.devices > 1 and prospect(one, use.engine, version, None, use.capture).works:
        return fewer_devices(use.devices)
    name = layout_that_works(one, use.engine, version, use.capture, use.devices)
    return (
        f"Leave the command out, or convert the head to the {name} layout and publish that."
        if name
        else "Leave the command out."
    )


@rule(
    "C511",
    "error",
    "The engine gets these files wrong",
    why="The engine that the command starts refuses the files beside the card, or serves them wrong without an error; "
    "whoever copies the command finds that out alone.",
    fix="Leave the command out, or serve a layout that the engine takes.",
)
def own_files(card: Card) -> Iterator[Violation]:
    """Report commands, YAML and Python that serve the files of the card's folders on an engine that fails."""
    if card.served:
        own = None if card.repo is None else {card.repo}
        for line, message, fix in refused_uses(card.text, card.served, own):
            yield Violation(line, message, fix)
        for line, message, fix in judged_uses(card.text, card.served, own):
            yield Violation(line, message, fix, "warning")
