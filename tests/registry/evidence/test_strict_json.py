"""JSON that two readers could understand in two ways is refused."""

import pytest

from registry.evidence.strict_json import load_json, require_unique


def test_plain_json_is_read() -> None:
    assert load_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"b": {"c": 1, "d": 2, "c": 3}}]', '{"a": 1, "\\u0061": 2}']
)
def test_a_key_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        load_json(text)


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', "[-Infinity]"])
def test_what_json_has_no_number_for_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number of JSON's"):
        load_json(text)


def test_names_that_occur_twice_are_named() -> None:
    require_unique(["a", "b"], "the check")
    with pytest.raises(ValueError, match="names the check 'a' twice"):
        require_unique(["a", "b", "a"], "the check")
