"""`hub`: the entry point, and how every command ends."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Final

import typer

from hub.cli import (
    config,
    conflicts,
    dead_letters,
    deliveries,
    demo,
    devices,
    doctor,
    events,
    integrity,
    lag,
    publish,
    replay,
    reports,
    schemas,
    serve,
    simulate,
    store,
    tail,
    tenants,
    token,
    webhooks,
)
from hub.cli.failure import CommandError, UsageError, sentences
from hub.errors import HubError, StartError
from schemas.errors import Problem

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

app = typer.Typer(
    name="hub",
    help="The hotel event hub.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    serve,
    demo,
    publish,
    tail,
    events,
    replay,
    reports,
    lag,
    deliveries,
    webhooks,
    devices,
    conflicts,
    integrity,
    dead_letters,
    token,
    tenants,
    simulate,
    schemas,
    config,
    store,
    doctor,
):
    app.add_typer(module.app)
if importlib.util.find_spec("hub.cli.bench") is not None:
    app.add_typer(import_module("hub.cli.bench").app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("hotel-event-hub"))
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end")
    ] = False,
) -> None:
    """The hotel event hub."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. 1: it failed, 2: it was called wrongly, 130: Ctrl-C."""
    try:
        code = app(list(sys.argv[1:] if arguments is None else arguments), prog_name="hub", standalone_mode=False)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except typer.Abort:
        return _failed("stopped", EXIT_INTERRUPTED)
    except BrokenPipeError:
        return _reader_gone()
    except UsageError as error:
        return _failed(str(error), EXIT_USAGE)
    except StartError as error:
        return _failed(sentences(error.message, error.fix), EXIT_FAILED)
    except (CommandError, HubError, Problem) as error:
        return _failed(str(error), EXIT_FAILED)
    except typer.TyperException as error:
        # What is left is the parser's: an option it does not know, a value that is none.
        return _failed(sentences(error.format_message(), "`--help` tells what the command takes"), error.exit_code)
    return code if isinstance(code, int) else 0


def _failed(text: str, code: int) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code


def _reader_gone() -> int:
    """What read our output has read enough, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
