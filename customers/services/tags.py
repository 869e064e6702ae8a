"""What is done to tags: make, change, delete. In the caller's transaction."""

from collections.abc import Mapping
from typing import Any

from customers.actors import current_actor
from customers.models import Tag
from customers.refusals import Missing, Refused
from customers.services.budgets import budget_of_holder

# The API's name → the model's, and what null stands for.
_FIELDS: dict[str, tuple[str, Any]] = {
    "description": ("description", ""),
    "models": ("allowed_deployments", []),
    "model_info": ("model_info", {}),
}


def find_tag(name: str) -> Tag:
    """Return a stored tag with its budget. Raises: Missing that says how to make one."""
    tag = Tag.objects.select_related("budget").filter(pk=name).first()
    if tag is None:
        raise Missing(f"no tag with the name {name}: make it with POST /tag/new", param="name")
    return tag


def create_tag(given: Mapping[str, Any]) -> Tag:
    """Store a tag, with a budget where limits are given. Raises: Refused, Missing, ValidationError."""
    name = given["name"]
    if Tag.objects.filter(pk=name).exists():
        raise Refused(
            f"a tag with the name {name} exists already: change it with POST /tag/update", param="name"
        )
    who = current_actor().id
    tag = Tag(name=name, budget=budget_of_holder(None, given), created_by=who, updated_by=who)
    _set(tag, given)
    tag.save(force_insert=True)
    return tag


def update_tag(given: Mapping[str, Any]) -> Tag:
    """Change what is given of a tag. Raises: Missing, Refused, ValidationError."""
    tag = find_tag(given["name"])
    changed = _set(tag, given)
    before = tag.budget
    tag.budget = budget_of_holder(before, given)
    if tag.budget != before:
        changed.append("budget")
    tag.updated_by = current_actor().id
    tag.save(update_fields=[*changed, "updated_by", "updated_at"])
    return tag


def delete_tag(name: str) -> None:
    """Forget a tag and the limits it had of its own; what was spent stays. Raises: Missing."""
    tag = find_tag(name)
    budget = tag.budget
    tag.delete()
    if budget is not None and budget.is_private:
        budget.delete()


def _set(tag: Tag, given: Mapping[str, Any]) -> list[str]:
    changed = []
    for name, (field, empty) in _FIELDS.items():
        if name in given:
            setattr(tag, field, empty if given[name] is None else given[name])
            changed.append(field)
    return changed
