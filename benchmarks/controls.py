"""Heads that are wrong on purpose, through `eagle3hub validate`: what does the verdict catch?

    python benchmarks/controls.py [--num-prompts 16] [--engine reference,vllm] [--only NAME ...]

Converts the example head once, breaks copies of it, and validates each as the command does (CPU, float32, greedy,
K = 3, 64 tokens), by replay and on vLLM, held against the original: ``--reference-head``. Prints a Markdown table.
The target alone is run once. Needs what `make test` sets up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from eagle3hub.conversion import convert
from eagle3hub.demo_target import NAME, ensure_target
from eagle3hub.engines.options import engine_pythons
from eagle3hub.errors import InputError
from eagle3hub.validation import validate
from eagle3hub.validation.kept import Kept

HEAD = Path(__file__).parent.parent / "examples" / "smollm2-135m" / "head"
KEY = "eagle_aux_hidden_state_layer_ids"


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


def nested_only(folder: Path) -> None:
    config(folder, lambda document: document.pop(KEY))


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


def theta(folder: Path) -> None:
    def edit(document: dict) -> None:
        document["rope_theta"] = document["rope_parameters"]["rope_theta"] = 10000.0

    config(folder, edit)


CONTROLS: dict[str, Callable[[Path], object]] = {
    "as trained": Path.exists,
    "boundary ids removed": nested_only,
    "taps one layer too low": layers(0, 13, 25),
    "taps one layer too high": layers(2, 15, 27),
    "taps reversed": reversed_blocks,
    "taps 0, 1, 2": layers(0, 1, 2),
    "d2t shuffled": shuffled_map,
    "d2t identity": identity_map,
    "random fc": random_weight("fc.weight"),
    "random q_proj": random_weight("midlayer.self_attn.q_proj.weight"),
    "hidden_norm = 1": ones("midlayer.hidden_norm.weight"),
    "norm = 1": ones("norm.weight"),
    "RoPE theta 10,000": theta,
    "fc removed": without("fc.weight"),
    "hidden_norm removed": without("midlayer.hidden_norm.weight"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--engine", default="reference,vllm")
    parser.add_argument("--only", nargs="*", default=None, help="names of controls")
    parser.add_argument("--engine-python", action="append", default=[])
    options = parser.parse_args()
    target = ensure_target()
    kept = Kept()
    titles = [f"{name}: rounds | accepted | τ | prompts that differ" for name in options.engine.split(",")]
    print(f"| control | {' | '.join(titles)} | verdict | why |\n|---|{'---|' * (4 * len(titles))}---|---|")
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "specforge"
        convert(HEAD, made, "specforge", target=str(target), target_name=NAME)
        for name, sabotage in CONTROLS.items():
            if options.only is not None and name not in options.only:
                continue
            folder = Path(shutil.copytree(made, Path(work) / "head"))
            sabotage(folder)
            try:
                report = validate(
                    folder,
                    target=target,
                    engine=options.engine,
                    num_prompts=options.num_prompts,
                    reference_head=HEAD,
                    engine_python=engine_pythons(options.engine_python),
                    kept=kept,
                )
                row = describe(report.document, len(titles))
            except InputError as refused:
                row = ["–"] * (4 * len(titles)) + ["refused", refused.message]
            shutil.rmtree(folder)
            print("| " + " | ".join([name, *row]) + " |", flush=True)


def describe(document: Mapping[str, Any], engines: int) -> list[str]:
    if not document["engines"]:
        problem = next(p for p in document["static"]["problems"] if p["severity"] == "error")
        return ["–"] * (4 * engines) + [document["verdict"], problem["message"]]
    row = []
    for engine in document["engines"]:
        found = engine["acceptance"]
        evidence = next((gate["evidence"] for gate in engine["gates"] if gate["name"] == "agreement"), None) or {}
        per_position = ", ".join(map(str, found["accepted_per_position"]))
        differ = f"{evidence.get('different', 0)} of {document['prompts']['count']}"
        row += [str(found["rounds"]), per_position, f"{found['mean_acceptance_length']:.3f}", differ]
    worst = next((e for e in document["engines"] if e["verdict"] == document["verdict"]), document["engines"][0])
    return [*row, document["verdict"], worst["reason"].partition(" (first")[0]]


if __name__ == "__main__":
    main()
