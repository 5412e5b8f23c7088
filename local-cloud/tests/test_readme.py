"""The table in README.md is complete, and each row's tests exist."""

import pkgutil
import re
from pathlib import Path

import stepward_local_cloud

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
PINS = (HERE.parent / "requirements.txt").read_text()


def rows():
    """Cells of each row below the heading "Additions"."""
    lines = README.partition("## Additions")[2].partition("\n## ")[0].splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def names(cell):
    return re.findall(r"`(\w+)\.py`", cell)


def test_each_module_is_in_the_table_once():
    listed = [name for row in rows() for name in names(row[1])]
    assert sorted(listed) == sorted(module.name for module in pkgutil.iter_modules(stepward_local_cloud.__path__))


def test_each_row_has_one_addition_and_its_tests_show_what_ministack_lacks():
    additions = {module.__name__.rpartition(".")[2] for module in stepward_local_cloud.additions()}
    for _, modules, tests, _ in rows():
        [addition] = additions & set(names(modules))
        shown = [(HERE / f"{name}.py").read_text() for name in names(tests)]
        assert any("def test_ministack_lacks_" in text for text in shown), addition
        assert all((HERE / f"{name}.py").is_file() for name in names(tests))


def test_each_test_is_in_the_table():
    listed = {name for row in rows() for name in names(row[2])}
    assert listed == {path.stem for path in HERE.glob("test_*.py")} - {Path(__file__).stem}


def test_the_version_of_ministack_is_the_pinned_one():
    pinned = re.search(r"^ministack==(\S+)", PINS, re.MULTILINE)[1]
    assert {f"MiniStack {pinned}"} == set(re.findall(r"MiniStack \d+\.\d+\.\d+", README))
