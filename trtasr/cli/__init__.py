"""The command line: flags, exit codes and what is printed; the verbs are `trtasr.cli.verbs`."""

from trtasr.cli.flags import parser
from trtasr.cli.main import main

__all__ = ["main", "parser"]
