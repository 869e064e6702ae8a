"""What all our admin pages share. How values are written is in `display.py`, fields are in `fields.py`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import models
from django.forms import Field
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.text import capfirst
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RadioFilter

from customers.admin.changes import HISTORY, history_of
from customers.admin.fields import KindedJsonField, LinesField, PlainUsdField, validate_id
from customers.models import TrackedModel
from customers.money import UsdField
from customers.text import is_clean_text


class GatewayAdmin(ModelAdmin):
    """One model's pages, as we want all of them."""

    empty_list = ""  # what an empty list says: what it is for, and how rows come to be
    plural = ""  # of a row, where the model's is the list's name
    lines_fields: tuple[str, ...] = ("allowed_models", "tags")
    help_texts: Mapping[str, str] = {}  # what forms say instead of the model, by field
    list_per_page = 50  # the theme takes 4 ms to write a row
    list_filter_submit = True
    list_fullwidth = True
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True

    def formfield_for_dbfield(
        self, db_field: models.Field, request: HttpRequest, **kwargs: Any
    ) -> Field | None:
        help_text = self.help_texts.get(db_field.name, db_field.help_text)
        texts = {"label": capfirst(str(db_field.verbose_name)), "help_text": help_text}
        if db_field.name in self.lines_fields:
            none = " None: every model." if db_field.name == "allowed_models" else f" {help_text}"
            return LinesField(**{**texts, "help_text": f"One per line.{none}".strip()})
        if isinstance(db_field, models.JSONField):
            return KindedJsonField(
                kind=db_field.default,
                initial=db_field.default,
                encoder=db_field.encoder,
                decoder=db_field.decoder,
                **texts,
            )
        if isinstance(db_field, UsdField):
            kwargs["form_class"] = PlainUsdField
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None:
            field.help_text = help_text
        if field is not None and db_field.primary_key and isinstance(db_field, models.CharField):
            field.validators.append(validate_id)
        return field

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """An id is chosen once: callers send it."""
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if obj is None else (self.model._meta.pk.name, *fields)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write only what the form changed, so that a slow writer restores nothing stale (H11)."""
        if change:
            columns = {field.name for field in self.model._meta.concrete_fields}
            obj.save(update_fields=sorted(columns & {*form.changed_data, "updated_at"}))
        else:
            super().save_model(request, obj, form, change)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Show what the audit log has of a row: also what the API and commands changed is there."""
        response = super().history_view(request, object_id, extra_context)
        context = getattr(response, "context_data", None)
        if context is not None and issubclass(self.model, TrackedModel):
            context |= {"history": history_of(context["object"]), "most": HISTORY}
            response.template_name = "admin/audit_history.html"
        return response

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        if search_term and not is_clean_text(search_term):
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)


class LedgerAdmin(GatewayAdmin):
    """Rows that the gateway alone writes: to be read."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_history"] = False  # nobody edits these
        return super().render_change_form(request, context, *args, **kwargs)


class DeletedFilter(RadioFilter):
    """Deleted rows are hidden until asked for."""

    title = "deleted"
    parameter_name = "deleted"
    all_option = ("", "hidden")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("only", "only deleted"), ("with", "all")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet) -> models.QuerySet:
        if self.value() == "with":
            return queryset
        return queryset.filter(deleted_at__isnull=self.value() != "only")


class RetiringAdmin(GatewayAdmin):
    """Rows that are not removed when deleted: logs and totals refer to them."""

    retire: Callable[..., int]  # a service: (*, ids, at) → how many
    retire_note = ""
    delete_confirmation_template: ClassVar[Any] = "admin/retire_confirmation.html"

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        return super().delete_view(
            request, object_id, {"retire_note": self.retire_note, **(extra_context or {})}
        )

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        type(self).retire(ids=[obj.pk], at=timezone.now())

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet) -> None:
        type(self).retire(ids=queryset.values_list("pk", flat=True), at=timezone.now())

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Name the rows themselves: nothing else goes with them, and nothing protects them."""
        names = [str(obj) for obj in objs]
        return names, {str(self.opts.verbose_name_plural): len(names)}, set(), []

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        is_deleted = getattr(obj, "deleted_at", None) is not None
        return not is_deleted and super().has_delete_permission(request, obj)

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """A form's drop-down offers no deleted rows; the list has a filter for them."""
        if request.resolver_match and request.resolver_match.url_name == "autocomplete":
            queryset = queryset.filter(deleted_at=None)
        return super().get_search_results(request, queryset, search_term)


class BlockingMixin:
    """The actions block and unblock."""

    set_blocked: Callable[..., int]  # a service: (*, ids, blocked) → how many changed
    actions = ("block", "unblock")

    @admin.action(description="Block", permissions=["change"])
    def block(self, request: HttpRequest, queryset: models.QuerySet) -> None:
        self._set_blocked(request, queryset, blocked=True)

    @admin.action(description="Unblock", permissions=["change"])
    def unblock(self, request: HttpRequest, queryset: models.QuerySet) -> None:
        self._set_blocked(request, queryset, blocked=False)

    def _set_blocked(self, request: HttpRequest, queryset: models.QuerySet, *, blocked: bool) -> None:
        changed = type(self).set_blocked(ids=queryset.values_list("pk", flat=True), blocked=blocked)
        done = "blocked" if blocked else "unblocked"
        self.message_user(  # type: ignore[attr-defined]
            request, f"{changed} {done}; in force on every worker within two seconds.", messages.SUCCESS
        )
