"""Users, without their spend: see `billing/admin/holders.py`."""

from typing import Any

from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.http import HttpRequest
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesRadioFilter
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from customers.admin.common import DeletedFilter, RetiringAdmin
from customers.models import User
from customers.services.users import are_last_superusers, delete_users


class NewUserForm(UserCreationForm):
    class Meta(UserCreationForm.Meta):
        model = User


class UserForm(UserChangeForm):
    class Meta(UserChangeForm.Meta):
        model = User


class UserAdmin(DjangoUserAdmin, RetiringAdmin):
    empty_list = "Users work here: they own keys, and those marked as staff log into this admin."
    retire = staticmethod(delete_users)
    retire_note = "Its keys stop working, and it leaves its teams. Its logs, its totals and its id stay."
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_filter = (
        ("role", ChoicesRadioFilter),
        ("is_staff", BooleanRadioFilter),
        ("is_active", BooleanRadioFilter),
        DeletedFilter,
    )
    search_fields = ("username__icontains", "email__icontains", "alias__icontains", "id__startswith")
    search_help_text = "User name, e-mail, name, or beginning of the id"
    ordering = ("username",)
    autocomplete_fields = ("budget", "groups")
    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("id", "username", "password", "alias", "email", "role")}),
        ("What their keys may call and spend", {"fields": ("allowed_models", "budget")}),
        ("This admin", {"fields": ("is_active", "is_staff", "is_superuser", "groups")}),
        ("Metadata", {"fields": ("metadata", "last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "usable_password", "password1", "password2")}),
        ("Who it is", {"fields": ("alias", "email", "role", "is_staff")}),
    )  # fmt: skip

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Protect the last superusers: without them nobody could manage this admin."""
        names, counts, missing, protected = super().get_deleted_objects(objs, request)
        if are_last_superusers([user.pk for user in objs]):
            protected = [*protected, "the last superuser of this admin: make another one first"]
        return names, counts, missing, protected
