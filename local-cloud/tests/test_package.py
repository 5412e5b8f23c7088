"""Checks that README.md lists all modules, and that all names of MiniStack in them exist."""

import ast
import importlib
import inspect
import pkgutil
import re
import types
from pathlib import Path

import stepward_local_cloud

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
PINS = (HERE.parent / "requirements.txt").read_text()


def rows():
    """Returns the cells of each row below the heading "Additions"."""
    lines = README.partition("## Additions")[2].partition("\n## ")[0].splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def modules():
    names = [module.name for module in pkgutil.iter_modules(stepward_local_cloud.__path__)]
    return {name: importlib.import_module(f"stepward_local_cloud.{name}") for name in names}


def names(cell):
    return re.findall(r"`(\w+)\.py`", cell)


def test_each_module_is_in_the_table_once():
    listed = [name for row in rows() for name in names(row[1])]
    assert sorted(listed) == sorted(modules())


def test_each_row_has_one_addition_and_its_tests():
    additions = {module.__name__.rpartition(".")[2] for module in stepward_local_cloud.additions()}
    for _, listed, tests, _ in rows():
        [addition] = additions & set(names(listed))
        shown = [(HERE / f"{name}.py").read_text() for name in names(tests)]
        assert any("def test_ministack_lacks_" in text for text in shown), addition
        assert all((HERE / f"{name}.py").is_file() for name in names(tests))


def test_each_test_is_in_the_table():
    listed = {name for row in rows() for name in names(row[2])}
    # These two test no addition: this file, and the template's rule.
    others = {Path(__file__).stem, "test_cancel_rule"}
    assert listed == {path.stem for path in HERE.glob("test_*.py")} - others


def test_the_version_of_ministack_is_the_pinned_one():
    pinned = re.search(r"^ministack==(\S+)", PINS, re.MULTILINE)[1]
    assert {f"MiniStack {pinned}"} == set(re.findall(r"MiniStack \d+\.\d+\.\d+", README))


def test_each_name_of_ministack_that_is_used_exists():
    used = set()
    for module in modules().values():
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = vars(module).get(node.value.id)
                if isinstance(owner, types.ModuleType) and owner.__name__.startswith("ministack."):
                    used.add((owner, node.attr))
    assert len(used) > 50
    assert [f"{owner.__name__}.{name}" for owner, name in used if not hasattr(owner, name)] == []
