"""
Limits of a holder: a tier that it shares with others, or a private budget of its own.

Every holder's API takes the same fields. `budget_id` attaches a tier; limits of its own
make a private budget. Limits for a holder that shares a tier clone the tier: the others
keep theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from django.forms.models import model_to_dict

from customers.actors import current_actor
from customers.models import Budget
from customers.refusals import Missing, Refused

# What may be given of a budget, by the API's names, which are the model's.
LIMIT_FIELDS = (
    "max_budget",
    "soft_budget",
    "budget_duration",
    "mode",
    "rpm_limit",
    "tpm_limit",
    "max_parallel_requests",
    "model_max_budget",
    "budget_limits",
    "temp_budget_increase",
    "temp_budget_expiry",
)
_EMPTY: dict[str, Any] = {
    "budget_duration": "",
    "model_max_budget": {},
    "budget_limits": [],
    "mode": Budget.Mode.STANDARD,
}


def find_budget(budget_id: str, *, param: str = "budget_id") -> Budget:
    """Return a budget. Raises: Missing that says how to make one."""
    budget = Budget.objects.filter(pk=budget_id).first()
    if budget is None:
        raise Missing(f"no budget with id {budget_id}: make it with POST /budget/new", param=param)
    return budget


def budget_of_holder(current: Budget | None, given: Mapping[str, Any]) -> Budget | None:
    """Return the budget that a holder has from now on, written; the caller attaches it.

    In the caller's transaction. Arguments and errors as `plan_budget` has them.
    """
    budget, written = plan_budget(current, given)
    if budget is not None and budget._state.adding:
        budget.save(force_insert=True)
    elif budget is not None and written:
        budget.save(update_fields=written)
    return budget


def plan_budget(
    current: Budget | None,
    given: Mapping[str, Any],
    *,
    find: Callable[[str], Budget] | None = None,
) -> tuple[Budget | None, list[str]]:
    """Return (the budget that a holder has from now on, those of its fields that are to be written).

    given: the request's fields; of these, `budget_id` and `LIMIT_FIELDS` that are there
    are taken, None takes a limit away. A private budget is changed in place, a new one is
    written whole. find: looks a tier up, where `find_budget` shall not.
    Raises: Refused, Missing, ValidationError.
    """
    limits = {name: given[name] for name in LIMIT_FIELDS if name in given}
    if given.get("budget_id") is not None:
        # An echo of what a holder has is no new limit.
        if any(value is not None for value in limits.values()):
            raise Refused(
                "Give either budget_id, or limits of its own such as max_budget.", param="budget_id"
            )
        return (find or find_budget)(given["budget_id"]), []
    if "budget_id" in given and not limits:
        return None, []
    if not limits:
        return current, []
    if current is None and all(value is None for value in limits.values()):
        return None, []
    if current is not None and current.is_private:
        return current, _change(current, limits)
    copied = {} if current is None else model_to_dict(current, fields=LIMIT_FIELDS)
    return _new({**copied, **limits}, is_private=True), []


def create_budget(given: Mapping[str, Any]) -> Budget:
    """Make a tier. Raises: ValidationError; Refused where its id is taken."""
    budget_id = given.get("budget_id")
    if budget_id is not None and Budget.objects.filter(pk=budget_id).exists():
        raise Refused(f"a budget with id {budget_id} exists already", param="budget_id")
    budget = _new(given, is_private=False)
    budget.save(force_insert=True)
    return budget


def update_budget(budget: Budget, given: Mapping[str, Any]) -> Budget:
    """Change those limits of a budget that are given. Raises: ValidationError."""
    budget.save(update_fields=_change(budget, given))
    return budget


def delete_budget(budget: Budget) -> None:
    """Delete a budget; periods that were spent of it stay. Raises: Refused where it limits anybody.

    In the caller's transaction. Holders that were deleted let go of it.
    """
    limited = []
    for relation in Budget._meta.related_objects:
        rows = relation.related_model._default_manager.filter(**{relation.field.name: budget})
        if any(field.name == "deleted_at" for field in relation.related_model._meta.fields):
            rows.exclude(deleted_at=None).update(**{relation.field.name: None})
            rows = rows.filter(deleted_at=None)
        if number := rows.count():
            limited.append(f"{number} {_nouns(relation, number)}")
    if limited:
        raise Refused(
            f"The budget {budget.pk} is in use by {', '.join(limited)}. Give them another budget, or none, "
            "then delete it.",
            param="id",
        )
    budget.delete()


def _nouns(relation: Any, number: int) -> str:
    """Return “customers”; of a budget that is not the row's own, also which: “keys (budget of …)”."""
    model = relation.related_model._meta
    noun = str(model.verbose_name if number == 1 else model.verbose_name_plural)
    return noun if relation.field.name == "budget" else f"{noun} ({relation.field.verbose_name})"


def _new(given: Mapping[str, Any], *, is_private: bool) -> Budget:
    who = current_actor().id
    budget = Budget(is_private=is_private, created_by=who, updated_by=who)
    if given.get("budget_id") is not None:
        budget.pk = given["budget_id"]
    _set(budget, given)
    return budget


def _change(budget: Budget, given: Mapping[str, Any]) -> list[str]:
    """Set what is given; return the names of all fields that are to be written."""
    changed = _set(budget, given)
    budget.updated_by = current_actor().id
    return [*changed, "updated_by", "updated_at"]


def _set(budget: Budget, given: Mapping[str, Any]) -> list[str]:
    names = [name for name in LIMIT_FIELDS if name in given]
    for name in names:
        value = given[name]
        setattr(budget, name, _EMPTY.get(name) if value is None else value)
    budget.full_clean(validate_unique=False, validate_constraints=False)
    return names
