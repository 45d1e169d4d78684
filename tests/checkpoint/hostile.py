"""A corpus of weight files that are hostile, damaged or something else: name -> bytes, and how refusal must read."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from passl_simsiam.checkpoint.writers import write_pdparams, write_pth

TREE = {"state_dict": {"a.weight": np.arange(12, dtype="float32").reshape(3, 4), "a.bias": np.ones(3)}, "epoch": 1}
PROTO = b"\x80\x02"


def valid(folder: Path) -> dict[str, bytes]:
    """The same small weights as .pdparams, .pth, legacy .pth and safetensors: what fuzzing starts from."""
    write_pdparams(folder / "w.pdparams", TREE["state_dict"])
    write_pth(folder / "w.pth", TREE)
    from safetensors.numpy import save

    files = {name: (folder / name).read_bytes() for name in ("w.pdparams", "w.pth")}
    return {**files, "legacy.pth": legacy(), "w.safetensors": save(TREE["state_dict"])}


def legacy(items: int = 4, data: bytes = struct.pack("<q4f", 4, 1, 2, 3, 4), keys: object = ("0",)) -> bytes:
    """torch < 1.6: one tensor of four floats."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ%sNtQ" % struct.pack("<i", items)
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return magic + PROTO + b"}X\x01\0\0\0w" + tensor + b"s." + pickle.dumps(list(keys), 2) + data  # type: ignore[call-overload]


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED, attributes: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = compression, attributes
            file.writestr(info, data)
    return buffer.getvalue()


def tensor(shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85", offset: bytes = b"K\0", items: int = 4,
           kind: bytes = b"FloatStorage") -> bytes:  # fmt: skip
    """The data.pkl of a dict with one tensor on storage 0, its parts as given."""
    storage = (
        b"(X\x07\0\0\0storagectorch\n"
        + kind
        + b"\nX\x01\0\0\x000X\x03\0\0\0cpu\x8a\x08"
        + struct.pack("<q", items)
        + b"tQ"
    )
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89}tR"
    return PROTO + b"}X\x01\0\0\0w" + rebuild + b"s."


def torch_file(pickled: bytes, data: bytes = bytes(16)) -> bytes:
    return archive({"x/data.pkl": pickled, "x/data/0": data, "x/version": b"3\n"})


