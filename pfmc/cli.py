"""The command line. Every failure is one line on stderr and a non-zero exit status."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pfmc import api, registry
from pfmc._version import __version__
from pfmc.bench import Requirement
from pfmc.demo import run_demo
from pfmc.driver import (
    FORMATS,
    CompileOptions,
    compile_model,
    export_bundle,
)
from pfmc.errors import PfmcError, UsageError
from pfmc.frontend.selection import Selection
from pfmc.report.page import write_report
from pfmc.report.terminal import show_manifest, show_plan, show_rows, show_verification
from pfmc.technology import loader
from pfmc.verifier import VerifyOptions, verify_bundle

app = typer.Typer(
    name="pfmc",
    help="Compile a trained ONNX network into a fixed physical layout, and verify what the emitted files compute.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SpatialUnroll = Annotated[
    int | None,
    typer.Option(
        help="Sets of tiles at most of a layer with many windows or tokens, side by side.", metavar="K", min=1
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Of the random inputs that are drawn where no data are given.", min=0)]


class Watch:
    """Shows stages and progress on a terminal; quiet in a pipe."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, title: str, total: int | None = None, /) -> Callable[[int], None]:
        """See :class:`pfmc.observer.Observer`."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        task = self._task = self._progress.add_task(title, total=total)
        return lambda done: self._progress.advance(task, done)

    def show(self, text: str) -> None:
        """See :class:`pfmc.observer.Observer`."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command(name="compile")
def compile_command(
    model: Annotated[Path, typer.Argument(help="ONNX file.", metavar="MODEL.onnx")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.", metavar="DIR")],
    target: Annotated[str, typer.Option(help="What to build.")] = "crossbar",
    technology: Annotated[str | None, typer.Option(help="Name, or a TOML file.", metavar="NAME|FILE.toml")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Inputs that set the converters' ranges.", metavar="DATA.npz")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Map only nodes with a name like this.", metavar="PATTERN")
    ] = None,
    except_: Annotated[
        list[str] | None, typer.Option("--except", help="Keep nodes with a name like this digital.", metavar="PATTERN")
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(help="Build tables of Gather nodes with a name like this too.", metavar="PATTERN"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="An option of a pass.", metavar="PASS.OPTION=VALUE")
    ] = None,
    add_pass: Annotated[list[str] | None, typer.Option(help="Run an installed pass too.", metavar="PASS")] = None,
    print_after: Annotated[
        list[str] | None, typer.Option(help="Print what a pass made, on stderr.", metavar="PASS")
    ] = None,
    low_rank: Annotated[
        float | None,
        typer.Option(
            help="Split matrices in two of a small rank: relative error of each, at most.", min=0.0, max=0.999
        ),
    ] = None,
    max_relative_error: Annotated[
        float | None,
        typer.Option(
            help="Choose converters, tiles and wires so that made chips reach it on the calibration data.", min=0.0
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Likewise: share of the same decisions, on data as hard as those.", min=0.0, max=1.0),
    ] = None,
    spatial_unroll: SpatialUnroll = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that construct tiles of glass; default: one per core.", min=1)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted compile into this folder stopped.")
    ] = False,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compile a model into a bundle: masks or volumes, host graph, as-fabricated model, manifest."""
    options = CompileOptions(
        target=target,
        technology=technology,
        calibration=calibration,
        settings=_settings(settings or []),
        add_passes=tuple(add_pass or ()),
        print_after=tuple(print_after or ()),
        selection=Selection(tuple(only or ()), tuple(except_ or ())),
        tables=tuple(tables or ()),
        low_rank=low_rank,
        spatial_unroll=spatial_unroll,
        requirement=Requirement.of(max_relative_error, min_agreement),
        seed=seed,
        workers=workers,
        resume=resume,
    )
    with Watch() as watch:
        manifest = compile_model(model, output, options, watch)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        show_manifest(manifest, output)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Bundle.", metavar="DIR")],
    data: Annotated[Path | None, typer.Option(help="Inputs, and labels if known.", metavar="DATA.npz")] = None,
    samples: Annotated[int | None, typer.Option(help="Use at most this many.", min=1)] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that passes.", min=0.0)] = 0.05,
    accept_modified: Annotated[bool, typer.Option("--accept-modified", help="Let changed files pass.")] = False,
    ideal_converters: Annotated[
        bool, typer.Option("--ideal-converters", help="Leave the converters' rounding and clipping out.")
    ] = False,
    ideal_wires: Annotated[bool, typer.Option("--ideal-wires", help="Leave the resistance of the wires out.")] = False,
    drc: Annotated[
        bool, typer.Option("--drc", help="Check the foundry's design rules, or the glass writer's limits, too.")
    ] = False,
    lvs: Annotated[bool, typer.Option("--lvs", help="Compare connections with what they should be too.")] = False,
    monte_carlo: Annotated[
        int | None, typer.Option(help="Make so many chips, each with its own errors.", metavar="K", min=1)
    ] = None,
    trim: Annotated[bool, typer.Option("--trim", help="Trim each of those by its own measurement.")] = False,
    post_matrix: Annotated[
        bool, typer.Option("--post-matrix", help="Glass: trim with a small digital matrix behind each volume.")
    ] = False,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Measure what the emitted files compute, against the original model. Exit status 1: out of tolerance."""
    options = VerifyOptions(
        data=data,
        samples=samples,
        tolerance=tolerance,
        accept_modified=accept_modified,
        ideal_converters=ideal_converters,
        ideal_wires=ideal_wires,
        drc=drc,
        lvs=lvs,
        monte_carlo=monte_carlo,
        trim=trim,
        post_matrix=post_matrix,
        seed=seed,
    )
    with Watch() as watch:
        verification = verify_bundle(folder, options, watch)
    if as_json:
        print_json(verification.to_json())
    else:
        show_verification(verification)
    if not verification.passed:
        raise typer.Exit(1)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Bundle.", metavar="DIR")],
    path: Annotated[Path, typer.Option("-o", "--output", help="File to write.", metavar="PATH")],
    format_: Annotated[str, typer.Option("--format", help="See pfmc formats.", metavar="FORMAT")],
    tile: Annotated[str | None, typer.Option(help="Only this tile.", metavar="NAME")] = None,
    devices: Annotated[
        Path | None, typer.Option(help="Draw the masks from this table of devices.", metavar="TABLE")
    ] = None,
) -> None:
    """Write a format that the next tool in the chain reads."""
    export_bundle(folder, format_, path, tile=tile, devices=devices)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Bundle.", metavar="DIR")],
    path: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: DIR/report.html.", metavar="FILE.html")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Inputs, and labels if known.", metavar="DATA.npz")] = None,
    seed: Seed = 0,
) -> None:
    """Write a self-contained HTML page: verdict, pictures, layers, files."""
    with Watch() as watch:
        verification = verify_bundle(folder, VerifyOptions(data=data, seed=seed), watch)
    write_report(folder, path or folder / "report.html", verification)


