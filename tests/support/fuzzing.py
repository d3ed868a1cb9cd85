"""What the fuzzers share: small heads to start from, ways to damage bytes, and the readers under test.

Every target takes bytes, puts them where one of the files of a head belongs, and lets the program read the folder. It
may raise Eagle3HubError and nothing else, and what it says must be one line of bounded length. No torch here: the
process must stay small enough for its peak memory to mean something.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import signal
import subprocess
import sys
import traceback
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import Eagle3HubError
from eagle3hub.inspection import describe
from eagle3hub.layouts import LAYOUTS, open_head, provenance
from eagle3hub.layouts.base import WriteOptions

H, INTER, HEADS, HEAD_DIM, VOCAB, DRAFT = 8, 12, 2, 4, 40, 10
LONGEST_MESSAGE = 1000
Target = Callable[[bytes], None]
Tensor = tuple[str, str, tuple[int, ...], bytes]


@dataclass(frozen=True)
class Finding:
    """An input that a reader did not survive."""

    target: str
    data: bytes
    what: str


class Hang(BaseException):
    """An input took longer than its time limit."""


class Workbench:
    """A folder with small heads, the targets that damage them, and the inputs to start from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.targets: dict[str, Target] = {}
        self.seeds: dict[str, list[bytes]] = {}
        target = folder / "target"
        target.mkdir()
        self._add("target", target / "config.json", json.dumps(_TARGET).encode(), self._with_target)
        base = _specjax(folder / "specjax-source")
        self._add("header", folder / "loose.safetensors", (base / "model.safetensors").read_bytes(), read_header)
        for name in LAYOUTS:
            made = folder / name
            try:
                convert(base, made, name, ConvertOptions(target=str(target), speculative_tokens=3))
            except Eagle3HubError:
                continue
            self._add(f"config:{name}", made / "config.json", None, lambda path, name=name: _use(path.parent, name))
            twin = _copy(made, folder / f"{name}-weights")
            self._add(
                f"weights:{name}", twin / "model.safetensors", None, lambda path, name=name: _use(path.parent, name)
            )
            twin = _copy(made, folder / f"{name}-record")
            self._add(f"record:{name}", twin / "eagle3hub.json", None, _with_record)
        for name, (architecture, mark, prefix) in _READ_ONLY.items():
            made = _foreign(folder / "specforge", folder / name, {"architectures": [architecture], **mark}, prefix)
            self._add(f"config:{name}", made / "config.json", None, lambda path, name=name: _use(path.parent, name))
            twin = _copy(made, folder / f"{name}-weights")
            self._add(
                f"weights:{name}", twin / "model.safetensors", None, lambda path, name=name: _use(path.parent, name)
            )
        made = _mla(folder / "mla", base)
        self._add("config:mla", made / "config.json", None, lambda path: _use(path.parent, "modelopt"))
        twin = _copy(made, folder / "mla-weights")
        self._add("weights:mla", twin / "model.safetensors", None, lambda path: _use(path.parent, "modelopt"))
        self._sharded(_copy(base, folder / "sharded"))
        self._pickled(_copy(base, folder / "pickled"))

    def _add(self, name: str, path: Path, seed: bytes | None, read: Callable[[Path], object]) -> None:
        first = path.read_bytes() if seed is None else seed
        path.write_bytes(first)

        def target(data: bytes) -> None:
            path.write_bytes(data)
            read(path)

        self.targets[name] = target
        self.seeds[name] = [first]

    def _with_target(self, path: Path) -> None:
        open_head(self.folder / "specjax-source", target=str(path.parent))

    def _sharded(self, folder: Path) -> None:
        header = read_header(folder / "model.safetensors")
        names = sorted(header.tensors)
        files = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
        for file, part in files.items():
            _write(folder / file, [(n, r.dtype, r.shape, read_tensor(r)) for n in part for r in (header.tensors[n],)])
        (folder / "model.safetensors").unlink()
        index = {"metadata": {"total_size": 1}, "weight_map": {n: f for f, part in files.items() for n in part}}
        self._add(
            "index", folder / "model.safetensors.index.json", json.dumps(index).encode(), lambda p: _use(p.parent)
        )

    def _pickled(self, folder: Path) -> None:
        """Pickles as torch writes them, where torch is there; in a process of its own, unless it is loaded here."""
        code = (
            "import torch\n"
            "from safetensors.torch import load_file\n"
            "tensors = load_file(folder + '/model.safetensors')\n"
            "torch.save(tensors, folder + '/zip')\n"
            "torch.save({'draft_state_dict': tensors, 'global_step': 3}, folder + '/nested')\n"
            "torch.save(tensors, folder + '/legacy', _use_new_zipfile_serialization=False)\n"
        )
        if "torch" in sys.modules:
            exec(code, {"folder": str(folder)})
        else:
            subprocess.run([sys.executable, "-c", f"folder = {str(folder)!r}\n{code}"], capture_output=True)
        (folder / "model.safetensors").unlink()
        if not (folder / "legacy").exists():
            return
        seeds = [(folder / name).read_bytes() for name in ("zip", "nested", "legacy")]
        self._add("pickle", folder / "pytorch_model.bin", seeds[0], lambda path: _use(path.parent))
        self.seeds["pickle"] = seeds


