"""Write a commented release.yaml to start from, filled with what the head's own files say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub.address import HubAddress, is_hub_id, parse_address, parse_hub_address
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import SourceError, UsageError
from eagle3hub.head import Head
from eagle3hub.layouts import open_head
from eagle3hub.system import resources
from eagle3hub.system.text import visible

_HUB_ID = "owner/name"


def starter(head: Head, source: str, target: str, repo: str | None = None) -> str:
    """Return the text of a release.yaml for a head.

    Args:
        source: what the manifest calls the head: a folder, relative to the manifest, or ``hf://owner/name``.
        target: Hub id of the target, with or without a revision.
        repo: Hub id to publish to; by default made from the target's name.

    Raises UsageError if target or repository is not a Hub id.
    """
    at = _on_hub("--target", target)
    if repo is not None and not is_hub_id(repo):
        raise _no_hub_id("--repo", repo)
    published = repo or f"your-name/{at.name}-eagle3"
    schema = resources.schema("manifest")["properties"]
    read = [
        f"{head.layout} layout, {head.num_parameters:,} parameters, {head.dims.draft_vocab_size:,} of "
        f"{head.dims.vocab_size:,} tokens",
    ]
    if head.semantics.uses_aux and head.aux is not None:
        read.append(f"hidden states after target layers {', '.join(str(t) for t in head.aux.taps)}")
    lines = [
        "# Everything about this release that cannot be measured. Paths are relative to this file.",
        *(f"# Read from the head: {visible(text)}." for text in read),
        "# Lines that start with #? are optional: take the mark away and fill them in.",
        "schema: eagle3hub/manifest/1",
        "",
        f"head:  # {_about(schema, 'head')}",
        f"  source: {_quoted(source)}",
        "",
        f"target:  # {_about(schema, 'target')}",
        f"  id: {at.repo_id}",
        "  license: unknown  # as the Hub spells it: apache-2.0, mit, …",
        f"  revision: {_quoted(at.revision)}" if at.revision else "#?  revision: main",
        "",
        f"release:  # {_about(schema, 'release')}",
        f"  repo: {published}",
        f"  title: {_quoted(published.split('/')[1])}",
        "  summary: What a reader should know first, in a sentence or two.",
        "  license: unknown  # yours to choose, within the terms of target and training data",
        "#?  language: [en]",
        "#?  datasets: [owner/name]",
        "#?  authors: [your name]",
        "",
        f"layouts:  # {_about(schema, 'layouts')}",
        f"  main: {head.layout}",
        "#?  also: [universal]",
        "",
        f"speculative_tokens: 3  # {_about(schema, 'speculative_tokens')}",
        "",
        *_optional("training", schema["training"]["properties"]),
        "#? sections:  # text of your own: it goes here, not into the card",
        "#?   - title: Our own words",
        "#?     text: Markdown, one section of the card.",
        "",
        "#? limitations:",
        "#?   - What it was not tested for.",
        "",
        "#? citations: [eagle, eagle2]  # keys of the bibliography; eagle3 is always cited",
        "#? reports: [reports/*.json]  # what eagle3hub validate wrote",
        "#? benchmarks: [benchmarks/*.json]  # what eagle3hub bench wrote",
        "#? imported: [imported/*.yaml]  # what others measured",
        "",
        f"#? publish:  # {_about(schema, 'publish')}",
        "#?   stage: true",
        "#?   gated: manual",
        "#?   collection: owner/title-64f9a55bb3115b4f513ec026",
        "#?   tag: v1.0",
    ]
    return "\n".join(lines) + "\n"


def write_starter(source: str, target: str, repo: str | None, output: Path) -> None:
    """Write a starting release.yaml for the head at ``source`` to ``output``.

    Raises UsageError for names that are not Hub ids or a file that exists, InputError for a head that cannot be read,
    and OutputError if the file cannot be written.
    """
    if output.exists():
        raise UsageError(f"{output} exists", hint="name another file with --output", code="usage-exists")
    head = open_head(source)
    at = parse_address(source)
    named = str(at) if isinstance(at, HubAddress) else os.path.relpath(at.path, output.absolute().parent)
    replace_file(output, starter(head, named, target, repo).encode("utf-8"))


def _on_hub(option: str, given: str) -> HubAddress:
    try:
        at = parse_hub_address(given)
    except SourceError:
        raise _no_hub_id(option, given) from None
    if at.folder:
        raise _no_hub_id(option, given)
    return at


def _no_hub_id(option: str, given: str) -> UsageError:
    return UsageError(f"{option} {given!r} is not a Hub id", hint=f"write it as {_HUB_ID}", code="usage-hub-id")


def _optional(name: str, fields: Mapping[str, Any]) -> list[str]:
    lines = [f"#? {name}:"]
    for key, field in fields.items():
        if "string" in field.get("type", ()) and not key.startswith("data_license"):
            lines.append(f"#?   {key}:  # {field['description']}")
    return [*lines, ""]


def _about(schema: Mapping[str, Any], key: str) -> str:
    text: str = schema[key]["description"]
    return text.split(". ")[0].rstrip(".")


def _quoted(text: str) -> str:
    """Write text as one YAML scalar on one line, whatever it holds."""
    return json.dumps(text, ensure_ascii=True)
