"""What a pickled state dict would build, found without building it: a proof before anything is unpickled.

``torch.load(weights_only=True)`` runs no foreign code, but calls what is harmless only in small amounts: a pickle of a
hundred bytes asks it for gigabytes (``bytearray(5 * 2**30)``), and one of some kilobytes for a hash table in a hash
table in a hash table. State dicts need four callables and thirty opcodes, so only those are followed here, with
descriptions in place of tensors; whatever else a pickle holds is refused.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

MAX_BYTES = 2**20  # of one pickle; published state dicts take 100 to 300 KiB
MAX_DIMENSIONS = 16
MAX_ATTRIBUTES = 8  # of the dict itself: torch adds `_metadata`
# Bytes per number of the storages that state dicts of real numbers are made of.
STORAGES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
DICT, TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
CALLABLES = (DICT, TENSOR, PARAMETER, *STORAGES)
MALFORMED = (ValueError, KeyError, IndexError, TypeError, struct.error, OverflowError)


class PickleError(ValueError):
    """Something that no state dict holds, or a damaged pickle."""


@dataclass(frozen=True)
class Callee:
    """A callable or class by its name, which is never looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers kept outside of the pickle.

    Attributes:
        key: where; kind: class of torch; count: numbers.
    """

    key: str
    kind: str
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.count * STORAGES[self.kind]


@dataclass(frozen=True)
class TensorView:
    """A tensor that would be made on a storage."""

    storage: Storage


class Machine:
    """Follows the opcodes of one pickle.

    Attributes:
        storages: key -> storage, of everything the pickle refers to.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """What the pickle at the stream's position would build; the stream is left behind it.

        Raises:
            PickleError: damaged, longer than `MAX_BYTES`, or something that no state dict holds.
        """
        start = stream.tell()
        try:
            for opcode, argument, position in pickletools.genops(stream):
                if (position or 0) - start > MAX_BYTES:
                    raise PickleError(f"longer than {MAX_BYTES >> 20} MiB")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
        except PickleError:
            raise
        except MALFORMED as error:
            raise PickleError(f"damaged: {error!s:.80}") from error
        raise PickleError("damaged: no end")

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"opcode {name}")

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def items(self) -> list[Any]:
        """What was pushed since the last mark."""
        found, self.stack = self.stack, self.marked.pop()
        return found

    def pop(self, count: int) -> tuple[Any, ...]:
        """The last values pushed, oldest first."""
        if len(self.stack) < count:
            raise IndexError("stack is empty")
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        return found

    def remember(self, index: int) -> None:
        """PUT: keep the top of the stack."""
        self.memo[index] = self.stack[-1]

    def mark(self, _: None) -> None:
        """MARK: values pushed from here on belong together."""
        self.marked.append(self.stack)
        self.stack = []

    def named(self, argument: str) -> None:
        """GLOBAL: a callable by name."""
        name = argument.replace(" ", ".")
        if name not in CALLABLES:
            raise PickleError(f"{name!r:.80}")
        self.stack.append(Callee(name))

    def stack_named(self, _: None) -> None:
        """STACK_GLOBAL: a callable by the two names on the stack."""
        module, name = self.pop(2)
        self.named(f"{module:.80} {name:.80}")

    def set_items(self, pairs: list[Any]) -> None:
        """SETITEM and SETITEMS."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise PickleError("items of something that is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str):
                raise PickleError("a key that is no string")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        """APPEND and APPENDS."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("items of something that is no list")
        target.extend(values)

    def build(self, _: None) -> None:
        """BUILD: attributes, which only the dict itself has, and which do not matter."""
        target, state = self.pop(2)
        if not isinstance(target, dict) or not isinstance(state, dict) or len(state) > MAX_ATTRIBUTES:
            raise PickleError("an object with attributes")
        self.stack.append(target)

    def persistent(self, _: None) -> None:
        """BINPERSID: a storage, ``("storage", class, key, device, numbers[, None])``."""
        (identity,) = self.pop(1)
        tag, kind, key, _device, count, *rest = identity
        if tag != "storage" or not isinstance(kind, Callee) or kind.name not in STORAGES or rest not in ([], [None]):
            raise PickleError("an unknown kind of storage")
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**62:
            raise PickleError("a storage without name or size")
        storage = Storage(key, kind.name, count)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"storage {key!r:.20} in two ways")
        self.stack.append(storage)

    def reduce(self, _: None) -> None:
        """REDUCE: a call."""
        callee, arguments = self.pop(2)
        if not isinstance(callee, Callee) or not isinstance(arguments, tuple) or callee.name not in MADE:
            raise PickleError("a call of something that cannot be called")
        self.push(MADE[callee.name](*arguments))


def new_dict(*arguments: Any) -> dict[str, Any]:
    """``OrderedDict()``; with arguments it would copy, again and again."""
    if arguments:
        raise PickleError("a copied dict")
    return {}


def new_tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> TensorView:
    """A strided view of a storage, if it stays inside; the others are ``requires_grad``, hooks, and no metadata."""
    if not isinstance(storage, Storage) or len(others) < 2 or others[2:] not in ((), (None,)):
        raise PickleError("a tensor of another kind")
    if not sizes(size) or not sizes(stride) or not sizes((offset,)) or len(size) != len(stride):
        raise PickleError("a tensor of no size")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.count:
        raise PickleError("a tensor beyond its storage")
    return TensorView(storage)


def sizes(values: Any) -> bool:
    """True for a short tuple of integers from 0 on."""
    return (
        isinstance(values, tuple)
        and len(values) <= MAX_DIMENSIONS
        and all(type(value) is int and 0 <= value < 2**62 for value in values)
    )


def new_parameter(data: Any, _grad: Any, _hooks: Any) -> TensorView:
    """The tensor of an ``nn.Parameter``."""
    if not isinstance(data, TensorView):
        raise PickleError("a parameter that is no tensor")
    return data


MADE: Mapping[str, Callable[..., Any]] = {DICT: new_dict, TENSOR: new_tensor, PARAMETER: new_parameter}
LITERALS = (
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINSTRING",
    "BINSTRING",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
)
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "GLOBAL": Machine.named,
    "STACK_GLOBAL": Machine.stack_named,
    "BINPERSID": Machine.persistent,
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.items())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop(3)),
    "APPEND": lambda machine, _: machine.append(list(machine.pop(1))),
    "APPENDS": lambda machine, _: machine.append(machine.items()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.items()),
}
