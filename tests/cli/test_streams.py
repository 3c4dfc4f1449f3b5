"""The command line as a child process, with standard streams as shells leave them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "import sys; from trtasr.cli import main; sys.exit(main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
DOCTOR, WRONG = ["doctor"], ["compile", "no-such-model"]


def shell(arguments: list[str], redirection: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run through a shell; the exit code of the command itself is the last line of stdout, behind ``code``."""
    script = f'set -o pipefail; ("$@"; echo "code $?" >&9) {redirection}'
    return subprocess.run(
        ["bash", "-c", f"exec 9>&1; {script}", "bash", *COMMAND, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "redirection", "code", "said"),
    [
        (DOCTOR, "| true", 0, ""),
        (DOCTOR, "| head -n 1", 0, ""),
        (DOCTOR, ">&-", 0, ""),
        (DOCTOR, "2>&-", 0, ""),
        (DOCTOR, "<&- >&- 2>&-", 0, ""),
        (DOCTOR, ">/dev/full", 4, "error: the result cannot be written to standard output (No space left on device)"),
        (WRONG, "| true", 2, "error: model 'no-such-model'"),
        (WRONG, ">&-", 2, "error: model 'no-such-model'"),
        (WRONG, "2>&-", 2, ""),
        (WRONG, "2>/dev/full", 2, ""),
        (WRONG, "2>&1 | true", 2, ""),
        ([*WRONG, "--json"], ">/dev/full", 2, "error: model 'no-such-model'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_way_to_take_the_streams_away_ends_with_the_documented_code(
    tmp_path, arguments, redirection, code, said
) -> None:
    done = shell(arguments, redirection, tmp_path)
    assert f"code {code}\n" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    assert done.stderr.startswith(said) if said else not done.stderr


def test_a_closed_stdout_is_no_file_that_is_opened_later(tmp_path) -> None:
    code = (
        "import os, sys; from trtasr.cli.streams import standard_streams\n"
        "with standard_streams():\n"
        "    print(open('table.json', 'w').fileno(), file=sys.stderr)\n"
        "    os.write(1, b'what a library prints')"
    )
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stderr) > 2
    assert (tmp_path / "table.json").read_text(encoding="utf-8") == ""


def test_what_a_stream_cannot_encode_is_spelled_out(tmp_path) -> None:
    code = (
        "from trtasr.cli.main import as_json, put\nfrom trtasr.cli.streams import standard_streams\n"
        "with standard_streams():\n    put('модель')\n    put(as_json(['модель', '\\udcff']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    spelled, data = done.stdout.split("\n", 1)
    assert spelled == "\\u043c\\u043e\\u0434\\u0435\\u043b\\u044c"
    assert json.loads(data) == ["модель", "\udcff"]


def test_a_log_that_nobody_reads_does_not_stop_the_work(tmp_path) -> None:
    code = (
        "import logging, sys\nfrom trtasr.cli.streams import Log, put, standard_streams\n"
        "with standard_streams():\n"
        "    logging.basicConfig(level=logging.INFO, handlers=[Log(logging.INFO)])\n"
        "    for index in range(20000):\n        logging.info('line %d', index)\n"
        "    put('done')\nsys.exit(3)"
    )
    script = '("$@" 2>&9; echo "code $?") 9> >(head -n 1 >&2)'
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "done\ncode 3\n"
    assert done.stderr == "[I] line 0\n"


@pytest.mark.parametrize(("flags", "told"), [([], False), (["-v"], True)])
def test_warnings_of_libraries_are_for_those_who_ask(tmp_path, flags, told) -> None:
    code = (
        "import sys, warnings\nfrom trtasr.cli import verbs\nfrom trtasr.cli import main\n"
        "def doctor(_):\n    warnings.warn('soon removed', DeprecationWarning)\n"
        "    warnings.warn('a library says so')\n    return verbs.Summary('done')\n"
        "verbs.VERBS['doctor'] = doctor\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", *flags],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "done\n"
    assert ("a library says so" in done.stderr) == told
    assert told or not done.stderr
