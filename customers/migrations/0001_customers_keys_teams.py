import uuid

import django.contrib.auth.validators
import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import customers.models.budget
import customers.models.team
import customers.models.user
import customers.money


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.CreateModel(
            name="Change",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("revision", models.BigIntegerField(db_index=True)),
                ("kind", models.CharField(max_length=40)),
                ("object_id", models.CharField(max_length=255)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Budget",
            fields=[
                (
                    "id",
                    models.CharField(
                        default=customers.models.budget.new_budget_id,
                        max_length=255,
                        primary_key=True,
                        serialize=False,
                        verbose_name="budget id",
                    ),
                ),
                (
                    "max_budget",
                    customers.money.UsdField(blank=True, null=True, verbose_name="max budget, USD"),
                ),
                (
                    "soft_budget",
                    customers.money.UsdField(blank=True, null=True, verbose_name="soft budget, USD"),
                ),
                ("budget_duration", models.CharField(blank=True, max_length=20)),
                (
                    "mode",
                    models.CharField(
                        choices=[
                            ("standard", "standard: hold the typical answer"),
                            ("strict", "strict: hold the worst case"),
                        ],
                        default="standard",
                        max_length=10,
                    ),
                ),
                (
                    "rpm_limit",
                    models.PositiveBigIntegerField(blank=True, null=True, verbose_name="requests per minute"),
                ),
                (
                    "tpm_limit",
                    models.PositiveBigIntegerField(blank=True, null=True, verbose_name="tokens per minute"),
                ),
                ("max_parallel_requests", models.PositiveIntegerField(blank=True, null=True)),
                ("model_max_budget", models.JSONField(blank=True, default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("max_budget__gte", 0)), name="budget_max_not_negative"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("soft_budget__gte", 0)), name="budget_soft_not_negative"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="User",
            fields=[
                ("password", models.CharField(max_length=128, verbose_name="password")),
                ("last_login", models.DateTimeField(blank=True, null=True, verbose_name="last login")),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                (
                    "username",
                    models.CharField(
                        error_messages={"unique": "A user with that username already exists."},
                        help_text="Required. 150 characters or fewer. Letters, digits and @/./+/-/_ only.",
                        max_length=150,
                        unique=True,
                        validators=[django.contrib.auth.validators.UnicodeUsernameValidator()],
                        verbose_name="username",
                    ),
                ),
                ("first_name", models.CharField(blank=True, max_length=150, verbose_name="first name")),
                ("last_name", models.CharField(blank=True, max_length=150, verbose_name="last name")),
                ("email", models.EmailField(blank=True, max_length=254, verbose_name="email address")),
                (
                    "is_staff",
                    models.BooleanField(
                        default=False,
                        help_text="Designates whether the user can log into this admin site.",
                        verbose_name="staff status",
                    ),
                ),
                (
                    "is_active",
                    models.BooleanField(
                        default=True,
                        help_text="Designates whether this user should be treated as active. Unselect this instead of deleting accounts.",
                        verbose_name="active",
                    ),
                ),
                (
                    "date_joined",
                    models.DateTimeField(default=django.utils.timezone.now, verbose_name="date joined"),
                ),
                (
                    "id",
                    models.CharField(
                        default=customers.models.user.new_user_id,
                        max_length=255,
                        primary_key=True,
                        serialize=False,
                        verbose_name="user id",
                    ),
                ),
                ("alias", models.CharField(blank=True, max_length=255, verbose_name="name")),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("proxy_admin", "proxy admin"),
                            ("proxy_admin_viewer", "proxy admin viewer"),
                            ("internal_user", "internal user"),
                            ("internal_user_viewer", "internal user viewer"),
                        ],
                        default="internal_user",
                        max_length=30,
                    ),
                ),
                ("allowed_models", models.JSONField(blank=True, default=list, verbose_name="allowed models")),
                ("metadata", models.JSONField(blank=True, default=dict)),
                (
                    "groups",
                    models.ManyToManyField(
                        blank=True,
                        help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.group",
                        verbose_name="groups",
                    ),
                ),
                (
                    "user_permissions",
                    models.ManyToManyField(
                        blank=True,
                        help_text="Specific permissions for this user.",
                        related_name="user_set",
                        related_query_name="user",
                        to="auth.permission",
                        verbose_name="user permissions",
                    ),
                ),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="users",
                        to="customers.budget",
                    ),
                ),
            ],
            options={
                "abstract": False,
                "base_manager_name": "objects",
            },
            managers=[
                ("objects", customers.models.user.TrackedUserManager()),
            ],
        ),
        migrations.CreateModel(
            name="ChangeCounter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="change_counter_single_row")
                ],
            },
        ),
        migrations.CreateModel(
            name="Customer",
            fields=[
                (
                    "id",
                    models.CharField(
                        max_length=255, primary_key=True, serialize=False, verbose_name="customer id"
                    ),
                ),
                ("alias", models.CharField(blank=True, max_length=255, verbose_name="name")),
                ("blocked", models.BooleanField(default=False)),
                ("allowed_model_region", models.CharField(blank=True, max_length=10)),
                ("default_model", models.CharField(blank=True, max_length=255)),
                ("metadata", models.JSONField(blank=True, default=dict)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("deleted_at", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="customers",
                        to="customers.budget",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Tag",
            fields=[
                ("name", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("description", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="tags",
                        to="customers.budget",
                    ),
                ),
            ],
            options={
                "abstract": False,
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="Team",
            fields=[
                (
                    "id",
                    models.CharField(
                        default=customers.models.team.new_team_id,
                        max_length=255,
                        primary_key=True,
                        serialize=False,
                        verbose_name="team id",
                    ),
                ),
                ("alias", models.CharField(blank=True, max_length=255, verbose_name="name")),
                ("allowed_models", models.JSONField(blank=True, default=list, verbose_name="allowed models")),
                ("tags", models.JSONField(blank=True, default=list)),
                ("metadata", models.JSONField(blank=True, default=dict)),
                ("blocked", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("deleted_at", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="teams",
                        to="customers.budget",
                    ),
                ),
            ],
            options={
                "abstract": False,
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="TeamMembership",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "role",
                    models.CharField(
                        choices=[("admin", "admin"), ("user", "user")], default="user", max_length=10
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="team_memberships",
                        to="customers.budget",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="memberships",
                        to="customers.team",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="team_memberships",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="VirtualKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("token_hash", models.CharField(editable=False, max_length=64, unique=True)),
                ("display_name", models.CharField(editable=False, max_length=12, verbose_name="key")),
                (
                    "alias",
                    models.CharField(blank=True, max_length=255, null=True, unique=True, verbose_name="name"),
                ),
                (
                    "payer_policy",
                    models.CharField(
                        choices=[
                            ("trusted", "trusted: the call names its customer"),
                            ("fixed", "fixed: always this key's own customer"),
                        ],
                        default="trusted",
                        max_length=10,
                    ),
                ),
                ("allowed_models", models.JSONField(blank=True, default=list, verbose_name="allowed models")),
                ("tags", models.JSONField(blank=True, default=list)),
                ("metadata", models.JSONField(blank=True, default=dict)),
                ("blocked", models.BooleanField(default=False)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("deleted_at", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="keys",
                        to="customers.budget",
                    ),
                ),
                (
                    "customer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="keys",
                        to="customers.customer",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="keys",
                        to="customers.team",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="keys",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "virtual key",
            },
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(
                condition=models.Q(("blocked", True), ("budget__isnull", False), _connector="OR"),
                fields=["id"],
                name="customer_exceptions",
            ),
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(fields=["alias"], name="customer_alias"),
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(fields=["-created_at"], name="customer_created"),
        ),
        migrations.AddConstraint(
            model_name="teammembership",
            constraint=models.UniqueConstraint(fields=("team", "user"), name="team_membership_once"),
        ),
        migrations.AddConstraint(
            model_name="virtualkey",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("payer_policy", "fixed"), _negated=True),
                    ("customer__isnull", False),
                    _connector="OR",
                ),
                name="virtual_key_fixed_payer_has_customer",
                violation_error_message="A key with the payer policy “fixed” needs a customer.",
            ),
        ),
    ]