def array(shape: bytes = b"K\x02\x85", code: bytes = b"f4", data: bytes = b"B\x08\0\0\0" + bytes(8)) -> bytes:
    """A pickled dict with one numpy array, its parts as given."""
    dtype = (
        b"cnumpy\ndtype\nX\x02\0\0\0"
        + code
        + b"\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
    return b"\x80\x04}X\x01\0\0\0w" + empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tbs."


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


class Evil:
    """Pickled the ordinary way, as an attacker would: unpickling runs `function(*arguments)`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> object:
        return self.call


def code(victim: Path) -> Iterator[tuple[str, bytes, str]]:
    """Files that run code where they are trusted; each would create the file `victim`."""
    import os
    import subprocess

    nothing = "refused: .*nothing was run"
    touch = f"touch {victim}"
    for protocol in range(2, 6):
        yield f"os.system, protocol {protocol}", pickle.dumps({"w": Evil(os.system, touch)}, protocol), nothing
    yield "subprocess", pickle.dumps(Evil(subprocess.check_output, ["touch", str(victim)])), nothing
    yield "eval", pickle.dumps({"w": Evil(eval, f"open({str(victim)!r}, 'w')")}, 2), nothing
    yield "eval with names", pickle.dumps(Evil(eval, "data", {"data": 1, "__builtins__": {}})), nothing
    yield "exec", pickle.dumps(Evil(exec, f"open({str(victim)!r}, 'w')")), nothing
    yield "getattr", pickle.dumps(Evil(getattr, np.ndarray, "tofile")), nothing
    yield "import", PROTO + b"cbuiltins\n__import__\nX\x02\0\0\0os\x85R.", nothing
    yield "numpy.load", PROTO + b"cnumpy\nload\nX\x01\0\0\0x\x85R.", nothing
    yield "numpy's eval", PROTO + b"cnumpy.testing._private.utils\nrunstring\nX\x01\0\0\0x}\x86R.", nothing
    yield "attribute of an allowed module", PROTO + b"cnumpy.core.multiarray\nfrombuffer\n.", nothing
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", nothing
    yield "paddle's own class", PROTO + b"cpaddle.base.core\nLoDTensor\n)R.", nothing
    yield "torch load from bytes", PROTO + b"ctorch.storage\n_load_from_bytes\nC\x01x\x85R.", nothing
    yield "a whole torch module", PROTO + b"ctorchvision.models.resnet\nResNet\n)\x81}b.", nothing
    yield "in a zip", torch_file(pickle.dumps(Evil(os.system, touch), 2)), nothing
    yield "in a legacy file", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Evil(os.system, touch), 2), nothing
    yield "INST", PROTO + b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "operation INST"
    yield "OBJ", PROTO + b"(cnumpy\nndarray\nX\x01\0\0\0xo.", "operation OBJ"
    yield "extension registry", PROTO + b"\x82\x01.", "operation EXT1"
    yield "state on a function", PROTO + b"cnumpy\ndtype\n}X\x08\0\0\0__code__K\x01sb.", "damaged"
    yield "an array of objects", array(code=b"O8", data=b"]K\x01a"), "dtype 'O8'"
    yield "an encoding", PROTO + b"c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0hex\x86R.", "encodes a text as 'hex'"
    yield (
        "an array of a foreign kind",
        PROTO + b"cnumpy.core.multiarray\n_reconstruct\nK\x01)C\x01b\x87R.",
        "not numpy's",
    )


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Small files that would take much memory or time."""
    yield "declared bytes", PROTO + b"\x8e" + struct.pack("<Q", 1 << 40) + b"x", "damaged"
    yield "declared text", PROTO + b"X" + struct.pack("<I", (1 << 32) - 1) + b"x", "damaged"
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.", ""
    yield "memo index", PROTO + b"Nr\xff\xff\xff\x7f0N.", ""
    yield "array of a terabyte", array(shape=b"\x8a\x06" + struct.pack("<q", 1 << 40)[:6] + b"\x85"), "damaged"
    yield "ndarray made by size", PROTO + b"cnumpy\nndarray\n\x8a\x06\0\0\0\0\0\x01\x85\x85R.", "damaged"
    laughs = PROTO + b"]q\0" + b"".join(b"(" + b"h%c" % i * 10 + b"lq%c" % (i + 1) for i in range(60))
    yield "billion laughs", laughs + b".", "nests containers"
    nested = PROTO + b")q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    yield "a key that takes for ever to hash", b"%s0}h\x3cNs." % nested, "key of type tuple"
    huge = b"".join(b"\x8a\x0a" + ((2**61 - 1) * i << 1).to_bytes(10, "little") + b"N" for i in range(1, 1000))
    yield "keys that collide", PROTO + b"}(" + huge + b"u.", "key of type int"
    yield "depth", PROTO + b"]" * 100_000 + b"a" * 99_999 + b".", "nests containers"
    yield "a list in itself", PROTO + b"]q\0h\0a.", "nests containers"
    yield "operations", PROTO + b"\x8f" * 600_000 + b".", "more than 500,000 elements"
    yield "wide text", PROTO + b"}" + b"".join(
        b"X" + struct.pack("<I", 8 << 20) + b"x" * ((8 << 20) - 4) + "\U0001f600".encode() + b"0" for _ in range(5)
    ) + b".", "texts take many times"  # fmt: skip
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    dtype = array(code=b"i1").split(b"cnumpy\ndtype")[1].split(b"\x89B")[0]
    one = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01J\0\0\x10\0\x85h\1\x89h\0tb"
    many = b"\x80\x04" + text + b"q\x000cnumpy\ndtype" + dtype + b"q\x010](" + one * 1000 + b"e."
    yield "one text as a thousand arrays", many, "many times the file's size"
    yield "tensor of one number repeated", torch_file(tensor(b"\x8a\x06" + bytes(5) + b"\1\x85", b"K\0\x85")), "damaged"
    shared = tensor(items=1 << 18, shape=b"J\0\0\4\0\x85")[9:-2]
    shared = PROTO + b"]" + shared + b"q\1a" + b"h\1a" * 1000 + b"."
    yield "tensors that share one storage", torch_file(shared, bytes(1 << 20)), "many times the file's size"
    yield "deflated zip", archive({"x/data.pkl": bytes(1 << 24)}, zipfile.ZIP_DEFLATED), "compressed"
    entries = io.BytesIO()
    with zipfile.ZipFile(entries, "w") as file:
        for index in range(45_000):
            file.writestr(zipfile.ZipInfo(f"{index:050}"), b"")
    yield "zip of many entries", entries.getvalue(), "too many entries"
    yield "safetensors header", safetensors(b'{"a":' + b"[" * (5 << 20) + b"}"), "table of contents is too large"
    yield "safetensors depth", safetensors(b'{"a":' + b"[" * 100_000 + b"}"), "not a readable safetensors"
    yield "safetensors shape", safetensors({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}},
                                           bytes(4)), "not a readable safetensors"  # fmt: skip


