"""Validate heads that are wrong on purpose: compare what the preflight predicts with what is measured.

    python benchmarks/controls.py [--engine vllm,sglang] [--num-prompts 4] [--only NAME ...] [--engine-python …]

Converts the example head once, breaks copies of it, and validates each as the command does (CPU, float32, greedy, K =
3, 64 tokens) with ``--run-anyway``: the engine is started even if the preflight refuses, and compared with the replay
of the original (``--reference-head``). If the files of a head are right and the engine loses a part of them, the head
is its own original. A head with errors in its files is not validated; the engine is only started with it, to see its
load report. Prints a Markdown table for each engine. Needs what `make test` sets up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import engine_pythons, get_engine
from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.engines.preflight import examine, preflight
from eagle3hub.engines.specs import preflight_version
from eagle3hub.errors import InputError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head
from eagle3hub.prompts import load_prompts
from eagle3hub.releasing.demo import NAME, ensure_target
from eagle3hub.system.progress import silent
from eagle3hub.validation import validate
from eagle3hub.validation.derive import expected_taps
from eagle3hub.validation.engine_runner import Cache, interpreter
from eagle3hub.validation.options import ValidateOptions, engine_names

HEAD = Path(__file__).parent.parent / "examples" / "smollm2-135m" / "head"
KEY = "eagle_aux_hidden_state_layer_ids"
HARMLESS = {"t2d"}
"""Tensors of a head that no engine needs."""


def config(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    every = load_file(path)
    edit(every)
    save_file(every, path, metadata={"format": "pt"})


def layers(*after: int) -> Callable[[Path], None]:
    def edit(document: dict) -> None:
        document[KEY] = [i + 1 for i in after]
        document["eagle_config"][KEY] = list(after)

    return lambda folder: config(folder, edit)


def fields(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: config(folder, lambda document: document.update(changes))


def left_out(key: str) -> Callable[[Path], None]:
    return lambda folder: config(folder, lambda document: document.pop(key))


def other_layers_at_the_top(folder: Path) -> None:
    layers(0, 13, 25)(folder)
    config(folder, lambda document: document["eagle_config"].pop(KEY))


def reversed_blocks(folder: Path) -> None:
    tensors(folder, lambda t: t.update({"fc.weight": torch.cat(t["fc.weight"].chunk(3, dim=1)[::-1], dim=1)}))


def shuffled_map(folder: Path) -> None:
    def edit(t: dict[str, torch.Tensor]) -> None:
        ids = t["d2t"] + torch.arange(len(t["d2t"]))
        ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
        t["d2t"] = ids - torch.arange(len(ids))

    tensors(folder, edit)


def identity_map(folder: Path) -> None:
    def edit(t: dict[str, torch.Tensor]) -> None:
        t["t2d"] = torch.arange(len(t["t2d"])) < len(t["d2t"])
        t["d2t"] = torch.zeros_like(t["d2t"])

    tensors(folder, edit)


def random_weight(name: str) -> Callable[[Path], None]:
    def edit(t: dict[str, torch.Tensor]) -> None:
        noise = torch.randn(t[name].shape, generator=torch.Generator().manual_seed(0))
        t[name] = (noise * t[name].float().std()).to(t[name].dtype)

    return lambda folder: tensors(folder, edit)


def ones(name: str) -> Callable[[Path], None]:
    return lambda folder: tensors(folder, lambda t: t.update({name: torch.ones_like(t[name])}))


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: tensors(folder, lambda t: t.pop(name))


def renamed(begin: str, other: str) -> Callable[[Path], None]:
    def edit(t: dict[str, torch.Tensor]) -> None:
        for name in [name for name in t if name.startswith(begin)]:
            t[other + name.removeprefix(begin)] = t.pop(name)

    return lambda folder: tensors(folder, edit)


def added(name: str, *shape: int) -> Callable[[Path], None]:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    return lambda folder: tensors(folder, lambda t: t.update({name: noise}))


def rope(**changes: Any) -> Callable[[Path], None]:
    def edit(document: dict) -> None:
        found = {"rope_type": "default", "rope_theta": document["rope_theta"], **changes}
        scaling = {key: value for key, value in found.items() if key != "rope_theta"}
        document["rope_theta"], document["rope_parameters"] = found["rope_theta"], found
        document["rope_scaling"] = scaling if found["rope_type"] != "default" else None

    return lambda folder: config(folder, edit)


@dataclass(frozen=True, slots=True)
class Control:
    """A way to break a head in a layout; ``lost`` means that its files are right and the engine loses a part."""

    name: str
    sabotage: Callable[[Path], object]
    lost: bool = False
    layout: str = "specforge"


CONTROLS = (
    Control("as trained", Path.exists),
    Control("boundary ids removed", left_out(KEY)),
    Control("other layers, ids at top level only", other_layers_at_the_top, lost=True),
    Control("taps one layer too low", layers(0, 13, 25)),
    Control("taps one layer too high", layers(2, 15, 27)),
    Control("taps 0, 1, 2", layers(0, 1, 2)),
    Control("fc columns reversed", reversed_blocks),
    Control("d2t removed", without("d2t")),
    Control("d2t shuffled", shuffled_map),
    Control("d2t identity", identity_map),
    Control("norm_before_residual: true", fields(norm_before_residual=True), layout="speculators"),
    Control("norm_before_residual left out", left_out("norm_before_residual"), layout="speculators"),
    Control("RoPE base 10,000", rope(rope_theta=10000.0)),
    Control("RoPE scaling written", rope(rope_type="linear", factor=4.0)),
    Control("hidden_norm = 1", ones("midlayer.hidden_norm.weight")),
    Control("norm = 1", ones("norm.weight")),
    Control("random fc", random_weight("fc.weight")),
    Control("random q_proj", random_weight("midlayer.self_attn.q_proj.weight")),
    Control("own embed_tokens", added("embed_tokens.weight", 49152, 576), lost=True),
    Control("tie_word_embeddings: true", fields(tie_word_embeddings=True)),
    Control("draft_vocab_size: null", fields(draft_vocab_size=None)),
    Control("fc removed", without("fc.weight")),
    Control("hidden_norm removed", without("midlayer.hidden_norm.weight")),
    Control("k_proj removed", without("midlayer.self_attn.k_proj.weight")),
    Control("names midlayer.0.*", renamed("midlayer.", "midlayer.0.")),
    Control("names model.*", renamed("midlayer.", "model.midlayer.")),
    Control("bias of q_proj added", added("midlayer.self_attn.q_proj.bias", 576)),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """The settings of every control."""

    work: Path
    target: Path
    num_prompts: int
    pythons: Mapping[str, str]
    cache: Cache

    def made(self, layout: str) -> Path:
        """Return the example head in a layout; it is converted once."""
        place = self.work / layout
        if not place.exists():
            convert(
                HEAD, place, layout, ConvertOptions(target=str(self.target), target_name=NAME, speculative_tokens=3)
            )
        return place


def rows(control: Control, engines: list[str], bench: Bench) -> dict[str, list[str]]:
    """Return a row for the table of each engine."""
    made = bench.made(control.layout)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(shutil.copytree(made, Path(work) / "head"))
        control.sabotage(folder)
        try:
            report = validate(
                folder,
                bench.target,
                ValidateOptions(
                    engine=["reference", *engines],
                    num_prompts=bench.num_prompts,
                    reference_head=folder if control.lost else made,
                    engine_python=bench.pythons,
                    run_anyway=True,
                ),
                cache=bench.cache,
            ).document
        except InputError as error:
            return {name: faulty(error.code, folder, name, bench) for name in engines}
        if not report["engines"]:
            code = next(p["code"] for p in report["static"]["problems"] if p["severity"] == "error")
            return {name: faulty(code, folder, name, bench) for name in engines}
        wanted = expected_taps(open_head(folder, target=str(bench.target)))
        replay, *others = report["engines"]
        return {
            entry["engine"]: [counted(replay), foreseen(entry["preflight"]), counted(entry), measured(entry, wanted)]
            for entry in others
        }


def foreseen(expected: Mapping[str, Any]) -> str:
    """Return the preflight's verdict, and the codes of the findings that decide it."""
    codes = [r["code"] for r in expected["reasons"] if r["effect"] == expected["verdict"]]
    said = expected["verdict"].replace("_", " ")
    return said if said == "right" else f"{said}: {', '.join(codes)}"


