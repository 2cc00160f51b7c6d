"""Entry point of `pepnet-infer`. It ends with an `ExitCode`."""

from __future__ import annotations

import signal
import sys
from functools import cache
from importlib import import_module, metadata
from typing import Annotated, NoReturn

import typer

from pepnet_infer.cli.output import ExitCode, fail, print_all, write_everything
from pepnet_infer.errors import PepnetError

app = typer.Typer(
    name="pepnet-infer",
    help="PEPNet from PyTorch to ONNX to scores.",
    epilog="""Examples, in the order of a first day:\n
    pepnet-infer train synthetic:40000 --out checkpoint --test-rows traffic.parquet\n
    pepnet-infer export checkpoint --out bundle\n
    pepnet-infer verify bundle\n
    pepnet-infer score bundle traffic.parquet --out scored\n
    pepnet-infer bench latency bundle""",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

#: What click raises for wrong usage; typer has a click of its own, and shows none of its classes above this one.
_CLICK_ERROR: type[Exception] = typer.BadParameter.__bases__[0]

#: Package → extra of pepnet-infer that installs it: what a command says when it is not there.
EXTRAS = {
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
def add_commands() -> None:
    """Gives `app` its subcommands, once a process: typer would build them again beside those it has."""
    for name in COMMANDS:
        module = import_module(f"pepnet_infer.cli.{name}")
        app.command(name)(getattr(module, name))
    app.add_typer(import_module("pepnet_infer.cli.bench").bench, name="bench")


def main() -> None:
    """Runs the command line and ends the process with an `ExitCode`."""
    write_everything()
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # as who started this process would have it
        signal.signal(signal.SIGTERM, _terminate)
    as_json = "--json" in sys.argv[1:] and sys.argv[1:2] != ["bench"]
    try:
        add_commands()
        code = app(prog_name="pepnet-infer", standalone_mode=False) or ExitCode.DONE
        if sys.stdout is not None:
            sys.stdout.flush()  # when the interpreter ends, a fault would be exit code 120 and a traceback
    except _CLICK_ERROR as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error, file=sys.stderr)
            sys.exit(ExitCode.USAGE)
        said = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        hint = f"; see {context.command_path} --help" if context is not None else ""
        fail("UsageError", f"{said}{hint}", ExitCode.USAGE, as_json)
    except PepnetError as error:
        fail(type(error).__name__, str(error), ExitCode.FAILED, as_json, error.fields())
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        said = f"this command needs {error.name}: pip install 'pepnet-infer[{extra}]'"
        fail("MissingExtra", said, ExitCode.FAILED, as_json)
    except BrokenPipeError:
        print_all()
        sys.exit(ExitCode.FAILED)
    except OSError as error:  # a full disk under stdout, say
        fail(type(error).__name__, str(error), ExitCode.FAILED, as_json)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except SystemExit as end:
        if end.code is not ExitCode.TERMINATED:
            raise
        fail("Terminated", "SIGTERM came before the end", ExitCode.TERMINATED, as_json)
    if code == ExitCode.INTERRUPTED:  # typer makes it of the interrupt
        fail("Interrupted", "SIGINT came before the end", ExitCode.INTERRUPTED, as_json)
    sys.exit(code)


def _terminate(*_: object) -> NoReturn:
    """Ends the process by an exception, so that what is half written goes."""
    raise SystemExit(ExitCode.TERMINATED)


if __name__ == "__main__":
    main()
