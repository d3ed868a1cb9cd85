"""Torch pickles: every byte where torch says it is, and nothing in them ever runs."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sampling import examples

from eagle3hub.checkpoint import pickles
from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.checkpoint.pickles import BARE, read_pickle_tensors
from eagle3hub.errors import CheckpointError, Eagle3HubError

W = torch.arange(24, dtype=torch.float32).reshape(6, 4) / 7
NATIVE = {
    "BF16": W.bfloat16(),
    "F16": W.half(),
    "F32": W,
    "F64": W.double(),
    "I64": torch.arange(5) - 2,
    "I32": torch.arange(5, dtype=torch.int32) - 2,
    "I16": torch.arange(5, dtype=torch.int16),
    "I8": torch.arange(5, dtype=torch.int8),
    "U8": torch.arange(5, dtype=torch.uint8),
    "BOOL": torch.tensor([True, False, True]),
    "C64": torch.ones(2, dtype=torch.complex64) * 1j,
    "U16": torch.tensor([1, 2, 65535], dtype=torch.uint16),
    "F8_E4M3": W.to(torch.float8_e4m3fn),
    "F8_E5M2": W.to(torch.float8_e5m2),
}
SHAPES = {
    "matrix": W,
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "rows of a matrix": W[2:4],
    "one row": W[3],
    "a column of one": torch.randn(5, 1).t(),
    "parameter": torch.nn.Parameter(W.clone()),
    "expanded from one": torch.ones(1, 4).expand(1, 4),
}


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""


def save(path: Path, what: Any, **options: Any) -> Path:
    torch.save(what, path, **options)
    return path


def same_as_torch(path: Path, names: dict[str, Callable[[Any], torch.Tensor]]) -> None:
    found = read_pickle_tensors(path)
    loaded = torch.load(path, weights_only=True)
    assert list(found) == list(names)
    for name, pick in names.items():
        want = pick(loaded)
        assert (found[name].shape, read_tensor(found[name])) == (tuple(want.shape), raw(want)), name


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", NATIVE)
def test_every_dtype_lies_where_torch_says(tmp_path: Path, dtype: str, zipped: bool):
    if not zipped and dtype in {"U16", "F8_E4M3", "F8_E5M2"}:
        pytest.skip("torch cannot read its own legacy file of this dtype")
    path = save(
        tmp_path / "a.bin", {"x": NATIVE[dtype], "y": NATIVE[dtype][1:]}, _use_new_zipfile_serialization=zipped
    )
    same_as_torch(path, {"x": lambda d: d["x"], "y": lambda d: d["y"]})
    assert read_pickle_tensors(path)["x"].dtype == dtype


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_view_lies_where_torch_says(tmp_path: Path, shape: str, zipped: bool):
    path = save(tmp_path / "a.bin", {"x": SHAPES[shape]}, _use_new_zipfile_serialization=zipped)
    same_as_torch(path, {"x": lambda d: d["x"]})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int, zipped: bool):
    state = {"x": W, "deep": {"y": [NATIVE["I64"], {"z": NATIVE["BOOL"]}]}, "n": None, "step": 2**40, "lr": 1e-4}
    path = save(tmp_path / "a.bin", state, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_pickle_tensors(path)
    assert {n: read_tensor(r) for n, r in found.items()} == {
        "x": raw(W),
        "deep.y.0": raw(NATIVE["I64"]),
        "deep.y.1.z": raw(NATIVE["BOOL"]),
    }


def test_a_module_with_shared_weights(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).bfloat16()
    module[1].weight = module[0].weight
    path = save(tmp_path / "a.bin", module.state_dict())
    same_as_torch(path, {n: (lambda d, n=n: d[n]) for n in ("0.weight", "0.bias", "1.weight", "1.bias")})
    found = read_pickle_tensors(path)
    assert found["0.weight"].offset == found["1.weight"].offset


def test_metadata_sizes_devices_and_dtypes_are_read_over(tmp_path: Path):
    state = OrderedDict(x=W, size=W.size(), dtype=torch.bfloat16, device=torch.device("cpu"), flag=True)
    same_as_torch(save(tmp_path / "a.bin", state), {"x": lambda d: d["x"]})


def test_a_tensor_alone(tmp_path: Path):
    path = save(tmp_path / "d2t.pt", NATIVE["I64"])
    same_as_torch(path, {BARE: lambda t: t})


@pytest.mark.parametrize("key", ["draft_state_dict", "model_state_dict", "state_dict", "model", "module"])
def test_a_training_state_means_its_model(tmp_path: Path, key: str):
    optimizer = {"state": {0: {"exp_avg": W}}, "param_groups": [{"lr": 1.0}]}
    state = {"optimizer": optimizer, key: {"fc.weight": W}, "global_step": 3}
    same_as_torch(save(tmp_path / "a.pt", state), {"fc.weight": lambda d: d[key]["fc.weight"]})


def test_a_table_with_tensors_of_its_own_is_no_training_state(tmp_path: Path):
    path = save(tmp_path / "a.pt", {"d2t": NATIVE["I64"], "model": {"x": W}})
    assert list(read_pickle_tensors(path)) == ["d2t", "model.x"]


def test_a_transposed_view_is_refused_and_named(tmp_path: Path):
    path = save(tmp_path / "a.bin", {"fc.weight": W.t()})
    error = refused(path, r"'fc.weight' \[4, 6\] as a view with strides \[1, 4\]")
    assert error.hint == "save it again after .contiguous()"
    refused(save(tmp_path / "b.bin", {"x": torch.ones(1).expand(4)}), "as a view")
    refused(save(tmp_path / "c.bin", {"x": W.to(torch.complex64).conj()}), "conjugated")


def test_two_tensors_of_one_name(tmp_path: Path):
    refused(save(tmp_path / "a.bin", {"a": {"b": W}, "a.b": W}), "two tensors called 'a.b'")


@pytest.mark.slow
def test_a_long_legacy_description_is_read_in_growing_steps(tmp_path: Path):
    state = {f"layer.{i}.{'x' * 300}": torch.full((2,), float(i)) for i in range(400)}
    path = save(tmp_path / "a.bin", state, _use_new_zipfile_serialization=False)
    found = read_pickle_tensors(path)
    assert {n: read_tensor(r) for n, r in found.items()} == {n: raw(t) for n, t in state.items()}
    endless = legacy(tmp_path / "b.bin", b"\x80\x02" + b"}0" * 300_000)
    endless.write_bytes(endless.read_bytes() + b"X\xff\xff\xff\x7f" + bytes(40 << 20))
    refused(endless, "in the middle of an instruction")


def test_no_tensor_at_all(tmp_path: Path):
    refused(save(tmp_path / "a.bin", {"x": 1}), "without a single tensor")


def refused(path: Path, message: str) -> CheckpointError:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pickle_tensors(path)
    assert "\n" not in str(caught.value)
    return caught.value


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Evaluated:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.marker)!r}).touch()",)


def archive(path: Path, description: bytes, *, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr("a/data.pkl", description)
        for name, data in {"data/0": bytes(96), "byteorder": b"little", **members}.items():
            z.writestr(f"a/{name}", data)
    return path


def legacy(path: Path, *pickles: bytes) -> Path:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    path.write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + b"".join(pickles))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("bomb", [Bomb, Evaluated])
def test_nothing_in_a_hostile_pickle_runs(tmp_path: Path, bomb: type, protocol: int):
    marker = tmp_path / "ran"
    for number, payload in enumerate(({"x": bomb(marker)}, [bomb(marker)], bomb(marker))):
        hostile = pickle.dumps(payload, protocol)
        plain = tmp_path / f"{number}.bin"
        plain.write_bytes(hostile)
        for path in (
            archive(tmp_path / f"{number}.zip", hostile),
            legacy(tmp_path / f"{number}.pt", hostile),
            *([plain] if protocol >= 2 else []),
        ):
            refused(path, r"names (posix\.system|builtins\.eval|__builtin__\.eval), which .* nothing of it was run")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evaluated(marker)))
    assert marker.exists(), "the payload is a working one"


HOSTILE = {
    "instance": (b"(S'x'\nios\nsystem\n.", "uses instruction b'S'"),
    "instance without arguments": (b"(ios\nsystem\n.", "names os.system"),
    "an object": (b"(cos\nsystem\no.", "names os.system"),
    "extension registry": (b"\x80\x02\x82\x01.", "uses instruction"),
    "out of band buffer": (b"\x80\x05\x97.", "uses instruction"),
    "terminal escape in a name": (b"\x80\x02c\x1b[31m\nx\n.", r"names '\\x1b\[31m.x'"),
    "calls a dtype": (b"\x80\x02ctorch\nfloat32\n)R.", "calls something"),
    "calls a tensor": (b"\x80\x02}X\x01\x00\x00\x00x)Rs.", "calls something"),
    "sets the state of a name": (b"\x80\x02ctorch\nSize\n}b.", "sets the state"),
    "gigantic memo index": (b"\x80\x02}r\xff\xff\xff\xff.", "without a single tensor"),
    "byte array of a terabyte": (b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "uses instruction"),
    "bytes of a terabyte": (b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.", "in the middle"),
    "text of a terabyte": (b"\x80\x04\x8d\x00\x00\x00\x00\x00\x01\x00\x00.", "in the middle"),
    "number of a gigabyte": (b"\x80\x02\x8b\x00\x00\x00\x40.", "more than 16 bytes"),
    "empty stack": (b"\x80\x02R.", "damaged"),
    "no mark": (b"\x80\x02t.", "damaged"),
    "no stop": (b"\x80\x02}", "in the middle"),
    "text after the stop": (b"\x80\x02}.junk", "goes on after its end"),
    "unhashable key": (b"\x80\x02}]Ns.", "neither text nor a small number"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "too many entries"),
    "a dictionary in itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.", "too many entries"),
    "billion laughs": (
        b"\x80\x02]q\x00" + b"".join(b"]q%c(%se" % (i, b"h%c" % (i - 1) * 9) for i in range(1, 20)) + b".",
        "too many",
    ),
    "two million instructions": (b"\x80\x02" + b"N0" * 1_000_000 + b"}.", "more than 1000000"),
    "copies of a large table": (
        b"\x80\x02]q\x00(" + b"X\x01\x00\x00\x00xN\x86" * 1000 + b"e0ccollections\nOrderedDict\nh\x00\x85R.",
        "damaged",
    ),
    "a table of pairs": (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "damaged"),
    "protocol 9": (b"\x80\x09}.", "protocol 9"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_instructions(tmp_path: Path, name: str):
    description, message = HOSTILE[name]
    refused(archive(tmp_path / "a.bin", description), message)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x18tQ"


def tensor(offset: bytes = b"K\x00", shape: bytes = b"K\x06K\x04\x86", stride: bytes = b"K\x04K\x01\x86") -> bytes:
    rest = offset + shape + stride + b"\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + rest + b"s."


def test_tensors_stay_inside_their_storage(tmp_path: Path):
    assert read_pickle_tensors(archive(tmp_path / "a.bin", tensor()))["x"].nbytes == 96
    refused(archive(tmp_path / "b.bin", tensor(offset=b"K\x01")), "larger than its storage")
    refused(archive(tmp_path / "c.bin", tensor(shape=b"K\x07K\x04\x86")), "larger than its storage")
    refused(archive(tmp_path / "d.bin", tensor(offset=b"J\xff\xff\xff\xff")), "malformed tensor")
    refused(archive(tmp_path / "e.bin", tensor(shape=b"K\x06\x85")), "malformed tensor")
    refused(archive(tmp_path / "f.bin", tensor(shape=b"K\x06\x88\x86")), "malformed tensor")
    many = b"(" + b"K\x01" * 65 + b"t"
    refused(archive(tmp_path / "i.bin", tensor(shape=many, stride=many)), "malformed tensor")
    refused(
        archive(tmp_path / "g.bin", tensor(), **{"data/0": bytes(95)}), "has 95 bytes for the storage of 'x', not 96"
    )
    refused(archive(tmp_path / "h.bin", tensor(), byteorder=b"big"), "big-endian")


def test_compressed_and_encrypted_members_are_refused(tmp_path: Path):
    refused(archive(tmp_path / "a.bin", tensor(), method=zipfile.ZIP_DEFLATED), "compressed member 'a/byteorder'")
    path = archive(tmp_path / "b.bin", tensor())
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"a/byteorder"))
    data[at + 8] |= 1
    path.write_bytes(data)
    refused(path, "encrypted member 'a/byteorder'")


def test_a_zip_bomb_is_not_inflated(tmp_path: Path):
    path = archive(tmp_path / "a.bin", bytes(50 << 20), method=zipfile.ZIP_DEFLATED, byteorder=b"")
    assert path.stat().st_size < 1 << 20
    refused(path, "compressed member")


def test_zip64_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 8)
    path = archive(tmp_path / "a.bin", tensor(), **{"data/0": raw(W)})
    assert b"PK\x06\x06" in path.read_bytes()
    assert read_tensor(read_pickle_tensors(path)["x"]) == raw(W)


def test_other_zip_files(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as z:
        z.writestr("readme.txt", "hello")
    refused(tmp_path / "a.bin", "not one that torch.save wrote")
    refused(archive(tmp_path / "b.bin", tensor(), **{"constants.pkl": b"x"}), "TorchScript")
    (tmp_path / "c.bin").write_bytes(archive(tmp_path / "d.bin", tensor()).read_bytes() + b"appended")
    refused(tmp_path / "c.bin", "does not end where its archive ends")
    (tmp_path / "e.bin").write_bytes(pickle.dumps({"x": 1}))
    refused(tmp_path / "e.bin", "not one that torch.save wrote")


def test_damage_in_the_description_is_seen(tmp_path: Path):
    path = save(tmp_path / "a.bin", {"x": W})
    data = bytearray(path.read_bytes())
    at = data.index(b"storage")
    data[at] ^= 1
    path.write_bytes(data)
    refused(path, "checksum is wrong")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncation_anywhere_is_an_error(tmp_path: Path, zipped: bool):
    whole = save(tmp_path / "whole.bin", {"x": W}, _use_new_zipfile_serialization=zipped).read_bytes()
    path = tmp_path / "a.bin"
    for length in range(20, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path, "truncated|in the middle|without an end")


def test_a_directory_of_too_many_members(tmp_path: Path):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 460, 4, 0)
    (tmp_path / "a.bin").write_bytes(b"PK\x03\x04" + bytes(460) + end)
    refused(tmp_path / "a.bin", "damaged directory")
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 2**50, 0)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "b.bin").write_bytes(b"PK\x03\x04" + end64 + locator + end)
    refused(tmp_path / "b.bin", "outside itself|too many")


def central(data: bytes, name: bytes) -> int:
    """Where the directory's entry of a member begins."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name))


