"""MLflow keeps prompts in the same tables as models, and hides from searches what is marked as one.

A prompt's aliases are its own business, so a model must not become a prompt, nor a prompt hold a model.
"""

from typing import Any

from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.server.audited_store import RefusedError


def marked(tags: Any) -> bool:
    """Whether tags mark a prompt."""
    return any(tag.key == IS_PROMPT_TAG_KEY for tag in tags or [])


def is_prompt(session: Session, name: str) -> bool:
    """Whether a registered model is a prompt."""
    query = "SELECT 1 FROM registered_model_tags WHERE name = :name AND key = :key AND lower(value) = 'true'"
    return bool(session.execute(text(query), {"name": name, "key": IS_PROMPT_TAG_KEY}).scalar())


def require(session: Session, name: str, *, prompt: bool) -> None:
    """Refuse a version of the other kind than the registered model is."""
    marked_as_prompt = is_prompt(session, name)
    if prompt and not marked_as_prompt:
        raise RefusedError(f"{name} is a model; its versions cannot be marked as prompts.", "prompt")
    if marked_as_prompt and not prompt:
        raise RefusedError(f"{name} is a prompt, and holds no versions of models.", "prompt")


def require_no_versions(session: Session, name: str) -> None:
    """Refuse to mark, or to unmark, what has versions already."""
    if session.execute(
        text("SELECT 1 FROM model_versions WHERE name = :name LIMIT 1"), {"name": name}
    ).scalar():
        raise RefusedError(
            f"{name} has versions, so it can neither become a prompt nor stop being one.", "prompt"
        )


def require_unknown(session: Session, name: str, *, declared: bool) -> None:
    """Refuse a prompt under a name that is or was a model's: apps would find the prompt there."""
    query = text("SELECT 1 FROM greenroom.audit WHERE model = :name LIMIT 1")
    if declared or session.execute(query, {"name": name}).scalar():
        raise RefusedError(f"{name} is the name of a model; choose another one for the prompt.", "prompt")