def counted(entry: Mapping[str, Any]) -> str:
    found = entry.get("acceptance")
    return "–" if found is None else f"{found['rounds']} / {found['mean_acceptance_length']:.3f}"


def measured(entry: Mapping[str, Any], wanted: list[int] | None) -> str:
    """Return the verdict, and every fault that is enough for it."""
    if "load" not in entry:
        return f"**{entry['verdict']}**: {shorten(entry['reason'], 120, placeholder=' …')}"
    load = entry["load"]
    seen = lost(load["not_loaded"], load["ignored"])
    if load["aux_boundaries"] and wanted and load["aux_boundaries"] != wanted:
        seen.append(f"taps {load['aux_boundaries']}")
    gates = {gate["name"]: gate for gate in entry["gates"]}
    if "collapse" in gates and gates["collapse"]["verdict"] == "fail":
        seen.append("collapse")
    gate = gates.get("agreement")
    if gate and gate["verdict"] == "fail":
        seen.append(f"rounds in {gate['evidence']['different']} of {gate['evidence']['prompts']} prompts")
    return f"**{entry['verdict']}**" + (f": {'; '.join(seen)}" if seen else "")


def lost(not_loaded: Sequence[str], ignored: Sequence[str]) -> list[str]:
    """Return the faults in a load report."""
    unused = [name for name in ignored if name not in HARMLESS]
    return [
        f"{what} {', '.join(names[:2])}{' …' if len(names) > 2 else ''}"
        for what, names in (("not filled", not_loaded), ("unused", unused))
        if names
    ]


