r"""Read the numbers out of a joblib file without running what it asks for.

A pickle is a program: it names functions and calls them. Here its opcodes are read one by one into
inert records; names outside a short list, and opcodes that such files do not need, are refused. A
joblib file is a pickle with the bytes of every array right after the record that describes it.

Used by ``codec-lib anchors convert`` for the k-means units that fairseq publishes. Left out:
compressed files, arrays of objects, and making the real objects. Read next: ``anchors.py``.
"""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

ARRAY = "joblib.numpy_pickle NumpyArrayWrapper"
DTYPE = "numpy dtype"
KNOWN = {ARRAY, DTYPE, "numpy ndarray", "numpy.random._mt19937 MT19937"} | {
    f"{module} {name}"
    for modules, names in (
        (("sklearn.cluster._kmeans", "sklearn.cluster.k_means_"), ("KMeans", "MiniBatchKMeans")),
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar",)),
        (("numpy.random._pickle",), ("__randomstate_ctor", "__bit_generator_ctor")),
        (("numpy.random",), ("__RandomState_ctor",)),
        (("_codecs",), ("encode",)),
    )
    for module in modules
    for name in names
}
IGNORED = ("PROTO", "FRAME")
LITERALS = re.compile(r"(SHORT_|LONG_)?(BIN)?(BYTES|UNICODE|INT|INT1|INT2|FLOAT|LONG1)(8)?")
CONSTANTS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
CONSTANTS |= {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


@dataclass
class Record:
    r"""What a pickle asks to be made: its type's name, the arguments, the state. It does nothing.

    Attributes
    ----------
    name
        Module and name, separated by a blank.
    args
        What the type would be called with.
    state
        What the object would be filled with; mostly a dict.
    """

    name: str
    args: Any = None
    state: Any = None


def read_joblib(path: str | Path) -> Any:
    r"""Return what a joblib file holds: numbers, containers, arrays and inert ``Record`` s.

    Raises
    ------
    ValueError
        If it asks for anything but numbers and k-means objects, is cut short or is no such file.
    """
    with open(path, "rb") as file:
        if file.read(1) != b"\x80":
            raise ValueError(f"{path}: got no uncompressed joblib file (it starts otherwise)")
        file.seek(0)
        try:
            return _Reader(file).run()
        except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: got a damaged joblib file ({error!r})") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


class _Reader:
    """A stack machine for the opcodes that a file of arrays needs."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.stack, self.memo = file, [], {}

    def run(self) -> Any:
        """Follow the opcodes to the end and return what they built."""
        for opcode, argument, _ in pickletools.genops(self.file):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("got no end, expected STOP")

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says; each has a method, or is one of a family."""
        stack = self.stack
        if name in IGNORED:
            return
        if LITERALS.fullmatch(name):
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in TUPLES:
            stack.append(tuple(self.take(TUPLES[name])))
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif hasattr(self, f"op_{name}"):
            getattr(self, f"op_{name}")(argument)
        else:
            raise ValueError(f"got the opcode {name}, which a file of arrays does not need")

    def take(self, count: int) -> list:
        """Pop the last ``count`` values."""
        taken = [self.stack.pop() for _ in range(count)]
        return taken[::-1]

    def marked(self) -> list:
        """Pop the values above the last mark, and the mark."""
        taken = []
        while (value := self.stack.pop()) is not MARK:
            taken.append(value)
        return taken[::-1]

    def op_MARK(self, _: Any) -> None:
        """Begin a list of values."""
        self.stack.append(MARK)

    def op_TUPLE(self, _: Any) -> None:
        """Make a tuple of the values above the mark."""
        self.stack.append(tuple(self.marked()))

    def op_APPEND(self, _: Any) -> None:
        """Append one value to a list."""
        (value,) = self.take(1)
        self.stack[-1].append(value)

    def op_APPENDS(self, _: Any) -> None:
        """Append the values above the mark to a list."""
        values = self.marked()
        self.stack[-1].extend(values)

    def op_SETITEM(self, _: Any) -> None:
        """Set one item of a dict."""
        key, value = self.take(2)
        self.stack[-1][key] = value

    def op_SETITEMS(self, _: Any) -> None:
        """Set the items above the mark, key and value in turn."""
        values = self.marked()
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def op_GLOBAL(self, name: str) -> None:
        """Name a class, which is recorded and never imported."""
        if name not in KNOWN:
            raise ValueError(
                f"asks for {name.replace(' ', '.')}, expected numbers and k-means only. Such a "
                "file can run anything; do not open it with joblib or pickle"
            )
        self.stack.append(Record(name))

    def op_STACK_GLOBAL(self, _: Any) -> None:
        """Name a class by the two strings on the stack."""
        self.op_GLOBAL(" ".join(self.take(2)))

    def op_REDUCE(self, _: Any) -> None:
        """Record a call instead of making it."""
        kind, args = self.take(2)
        self.stack.append(Record(kind.name, args))

    op_NEWOBJ = op_REDUCE

    def op_BUILD(self, _: Any) -> None:
        """Give a record its state; an array's is read from the file."""
        (state,) = self.take(1)
        self.stack[-1].state = state
        if self.stack[-1].name == ARRAY:
            self.stack[-1] = self.array(**state)

    def array(
        self,
        shape: tuple[int, ...],
        order: str,
        dtype: Record,
        numpy_array_alignment_bytes: int | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Read the bytes that follow the record of an array."""
        kind = str(dtype.args[0])
        if not re.fullmatch(r"[fiub][1248]", kind):
            raise ValueError(f"got an array of {kind!r}, expected plain numbers")
        numbers = np.dtype(kind).newbyteorder("<" if dtype.state[1] == "|" else dtype.state[1])
        if numpy_array_alignment_bytes is not None:
            self.file.read(self.file.read(1)[0])
        size = math.prod(shape) * numbers.itemsize
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError(f"got {len(data)} bytes of an array of {size}; is the copy complete?")
        return np.frombuffer(data, numbers).reshape(shape, order="F" if order == "F" else "C")