_READ_ONLY: dict[str, tuple[str, dict[str, object], str]] = {
    "torchspec": ("LlamaForCausalLMEagle3", {"_torchspec_version": "0.1.0"}, ""),
    "nemo": ("LlamaEagle3DraftModel", {"norm_output": True, "parallel_drafting": False}, "model."),
    "flat": ("Eagle3MiniMaxM2ForCausalLM", {"target_layer_ids": [1, 3, 5]}, ""),
}
"""Of each layout that is read only: the class, the fields and the prefix of names that tell it."""


def _foreign(source: Path, folder: Path, fields: Mapping[str, object], prefix: str) -> Path:
    """A copy of a SpecForge head as another trainer spells it."""
    _copy(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    (folder / "eagle3hub.json").unlink(missing_ok=True)
    tensors = read_header(folder / "model.safetensors").tensors
    spelled = []
    for name, ref in tensors.items():
        own = name.replace("midlayer.", "layers.0.") if prefix else name
        own = own if own in ("lm_head.weight", "d2t", "t2d") else f"{prefix}{own}"
        spelled.append((own, ref.dtype, ref.shape, read_tensor(ref)))
    _write(folder / "model.safetensors", spelled)
    return folder


def _use(folder: Path, layout: str | None = None) -> None:
    """All that inspecting and converting do with a folder, short of writing files: as detected, and as named."""
    if layout is not None:
        try:
            _check_head(open_checkpoint(folder), layout)
        except Eagle3HubError as e:
            _check_message(e)
    _check_head(open_checkpoint(folder))


def _check_head(checkpoint: Checkpoint, layout: str | None = None) -> None:
    head = open_head(checkpoint, layout=layout)
    json.dumps(describe(head, checkpoint.tensors))
    for problem in head.problems:
        _check_message(problem.to_error())
    if any(p.severity == "error" for p in head.problems):
        return
    json.dumps(provenance.carried_after(head))
    for codec in LAYOUTS.values():
        try:
            spelled = codec.write(head, WriteOptions(speculative_tokens=3))
        except Eagle3HubError as e:
            _check_message(e)
            continue
        json.dumps(spelled.config)
        assert len({t.name for t in spelled.tensors}) == len(spelled.tensors), "two tensors of one name"


def _with_record(path: Path) -> None:
    """A record that claims to belong to the files beside it, if it is a JSON object at all."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        checkpoint = open_checkpoint(path.parent)
        record |= {"schema": provenance.SCHEMA, "fingerprint": provenance.fingerprint(checkpoint)}
        path.write_text(json.dumps(record))
    _use(path.parent)


def _check_message(error: Eagle3HubError) -> None:
    for text in (error.message, error.hint or ""):
        assert len(text) <= LONGEST_MESSAGE, f"an error message of {len(text)} characters"
        assert text.isprintable(), f"an error message with control characters: {text[:200]!r}"


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def expired(_signum: int, _frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(name: str, target: Target, data: bytes, *, seconds: float = 5.0) -> Finding | None:
    """Run one target on one input; what it did wrong, or None."""
    try:
        with _limit(seconds):
            target(data)
    except Eagle3HubError as e:
        try:
            _check_message(e)
        except AssertionError as wrong:
            return Finding(name, data, str(wrong))
    except Hang:
        return Finding(name, data, f"took more than {seconds:g} s")
    except Exception as e:
        return Finding(name, data, f"{type(e).__name__} {_place(e)}: {e}"[:300])
    return None


def _place(error: Exception) -> str:
    """The innermost line of the package that an exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/eagle3hub/" in f.filename] or frames
    return f"in {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def peak_memory() -> int:
    """The most memory this process has used so far, in bytes (that of its parent does not count)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 40, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), "", "a" * 5000, "\x00", "\x1b[31m", "line\nline", "../x", "é😀"),
    *([], {}, [0], [1, 14, 26], [26, 14, 1], [2, 2, 2], [2**70] * 3, ["1"], [[]], {"a": {}}, {"": None}, [None] * 4),
    *("llama", "qwen3", "eagle3", "peagle", "default", "yarn", "llama3", "silu", "gelu", "bfloat16", "float99"),
    *("I64", "I32", "BOOL", "BF16", "F8_E4M3", "F4", "layers.0.", "midlayer.", "../../etc/passwd", "/dev/zero"),
]


class Damage:
    """Bytes to other bytes: blindly, or as JSON, or as the header of a safetensors file."""

    def __init__(self, seed: int, seeds: dict[str, list[bytes]]) -> None:
        self.rng = random.Random(seed)
        self.pool = [data for group in seeds.values() for data in group]
        self.keys = sorted({key for data in self.pool for key in _keys(_header_json(data) or _json(data))})

    def __call__(self, data: bytes) -> bytes:
        kind = self.rng.random()
        if kind < 0.25:
            return self.blindly(data)
        header = _header_json(data)
        if header is not None:
            length = int.from_bytes(data[:8], "little")
            if kind < 0.4:  # the data behind the header: the vocabulary buffers lie there
                return data[: 8 + length] + self.blindly(data[8 + length :])[: len(data) - 8 - length]
            text = self._dump(header)
            return len(text).to_bytes(8, "little") + text + data[8 + length :]
        value = _json(data)
        return self.blindly(data) if value is None else self._dump(value)

    def blindly(self, data: bytes) -> bytes:
        """Flip, cut, repeat, overwrite or splice, once or a few times."""
        out = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 2, 4, 16))):
            at = self.rng.randrange(len(out) + 1)
            span = min(self.rng.choice((1, 2, 4, 8, 64, 1024)), len(out) - at)
            how = self.rng.randrange(7)
            if how == 0 and span:
                out[at] ^= 1 << self.rng.randrange(8)
            elif how == 1:
                del out[at : at + span]
            elif how == 2:
                out[at:at] = out[at : at + span] * self.rng.choice((1, 2, 50))
            elif how == 3:
                width = self.rng.choice((1, 4, 8))
                number = self.rng.choice((0, 1, -1, 127, 2**31 - 1, 2**63 - 1, -(2**63), self.rng.getrandbits(62)))
                out[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
            elif how == 4:
                out[at : at + span] = self.rng.randbytes(span)
            elif how == 5:
                other = self.rng.choice(self.pool)
                start = self.rng.randrange(len(other))
                out[at : at + span] = other[start : start + self.rng.choice((span, 64, 4096))]
            else:
                out = out[:at]
        return bytes(out[:1_000_000])

    def _dump(self, value: Any) -> bytes:
        for _ in range(self.rng.choice((1, 1, 1, 2, 3, 8))):
            value = self.structurally(value)
        text = json.dumps(value)
        if self.rng.random() < 0.02:
            depth = self.rng.choice((10, 1000, 100000))
            text = text.replace("null", "[" * depth + "]" * depth, 1)
        return text.encode("utf-8", "surrogatepass")

    def nasty(self) -> Any:
        """A value nobody expects; a copy, for the next step may change it."""
        return copy.deepcopy(self.rng.choice(NASTY))

    def structurally(self, value: Any) -> Any:
        """Change one place of a JSON value."""
        places = list(_places(value))
        if not places or self.rng.random() < 0.02:
            return self.nasty()
        parent, key = self.rng.choice(places)
        how = self.rng.randrange(7)
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict) and self.keys:
            parent[self.rng.choice((*self.keys, "\x1b", ""))] = parent.pop(key)
        elif how == 2 and isinstance(parent, dict) and self.keys:
            parent[self.rng.choice(self.keys)] = self.nasty()
        elif how == 3 and len(places) > 1:
            other, place = self.rng.choice(places)
            parent[key] = json.loads(json.dumps(other[place]))
        elif how == 4 and type(parent[key]) is int:
            parent[key] += self.rng.choice((-1, 1, 2, 8, -8, 10**9))
        elif how == 5 and isinstance(parent[key], str):
            parent[key] += self.rng.choice(("x", ".", "_scale", "\n", "é", ".bias"))
        else:
            parent[key] = self.nasty()
        return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    todo = [value]
    while todo:
        here = todo.pop()
        pairs = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, inner in list(pairs):
            yield here, key
            todo.append(inner)


def _keys(value: Any) -> set[str]:
    return {key for _, key in _places(value) if isinstance(key, str)}


def _json(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _header_json(data: bytes) -> Any:
    length = int.from_bytes(data[:8], "little")
    return _json(data[8 : 8 + length]) if 2 <= length <= len(data) - 8 else None


_TARGET = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": H,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}


def _mla(folder: Path, base: Path) -> Path:
    """The same head with MLA attention, as ModelOpt writes one."""
    folder.mkdir()
    rng, rank, latent, nope, rope, value = random.Random(1), 6, 10, 4, 2, 3
    own = {
        "q_a_proj": (rank, 2 * H),
        "q_a_layernorm": (rank,),
        "q_b_proj": (HEADS * (nope + rope), rank),
        "kv_a_proj_with_mqa": (latent + rope, 2 * H),
        "kv_a_layernorm": (latent,),
        "kv_b_proj": (HEADS * (nope + value), latent),
        "o_proj": (H, HEADS * value),
    }
    tensors: list[Tensor] = [
        (f"layers.0.self_attn.{n}.weight", "BF16", s, rng.randbytes(2 * math.prod(s))) for n, s in own.items()
    ]
    for name, ref in read_header(base / "model.safetensors").tensors.items():
        if "self_attn" not in name and name != "t2d":
            tensors.append((name.replace("midlayer.", "layers.0."), ref.dtype, ref.shape, read_tensor(ref)))
    _write(folder / "model.safetensors", tensors)
    config = json.loads((base / "config.json").read_text())
    config |= {"q_lora_rank": rank, "kv_lora_rank": latent, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope}
    config |= {"v_head_dim": value, "architectures": ["Eagle3DeepseekV2ForCausalLM"], "model_type": "kimi_k2"}
    config["rope_scaling"] = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0}
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 14, 26], "use_last_layernorm": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _specjax(folder: Path) -> Path:
    """A valid SpecJAX folder, made without torch."""
    folder.mkdir()
    q = HEADS * HEAD_DIM
    shapes = {
        "fc.weight": (H, 3 * H),
        "midlayer.input_layernorm.weight": (H,),
        "midlayer.hidden_norm.weight": (H,),
        "midlayer.self_attn.q_proj.weight": (q, 2 * H),
        "midlayer.self_attn.k_proj.weight": (HEAD_DIM, 2 * H),
        "midlayer.self_attn.v_proj.weight": (HEAD_DIM, 2 * H),
        "midlayer.self_attn.o_proj.weight": (H, q),
        "midlayer.post_attention_layernorm.weight": (H,),
        "midlayer.mlp.gate_proj.weight": (INTER, H),
        "midlayer.mlp.up_proj.weight": (INTER, H),
        "midlayer.mlp.down_proj.weight": (H, INTER),
        "norm.weight": (H,),
        "lm_head.weight": (DRAFT, H),
    }
    rng = random.Random(0)
    ids = sorted(rng.sample(range(VOCAB), DRAFT))
    offsets = array("i", (t - i for i, t in enumerate(ids))).tobytes()
    tensors: list[Tensor] = [("d2t", "I32", (DRAFT,), offsets)]
    tensors += [(n, "BF16", s, rng.randbytes(2 * math.prod(s))) for n, s in shapes.items()]
    tensors.append(("t2d", "BOOL", (VOCAB,), bytes(int(i in ids) for i in range(VOCAB))))
    _write(folder / "model.safetensors", tensors)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": H,
        "intermediate_size": INTER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "draft_vocab_size": DRAFT,
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write(path: Path, tensors: list[Tensor]) -> None:
    """A safetensors file with the tensors in the order given."""
    header, at = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors))


def _copy(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