def faulty(code: str, folder: Path, name: str, bench: Bench) -> list[str]:
    """Return the row of a head whose files have the error ``code``; the engine is started with it anyway."""
    engine, prompts = get_engine(name), load_prompts("smoke", 1)
    job = RunSpec(str(bench.target), folder, prompts, max_new_tokens=16)
    terms = preflight_version(name, engine.version, job.device)
    expected = preflight(examine(open_checkpoint(folder)), name, terms, read_target(str(bench.target)))
    said = ["–", f"files: {code}; {foreseen(expected.to_json())}", "–"]
    run = engine.run(job, interpreter(engine, job.device, bench.pythons), timeout=900, progress=silent)
    if isinstance(run, EngineFailure):
        return [*said, f"**{run.verdict}**: {shorten(run.reason, 120, placeholder=' …')}"]
    seen = lost(run.load.not_loaded, run.load.ignored) if run.load else []
    return [*said, f"**fail**: {'; '.join(seen)}" if seen else "served without a complaint"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--engine", default="vllm,sglang")
    parser.add_argument("--only", nargs="*", default=None, help="names of controls")
    parser.add_argument("--engine-python", action="append", default=[])
    options = parser.parse_args()
    engines = engine_names(options.engine)
    tables: dict[str, list[str]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), ensure_target(), options.num_prompts, engine_pythons(options.engine_python), Cache())
        for control in CONTROLS:
            if options.only is None or control.name in options.only:
                name = f"{control.name} (its own original)" if control.lost else control.name
                for engine, cells in rows(control, engines, bench).items():
                    tables[engine].append("| " + " | ".join([name, *cells]) + " |")
                    print(engine, tables[engine][-1], flush=True)
    for engine in engines:
        print(
            f"\n| control | replay: rounds / τ | preflight | {engine}: rounds / τ | measured |\n|---|---|---|---|---|"
        )
        print("\n".join(tables[engine]))


if __name__ == "__main__":
    main()
