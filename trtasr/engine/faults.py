"""Models that somebody else may have written: what they make libraries raise becomes an error that names the file."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trtasr.errors import BundleError, MissingError, TrtasrError, said

log = logging.getLogger(__name__)

REPAIR = "compile the bundle again"
NO_MEMORY = ("allocate memory", "bad_alloc", "bad allocation")  # in ONNX Runtime's words


@contextmanager
def model_errors(name: Path | str) -> Iterator[None]:
    """Turns failures of reading or running a model into errors that name it; ``-v`` shows where they came from.

    ONNX Runtime's exceptions have no base class of their own, and a graph that no compile wrote can fail in any step
    that takes its nodes, shapes and names for granted: hence all of them, except ours and those of the file system.

    Args:
        name: of the model's file.

    Raises:
        BundleError: the block failed. MissingError: there was not enough memory.
    """
    try:
        yield
    except (TrtasrError, OSError):
        raise
    except Exception as error:
        log.debug("%s: %r", name, error, exc_info=True)
        if isinstance(error, MemoryError) or any(word in str(error) for word in NO_MEMORY):
            raise MissingError(
                f"{name}: not enough memory to run it ({said(error)})",
                "cut the audio into shorter pieces, or free memory",
            ) from error
        raise BundleError(
            f"{name}: is no model that can be run here ({type(error).__name__}: {said(error)})", REPAIR
        ) from error


class Session:
    """An ONNX Runtime session whose failures name its model.

    Args:
        session: onnxruntime.InferenceSession; what is not defined here is its own.
        name: of the model's file.
    """

    def __init__(self, session: Any, name: Path | str) -> None:
        self._session, self._name = session, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._session, attribute)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Outputs by name (None: all of them) as arrays.

        Raises:
            BundleError: the model cannot be run with these inputs. MissingError: there was not enough memory.
        """
        with model_errors(self._name):
            return list(self._session.run(names, dict(feeds)))

    def run_with_ort_values(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Outputs by name, inputs and outputs as values of ONNX Runtime.

        Raises:
            BundleError: as `run`. MissingError: likewise.
        """
        with model_errors(self._name):
            return list(self._session.run_with_ort_values(names, dict(feeds)))
