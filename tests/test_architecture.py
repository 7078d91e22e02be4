"""The package is one list of files, and each imports only from those above it."""

from __future__ import annotations

import ast
import functools
import graphlib
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import emofuse

SOURCE = Path(emofuse.__file__).parent

ORDER = (
    "terminal",
    "errors",
    "names",
    "inputs",
    "outside",
    "files",
    "weights",
    "delimited",
    "escape",
    "progress",
    "locks",
    "types",
    "settings",
    "recipe",
    "seeds",
    "workers",
    "parquet",
    "manifest",
    "audio",
    "corpora",
    "leakage",
    "protocols",
    "encoders",
    "language",
    "align",
    "scoring",
    "task",
    "features",
    "models",
    "plan",
    "training",
    "checkpoint",
    "distill",
    "report",
    "asr",
    "inference",
    "keep",
    "experiment",
    "finetune",
    "cost",
    "combine",
    "adaptation",
    "demo",
    "doctor",
    "cli",
    "testing",
)
"""From the foundation up; a package stands for all its files."""

LONGEST = 400
"""Lines that say something: neither blank nor comment nor docstring."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(("emofuse", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


MODULES = modules()
# The package's own file names the public face and is imported by all; `__main__` only calls the command line.
LISTED = [name for name in MODULES if name not in ("emofuse", "emofuse.__main__")]


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name: str) -> tuple[tuple[str, bool], ...]:
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[tuple[str, bool]]:
    """Modules of emofuse that a module imports anywhere in it, and whether it does so as soon as it is imported."""
    tree = tree_of(name)
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or _for_types_only(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found = [one if one in MODULES else base for one in whole]
        for one in found:
            if one.partition(".")[0] == "emofuse":
                yield one, id(node) not in late


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def place(name: str) -> int:
    return ORDER.index(name.split(".")[1])


def test_every_file_has_its_place_in_the_list() -> None:
    assert {name.split(".")[1] for name in LISTED} == set(ORDER)


@pytest.mark.parametrize("name", LISTED)
def test_a_file_imports_only_from_those_above_it(name: str) -> None:
    wrong = [
        other
        for other, _ in imports(name)
        if other not in ("emofuse", name) and other.split(".")[1] != name.split(".")[1] and place(other) > place(name)
    ]
    assert wrong == [], f"{name} stands above {wrong[0]}"


def test_nothing_imports_in_a_circle() -> None:
    """Within packages too, whether at once or later."""
    graph = {name: {other for other, _ in imports(name) if other not in ("emofuse", name)} for name in LISTED}
    # Importing a file imports its package first, so a package that needs its files must not be asked by them.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(LISTED)


def test_the_tests_tools_are_for_tests() -> None:
    tools = ("emofuse.testing", "emofuse.testing.corpora")
    assert [name for name in LISTED if name not in tools for other, _ in imports(name) if other in tools] == []


def test_imports_are_found() -> None:
    """What all of the above rests on."""
    assert ("emofuse.models.base", True) in set(imports("emofuse.models.early"))
    assert ("emofuse.cli.console", False) in set(imports("emofuse.cli.app"))
    assert ("emofuse.recipe", False) in set(imports("emofuse.cli.options"))
    assert ("emofuse.errors", True) in set(imports("emofuse.manifest"))
    assert sum(len(list(imports(name))) for name in LISTED) > 100


HEAVY = ("torch", "transformers", "pandas", "sklearn", "matplotlib", "scipy", "pyarrow")


def foreign(name: str) -> set[str]:
    """Packages of others that come along at once."""
    tree = tree_of(name)
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_scoring_and_protocols_need_no_torch() -> None:
    """Scores that other tools made can be judged where torch is not installed."""
    for name in LISTED:
        if place(name) <= ORDER.index("protocols") or name.startswith("emofuse.scoring"):
            assert foreign(name).isdisjoint({"torch", "transformers"}), name


def test_the_command_line_imports_nothing_heavy() -> None:
    todo, seen = ["emofuse.cli.app"], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        assert foreign(name).isdisjoint(HEAVY), name
        todo += [other for other, at_once in imports(name) if at_once and other not in seen]
    assert "emofuse.errors" in seen


def lines_of_code(path: Path) -> int:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in silent]
    code = {line for token in tokens[1:] for line in range(token.start[0], token.end[0] + 1)}
    return len(code - prose)


def test_no_file_grows_too_long() -> None:
    assert {name: count for name in MODULES if (count := lines_of_code(MODULES[name])) > LONGEST} == {}


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_library_never_prints() -> None:
    assert [name for name in MODULES for called, _ in calls(name) if called in ("print", "sys.stdout.write")] == []


def test_no_pickle_is_ever_loaded() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name in MODULES:
        tree = tree_of(name)
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert unsafe.isdisjoint(one.partition(".")[0] for one in names), name
        for called, call in calls(name):
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            if called.endswith("torch.load"):
                assert options.get("weights_only") == "True", name
            if called.endswith(("read_pickle", "np.load", "numpy.load")):
                assert called.endswith("load"), name
                assert options.get("allow_pickle", "False") == "False", name
            assert called not in ("eval", "exec"), name
