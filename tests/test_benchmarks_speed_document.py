import json
import re
import sys
import types

import pytest
from PIL import Image

from benchmarks.speed import __main__ as command
from benchmarks.speed.document import document, markdown_table, write_document
from benchmarks.speed.machine import Machine, load_warning, this_machine
from benchmarks.speed.pictures import draw_bars, number
from benchmarks.speed.results import Bars, Curves, Part, Table, Target
from benchmarks.speed.run import Attempt, Run

MACHINE = Machine("A processor", "avx512f", 2, 16.0, "Linux 6", "3.11.7", {"tensorflow": "2.21.0"})
BARS = Bars("Rates", "images/s", [("bit_keras", 23.0, 22.5, 23.5), ("timm", 15.0, 14.0, 16.0)])


def _part(name, title, targets=(), **fields):
    rows = Table(f"{title} in numbers", ("", "images/s"), [("bit_keras", "23.0")], "lr")
    return Part(name, title, f"How {name} was measured.", [rows], targets=[*targets], **fields)


def _parts():
    missed = Target("10", "float32: ≥ 2 × the best", "1.20 (1.10–1.30)", False, "Statistics cost.")
    reached = Target("2", "bf16: ≥ 1.1 × the best", "1.30 (1.20–1.40)", True)
    curves = Curves("Growth", "side", "Mpixel/s", [("batch 1", [128, 224], [1.0, 1.1])])
    return [
        _part("ceilings", "Ceilings"),
        _part(
            "inference", "Inference", [missed, reached], bars=[BARS], versions={"timm": "1.0.22"}
        ),
        _part("growth", "Growth", curves=[curves]),
        _part("profile", "Where the time goes"),
    ]


def _run(quick=False):
    return Run(quick, MACHINE, {"inference": Attempt("2026-01-31 10:00", 90.0, 0.1)})


def test_the_report_opens_with_machine_versions_date_and_ceilings():
    text = document(_run(), _parts())
    opening, _, _ = text.partition("## Targets")
    for expected in ("A processor", "16 GiB", "tensorflow 2.21.0", "timm 1.0.22", "2026-01-31",
                     "## Ceilings", "How ceilings was measured."):  # fmt: skip
        assert expected in opening


def test_all_targets_stand_in_one_table_by_number():
    text = document(_run(), _parts())
    table = text.partition("## Targets")[2].partition("## Inference")[0]
    assert "1 of 2 reached." in table
    assert re.findall(r"^\| (\d+) \| .* \| (\S+) \|$", table, re.M) == [
        ("2", "yes"),
        ("10", "**no**"),
    ]


def test_every_missed_target_is_explained_and_followed_by_the_profile():
    text = document(_run(), _parts())
    why = text.partition("## Why not")[2]
    assert "float32: ≥ 2 × the best" in why
    assert "Statistics cost." in why
    assert "bf16" not in why
    assert why.index("Statistics cost.") < why.index("### Where the time goes")


def test_without_a_missed_target_there_is_nothing_to_explain():
    parts = [part for part in _parts() if not part.targets]
    text = document(_run(), parts)
    assert "Why not" not in text
    assert "\n## Where the time goes" in text


def test_a_missed_target_without_a_reason_says_so():
    part = _part("norm", "Norm", [Target("6", "≥ 3 ×", "2.0", False)])
    assert "Not explained yet." in document(_run(), [part])


def test_cells_cannot_break_a_table():
    found = markdown_table(Table("", ("a", "b"), [("x|y", "1\n2")], "lr"))
    assert found.splitlines() == ["| a | b |", "| --- | ---: |", r"| x\|y | 1 2 |"]


def test_every_picture_of_the_document_is_drawn_and_old_ones_go(tmp_path):
    path = tmp_path / "benchmarks.md"
    old = tmp_path / "images" / "benchmarks" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    write_document(_run(), _parts(), path)
    named = re.findall(r"!\[.+\]\((.+)\)", path.read_text("utf-8"))
    assert named == ["images/benchmarks/inference-1.png", "images/benchmarks/growth-1.png"]
    for name in named:
        with Image.open(tmp_path / name) as image:
            assert image.width > 1000
    assert not old.exists()


