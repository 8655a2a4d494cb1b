"""The entry: reads the arguments, runs one verb, prints its answer, and turns every ending into an exit code."""

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError

from meddistill import __version__
from meddistill.cli import (
    audit,
    bench,
    compress,
    demo,
    distill,
    evaluate,
    export,
    export_model,
    inspect,
    interrupts,
    keygen,
    merge,
    methods,
    predict,
    report,
    show,
    sign,
    train,
    trust,
    verify,
    view,
)
from meddistill.cli.common import Answer
from meddistill.cli.layout import printable
from meddistill.runtime.device import keep_freed_memory
from meddistill.runtime.errors import InputError, MeddistillError, OutputError, VerificationError

USAGE = 2
INTERRUPTED = 130
RESUMABLE = ("distill", "demo", "bench")

app = App(
    name="meddistill",
    help="Turn a hospital's labelled images into a few synthetic soft-label images, and train from them.",
    version=__version__,
    help_format="plaintext",
)
VERBS: tuple[Callable[..., Answer], ...] = (
    demo.demo,
    inspect.inspect,
    distill.distill,
    train.train,
    evaluate.evaluate,
    predict.predict,
    export_model.export_model,
    compress.compress,
    merge.merge,
    export.export,
    show.show,
    report.report,
    view.view,
    verify.verify,
    audit.audit,
    keygen.keygen,
    sign.sign,
    trust.trust,
    methods.methods,
    bench.bench,
)
for _place, _verb in enumerate(VERBS):
    app.command(_verb, sort_key=_place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` if ``arguments`` is None) and return its exit code.

    An exception that is not the user's to mend is a bug: its traceback is printed and the code is 1.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = _asks_for_json(words)
    _forgiving_streams()
    keep_freed_memory()
    try:
        with interrupts.heeded():
            return _ending(words, as_json)
    except KeyboardInterrupt:
        return _fail("interrupted", _interruption(words), INTERRUPTED, as_json)


def _ending(words: list[str], as_json: bool) -> int:
    try:
        return _finish(_run(words, as_json), as_json)
    except Exception as error:
        interrupts.again()  # libraries, too, may make another error of a Ctrl-C
        return _failed(error, words, as_json)


def _failed(error: Exception, words: list[str], as_json: bool) -> int:
    if isinstance(error, CycloptsError):
        return _fail("usage", f"{error}\nSee: {_help_command(words)}", USAGE, as_json)
    if isinstance(error, MeddistillError):
        return _fail(_kind(error), str(error), error.exit_code, as_json, **_problems(error))
    traceback.print_exception(error)
    return _fail("internal", f"{type(error).__name__}: {error}", 1, as_json)


def _run(words: list[str], as_json: bool) -> Answer | None:
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    # Only the document may reach standard output; what a library prints on the way must not.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        answer: Answer | None = command(*bound.args, **bound.kwargs)
    return answer  # help and version print themselves and answer nothing


def _finish(answer: Answer | None, as_json: bool) -> int:
    if answer is None:
        return _write(lambda: None, 0)
    if as_json:
        return _write(lambda: _print_json(answer.document), answer.exit_code)
    return _write(lambda: _print_text(answer), answer.exit_code)


def _fail(kind: str, message: str, code: int, as_json: bool, **more: Any) -> int:
    if kind != "internal":  # whose traceback stands there already
        print(f"meddistill: {printable(message)}", file=sys.stderr, flush=True)  # noqa: T201
    if as_json:
        error = {"kind": kind, "message": message, "exit_code": code, **more}
        return _write(lambda: _print_json({"error": error}), code)
    return code


def _write(show: Callable[[], None], code: int) -> int:
    """Print on standard output and return ``code``, or what a full disk behind it makes of it."""
    try:
        show()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # the reader has seen enough (`| head`): not an error
    except OSError as error:
        _drop_output()
        return _fail("output", f"cannot write standard output: {error.strerror}", OutputError.exit_code, False)
    return code


def _drop_output() -> None:
    """Point standard output at nothing, lest the interpreter fails again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(_finite(document), indent=2, allow_nan=False))  # noqa: T201


def _finite(value: Any) -> Any:
    """The same value with null for numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _print_text(answer: Answer) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    with console.capture() as captured:  # the console would end the process itself at a broken pipe
        answer.render(printable(answer.document), console)
    print(captured.get(), end="")  # noqa: T201


def _asks_for_json(words: list[str]) -> bool:
    """Known before the arguments are parsed: a usage error has to be a document, too."""
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _help_command(words: list[str]) -> str:
    verb = words[0] if words and not words[0].startswith("-") and words[0] in app else None
    return f"meddistill {verb} --help" if verb else "meddistill --help"


def _kind(error: MeddistillError) -> str:
    kinds: dict[type[MeddistillError], str] = {
        InputError: "input",
        OutputError: "output",
        VerificationError: "verification",
    }
    return next((name for kind, name in kinds.items() if isinstance(error, kind)), "error")


def _problems(error: MeddistillError) -> dict[str, Any]:
    """All problems of a source one by one, where the error lists them."""
    problems = getattr(error, "problems", ())
    return {"problems": [problem.as_dict() for problem in problems]} if problems else {}


def _interruption(words: list[str]) -> str:
    if words and words[0] in RESUMABLE:
        return "interrupted: the state of the run is saved, the same command continues it"
    return "interrupted: nothing was left half-written"


def _forgiving_streams() -> None:
    """A sign that a terminal's encoding lacks (±, ×) is shown as ?, it does not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
