"""Random pickles from the opcodes that fill arrays; each must be read or refused.

python tests/fuzz_pickle.py 2000        # their number; the caller has to notice a crash or a hang
"""

from __future__ import annotations

import math
import resource
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from metabox.data.safe_pickle import safe_load

SECONDS, BYTES = 60, 2 << 30

NAMES = (
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\nndarray\n"),
    *(b"cnumpy\ndtype\n", b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n"),
    *(b"c__builtin__\nbytes\n", b"cos\nsystem\n", b"cbuiltins\neval\n"),
)
PLAIN = (*b"N\x88\x89()]}lt0112\x85\x86\x87Ra\x62su\x90\x91de\x94\x8f\x93o\x81\x92Q\x97\x98.",)
small = st.integers(-1, 9).map(lambda n: b"K" + bytes([n]) if n >= 0 else b"J\xff\xff\xff\xff")
large = st.sampled_from([1 << 20, 1 << 31, 1 << 40, 1 << 63]).map(lambda n: b"\x8a\x09" + n.to_bytes(9, "little"))
content = st.binary(max_size=24).map(lambda b: b"C" + bytes([len(b)]) + b)
text = st.text(max_size=4).map(lambda t: b"X" + struct.pack("<I", len(t.encode())) + t.encode())
place = st.sampled_from(b"hq").flatmap(lambda op: st.integers(0, 5).map(lambda n: bytes([op, n])))
wide = st.sampled_from(b"rj\x8e\x96\x95\x8d\x8b").flatmap(
    lambda op: st.integers(0, 2**63).map(lambda n: bytes([op]) + struct.pack("<Q", n))
)


NEW = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR"
CODES = {b"u1": 1, b"i4": 4, b"S2": 2, b"f8": 8, b"O8": 1, b"U1": 4, b"S0": 0, b"V8": 8, b"b1": 1}


def dtype(code: bytes, builds: int = 1) -> bytes:
    return b"cnumpy\ndtype\n(X\2\0\0\0" + code + b"K\0K\1tR" + b"(K\3X\1\0\0\0<NNNK\0K\0K\0tb" * builds


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """An array as NumPy writes it; sometimes its content is too short or too long, or it is filled twice."""
    code = draw(st.sampled_from([b"u1", b"i4", b"S2", b"O8", b"O8"]))
    dims = draw(st.lists(st.integers(0, 200), min_size=1, max_size=2))
    count = math.prod(dims) + draw(st.sampled_from([0, 0, -1, 1, -100]))
    count = min(max(count, 0), 200 // CODES[code])
    content = (
        b"(" + b"K\1" * count + b"l"
        if code == b"O8"
        else b"C" + bytes([count * CODES[code]]) + bytes(count * CODES[code])
    )
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in dims) + b"t"
    state = b"(K\1" + shape + dtype(code) + b"\x89" + content + b"tb"
    return draw(st.sampled_from([NEW + state, NEW + state, NEW + b"q\0" + state + b"h\0" + state]))


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An array with a shape, a type and a content that need not fit, and opcodes in between."""
    between = st.lists(st.one_of(place, st.sampled_from([b"2", b"h\0", b"q\0", b""])), max_size=2).map(b"".join)
    kind = dtype(draw(st.sampled_from([*CODES])), draw(st.integers(0, 2)))
    shape = b"(" + b"".join(draw(st.lists(st.one_of(small, large), max_size=3))) + b"t"
    items = st.lists(st.one_of(small, content, place), max_size=5).map(lambda i: b"(" + b"".join(i) + b"l")
    state = b"(K\1" + shape + kind + b"\x89" + draw(st.one_of(items, content, place)) + b"tb"
    view = b"cnumpy.core.numeric\n_frombuffer\n(" + draw(st.one_of(content, place)) + kind + shape + b"X\1\0\0\0CtR"
    return NEW + draw(between) + state + draw(between) + draw(st.sampled_from([b"", state, view]))


opcode = st.one_of(
    st.sampled_from(PLAIN).map(lambda op: bytes([op])),
    st.sampled_from(NAMES),
    small,
    content,
    text,
    place,
    wide,
    arrays(),
)
pieces = st.lists(nearly(), min_size=1, max_size=3) | st.lists(st.one_of(nearly(), arrays(), opcode), max_size=12)
streams = pieces.map(lambda ops: b"\x80\4(" + b"".join(ops) + b"l.")


def touch(value: Any, depth: int = 0) -> None:
    """Read every byte, as a caller of `safe_load` would."""
    if isinstance(value, np.ndarray):
        value.copy().tobytes()
        if value.dtype.hasobject:
            value = value.ravel().tolist()
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset) and depth < 5:
        for item in value:
            touch(item, depth + 1)


def main(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    read = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.pkl")

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(streams)
        def run(stream: bytes) -> None:
            nonlocal read, refused
            path.write_bytes(stream)
            try:
                touch(safe_load(path))
                read += 1
            except ValueError:
                refused += 1

        run()
    print(read, refused)


if __name__ == "__main__":
    main(int(sys.argv[1]))
