"""Read heads with the speculators library itself. Run by the library's interpreter:

    python speculators_reader.py JOB.json    # {"heads": {name: folder}, "exporters": folder of tests/exporters}

Prints one JSON document: by head, what the library left unset or ignored, and its own logits on the shared inputs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def read(folder: str, common: Any, forward: Any) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file
    from speculators.model import SpeculatorModel

    model = SpeculatorModel.from_pretrained(folder)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("verifier_")}
    stored = load_file(Path(folder) / "model.safetensors")
    if "embed_tokens.weight" not in stored:
        # from_pretrained of 0.9.0 takes the target's embeddings only where its own are NaN, but allocates them
        # uninitialised; its dflash models ask for them like this
        model._load_verifier_weights(overwrite_embed_tokens=True)
    aux = model.fc.in_features // model.config.transformer_layer_config.hidden_size
    seen = forward.run(model, common.inputs(aux))
    target_ids = None if model.d2t is None else (model.d2t + torch.arange(len(model.d2t))).tolist()
    return {
        "class": type(model).__name__,
        "ignored": sorted(stored.keys() - own.keys()),
        "unset": sorted(own.keys() - stored.keys() - {"embed_tokens.weight"}),
        "changed": sorted(k for k in stored.keys() & own.keys() if not torch.equal(stored[k].float(), own[k].float())),
        "target_ids": target_ids,
        "taps": model.target_layer_ids,
        **{k: v.tolist() for k, v in seen.items()},
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.insert(0, job["exporters"])
    import common
    import speculators_forward

    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # where the Hub id the heads give for their target is a relative path, too
        Path("owner").mkdir()
        common.write_target(Path("owner/target"))
        for name, folder in job["heads"].items():
            try:
                out[name] = read(folder, common, speculators_forward)
            except Exception as e:
                out[name] = {"failed": f"{type(e).__name__}: {e}"}
    Path(job["result"]).write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main()
