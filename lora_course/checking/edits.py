"""Small changes to a function's code, each of a kind that people get wrong: what `repair` tries, one at a time.

A change is a hint, which says where to look and not what to write, and the node that stands there instead.
"""

import ast
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

ORDER = "Look at the order."
SIGN = "Look at the sign."
FACTOR = "Should it multiply, or divide?"
PRODUCT = "Is it a product of matrices, or of their entries?"
SUM = "Is it a sum, or a product?"
ROUNDING = "Look at how it rounds: up, down, to the nearest, or not at all."
PARENTHESES = "Look at what belongs together: parentheses."
TOO_MUCH = "Something there is too much."
LIMIT = "Does the limit itself belong to it?"
COMPARISON = "Look at the comparison."
NUMBER = "Look at the number."
OFF_BY_ONE = "It is off by one."
BY_TWO = "It is off by a factor of 2."
BY_EIGHT = "It is off by a factor of 8: bits and bytes?"
ROOT = "Look at powers and roots."
REDUCTION = "Look at what becomes of many numbers: their sum, mean, norm, largest or smallest."
FUNCTION = "Is this the function that is meant?"
AXIS = "Look at the axis."
OPTION = "Look at the arguments of the call."
TRANSPOSE = "Look at the transposes."
MAGNITUDE = "Think of negative numbers."
CONDITION = "Look at when this happens."
INDENT = "Look at the indentation: what belongs to the loop?"
SLICE = "Look at where it begins and ends."
MISSING_TERM = "Something is missing there: a term."
MISSING_FACTOR = "Something is missing there: a factor."

OPERATORS: dict[type, list[tuple[str, Any]]] = {
    ast.Add: [(SIGN, ast.Sub), (SUM, ast.Mult)],
    ast.Sub: [(SIGN, ast.Add)],
    ast.Mult: [(FACTOR, ast.Div), (PRODUCT, ast.MatMult), (SUM, ast.Add)],
    ast.Div: [(FACTOR, ast.Mult), (ROUNDING, ast.FloorDiv)],
    ast.FloorDiv: [(ROUNDING, ast.Div)],
    ast.MatMult: [(PRODUCT, ast.Mult)],
    ast.Pow: [(ROOT, ast.Mult)],
    ast.Lt: [(LIMIT, ast.LtE), (COMPARISON, ast.Gt), (COMPARISON, ast.GtE)],
    ast.LtE: [(LIMIT, ast.Lt), (COMPARISON, ast.GtE), (COMPARISON, ast.Gt)],
    ast.Gt: [(LIMIT, ast.GtE), (COMPARISON, ast.Lt), (COMPARISON, ast.LtE)],
    ast.GtE: [(LIMIT, ast.Gt), (COMPARISON, ast.LtE), (COMPARISON, ast.Lt)],
    ast.Eq: [(COMPARISON, ast.NotEq)],
    ast.NotEq: [(COMPARISON, ast.Eq)],
    ast.And: [(CONDITION, ast.Or)],
    ast.Or: [(CONDITION, ast.And)],
}
FAMILIES = {
    ("floor", "ceil", "round", "rint", "trunc", "int"): ROUNDING,
    ("sum", "mean", "median", "max", "min", "amax", "amin", "norm", "std"): REDUCTION,
    ("argmax", "argmin"): FUNCTION,
    ("any", "all"): FUNCTION,
    ("cdf", "inv_cdf", "pdf"): FUNCTION,
    ("log", "log2", "log10", "exp", "sqrt", "square"): FUNCTION,
    ("repeat", "tile", "repeat_interleave"): FUNCTION,
    ("zeros", "ones", "zeros_like", "ones_like"): FUNCTION,
    ("T", "mT"): TRANSPOSE,
}
SHORT = 30  # characters of code in a hint
REDUCTIONS = ("sum", "mean", "max", "min", "amax", "amin", "norm", "any", "all", "argmax", "argmin")
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 12, 16, 32, 64, 128, 255, 256, 1e-30)  # that the course speaks of


def is_axis(node: ast.AST, parent: ast.AST) -> bool:
    """Whether a node is an axis: along which a call works, `.sum(axis=1)`, `.amax(1)`, or whose size is meant."""
    if isinstance(parent, ast.Subscript) and isinstance(node, ast.Constant):
        return getattr(parent.value, "attr", "") == "shape"
    if isinstance(parent, ast.Call) and node in parent.args and isinstance(node, ast.Constant):
        return getattr(parent.func, "attr", "") in REDUCTIONS
    return isinstance(parent, ast.keyword) and parent.arg in ("axis", "dim")


