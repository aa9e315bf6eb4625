"""What a person at a terminal sees when something goes wrong: one message, and no traceback."""

from __future__ import annotations

import traceback
import warnings
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from interp.errors import InterpError

FAILED = 2
INTERRUPTED = 130
"""What a shell reports for a command that Ctrl-C ended."""


class ErrorGroup(TyperGroup):
    """Commands whose :class:`InterpError` becomes a message on stderr and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors of ours and Ctrl-C into an exit status."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except InterpError as error:
            if ctx.params.get("debug"):
                traceback.print_exception(error)
            _complain(Text.assemble(("error: ", "bold red"), (str(error), "red")))
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            _complain(Text("interrupted; nothing was written.", "yellow"))
            raise typer.Exit(INTERRUPTED) from None


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # deprecations inside the libraries below are nothing that a user of the command can act on
    if issubclass(category, UserWarning):
        _complain(Text.assemble(("warning: ", "bold yellow"), str(message)))


def _complain(text: Text) -> None:
    Console(stderr=True, soft_wrap=True).print(text)
