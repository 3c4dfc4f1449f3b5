"""What the steps found, on disk: a file per step, so that a later run goes on where this one stopped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trtasr.errors import UsageError
from trtasr.files.look import is_file
from trtasr.files.read import Source
from trtasr.files.write import write_json
from trtasr.pipeline.acceptance.steps import STEPS, Step, slug
from trtasr.results import plain

RESULT, OUTCOME = "t4-acceptance.json", "outcome.json"
LARGEST = 1 << 30  # bytes of a step's findings: transcripts of a large evaluation set
State = Literal["done", "refused", "broken"]
DONE: State = "done"
REFUSED: State = "refused"
BROKEN: State = "broken"


@dataclass(frozen=True)
class Fault:
    """Why a step failed.

    Attributes:
        kind: class of the error; problem, repair: in words.
        again: it says nothing about the network (a crash, the card, the disk), so that a later run tries again.
        exit_code: of the error.
    """

    kind: str
    problem: str
    repair: str = ""
    again: bool = False
    exit_code: int = 1


@dataclass(frozen=True)
class Told:
    """What a step's process wrote: what it had found when it ended, and its error, if it could still name one."""

    found: dict[str, Any] = field(default_factory=dict)
    error: Fault | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        name: of the step.
        state: ``done``; ``refused``: the builder or a gate says no, which is a finding; ``broken``: to be tried again.
        seconds: wall time.
        found: JSON types; of a step that failed, what it had found before.
        error: None where it is done.
    """

    name: str
    state: State
    seconds: float
    found: dict[str, Any]
    error: Fault | None = None


@dataclass(frozen=True)
class Findings:
    """All outcomes of a run.

    Attributes:
        out: folder of the run.
        outcomes: name of the step -> what became of it.
    """

    out: Path
    outcomes: dict[str, Outcome]

    def folder(self, step: Step) -> Path:
        """Of a step, with its evidence."""
        return self.out / STEPS / slug(step.name)

    def settled(self, step: Step) -> bool:
        """Whether a step needs not be run: it is done, or refused for good."""
        return step.name in self.outcomes and self.outcomes[step.name].state != BROKEN

    def found(self, names: Iterable[str]) -> dict[str, Any]:
        """Names of steps -> what they found, and the seconds it took; without those that found nothing."""
        known = [self.outcomes[name] for name in names if name in self.outcomes]
        return {item.name: {**item.found, "seconds": item.seconds} for item in known if item.found}

    def add(self, step: Step, outcome: Outcome) -> None:
        """Keep an outcome, on disk first.

        Raises:
            DiskError: the disk takes no more.
        """
        write_json(self.folder(step) / OUTCOME, plain(outcome))
        self.outcomes[step.name] = outcome


def found_in(out: Path, steps: Sequence[Step]) -> Findings:
    """What earlier runs left in a folder.

    Raises:
        UsageError: a file that is no outcome of a step.
    """
    return Findings(out, dict(stored(out, steps)))


def stored(out: Path, steps: Sequence[Step]) -> Iterator[tuple[str, Outcome]]:
    """Names of steps, and the outcomes that are on disk."""
    empty = Findings(out, {})
    for step in steps:
        file = empty.folder(step) / OUTCOME
        if is_file(file):
            yield step.name, Source(file, UsageError, f"remove {file.parent}", LARGEST).json(Outcome)


def step_json(step: Step, findings: Findings) -> Mapping[str, Any]:
    """One line of the list of steps: what became of it, and where its evidence lies."""
    if step.name not in findings.outcomes:
        return {"name": step.name, "state": "missing"}
    outcome = findings.outcomes[step.name]
    return {
        "name": step.name,
        "state": outcome.state,
        "seconds": outcome.seconds,
        "error": plain(outcome.error),
        "evidence": findings.folder(step).relative_to(findings.out).as_posix(),
    }
