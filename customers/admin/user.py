"""Users, without their spend: see `billing/admin/holders.py`."""

from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from unfold.contrib.filters.admin import BooleanRadioFilter, ChoicesRadioFilter
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from customers.admin.common import GatewayAdmin
from customers.models import User


class NewUserForm(UserCreationForm):
    class Meta(UserCreationForm.Meta):
        model = User


class UserForm(UserChangeForm):
    class Meta(UserChangeForm.Meta):
        model = User


class UserAdmin(DjangoUserAdmin, GatewayAdmin):
    empty_list = "Users work here: they own keys, and those marked as staff log into this admin."
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_filter = (
        ("role", ChoicesRadioFilter),
        ("is_staff", BooleanRadioFilter),
        ("is_active", BooleanRadioFilter),
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