def test_the_ceiling_is_within_the_picture(tmp_path):
    line = ("a ceiling", 40.0)
    draw_bars(Bars("Rates", "images/s", BARS.values, line), tmp_path / "with.png")
    with Image.open(tmp_path / "with.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (0xD9, 0x48, 0x0F) in colours


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (17.83, "17.8"), (0.456, "0.456")])
def test_numbers_have_three_digits(value, shown):
    assert number(value) == shown


def test_a_busy_machine_is_warned_of():
    assert "4.0 on 2 cores" in load_warning(4.0, 2)
    assert load_warning(0.2, 2) == ""


def test_this_machine_is_described_without_its_name():
    machine = this_machine()
    assert machine.memory > 0.5
    assert machine.versions.keys() >= {"tensorflow", "keras", "numpy"}
    assert __import__("platform").node() not in {machine.processor, machine.kernel}


@pytest.fixture
def stand_in(monkeypatch):
    """Lets a function stand in for a part's module."""

    def put(name, measure):
        module = types.SimpleNamespace(measure=measure)
        monkeypatch.setitem(sys.modules, f"benchmarks.speed.{name}", module)

    return put


def test_an_unknown_part_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "nonsense", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "nonsense" in (told := capsys.readouterr().err)
    assert "inference" in told


def test_parts_after_a_failing_one_are_measured_and_the_status_is_1(tmp_path, stand_in, capsys):
    def fails(quick):
        raise RuntimeError("the peer is missing\nand more")

    stand_in("ceilings", fails)
    stand_in("norm", lambda quick: _part("norm", "Norm"))
    (tmp_path / "ceilings.json").write_text("of an earlier run")
    docs = tmp_path / "docs" / "b.md"
    arguments = ["--only", "norm", "ceilings", "--out", str(tmp_path), "--docs", str(docs)]
    assert command.main(arguments) == 1
    text = docs.read_text("utf-8")
    assert "How norm was measured." in text
    assert "failed: RuntimeError: the peer is missing" in text
    assert not (tmp_path / "ceilings.json").exists()
    told = capsys.readouterr()
    assert re.search(r"\[ 0:\d\d\] ceilings FAILED", told.err)
    assert told.err.index("ceilings (1 of 2)") < told.err.index("norm (2 of 2)")
    assert "Failed: ceilings" in told.err


def test_a_quick_run_prints_its_tables_and_leaves_the_document_alone(tmp_path, stand_in, capsys):
    stand_in("norm", lambda quick: _part("norm", "Norm", bars=[BARS]) if quick else None)
    docs = tmp_path / "docs.md"
    docs.write_text("of a full run")
    out = tmp_path / "run"
    arguments = ["--quick", "--only", "norm", "--out", str(out), "--docs", str(docs)]
    assert command.main(arguments) == 0
    assert docs.read_text() == "of a full run"
    assert "A quick run" in (out / "benchmarks.md").read_text("utf-8")
    assert (out / "images" / "benchmarks" / "norm-1.png").is_file()
    assert "Norm in numbers" in capsys.readouterr().out


def test_a_quick_and_a_full_run_do_not_share_a_folder(tmp_path, capsys):
    Run(True, MACHINE).write(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "norm", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "holds a quick run" in capsys.readouterr().err


def test_a_run_is_not_continued_on_another_machine(tmp_path):
    Run(False, MACHINE).write(tmp_path)
    with pytest.raises(ValueError, match="another machine"):
        Run.resumed(tmp_path, False, this_machine())


def test_report_writes_the_document_again_and_measures_nothing(tmp_path, stand_in):
    def measures(quick):
        raise AssertionError("measured")

    for name in command.PARTS:
        stand_in(name, measures)
    _run().write(tmp_path)
    for part in _parts():
        part.write(tmp_path)
    docs = tmp_path / "docs.md"
    assert command.main(["--report", "--out", str(tmp_path), "--docs", str(docs)]) == 0
    assert docs.read_text("utf-8") == document(_run(), _parts())


def test_report_of_an_empty_folder_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--report", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "nothing has been measured" in capsys.readouterr().err


def test_a_run_and_its_parts_survive_their_files(tmp_path):
    _run().write(tmp_path)
    assert Run.read(tmp_path) == _run()
    part = _parts()[1]
    part.write(tmp_path)
    again = Part.read(tmp_path / "inference.json")
    assert again.targets == part.targets
    assert json.loads((tmp_path / "inference.json").read_text())["versions"] == {"timm": "1.0.22"}