def called(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def needed(part: ast.expr) -> str:
    text = ast.unparse(part)
    return TOO_MUCH if len(text) > SHORT or "__" in text else f"Is `{text}` needed there?"


def both(left: ast.expr, op: type[ast.operator], right: ast.expr) -> ast.BinOp:
    return ast.BinOp(left, op(), right)


def local_changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in the place of a node, made of nothing but its own parts."""
    match node:
        case ast.BinOp(left, op, right):
            yield from ((hint, both(left, other, right)) for hint, other in OPERATORS.get(type(op), ()))
            if isinstance(op, ast.FloorDiv):
                yield ROUNDING, ast.UnaryOp(ast.USub(), both(ast.UnaryOp(ast.USub(), left), ast.FloorDiv, right))
            if isinstance(op, ast.Sub | ast.Div | ast.FloorDiv | ast.MatMult | ast.LShift):
                yield ORDER, ast.BinOp(right, op, left)
            if isinstance(op, ast.Mult) and ast.Constant in (type(left), type(right)):
                yield ROOT, both(left, ast.Pow, right)
            if isinstance(left, ast.BinOp):
                yield PARENTHESES, ast.BinOp(left.left, left.op, ast.BinOp(left.right, op, right))
            if isinstance(right, ast.BinOp):
                yield PARENTHESES, ast.BinOp(ast.BinOp(left, op, right.left), right.op, right.right)
            for part, other in ((left, right), (right, left)):
                # Of a number it is said that it is another one; but a factor of 2 that should be 1 is not off by one.
                factor = isinstance(op, ast.Mult) or (isinstance(op, ast.Div | ast.Pow) and part is right)
                if factor or not isinstance(part, ast.Constant):
                    yield needed(part), other
        case ast.Compare(left, [op], [right]):
            yield from ((hint, ast.Compare(left, [o()], [right])) for hint, o in OPERATORS.get(type(op), ()))
        case ast.BoolOp(op, values):
            yield from ((hint, ast.BoolOp(other(), values)) for hint, other in OPERATORS[type(op)])
            yield from ((CONDITION, value) for value in values)
        case ast.Constant(bool() as value):
            yield OPTION, ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from ((OFF_BY_ONE, ast.Constant(value + by)) for by in (1, -1))
            yield from ((NUMBER, ast.Constant(other)) for other in (*NUMBERS, -value) if other != value)
        case ast.Constant(str() as value) if value.endswith(("A", "B")):
            yield "Look at the name.", ast.Constant(value[:-1] + "BA"[value[-1] == "B"])
        case ast.UnaryOp(op, operand):
            yield SIGN if isinstance(op, ast.USub) else CONDITION, operand
        case ast.Attribute(value, name, context):
            if name in ("T", "mT"):
                yield TRANSPOSE, value
        case ast.IfExp(test, body, orelse):
            yield CONDITION, ast.IfExp(test, orelse, body)
            yield from ((CONDITION, branch) for branch in (body, orelse))
            if isinstance(body, ast.BinOp):
                yield PARENTHESES, ast.BinOp(body.left, body.op, ast.IfExp(test, body.right, orelse))
            if isinstance(orelse, ast.BinOp):
                yield PARENTHESES, ast.BinOp(ast.IfExp(test, body, orelse.left), orelse.op, orelse.right)
            if isinstance(body, ast.BinOp) and isinstance(orelse, ast.BinOp):
                inner = ast.BinOp(body.left, body.op, ast.IfExp(test, body.right, orelse.left))
                yield PARENTHESES, ast.BinOp(inner, orelse.op, orelse.right)
        case ast.Slice(lower, upper, step):
            yield SLICE, ast.Slice(None if lower else ast.Constant(1), upper, step)
            yield SLICE, ast.Slice(lower, None if upper else ast.Constant(-1), step)
        case ast.Tuple([one, other], ast.Load()):
            yield ORDER, ast.Tuple([other, one], ast.Load())
        case ast.Subscript(value, ast.Tuple(places), context):
            for order in permutations(places):
                yield AXIS, ast.Subscript(value, ast.Tuple(list(order), ast.Load()), context)
        case ast.Subscript(value, ast.Slice() | ast.Constant()):
            yield TOO_MUCH, value
        case ast.Call():
            yield from changed_calls(node)


def changed_calls(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Another function, other arguments, or no call at all."""
    function, arguments, keywords = call.func, call.args, call.keywords
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    for members, hint in FAMILIES.items():
        for other in members if name in members else ():
            if other != name and isinstance(function, ast.Attribute):
                yield hint, ast.Call(ast.Attribute(function.value, other, ast.Load()), arguments, keywords)
            elif other != name:
                yield hint, ast.Call(ast.Name(other, ast.Load()), arguments, keywords)
    for one, two in combinations(range(len(arguments)), 2):
        order = {one: arguments[two], two: arguments[one]}
        yield ORDER, ast.Call(function, [order.get(k, a) for k, a in enumerate(arguments)], keywords)
    for left_out in range(len(keywords)):
        others = [keyword for k, keyword in enumerate(keywords) if k != left_out]
        yield OPTION, ast.Call(function, arguments, others)
    if len(arguments) > 1:
        yield OPTION, ast.Call(function, arguments[:-1], keywords)
    yield from ((f"Is `{name}` needed there?", argument) for argument in arguments)
    if isinstance(function, ast.Attribute):
        yield f"Is `{name}` needed there?", function.value
    if name in REDUCTIONS:
        for axis in () if any(k.arg in ("axis", "dim") for k in keywords) else (0, 1):
            yield AXIS, ast.Call(function, arguments, [*keywords, ast.keyword("axis", ast.Constant(axis))])
    match arguments:
        case [ast.BinOp(left, ast.Div(), right)] if name == "ceil":
            yield ROUNDING, both(both(left, ast.FloorDiv, right), ast.Add, ast.Constant(1))
    if name in ("sum", "mean"):  # of squares or magnitudes, or of what is true
        for argument in arguments[:1] if not isinstance(function, ast.Attribute) else ():
            yield REDUCTION, both(call, ast.Div, called("len", argument))


def wraps(node: ast.expr, names: list[str]) -> Iterator[tuple[str, ast.expr]]:
    """What is often forgotten around an expression, but not around what is no value of the function (`np.linalg`)."""
    if isinstance(node, ast.Constant | ast.Slice | ast.Tuple | ast.List | ast.Starred | ast.GeneratorExp):
        return
    root = node.value if isinstance(node, ast.Attribute) else node
    if isinstance(root, ast.Name) and root.id not in names:
        return
    yield OFF_BY_ONE, both(node, ast.Add, ast.Constant(1))
    yield OFF_BY_ONE, both(node, ast.Sub, ast.Constant(1))
    yield MAGNITUDE, called("abs", node)
    yield "Is it this, or its length?", called("len", node)
    yield ROUNDING, called("int", node)
    yield ROUNDING, called("round", node)
    yield ROUNDING, ast.Call(ast.Attribute(ast.Name("math", ast.Load()), "ceil", ast.Load()), [node], [])
    yield BY_TWO, both(node, ast.Mult, ast.Constant(2))
    yield BY_TWO, both(node, ast.Div, ast.Constant(2))
    yield BY_EIGHT, both(node, ast.Mult, ast.Constant(8))
    yield BY_EIGHT, both(node, ast.Div, ast.Constant(8))
    yield SIGN, ast.UnaryOp(ast.USub(), node)
    yield CONDITION, ast.UnaryOp(ast.Not(), node)
    yield ROOT, both(node, ast.Pow, ast.Constant(0.5))
    yield ROOT, both(node, ast.Pow, ast.Constant(2))
    yield TRANSPOSE, ast.Attribute(node, "T", ast.Load())
    yield "Is it this part, or the rest?", both(ast.Constant(1), ast.Sub, node)
    yield "It is upside down.", both(ast.Constant(1), ast.Div, node)


def other_names(node: ast.expr, names: list[str]) -> Iterator[tuple[str, ast.expr]]:
    """Another of the function's own names in the place of a name, or of all that is returned."""
    if isinstance(node, ast.Name) and node.id in names:
        for other in names:
            if other != node.id:
                yield f"Is `{node.id}` what is meant there?", ast.Name(other, ast.Load())


def missing(node: ast.expr, names: list[str]) -> Iterator[tuple[str, ast.expr]]:
    """A factor or a term that is forgotten."""
    ways = [(MISSING_FACTOR, ast.Mult), (MISSING_FACTOR, ast.Div), (MISSING_TERM, ast.Add), (MISSING_TERM, ast.Sub)]
    if isinstance(node, ast.BinOp | ast.Call | ast.Subscript | ast.Constant) or getattr(node, "id", "") in names:
        for other in (*(ast.Name(name, ast.Load()) for name in names), *map(ast.Constant, (1, 2, 4))):
            for hint, op in ways[:1] if isinstance(node, ast.Constant) else ways:
                yield hint, both(node, op, other)


def changed_statements(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Another branch, another loop, or nothing in the place of a statement."""
    match node:
        case ast.If(test, body, orelse):
            yield CONDITION, ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
            yield CONDITION, together(body)
            if orelse:
                yield CONDITION, together([ast.If(test, body, []), *orelse])  # `elif` where `if` was meant
                yield CONDITION, together(orelse)
        case ast.For(body=[*_, last]) if len(node.body) > 1:
            loop = ast.For(node.target, node.iter, node.body[:-1], node.orelse)
            yield INDENT, together([loop, last])
        case ast.AugAssign(target, op, value):
            for hint, other in OPERATORS.get(type(op), ()):
                yield hint, ast.AugAssign(target, other(), value)
            yield "Should this add to what is there, or replace it?", ast.Assign([target], value)
        case ast.Break():
            yield "Does the search end here?", ast.Continue()
        case ast.Continue():
            yield "Does the search end here?", ast.Break()
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If):
        yield "Is this step needed?", ast.Pass()


def together(statements: list[ast.stmt]) -> ast.If:
    """Several statements in the place of one."""
    return ast.If(ast.Constant(True), statements, [])
