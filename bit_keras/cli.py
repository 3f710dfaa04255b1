"""The command line: flags from the option dataclasses, and nothing else.

Commands import TensorFlow only when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import textwrap
import traceback
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

from bit_keras import options as opt
from bit_keras.bench_options import BenchOptions
from bit_keras.convert_options import ConvertOptions
from bit_keras.pretrain_options import PretrainOptions
from bit_keras.report_options import ReportOptions
from bit_keras.serve_options import ServeOptions
from bit_keras.version import __version__

OK, FAILED, USAGE = 0, 1, 2


def _finetune(options: opt.FinetuneOptions, _: Sequence[str]) -> None:
    from bit_keras.finished import evaluation_text
    from bit_keras.transfer import finetune

    print(evaluation_text(finetune(options)))
    print(f"Run folder: {options.output}")


def _fewshot(options: opt.FewshotOptions, _: Sequence[str]) -> None:
    from bit_keras.fewshot import fewshot, summary

    print(summary(fewshot(options)))


def _evaluate(options: opt.EvaluateOptions, _: Sequence[str]) -> None:
    from bit_keras.finished import evaluate_run, evaluation_text

    print(evaluation_text(evaluate_run(options)))


def _predict(options: opt.PredictOptions, paths: Sequence[str]) -> None:
    from bit_keras.finished import predict_files

    predict_files(options, paths)


def _export(options: opt.ExportOptions, _: Sequence[str]) -> None:
    from bit_keras.finished import export

    print(f"Module: {export(options)}")


def _convert(options: ConvertOptions, _: Sequence[str]) -> None:
    from bit_keras.convert import convert

    print(convert(options).text())


def _serve(options: ServeOptions, _: Sequence[str]) -> None:
    from bit_keras.serving.server import serve

    serve(options)


def _data(options: opt.DataOptions, _: Sequence[str]) -> None:
    from bit_keras.records import run_data

    print(run_data(options))


def _dedup(options: opt.DedupOptions, _: Sequence[str]) -> None:
    from bit_keras.dedup import run, summary

    print(summary(options, run(options)))


def _pretrain(options: PretrainOptions, _: Sequence[str]) -> None:
    from bit_keras.pretrain import pretrain

    found = pretrain(options)
    print("  ".join(f"{name} {100 * share:.1f} %" for name, share in found.items()))
    print(f"Run folder: {options.output}")


def _quickstart(options: opt.QuickstartOptions, _: Sequence[str]) -> None:
    from bit_keras.quickstart import quickstart

    quickstart(options)


def _report(options: ReportOptions, _: Sequence[str]) -> None:
    from bit_keras.health_report import report

    print(report(options).text())


def _bench(options: BenchOptions, _: Sequence[str]) -> None:
    from bit_keras.bench import bench

    print(bench(options))


def _models(options: opt.ModelsOptions, _: Sequence[str]) -> None:
    from bit_keras.listing import models_table

    print(models_table())


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        options: its options class; every field is a flag.
        run: what it does, from the options and the paths.
        paths: what its positional arguments are, any number from one on; empty for none.
        fields: options that may be given by position instead of by flag.
        tensorflow: whether it needs TensorFlow.
    """

    options: type
    run: Callable[[Any, Sequence[str]], None]
    paths: str = ""
    fields: tuple[str, ...] = ()
    tensorflow: bool = True

    @property
    def arguments(self) -> str:
        """The positional arguments as the usage line shows them."""
        return self.paths or " ".join(field.upper() for field in self.fields)


COMMANDS = {
    "models": Command(opt.ModelsOptions, _models, tensorflow=False),
    "finetune": Command(opt.FinetuneOptions, _finetune),
    "fewshot": Command(opt.FewshotOptions, _fewshot),
    "pretrain": Command(PretrainOptions, _pretrain),
    "evaluate": Command(opt.EvaluateOptions, _evaluate),
    "predict": Command(opt.PredictOptions, _predict, paths="FILE_OR_FOLDER ..."),
    "report": Command(ReportOptions, _report, fields=("run",), tensorflow=False),
    "export": Command(opt.ExportOptions, _export),
    "convert": Command(ConvertOptions, _convert),
    "serve": Command(ServeOptions, _serve, fields=("model_dir",)),
    "data": Command(opt.DataOptions, _data),
    "data dedup": Command(opt.DedupOptions, _dedup, fields=("upstream", "downstream")),
    "bench": Command(BenchOptions, _bench, tensorflow=False),
    "quickstart": Command(opt.QuickstartOptions, _quickstart),
}


class UsageError(Exception):
    """A command line that cannot be understood."""


def _define(values: flags.FlagValues, name: str, kind: Any, default: Any, text: str) -> None:
    """Defines the flag for one field of an options class."""
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        flags.DEFINE_enum(name, default or None, list(choices), text, flag_values=values)
    elif typing.get_origin(kind) is tuple:
        as_text = ",".join(map(str, default))
        flags.DEFINE_list(name, as_text, text, flag_values=values)
    else:
        kind = next((c for c in choices if c is not type(None)), kind)  # Optional[x] → x
        definers: dict[Any, Callable[..., Any]] = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }
        definers[kind](name, default, text, flag_values=values)


def _flag_values(options: type) -> flags.FlagValues:
    values = flags.FlagValues()
    kinds = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        _define(values, field.name, kinds[field.name], field.default, field.metadata["help"])
    return values


