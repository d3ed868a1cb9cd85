"""Unpack a GGUF model into a transformers folder: ``python unpack_gguf.py FILE FOLDER``.

It runs in its own process, because it needs torch; it uses only transformers, gguf and accelerate.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """De-quantize FILE to bfloat16, and save model and tokenizer in FOLDER."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, folder = Path(sys.argv[1]), sys.argv[2]
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