@app.command()
def plan(
    model: Annotated[Path | None, typer.Argument(help="ONNX file.", metavar="MODEL.onnx")] = None,
    parameters: Annotated[float | None, typer.Option(help="Instead of a model.", metavar="1e12")] = None,
    target: Annotated[str, typer.Option(help="What to build.")] = "crossbar",
    technology: Annotated[str | None, typer.Option(help="Name, or a TOML file.", metavar="NAME|FILE.toml")] = None,
    spatial_unroll: SpatialUnroll = None,
    as_json: JsonFlag = False,
) -> None:
    """Say how large it would be, before anything is made."""
    planned = api.plan(
        model, parameters=parameters, target=target, technology=technology, spatial_unroll=spatial_unroll
    )
    if as_json:
        print_json(planned.to_json())
    else:
        show_plan(planned)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make.", metavar="DIR")] = Path("pfmc-demo"),
) -> None:
    """Compile, verify, export and report a real sample."""
    with Watch() as watch:
        verification = run_demo(folder, watch, typer.echo)
    if not verification.passed:
        raise typer.Exit(1)


@app.command()
def technologies() -> None:
    """List the installed technologies."""
    show_rows(loader.describe())


@app.command()
def passes() -> None:
    """List the installed passes."""
    show_rows([(name, (registry.load_pass(name).__doc__ or "").splitlines()[0]) for name in registry.pass_names()])


@app.command()
def backends() -> None:
    """List the installed backends."""
    show_rows([(backend.name, f"{backend.target}: {backend.summary}") for backend in registry.backends()])


@app.command()
def formats() -> None:
    """List what pfmc export can write."""
    of_backends = [item for backend in registry.backends() for item in sorted(backend.formats.items())]
    show_rows([*FORMATS.items(), *of_backends])


def _settings(texts: list[str]) -> dict[str, dict[str, str]]:
    settings: dict[str, dict[str, str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"{text!r} is not PASS.OPTION=VALUE", "--set", "for example tile.rows=32")
        settings.setdefault(name, {})[option] = value
    return settings


def print_json(value: object) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pfmc {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _Interrupted(BaseException):
    """Ctrl-C or a request to terminate; typer would end a KeyboardInterrupt in its own way."""


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def main() -> NoReturn:
    """Run the command line; what is expected to go wrong ends in one line."""
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        signal.signal(interrupt, _interrupt)
    try:
        status = app(standalone_mode=False)
    except PfmcError as e:
        _fail(str(e))
    except typer.TyperException as e:
        _fail(e.format_message().replace("\n", " "))
    except (_Interrupted, typer.Abort):
        _fail("interrupted, nothing was written")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(2)
    except MemoryError:
        _fail("out of memory")
    sys.exit(status if isinstance(status, int) else 0)


def _fail(line: str) -> NoReturn:
    print(f"pfmc: error: {line}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
