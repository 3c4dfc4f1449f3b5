"""What is sent back from a T4 host: one archive with the findings and their evidence."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from trtasr.errors import UsageError
from trtasr.files.look import is_file
from trtasr.files.write import replacing
from trtasr.pipeline.acceptance.findings import OUTCOME, RESULT

KEPT = {".json", ".gz", ".txt"}  # findings, logs; not the plans, the graphs with their weights, and the scale table
WORDS = ("-WER",)  # end the names of steps whose findings are transcripts


def pack(out: Path, everything: bool) -> Path:
    """Pack the findings in a folder into ``<folder>.tar.gz`` beside it.

    Args:
        out: folder of a run.
        everything: plans, ONNX graphs, scales and transcripts too.

    Raises:
        UsageError: there are no findings, or the archive cannot be written. DiskError: the disk takes no more.
    """
    if not is_file(out / RESULT):
        raise UsageError(f"{out}: holds no findings", "run `make t4-acceptance` first, or name its folder with -o")
    packed = out.parent / f"{out.name}.tar.gz"
    with replacing(packed) as partial, tarfile.open(partial, "w:gz") as archive:
        for file in packable(out, everything):
            archive.add(file, f"{out.name}/{file.relative_to(out).as_posix()}", recursive=False)
    return packed


def packable(out: Path, everything: bool) -> Iterator[Path]:
    """The files of an archive."""
    for file in sorted(out.rglob("*")):
        if file.is_file() and not file.is_symlink() and (everything or harmless(file, out)):
            yield file


def harmless(file: Path, out: Path) -> bool:
    """Whether a file holds neither weights nor words: the result, and of steps what is no transcript."""
    parts = file.relative_to(out).parts
    if parts == (file.name,):
        return file.suffix in KEPT
    spoken = file.name == OUTCOME and file.parent.name.endswith(WORDS)
    return parts[0] == "steps" and file.suffix in KEPT and not spoken
