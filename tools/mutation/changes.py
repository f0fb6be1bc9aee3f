#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""Small changes of a module, each of which a test should notice.

A change is a piece of source that takes the place of another one; everything
else stays as it is, so it can be shown by its line. What nobody decides
anything by is left alone: annotations, docstrings, messages and logging.
"""

import ast
from collections.abc import Iterator
import pathlib
from typing import NamedTuple

# Stands for a function where there is none.
MODULE = 'module'

_TURNED = {
    ast.Eq: ['!='], ast.NotEq: ['=='],
    ast.Is: ['is not'], ast.IsNot: ['is'],
    ast.In: ['not in'], ast.NotIn: ['in'],
    ast.Lt: ['<=', '>='], ast.LtE: ['<', '>'],
    ast.Gt: ['>=', '<='], ast.GtE: ['>', '<'],
}
_SIGNS = {
    ast.Eq: '==', ast.NotEq: '!=', ast.Is: 'is', ast.IsNot: 'is not',
    ast.In: 'in', ast.NotIn: 'not in', ast.Lt: '<', ast.LtE: '<=',
    ast.Gt: '>', ast.GtE: '>=',
    ast.Add: '+', ast.Sub: '-', ast.Mult: '*', ast.Div: '/',
    ast.BitOr: '|', ast.BitAnd: '&',
}
_REVERSED = {
    ast.Add: '-', ast.Sub: '+', ast.Mult: '/', ast.Div: '*',
    ast.BitOr: '&', ast.BitAnd: '|',
}
_OTHER_CALL = {'min': 'max', 'max': 'min', 'any': 'all', 'all': 'any'}
# Names of which another one would be the wrong one.
_SIBLINGS = (
    ('LEAVE', 'HAND_OVER', 'REMOVE', 'FENCE'),
    ('ALIVE', 'SILENT', 'ENDED'),
    ('PARTIAL', 'SEALED', 'REPLACED', 'REMOVED', 'UNSEALED'),
)
_CONDITIONS = (ast.If, ast.While, ast.IfExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Fields that hold nothing which runs.
_PASSED_OVER = ('annotation', 'returns', 'decorator_list', 'bases')


class Change(NamedTuple):
    """What is changed in a file."""

    module: str         # within the package: stores/verdict
    line: int
    function: str       # MODULE outside of any
    old: str
    new: str
    start: int          # in bytes
    stop: int

    @property
    def name(self) -> str:
        """By which it is known, wherever it stands in the file by now."""
        return f'{self.old} -> {self.new}'

    def __str__(self) -> str:
        return (f'{self.module}.py:{self.line}: {self.function}: '
                f'{self.name}')

    def apply(self, source: bytes) -> bytes:
        return (source[:self.start] + self.new.encode()
                + source[self.stop:])


def changes(module: str, path: pathlib.Path) -> list[Change]:
    """All changes of a module that there are, in their order."""
    source = path.read_bytes()
    return sorted(_Changes(module, source).of(ast.parse(source)),
                  key=lambda change: (change.start, change.stop))


class _Changes:
    """Walks through a module."""

    def __init__(self, module: str, source: bytes) -> None:
        self._module = module
        self._source = source
        # Where each line begins.
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def of(self, node: ast.AST, function: str = MODULE) -> Iterator[Change]:
        """Changes of a node and of all that is in it."""
        if _is_idle(node):
            return
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            function = (node.name if function == MODULE
                        else f'{function}.{node.name}')
        for target, new in _alternatives(node):
            yield self._change(target, new, function)
        for name, value in ast.iter_fields(node):
            if name not in _PASSED_OVER:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from self.of(child, function)

    def _change(self, node: ast.AST, new: str, function: str) -> Change:
        start = self._lines[node.lineno - 1] + node.col_offset
        stop = self._lines[node.end_lineno - 1] + node.end_col_offset
        old = ' '.join(self._source[start:stop].decode().split())
        return Change(self._module, node.lineno, function, old, new, start,
                      stop)


def _is_idle(node: ast.AST) -> bool:
    """Say whether nothing is decided by a piece of source."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True     # a docstring
    if isinstance(node, ast.ClassDef):
        # What its members are called by people.
        return 'enum.Enum' in map(ast.unparse, node.bases)
    if isinstance(node, ast.Call):
        # Of an error only that it is raised; and without a cloud no library
        # of Ceph is loaded.
        return ast.unparse(node.func).startswith((
            'LOG.', 'logging.', 'errors.', 'exceptions.', 'bindings.load'))
    return isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom))


def _alternatives(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(what is replaced, by what) of one node alone."""
    yield from _of_expression(node)
    yield from _of_statement(node)
    if isinstance(node, _CONDITIONS):
        yield from _negated(node.test)
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield from _negated(test)
            yield test, 'True'
    if isinstance(node, ast.Assert):
        yield from _negated(node.test)


def _negated(test: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    # Comparisons and what is negated already are turned by themselves.
    if not isinstance(test, ast.Compare | ast.UnaryOp):
        yield test, f'(not ({ast.unparse(test)}))'


def _of_expression(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            for sign in _TURNED[type(op)]:
                yield node, (f'({ast.unparse(left)} {sign} '
                             f'{ast.unparse(right)})')
        case ast.Compare():
            yield node, f'(not ({ast.unparse(node)}))'
        case ast.BoolOp():
            yield from _of_bool_op(node)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node, f'({ast.unparse(node.operand)})'
        case ast.BinOp() if type(node.op) in _REVERSED:
            yield node, (f'({ast.unparse(node.left)} '
                         f'{_REVERSED[type(node.op)]} '
                         f'{ast.unparse(node.right)})')
        case ast.Call(func=ast.Name(id=name)) if name in _OTHER_CALL:
            yield node.func, _OTHER_CALL[name]
        case ast.Constant():
            yield from ((node, repr(v)) for v in _of_value(node.value))
        case ast.Attribute(value=value, attr=name):
            for other in _siblings(name):
                yield node, f'{ast.unparse(value)}.{other}'


def _siblings(name: str) -> Iterator[str]:
    for names in _SIBLINGS:
        if name in names:
            yield from (other for other in names if other != name)


def _of_bool_op(node: ast.BoolOp) -> Iterator[tuple[ast.AST, str]]:
    parts = [f'({ast.unparse(value)})' for value in node.values]
    here, other = ((' and ', ' or ') if isinstance(node.op, ast.And)
                   else (' or ', ' and '))
    yield node, f'({other.join(parts)})'
    for number in range(len(parts)):
        rest = parts[:number] + parts[number + 1:]
        yield node, f'({here.join(rest)})'


def _of_value(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        # By more than what passes while a test runs.
        yield value + 1 if value < 10 else value * 2
    elif isinstance(value, str | bytes):
        other = b'mutant' if isinstance(value, bytes) else 'mutant'
        yield value[:0] if value else other


def _of_statement(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.Expr() if not _is_idle(node.value):
            yield node, 'pass'
        case ast.Raise() | ast.Delete() | ast.Continue() | ast.AugAssign():
            yield node, 'pass'
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield node, 'pass'
        case ast.Return(value=None):
            yield node, 'pass'
        case ast.Return(value=ast.Constant()):
            pass        # is turned by itself
        case ast.Return():
            yield node.value, 'None'
        case ast.ExceptHandler() if node.type:
            yield node.type, '()'
        case ast.withitem(context_expr=ast.Call(args=[_, *_]) as call) if (
                ast.unparse(call.func) == 'contextlib.suppress'):
            yield call, 'contextlib.suppress()'
