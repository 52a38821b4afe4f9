"""The mutants of a module. Cosmic Ray makes them, with two operators of our own."""

from __future__ import annotations

import ast
import collections.abc as cabc
import tempfile
import typing as t
from pathlib import Path

import parso.python.tree
from cosmic_ray import plugins
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.work_db import use_db


class RemoveCall(Operator):  # type: ignore[misc]
    """Removes a statement that only calls a function."""

    def mutation_positions(self, node: t.Any) -> cabc.Iterator[tuple[t.Any, t.Any]]:
        if node.type == "simple_stmt" and node.children[0].type == "atom_expr":
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: t.Any, index: int) -> t.Any:
        first = node.children[0]
        prefix = first.get_first_leaf().prefix
        node.children[0] = parso.python.tree.Name("pass", first.start_pos, prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[t.Any, ...]:
        return ()


class SwapFunction(Operator):  # type: ignore[misc]
    """Calls a function that is easily confused with the right one."""

    _OTHERS: t.ClassVar = {"all": "any", "any": "all", "max": "min", "min": "max"}

    def mutation_positions(self, node: t.Any) -> cabc.Iterator[tuple[t.Any, t.Any]]:
        if node.type == "name" and node.value in self._OTHERS:
            yield node.start_pos, node.end_pos

    def mutate(self, node: t.Any, index: int) -> t.Any:
        node.value = self._OTHERS[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[t.Any, ...]:
        return ()


plugins.OPERATOR_PROVIDERS["own"] = {
    "RemoveCall": RemoveCall,
    "SwapFunction": SwapFunction,
}

# Cosmic Ray replaces each binary operator and comparison by all others. One or two of
# them find what all others find.
_REPLACED = {
    "Binary": (
        *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add"),
        *("Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr"),
    ),
    "Comparison": (
        *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE"),
        *("LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
    ),
    "Unary": ("Delete_Not", "Delete_USub"),
}
_OPERATORS = {
    f"core/Replace{kind}Operator_{change}"
    for kind, changes in _REPLACED.items()
    for change in changes
}


class Mutant(t.NamedTuple):
    """A change of one line."""

    module: str
    #: The function or class that contains the line.
    function: str
    before: str
    after: str


def list_mutants(module: str, path: Path) -> cabc.Iterator[tuple[Mutant, int, str]]:
    """Each mutant of a module, the number of its line, and the changed source.

    :param module: The module's name.
    :param path: Its file.
    """
    source = path.read_text()
    skipped = _lines_without_effect(ast.parse(source))

    with tempfile.TemporaryDirectory() as directory:
        with use_db(f"{directory}/mutants.sqlite") as database:
            init([path], database, {})
            mutations = [item.mutations[0] for item in database.work_items]

    for mutation in sorted(mutations, key=lambda mutation: mutation.start_pos):
        name = mutation.operator_name

        if "/Replace" in name and "Operator_" in name and name not in _OPERATORS:
            continue

        if any(first <= mutation.start_pos < last for first, last in skipped):
            continue

        line, column = mutation.start_pos

        # Among parameters, these are no operators.
        if source.splitlines()[line - 1].startswith(("*,", "/,"), column):
            continue

        operator = plugins.get_operator(name)()
        changed = mutate_code(source, operator, mutation.occurrence)

        before, after = _find_change(source, changed)
        function = mutation.definition_name or ""
        yield Mutant(module, function, before, after), line, changed


_Position = tuple[int, int]


def _lines_without_effect(tree: ast.Module) -> list[tuple[_Position, _Position]]:
    """Where annotations are, and blocks for type checkers: they do nothing at run time.
    From each first position to the last one, which does not belong to it.
    """
    without: list[ast.expr | ast.stmt] = []

    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            without.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            without += [node.returns] if node.returns is not None else []
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "t.TYPE_CHECKING":
            without.append(node)

    return [
        (
            (node.lineno, node.col_offset),
            (node.end_lineno or node.lineno, node.end_col_offset or 0),
        )
        for node in without
    ]


def _find_change(source: str, changed: str) -> tuple[str, str]:
    """The line that a change concerns, before and after. An operator may also remove
    lines, with the blank ones in front of them.
    """
    before, after = source.splitlines(), changed.splitlines()
    number = next(
        number
        for number, lines in enumerate(zip(before, after, strict=False))
        if lines[0] != lines[1]
    )

    if removed := before[number : number + len(before) - len(after)]:
        return " ".join(removed).strip(), ""

    return before[number].strip(), after[number].strip()
