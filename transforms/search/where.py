"""Parses filter expressions into a tree of comparisons; they are never run as code or SQL.

Grammar, keywords in any case::

    expression := and {OR and}          and := not {AND not}          not := [NOT] (comparison | "(" expression ")")
    comparison := column (= | == | != | <> | < | <= | > | >=) value
                | column [NOT] IN "(" value {, value} ")" | column [NOT] LIKE 'pattern' | column [NOT] ILIKE 'pattern'
                | column [NOT] BETWEEN value AND value    | column IS [NOT] NULL
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cliploom.schemas.errors import SpecError

Value = str | int | float | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "like", "ilike", "between", "null"]

# Deeper expressions are rejected, since they would exhaust the stack.
MOST_DEPTH = 50
MOST_LENGTH = 10_000
MOST_VALUES = 1_000
# Longer integers are parsed as floats.
_MOST_DIGITS = 18

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | '(?P<string>(?:[^']|'')*)'
    | "(?P<quoted>(?:[^"]|"")+)"
    | (?P<name>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_SIGNS: dict[str, Operator] = {"==": "=", "=": "=", "<>": "!=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_FLIPPED: dict[Operator, Operator] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_KEYWORDS = {"and", "or", "not", "in", "like", "ilike", "between", "is", "null", "true", "false"}


@dataclass(frozen=True)
class Comparison:
    """A comparison of a column with values: one, two for ``between``, any number for ``in``, none for ``null``."""

    column: str
    operator: Operator
    values: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Negation:
    """The negation of an expression."""

    inner: Expression


@dataclass(frozen=True)
class Junction:
    """Expressions joined by ``and`` or ``or``."""

    operator: Literal["and", "or"]
    inner: tuple[Expression, ...]


Expression = Comparison | Negation | Junction


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_where(text: str) -> Expression:
    """Parse an expression.

    >>> parse_where("year > 2020 AND label = 'cat'").inner[1]
    Comparison(column='label', operator='=', values=('cat',))

    Raises:
        SpecError: the expression is invalid; the message has the position and an example.
    """
    if len(text) > MOST_LENGTH:
        raise SpecError(f"The filter has {len(text)} characters; at most {MOST_LENGTH} are allowed.")
    return _Parser(text).whole()


def columns_in(expression: Expression) -> set[str]:
    """Return the columns that an expression uses."""
    if isinstance(expression, Comparison):
        return {expression.column}
    if isinstance(expression, Negation):
        return columns_in(expression.inner)
    return set[str]().union(*(columns_in(inner) for inner in expression.inner))


def conjuncts(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions joined by ``and`` at the top level."""
    if isinstance(expression, Junction) and expression.operator == "and":
        return tuple(part for inner in expression.inner for part in conjuncts(inner))
    return (expression,)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.place = 0

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        while self.text[at:].strip():
            match = _TOKEN.match(self.text, at)
            if match is None:
                rest = self.text[at:].strip()
                if rest.startswith(("'", '"')):
                    raise self._error(f"the quote at {rest[:20]!r} is not closed")
                raise self._error(f"{rest[0]!r} is not part of a filter")
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return tokens

    def _error(self, what: str) -> SpecError:
        return SpecError(
            f"The filter {self.text!r:.200} can't be read: {what}; write it as in \"year >= 2020 AND label = 'cat'\"."
        )

    def _peek(self, *keywords: str) -> bool:
        """Return whether the next token is one of these keywords or operators."""
        if self.place >= len(self.tokens):
            return False
        token = self.tokens[self.place]
        return token.kind in ("name", "sign") and token.text.lower() in keywords

    def _take(self, *keywords: str) -> bool:
        found = self._peek(*keywords)
        self.place += found
        return found

    def _demand(self, keyword: str) -> None:
        if not self._take(keyword):
            raise self._error(f"{keyword.upper()} is expected {self._where()}")

    def _where(self) -> str:
        if self.place >= len(self.tokens):
            return "at the end"
        return f"in place of {self.tokens[self.place].text!r}"

    def whole(self) -> Expression:
        if not self.tokens:
            raise self._error("it is empty")
        found = self._or(0)
        if self.place < len(self.tokens):
            raise self._error(f"AND or OR is expected {self._where()}")
        return found

    def _or(self, depth: int) -> Expression:
        if depth > MOST_DEPTH:
            raise self._error(f"it is nested more than {MOST_DEPTH} deep")
        found = [self._and(depth)]
        while self._take("or"):
            found.append(self._and(depth))
        return found[0] if len(found) == 1 else Junction("or", tuple(found))

    def _and(self, depth: int) -> Expression:
        found = [self._not(depth)]
        while self._take("and"):
            found.append(self._not(depth))
        return found[0] if len(found) == 1 else Junction("and", tuple(found))

    def _not(self, depth: int) -> Expression:
        negated = False
        while self._take("not"):
            negated = not negated
        if self._take("("):
            inner = self._or(depth + 1)
            self._demand(")")
        else:
            inner = self._comparison()
        return Negation(inner) if negated else inner

    def _comparison(self) -> Expression:
        if self.place < len(self.tokens) and self._is_value():
            value = self._value()
            operator = self._sign()
            return Comparison(self._column(), _FLIPPED[operator], (value,))
        column = self._column()
        if self._take("is"):
            negated = self._take("not")
            self._demand("null")
            return _negated(Comparison(column, "null"), negated)
        negated = self._take("not")
        if self._take("in"):
            return _negated(Comparison(column, "in", self._values()), negated)
        if self._take("between"):
            low = self._value()
            self._demand("and")
            return _negated(Comparison(column, "between", (low, self._value())), negated)
        for operator in ("like", "ilike"):
            if self._take(operator):
                pattern = self._value()
                if not isinstance(pattern, str):
                    raise self._error(f"the pattern {pattern!r} of {operator.upper()} is not a string")
                return _negated(Comparison(column, operator, (pattern,)), negated)
        if negated:
            raise self._error(f"IN, LIKE or BETWEEN is expected {self._where()}")
        return Comparison(column, self._sign(), (self._value(),))

    def _sign(self) -> Operator:
        if self._peek("("):
            raise self._error(f"functions such as {self.tokens[self.place - 1].text!r} are not allowed")
        if not self._peek(*_SIGNS):
            raise self._error(f"a comparison such as = is expected {self._where()}")
        self.place += 1
        return _SIGNS[self.tokens[self.place - 1].text]

    def _column(self) -> str:
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None or not (
            token.kind == "quoted" or (token.kind == "name" and token.text.lower() not in _KEYWORDS)
        ):
            raise self._error(f"the name of a column is expected {self._where()}")
        self.place += 1
        return token.text.replace('""', '"') if token.kind == "quoted" else token.text

    def _is_value(self) -> bool:
        return self.tokens[self.place].kind in ("number", "string") or self._peek("true", "false")

    def _value(self) -> Value:
        if self.place >= len(self.tokens) or not self._is_value():
            raise self._error(f"a number or a string in single quotes is expected {self._where()}")
        token = self.tokens[self.place]
        self.place += 1
        if token.kind == "string":
            return token.text.replace("''", "'")
        if token.kind == "name":
            return token.text.lower() == "true"
        whole = len(token.text) <= _MOST_DIGITS and not re.search(r"[.eE]", token.text)
        return int(token.text) if whole else float(token.text)

    def _values(self) -> tuple[Value, ...]:
        self._demand("(")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
            if len(values) > MOST_VALUES:
                raise self._error(f"IN has more than {MOST_VALUES} values")
        self._demand(")")
        return tuple(values)


def _negated(comparison: Comparison, negated: bool) -> Expression:
    return Negation(comparison) if negated else comparison