def _parse(command: Command, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The options object and the positional arguments of a command line."""
    values = _flag_values(command.options)
    try:
        # --steps-per-loop is as good as --steps_per_loop.
        rest = values([""] + [_underscored(argument) for argument in arguments])[1:]
    except flags.Error as error:
        raise UsageError(str(error)) from None
    given: dict[str, Any] = {name: values[name].value for name in values}
    open_fields = [name for name in command.fields if not given[name]]
    given |= dict(zip(open_fields, rest, strict=False))
    rest = rest[len(open_fields) :]
    if rest and not command.paths:
        raise UsageError(f"unexpected argument {rest[0]!r}; options start with --")
    kinds = typing.get_type_hints(command.options)
    for field in dataclasses.fields(command.options):
        if field.metadata.get("required") and not given[field.name]:
            raise UsageError(f"--{field.name} is required: {field.metadata['help']}")
        if isinstance(field.default, tuple):
            kind = typing.get_args(kinds[field.name])[0]
            given[field.name] = _numbers(field.name, given[field.name], kind)
    if command.paths and not rest:
        raise UsageError(f"name what to work on: {command.paths}")
    try:
        return command.options(**given), rest
    except ValueError as error:
        raise UsageError(str(error)) from None


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _numbers(name: str, texts: Sequence[str], kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(text) for text in texts)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{name} takes {what} with commas, such as 1,5,10") from None


def _summary(command: Command) -> str:
    return (command.options.__doc__ or "").strip().splitlines()[0]


def usage() -> str:
    """The text of `bit-keras --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {_summary(c)}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            f"bit-keras {__version__}: Big Transfer (BiT) for Keras 3",
            "",
            "usage: bit-keras COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "bit-keras COMMAND --help shows a command's flags.",
        ]
    )


def command_usage(name: str) -> str:
    """The text of `bit-keras COMMAND --help`."""
    command = COMMANDS[name]
    kinds = typing.get_type_hints(command.options)
    lines = [f"usage: bit-keras {name} [--flag=value ...] {command.arguments}".rstrip(), ""]
    lines += [textwrap.dedent(" " * 4 + (command.options.__doc__ or "")).strip(), ""]
    for field in dataclasses.fields(command.options):
        choices = typing.get_args(kinds[field.name])
        told = field.metadata["help"]
        if typing.get_origin(kinds[field.name]) is typing.Literal:
            told += f" One of: {', '.join(choices)}."
        if field.metadata.get("required"):
            told += " Required."
        elif field.default not in (None, "", False):
            shown = field.default
            shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else shown
            told += f" Default: {shown}." if "efault:" not in told else ""
        flag = f"--[no]{field.name}" if kinds[field.name] is bool else f"--{field.name}"
        lines += textwrap.wrap(
            told, 96, initial_indent=f"  {flag.ljust(22)}  ", subsequent_indent=" " * 26
        )
    return "\n".join(lines)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return f"there is no command {name!r}.{meant} Commands: {', '.join(COMMANDS)}"


def _plain(error: BaseException) -> BaseException:
    """An error raised within a data pipeline, without TensorFlow's wrapping of it."""
    inner = re.search(r"ImageError: (.+)", str(error))
    return ValueError(inner[1]) if inner else error


def _failure(name: str, error: BaseException) -> int:
    """Tells an expected error in one line; the traceback only when asked for."""
    if os.environ.get("BIT_KERAS_VERBOSE", "0") not in ("", "0"):
        traceback.print_exception(error)
    print(f"bit-keras {name}: {error}", file=sys.stderr)
    return FAILED


def run(arguments: Sequence[str]) -> int:
    """Runs a command line (without the program's name) and returns its exit status.

    0 is success only, 1 a failure, 2 a usage error; after a signal, 128 + its number.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        print(__version__)
        return OK
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        print(f"bit-keras: {_unknown(name)}", file=sys.stderr)
        return USAGE
    if "--help" in rest or "-h" in rest:
        print(command_usage(name))
        return OK
    try:
        options, paths = _parse(COMMANDS[name], rest)
    except UsageError as error:
        print(f"bit-keras {name}: {error}\nbit-keras {name} --help lists the flags.",
              file=sys.stderr)  # fmt: skip
        return USAGE
    return _execute(name, options, paths)


def _execute(name: str, options: Any, paths: Sequence[str]) -> int:
    # Errors that a user can do something about; anything else is a fault of ours, with traceback.
    expected: tuple[type[BaseException], ...] = (ValueError, OSError, ArithmeticError, ImportError)
    out_of_memory: tuple[type[BaseException], ...] = (MemoryError,)
    try:
        if COMMANDS[name].tensorflow:
            from bit_keras.backend import load_tensorflow

            load_tensorflow()
            import tensorflow as tf

            from bit_keras.verify import ExportError

            out_of_memory = (MemoryError, tf.errors.ResourceExhaustedError)
            damaged = (tf.errors.DataLossError, tf.errors.FailedPreconditionError)  # record shards
            expected = (*expected, ExportError, tf.errors.InvalidArgumentError, *damaged)
        COMMANDS[name].run(options, paths)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone
        sys.stderr.close()
        return FAILED
    except out_of_memory:
        hint = "out of memory. Take a smaller --batch_size (the rule is rescaled) or --crop."
        return _failure(name, MemoryError(hint))
    except SystemExit as stop:  # a signal; the state is saved
        print(f"bit-keras {name}: {getattr(stop, 'message', 'stopped')}", file=sys.stderr)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _failure(name, KeyboardInterrupt("interrupted")) and 130
    except expected as error:
        return _failure(name, _plain(error))
    return OK


def main() -> None:
    """The console script `bit-keras`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
