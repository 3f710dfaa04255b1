import subprocess
import sys
import time

import pytest

from bit_keras import cli


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bit_keras.cli", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert cli.run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: bit-keras {name}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_lists_every_command(capsys):
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetun"], "Did you mean finetune?"),
        (["finetune", "--dtaa=x"], "Did you mean: data"),
        (["finetune", "--output=x"], "--data is required"),
        (["finetune", "--data=npz:x", "--output=y", "--steps=many"], "steps"),
        (["finetune", "--data=npz:x", "--output=y", "--batch-size=0"], "batch_size"),
        (["finetune", "--data=npz:x", "--output=y", "--learning-rate=nan"], "learning_rate"),
        (["finetune", "--data=npz:x", "--output=y", "--checkpoint-every=-5"], "checkpoint_every"),
        (["finetune", "--data=npz:x", "--output=y", "--model=BiT-M-R50x9"], "BiT-M-R50x1"),
        (["predict", "--run=x", "--top=0", "a.png"], "top"),
        (["finetune", "--data=npz:x", "--output=y", "stray"], "stray"),
        (["finetune", "--data=npz:x", "--output=y", "--variant=poem"], "variant"),
        (["fewshot", "--data=npz:x", "--output=y", "--shots=one"], "whole numbers"),
        (["predict", "--run=x"], "FILE_OR_FOLDER"),
    ],
)
def test_usage_errors_exit_with_2_and_say_the_fix(arguments, message, capsys):
    assert cli.run(arguments) == 2
    assert message in capsys.readouterr().err


def test_no_command_is_a_usage_error():
    assert cli.run([]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "--data=npz:/none.npz", "--output=/tmp/never"], "/none.npz"),
        (["finetune", "--data=floppy:a", "--output=/tmp/never"], "embedded:NAME"),
        (["evaluate", "--run=/no/run"], "not a run folder"),
        (["predict", "--run=/no/run", "/no/image.png"], "no file or folder"),
        (["export", "--model=BiT-M-R50x9", "--output=/tmp/never"], "neither a run folder nor"),
        (["export", "--model=BiT-L-R50x1", "--output=/tmp/never"], "never released"),
    ],
)
def test_failures_exit_with_1_and_one_line(arguments, message, capsys):
    assert cli.run(arguments) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert told.startswith(f"bit-keras {arguments[0]}: ")


def test_flags_take_hyphens_and_become_options():
    command = cli.COMMANDS["fewshot"]
    options, _ = cli._parse(
        command,
        ["--data=a", "--output", "b", "--steps-per-loop=3", "--noflip", "--shots=2,4", "--crop=64"],
    )
    assert (options.data, options.output, options.steps_per_loop) == ("a", "b", 3)
    assert (options.flip, options.shots, options.crop) == (False, (2, 4), 64)
    assert options.learning_rate is None


def test_fields_may_be_given_by_position():
    command = cli.COMMANDS["data dedup"]
    for arguments in (["up", "down", "--output=o"], ["--upstream=up", "down", "--output=o"]):
        options, rest = cli._parse(command, arguments)
        assert (options.upstream, options.downstream, list(rest)) == ("up", "down", [])
    with pytest.raises(cli.UsageError, match="downstream is required"):
        cli._parse(command, ["up", "--output=o"])
    with pytest.raises(cli.UsageError, match="unexpected argument 'third'"):
        cli._parse(command, ["up", "down", "third", "--output=o"])


def test_models_table_has_every_preset(capsys):
    from bit_keras import list_presets

    assert cli.run(["models"]) == 0
    text = capsys.readouterr().out
    for name in list_presets():
        assert f"{name} " in text
    row = next(line for line in text.splitlines() if line.startswith("BiT-M-R50x1 "))
    assert row.split()[1:5] == ["68.3", "4.09", "2048", "21,843"]
    assert "never released" in next(t for t in text.splitlines() if t.startswith("BiT-L-R50x1"))


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["finetune", "--help"]])
def test_light_commands_do_not_import_tensorflow(arguments):
    code = (
        "import sys; from bit_keras import cli; status = cli.run(sys.argv[1:]);"
        "assert status == 0 and not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_light_commands_take_little_processor_time():
    # Processor time of the child, so that a busy machine does not fail the test; wall time on an
    # idle one is about the same.
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("models").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0


def test_start_up_is_quiet(tmp_path):
    started = time.monotonic()
    found = run("evaluate", f"--run={tmp_path}")
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1, found.stderr
    assert time.monotonic() - started < 120
