"""From a declared check to a DeepChecks check with its condition."""

import inspect

from deepchecks.core.checks import BaseCheck
from deepchecks.tabular import checks as library

_PREFIX = "add_condition_"


class BadDeclarationError(Exception):
    """The policy names a check, parameter or condition that DeepChecks does not have."""


def build(declaration: dict) -> BaseCheck:
    """Return the check of a declaration; `BadDeclarationError` says what is wrong and what there is."""
    name = declaration["check"]
    kind = getattr(library, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, BaseCheck)):
        raise BadDeclarationError(f"DeepChecks has no check {name!r}")
    # DeepChecks takes any keyword and drops those it does not know, so that a misspelt one would go unseen.
    _know(f"the check {name}", kind.__init__, declaration["params"])
    add = getattr(kind, _PREFIX + declaration["condition"], None)
    if add is None:
        has = ", ".join(sorted(n.removeprefix(_PREFIX) for n in dir(kind) if n.startswith(_PREFIX)))
        raise BadDeclarationError(
            f"the check {name} has no condition {declaration['condition']!r}; it has: {has or 'none'}"
        )
    _know(f"the condition {declaration['condition']} of {name}", add, declaration["condition_params"])
    try:
        check = kind(**declaration["params"])
        add(check, **declaration["condition_params"])
    except Exception as error:  # DeepChecks refuses values with many kinds of exceptions
        raise BadDeclarationError(
            f"{name} refuses its parameters: {type(error).__name__}: {error}"
        ) from error
    return check


def _know(owner: str, function: object, params: dict) -> None:
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    if unknown := sorted(set(params) - set(known)):
        raise BadDeclarationError(
            f"{owner} has no parameter {', '.join(unknown)}; it has: {', '.join(known)}"
        )
