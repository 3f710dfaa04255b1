import re
from pathlib import Path

import pytest

from bit_keras import cli, list_presets

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "examples/cluster/README.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "bit_keras/assets").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_leads_somewhere(page):
    path = ROOT / page
    prose = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_flags_of_a_page_exist(page):
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ *(?:Next: +)?bit-keras ([a-z][^#\n`]*)", text, flags=re.M)
    assert len(lines) >= (6 if page == "README.md" else 0)
    for line in lines:
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
        flags = cli._flag_values(cli.COMMANDS[name].options)
        for flag in re.findall(r"--([a-z_]+)", line):
            assert flag in flags, f"{name} --{flag}"


def test_the_number_of_presets_is_true():
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"all {len(list_presets())} presets" in text