def local(data: bytes, name: bytes) -> int:
    """Where the header before a member's bytes begins."""
    return data.rindex(b"PK\x03\x04", 0, data.index(name))


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


LARGE = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
LOCATOR64 = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
MANY64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**20, 2**20, 0, 4)
ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a storage that is not there": (
        lambda d: d.replace(b"a/data/0", b"a/data/9"),
        "has no member 'a/data/0'",
    ),
    "no header before a member": (
        lambda d: patched(d, local(d, b"a/data/0"), b"none"),
        "has no member header where its directory places 'a/data/0'",
    ),
    "a member past the end": (
        lambda d: patched(d, local(d, b"a/data/0") + 28, b"\xff\xff"),
        "places 'a/data/0' beyond its end",
    ),
    "a member too few": (
        lambda d: patched(d, len(d) - 12, struct.pack("<H", 1 + struct.unpack_from("<H", d, len(d) - 12)[0])),
        "has fewer members than its directory claims",
    ),
    "two members of one name": (
        lambda d: d.replace(b"a/two", b"a/one"),
        "has two members called 'a/one'",
    ),
    "large sizes that stand nowhere": (
        lambda d: patched(d, central(d, b"a/data/0") + 20, b"\xff" * 8),
        "has a member without its ZIP64 sizes",
    ),
    "nothing but an end": (lambda _: b"PK\x03\x04" + LARGE, "has no ZIP64 record"),
    "no locator of the large record": (lambda _: b"PK\x03\x04" + bytes(80) + LARGE, "has no ZIP64 record"),
    "no large record where it is located": (
        lambda _: b"PK\x03\x04" + bytes(56) + LOCATOR64 + LARGE,
        "has a damaged ZIP64 record",
    ),
    "a million members": (
        lambda _: b"PK\x03\x04" + MANY64 + LOCATOR64 + LARGE,
        "claims 1048576 members in a directory of 0 bytes, which is too many",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_are_damaged(tmp_path: Path, name: str):
    damage, message = ARCHIVES[name]
    path = archive(tmp_path / "a.bin", tensor(), one=b"1", two=b"2")
    assert read_pickle_tensors(path)
    path.write_bytes(damage(path.read_bytes()))
    assert refused(path, message).code == "checkpoint-pickle"


def test_a_legacy_file_of_another_kind_of_machine(tmp_path: Path):
    path = tmp_path / "a.pt"
    for protocol, system in ((1002, {"little_endian": True}), (1001, {"little_endian": False}), (1001, [])):
        parts = (0x1950A86A20F9469CFC6C, protocol, system, {}, [])
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
        assert refused(path, "of an unknown kind of machine or protocol").code == "checkpoint-byteorder"


def test_legacy_storages_are_those_of_the_tensors(tmp_path: Path):
    whole = save(tmp_path / "a.bin", {"x": W}, _use_new_zipfile_serialization=False).read_bytes()
    path = tmp_path / "b.bin"
    count = len(whole) - 96 - 8
    path.write_bytes(whole[:count] + (23).to_bytes(8, "little") + whole[count + 8 :])
    refused(path, "is not as long as its tensors say")
    key = whole.index(b"storage") + 80
    at = whole.rindex(b"X", 0, count)
    assert at > key
    path.write_bytes(whole[: at + 5] + b"0" + whole[at + 6 :])
    refused(path, "whose list of storages is not that of its tensors")


def test_a_huge_description_is_not_read(tmp_path: Path):
    refused(archive(tmp_path / "a.bin", bytes(pickles.MAX_PICKLE_BYTES + 1)), "at most 16777216 are read")


def test_memory_stays_small_on_a_pickle_made_to_fill_it(tmp_path: Path):
    path = archive(tmp_path / "a.bin", b"\x80\x02" + b"}" * (15 << 20) + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "more than 1000000 instructions")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def seeds() -> list[bytes]:
    out = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        state = {"x": W, "y": [W[2:]], "p": torch.nn.Parameter(W.half()), "meta": OrderedDict(a=1)}
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        out.append(buffer.getvalue())
    return out


@settings(max_examples=examples(3), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_pickle_never_ends_in_another_exception(tmp_path: Path, data: st.DataObject):
    whole = bytearray(data.draw(st.sampled_from(seeds())))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.bin"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))] if data.draw(st.booleans()) else whole)
    try:
        for ref in read_pickle_tensors(path).values():
            read_tensor(ref)
    except Eagle3HubError:
        pass
