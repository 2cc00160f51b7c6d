"""Entry point of `pepnet-infer`: exit code 0 when all went well, 1 on failure, 2 on wrong usage.

`score` has one more, see there.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module, metadata
from typing import Annotated

import typer

from pepnet_infer.cli.output import progress
from pepnet_infer.cli.terminal import write_everything
from pepnet_infer.errors import PepnetError

app = typer.Typer(
    name="pepnet-infer",
    help="PEPNet from PyTorch to ONNX to scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

#: Package → extra of pepnet-infer that installs it: what a command says when it is not there.
EXTRAS = {
    "cachetools": "bench",
    "lmdb": "lmdb",
    "matplotlib": "bench",
    "onnx": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "redis": "redis",
    "safetensors": "bench",
    "torch": "export",
}

#: Subcommand → module whose function of the same name it is. Modules that need torch import it inside the function.
COMMANDS = ("train", "export", "inspect", "verify", "publish", "score", "cpu")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        print(metadata.version("pepnet-infer"))
        raise typer.Exit


@cache
def _register() -> None:
    """Once a process: typer would build what is registered again beside what it has, and take longer each time."""
    for name in COMMANDS:
        module = import_module(f"pepnet_infer.cli.{name}")
        app.command(name)(getattr(module, name))
    app.add_typer(import_module("pepnet_infer.cli.bench").bench, name="bench")


def main() -> None:
    """Runs the command line and ends the process."""
    write_everything()
    _register()
    try:
        try:
            app()
        except SystemExit:
            if sys.stdout is not None:
                sys.stdout.flush()  # when the interpreter ends, a fault would be exit code 120 and a traceback
            raise
    except PepnetError as error:
        progress.print(f"[bold red]error:[/] [bold]{type(error).__name__}[/]: ", end="")
        progress.print(str(error), markup=False, highlight=False)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        progress.print(f"error: this command needs {error.name}: pip install 'pepnet-infer[{extra}]'", markup=False)
        sys.exit(1)
    except BrokenPipeError:
        _let_go_of_stdout()
        sys.exit(1)
    except OSError as error:  # a full disk under stdout, say
        _let_go_of_stdout()
        progress.print(f"error: {type(error).__name__}: {error}", markup=False, highlight=False)
        sys.exit(1)


def _let_go_of_stdout() -> None:
    """What it still holds would raise again when the interpreter ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