def archives() -> Iterator[tuple[str, bytes, str]]:
    """Zips that torch did not write."""
    good = {"x/data.pkl": tensor(), "x/data/0": bytes(16), "x/version": b"3\n"}
    for path in ("../evil", "x/../../etc/passwd", "/etc/passwd", "C:\\evil", "x\\..\\evil"):
        yield f"path {path}", archive({**good, path: b"x"}), "the path"
    yield "link", archive({**good, "x/link": b"/etc/passwd"}, attributes=0o120777 << 16), "the link"
    yield "two entries of one name", archive(good)[:0] + _twice(), "two entries"
    yield "no pickle", archive({"a.npy": b"x"}), "torch.save did not write"
    yield "two pickles", archive({**good, "y/data.pkl": tensor()}), "torch.save did not write"
    yield "TorchScript", archive({**good, "x/constants.pkl": b"x"}), "TorchScript"
    yield "big-endian", archive({**good, "x/byteorder": b"big"}), "big-endian"
    yield "storage missing", archive({"x/data.pkl": tensor()}), "damaged"
    yield "storage short", torch_file(tensor(), bytes(12)), "another size"
    yield "empty zip", archive({}), "torch.save did not write"
    for name, pickled in {
        "offset": tensor(offset=b"K\x04"),
        "negative offset": tensor(offset=b"J\xff\xff\xff\xff"),
        "negative stride": tensor(strides=b"J\xff\xff\xff\xff\x85"),
        "long stride": tensor(strides=b"K\x02\x85"),
        "fewer strides": tensor(strides=b")"),
        "shape of texts": tensor(shape=b"X\x01\0\0\0x\x85"),
        "negative size": tensor(shape=b"J\xff\xff\xff\xff\x85"),
        "storage class": tensor(kind=b"float32"),
        "storage size": tensor(items=-1),
    }.items():
        yield f"tensor: {name}", torch_file(pickled), "damaged"
    flipped = bytearray(torch_file(tensor()))
    flipped[flipped.index(b"x/data/0") + 12] ^= 1
    yield "bit flip in a zip's tensor", bytes(flipped), "checksum"


def _twice() -> bytes:
    import warnings

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            file.writestr("x/data.pkl", tensor())
    return buffer.getvalue()


def damaged(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """Valid files cut off, and what is no weight file at all."""
    for name, data in valid(folder).items():
        for cut in (9, len(data) // 3, len(data) - 1):
            yield f"{name} cut at {cut}", data[:cut], "damaged|not a (readable|weight)|refused"
        yield f"{name} with more behind it", data + b"\0" * 7, "" if name == "w.pth" else "damaged|not a readable"
    yield "legacy: size", legacy(items=5), "damaged"
    yield "legacy: negative size", legacy(items=-4), "damaged"
    yield "legacy: keys", legacy(keys=([],)), "damaged"
    yield "legacy: no such key", legacy(keys=("1",)), "damaged"
    yield "legacy: data missing", legacy(keys=()), "damaged"
    yield "array of another size", array(shape=b"K\x03\x85"), "damaged"
    yield "array without content", PROTO + array()[2:].split(b"(K\x01")[0] + b"s.", "damaged"
    yield "no pickle's end", PROTO + b"}", "damaged"
    yield "empty stack", PROTO + b".", "damaged"
    yield "mark missing", PROTO + b"t.", "damaged"
    yield "memo missing", PROTO + b"h\x05.", "damaged"
    yield "unknown operation", PROTO + b"\xff.", "damaged"
    yield "protocol 200", b"\x80\xc8N.", ""
    yield (
        "safetensors: offsets",
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        "readable",
    )
    yield "safetensors: dtype", safetensors({"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 0]}}), "readable"
    yield "safetensors: header", safetensors(b"{not json}"), "readable"
    yield "empty", b"", "it is empty"
    yield "zeros", bytes(1000), "begins with zeros"
    yield "web page", b"<!DOCTYPE html><html>404</html>", "web page"
    yield "LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"
    yield "gzip", b"\x1f\x8b\x08" + bytes(20), "gzip"
    yield "HDF5", b"\x89HDF\r\n" + bytes(20), "HDF5"
    yield "text", b"backbone.conv1.weight\n", "content is unknown"
    yield "tar", bytes(1) + b"a" * 256 + b"ustar" + bytes(250), "tar"


def corpus(folder: Path, victim: Path) -> Iterator[tuple[str, bytes, str]]:
    """All of them: name, content, and a pattern of the refusal ("" where the file may also be read)."""
    yield from code(victim)
    yield from bombs()
    yield from archives()
    yield from damaged(folder)
