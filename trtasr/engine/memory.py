"""How much memory a graph takes at a length of audio, and how much there is: known before anything is run."""

import logging
import re
import resource
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from trtasr.engine.sessions import Observe, load_model, ort_observer
from trtasr.errors import AudioError, path_text
from trtasr.files.cpus import CGROUPS, OWN_CGROUPS, control_groups, words

logger = logging.getLogger(__name__)
TRIED = (0.64, 1.28, 2.56)  # seconds at which tensors are looked at; whole frames behind every usual stride
ARENA = 1.25  # what ONNX Runtime takes over the tensors alive at once; Conformer small at 300 s: 0.93, QuartzNet: 1.1
FRONTEND = 700_000  # bytes a second of audio takes until it is features
HARMLESS = 60.0  # seconds that no model takes much memory for: Conformer small 0.3 GB
MARGIN = 0.9
GB = 1e9
HEAVY = 2 * GB
ENOUGH = 2**63 - 1  # where nothing limits it
MEMINFO, OWN_PAGES = Path("/proc/meminfo"), Path("/proc/self/statm")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # of groups, by version


class MemoryLimit:
    """Refuses audio that this machine's memory is not enough for, before it is run, and warns of much.

    Args:
        graph: ONNX file that ONNX Runtime runs.
        rows: of the features.
        rate: feature frames per second.
        batch: utterances that are run at once.
    """

    def __init__(self, graph: Path, rows: int, rate: float, batch: int = 1) -> None:
        self._graph, self._batch = (graph, rows, rate), batch
        self._accepted = HARMLESS / batch

    def __call__(self, path: Path, seconds: float) -> None:
        """Look at a file's length.

        Raises:
            AudioError: it takes more memory than there is.
        """
        if seconds <= self._accepted:
            return
        needed, free = self._batch * self.demand.bytes(seconds), available_bytes()
        several, fewer = (f" in a batch of {self._batch}", ", or run fewer at once") if self._batch > 1 else ("", "")
        if needed > MARGIN * free:
            possible = self.demand.seconds(int(MARGIN * free / self._batch))
            raise AudioError(
                f"{path_text(path)}: {seconds:.1f} s{several} would take about {needed / GB:.1f} GB of memory"
                f", and {free / GB:.1f} GB are free, enough for {possible:.0f} s",
                f"cut it at pauses into shorter files{fewer}",
            )
        if needed > HEAVY:
            logger.warning("%s: %.1f s%s take about %.1f GB of memory", path_text(path), seconds, several, needed / GB)
        self._accepted = seconds

    @cached_property
    def demand(self) -> "Demand":
        """Memory as a function of the length; found when the first long file comes."""
        return Demand(*self._graph)


class Demand:
    """Memory that ONNX Runtime takes for the tensors of a graph, as a function of the audio's length.

    The size of every tensor is a polynomial of second degree in the frames (self-attention has scores for all pairs);
    it is found by running the graph at three short lengths. The tensors alive at once are summed in graph order.

    Args:
        graph: ONNX file with the inputs features and lengths.
        rows: of the features.
        rate: frames per second.
    """

    def __init__(self, graph: Path, rows: int, rate: float) -> None:
        self._rate = rate
        self._nodes = [(list(node.input), list(node.output)) for node in load_model(graph, weights=False).graph.node]
        names = [name for _, outputs in self._nodes for name in outputs if name]
        frames = [max(1, round(seconds * rate)) for seconds in TRIED]
        observe = ort_observer(graph, names)
        sizes = np.array([sizes_at(observe, rows, count) for count in frames], np.float64)
        self._terms = dict(zip(names, np.polyfit(frames, sizes, 2).T, strict=True))

    def bytes(self, seconds: float) -> int:
        """Bytes beside those of the weights, or what the front-end takes if that is more."""
        powers = np.array([(seconds * self._rate) ** 2, seconds * self._rate, 1.0])
        sizes = {name: max(0.0, float(terms @ powers)) for name, terms in self._terms.items()}
        return int(max(ARENA * most_alive(self._nodes, sizes), FRONTEND * seconds))

    def seconds(self, limit: int) -> float:
        """Seconds of audio that this many bytes are enough for, found by bisection up to a day."""
        low, high = 0.0, 86_400.0
        while high - low > 1.0:
            middle = (low + high) / 2
            low, high = (middle, high) if self.bytes(middle) <= limit else (low, middle)
        return low


def sizes_at(observe: Observe, rows: int, frames: int) -> list[int]:
    """Bytes of each observed tensor for one utterance of noise with so many frames."""
    features = np.random.default_rng(0).standard_normal((1, rows, frames), np.float32)
    found = observe({"features": features, "lengths": np.array([frames], np.int64)})
    return [tensor.nbytes for tensor in found.values()]


def most_alive(nodes: Sequence[tuple[Sequence[str], Sequence[str]]], sizes: dict[str, float]) -> float:
    """Largest sum of the tensors that live at once when nodes run in order; a tensor lives until its last reader."""
    last = {name: index for index, (inputs, _) in enumerate(nodes) for name in inputs}
    alive: dict[str, float] = {}
    now = most = 0.0
    for index, (inputs, outputs) in enumerate(nodes):
        alive.update({name: sizes.get(name, 0.0) for name in outputs})
        now += sum(sizes.get(name, 0.0) for name in outputs)
        most = max(most, now)
        for name in {*inputs, *outputs}:
            if last.get(name, index) <= index:
                now -= alive.pop(name, 0.0)
    return most


def available_bytes() -> int:
    """Memory that this process may still take: of the machine, its control group and its own limit."""
    groups = control_groups("memory", OWN_CGROUPS, CGROUPS)
    return max(0, min([free_memory(), own_room(), *(room for group in groups for room in group_room(group))]))


def group_room(group: Path) -> Iterator[int]:
    """What a control group's limit leaves, where it has one."""
    for limit, usage in LIMITS:
        most, used = words(group / limit), words(group / usage)
        if most.isdecimal() and used.isdecimal():
            yield int(most) - int(used)


def own_room() -> int:
    """What the limit on this process's address space (``ulimit -v``) leaves."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = words(OWN_PAGES).partition(" ")[0]
    used = int(pages) * resource.getpagesize() if pages.isdecimal() else 0
    return ENOUGH if most == resource.RLIM_INFINITY else most - used


def free_memory() -> int:
    """The machine's memory that can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", words(MEMINFO), re.MULTILINE)
    return int(found[1]) * 1024 if found else ENOUGH
