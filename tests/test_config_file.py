"""config.yaml as it is read: settings, references, what wins, and what is said about mistakes."""

import re
import tempfile
from decimal import Decimal
from pathlib import Path

from django.test import SimpleTestCase

from billing.alerts import words
from spendproject import config_file, environment
from spendproject.config_file import BadConfig, Config
from spendproject.config_keys import ALERT_TYPES, KEYS, AlertRule, Fate
from spendproject.strict_yaml import MAX_BYTES

DOCS = Path(__file__).resolve().parent.parent / "docs"

# Every YAML of the user's documents, as it stands there, comments included.
BUDGET_ALERTS = """
litellm_settings:
  budget_alerts:
    - threshold: 0.8  # 80% of budget
      email: "admin@company.com"
    - threshold: 1.0  # 100% of budget
      email: ["admin@company.com", "finance@company.com"]
      webhook: "https://hooks.slack.com/..."
"""
CACHE = """
general_settings:
  cache:
    type: "simple"  # or "redis"
    ttl: 3600       # 1 hour
"""
RATE_LIMITS = """
general_settings:
  rate_limits:
    - rpm_limit: 100    # requests per minute
    - tpm_limit: 10000  # tokens per minute
"""
SLACK_ALERTS = """
litellm_settings:
  slack_alerts:
    webhook_url: "https://hooks.slack.com/services/YOUR/SLACK/WEBHOOK"
    alerts:
      - type: "daily_spend"
        threshold: 50.0
      - type: "model_usage"
        model: "grok-code-fast-1"
        threshold: 1000
"""
# The emoji of the page went through two wrong encodings; so it stands in the file.
WEBHOOK = 'general_settings: \n  alerting: ["webhook"] # \u011f\u0178\u2018\u02c6 KEY CHANGE\n'


def load(
    test: SimpleTestCase,
    text: str | bytes,
    *,
    given: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> Config:
    """Read a file with this text. given: what the process was started with."""
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    path = Path(folder.name) / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config_file.load(
        str(path), given=given or {}, environment={**(given or {}), **(environment or {})}
    )


class ConfigTestCase(SimpleTestCase):
    def load(self, text: str | bytes, **variables: dict[str, str]) -> Config:
        return load(self, text, **variables)

    def problems(self, text: str | bytes, **variables: dict[str, str]) -> list[str]:
        with self.assertRaises(BadConfig) as caught:
            self.load(text, **variables)
        return caught.exception.problems


class UsersDocumentsTests(ConfigTestCase):
    def test_the_cache_is_set(self):
        config = self.load(CACHE)

        self.assertEqual(config.variables, {"RESPONSE_CACHE": "simple", "RESPONSE_CACHE_SECONDS": "3600"})
        self.assertEqual(config.warnings, ())

    def test_rate_limits_are_those_of_the_gateway(self):
        config = self.load(RATE_LIMITS)

        self.assertEqual(
            config.values, {"general_settings.rate_limits": {"rpm_limit": 100, "tpm_limit": 10_000}}
        )
        self.assertEqual(config.warnings, ())

    def test_budget_alerts_say_whom_to_tell_at_which_share(self):
        config = self.load(BUDGET_ALERTS)

        self.assertEqual(
            config.alerts.rules,
            (
                AlertRule("budget", Decimal("0.8"), emails=("admin@company.com",)),
                AlertRule(
                    "budget",
                    Decimal("1.0"),
                    emails=("admin@company.com", "finance@company.com"),
                    webhook="https://hooks.slack.com/...",
                ),
            ),
        )
        self.assertEqual({found.fate for found in config.found}, {Fate.APPLIED})

    def test_slack_alerts_say_what_to_watch(self):
        slack_url = "https://hooks.slack.com/services/YOUR/SLACK/WEBHOOK"

        config = self.load(SLACK_ALERTS)

        self.assertEqual(
            config.alerts.rules,
            (
                AlertRule("daily_spend", Decimal(50), slack_url=slack_url),
                AlertRule("model_usage", Decimal(1000), slack_url=slack_url, model="grok-code-fast-1"),
            ),
        )

    def test_the_webhook_is_a_channel_of_alerts(self):
        config = self.load(WEBHOOK)

        self.assertEqual(config.alerts.channels, ("webhook",))
        self.assertEqual(config.warnings, ())

    def test_track_cost_may_stand_anywhere_and_is_always_so(self):
        for text in (
            "track_cost: true",
            "litellm_settings: {track_cost: true}",
            "general_settings: {track_cost: true}",
        ):
            with self.subTest(text):
                config = self.load(text)

                self.assertEqual([found.fate for found in config.found], [Fate.ALWAYS])
                self.assertEqual(config.warnings, ())

    def test_all_of_them_together_are_one_file(self):
        merged = (
            "general_settings:\n"
            + "".join(text.split("\n", 2)[2] for text in (CACHE, RATE_LIMITS))
            + '  alerting: ["webhook"]\n'
            + "litellm_settings:\n"
            + "".join(text.split("\n", 2)[2] for text in (BUDGET_ALERTS, SLACK_ALERTS))
        )

        config = self.load(merged)

        self.assertEqual(len(config.alerts.rules), 4)
        self.assertEqual(config.warnings, ())


class SettingsTests(ConfigTestCase):
    def test_keys_set_the_variables_of_their_settings(self):
        cases = {
            "general_settings: {master_key: sk-1234}": {"MASTER_KEY": "sk-1234"},
            "general_settings: {database_url: 'postgresql://u:p@h:5/n?connection_limit=9&sslmode=require'}": {
                "DATABASE_URL": "postgresql://u:p@h:5/n?sslmode=require"
            },
            "general_settings: {database_url: 'sqlite:///data/spend.sqlite3'}": {
                "DATABASE_URL": "sqlite:///data/spend.sqlite3"
            },
            "general_settings: {user_header_name: X-User}": {"USER_HEADER_MAPPINGS": "X-User:customer"},
            "general_settings: {store_prompts_in_spend_logs: true}": {"STORE_PROMPTS": "true"},
            "general_settings: {token_rate_limit_type: output}": {"TOKEN_RATE_LIMIT_TYPE": "output"},
            "general_settings: {allow_requests_on_db_unavailable: true}": {"BUDGETS_WHEN_DB_DOWN": "open"},
            "litellm_settings: {budget_exceeded_status_code: 422}": {"BUDGET_EXCEEDED_STATUS": "422"},
            "litellm_settings: {timezone: Europe/Berlin}": {"BUDGET_TIME_ZONE": "Europe/Berlin"},
            "litellm_settings: {include_cost_in_streaming_usage: yes}": {
                "INCLUDE_COST_IN_STREAMING_USAGE": "true"
            },
            "litellm_settings: {disable_add_user_agent_to_request_tags: true}": {"USER_AGENT_TAGS": "false"},
            "general_settings: {enforce_user_param: true}": {"ENFORCE_CUSTOMER": "true"},
            "general_settings: {reject_clientside_metadata_tags: true}": {"REJECT_METADATA_TAGS": "true"},
            "general_settings: {disable_custom_api_keys: true}": {"DISABLE_CUSTOM_API_KEYS": "true"},
            "litellm_settings: {extra_spend_tag_headers: [x-a, x-b]}": {"EXTRA_SPEND_TAG_HEADERS": "x-a,x-b"},
            "litellm_settings: {request_timeout: 600}": {"CALL_SECONDS": "600"},
            "router_settings: {redis_host: r, redis_port: 6380, redis_password: 'p@/'}": {
                "REDIS_URL": "redis://:p%40%2F@r:6380/0"
            },
            "router_settings: {redis_url: 'rediss://r/1'}": {"REDIS_URL": "rediss://r/1"},
        }
        for text, variables in cases.items():
            with self.subTest(text):
                self.assertEqual(self.load(text).variables, variables)

    def test_header_mappings_come_before_the_older_single_header(self):
        config = self.load(
            "general_settings:\n"
            "  user_header_mappings:\n"
            "    - {header_name: X-OpenWebUI-User-Id, litellm_user_role: internal_user}\n"
            "    - {header_name: X-OpenWebUI-User-Email, litellm_user_role: customer}\n"
            "  user_header_name: X-Customer\n"
        )

        self.assertEqual(
            config.variables["USER_HEADER_MAPPINGS"],
            "X-OpenWebUI-User-Id:internal_user,X-OpenWebUI-User-Email:customer,X-Customer:customer",
        )

    def test_litellm_s_own_cache_keys_choose_a_cache_too(self):
        cases = {
            "{cache: true}": "simple",
            "{cache: false, cache_params: {type: redis, host: h}}": "off",
            "{cache: true, cache_params: {type: local}}": "simple",
            "{cache: true, cache_params: {type: redis, host: h}}": "redis",
            "{cache: true, cache_params: {host: h}}": "redis",
            "{cache: true, cache_params: {type: s3}}": "off",
        }
        for text, cache in cases.items():
            with self.subTest(text):
                config = self.load(f"litellm_settings: {text}")

                self.assertEqual(config.variables["RESPONSE_CACHE"], cache)

    def test_a_cache_in_redis_without_redis_is_told(self):
        config = self.load("general_settings: {cache: {type: redis}}")

        self.assertIn("set REDIS_URL", config.warnings[0])
        self.assertEqual(
            self.load("general_settings: {cache: {type: redis}}", given={"REDIS_URL": "redis://r"}).warnings,
            (),
        )

    def test_channels_and_kinds_of_alerts_that_there_are_not_are_named_and_left_out(self):
        config = self.load(
            "general_settings: {alerting: [pagerduty, Slack], alert_types: [llm_too_slow, budget_alerts]}"
        )

        self.assertEqual(
            (config.variables["ALERTING"], config.variables["ALERT_TYPES"]), ("slack", "budget_alerts")
        )
        self.assertEqual(len(config.warnings), 2)
        self.assertIn("general_settings.alerting: pagerduty has no effect here", config.warnings[0])
        self.assertIn("llm_too_slow has no effect here; there are budget_alerts, ", config.warnings[1])
        self.assertEqual(ALERT_TYPES, {*words.ALERT_TYPES.values()})

    def test_general_settings_win_over_litellm_settings(self):
        config = self.load(
            "litellm_settings: {budget_exceeded_status_code: 429}\n"
            "general_settings: {budget_exceeded_status_code: 422}\n"
        )

        self.assertEqual(config.variables, {"BUDGET_EXCEEDED_STATUS": "422"})

    def test_defaults_of_keys_users_and_teams_are_kept_by_name(self):
        config = self.load(
            "litellm_settings:\n"
            "  default_key_generate_params: {max_budget: 1.50, models: [gpt-4o], metadata: {a: 0.5}}\n"
            "  upperbound_key_generate_params: {max_budget: 100, budget_duration: 30d, rpm_limit: 5}\n"
            "  default_team_params: {max_budget: 20, tpm_limit: 9}\n"
            "  default_internal_user_params: {user_role: internal_user, max_budget: 7}\n"
            "  max_internal_user_budget: 5\n"
            "  internal_user_budget_duration: 1mo\n"
        )

        self.assertEqual(
            config.key_defaults, {"max_budget": Decimal("1.50"), "models": ["gpt-4o"], "metadata": {"a": 0.5}}
        )
        self.assertEqual(
            config.key_upper_bounds, {"max_budget": Decimal(100), "budget_duration": "30d", "rpm_limit": 5}
        )
        self.assertEqual(config.team_defaults, {"max_budget": Decimal(20), "tpm_limit": 9})
        self.assertEqual(
            config.user_defaults,
            {"user_role": "internal_user", "max_budget": Decimal(7), "budget_duration": "1mo"},
        )
        self.assertEqual(config.variables, {})

    def test_without_a_file_everything_is_empty(self):
        config = config_file.load("", given={}, environment={})

        self.assertEqual(config.variables, {})
        self.assertEqual((config.key_defaults, config.user_defaults, config.team_defaults), ({}, {}, {}))
        self.assertEqual(config.models, [])

    def test_an_empty_file_is_a_file_that_says_nothing(self):
        for text in ("", "# nothing yet\n", "general_settings:\nmodel_list:\n"):
            with self.subTest(text):
                self.assertEqual(self.load(text).variables, {})

    def test_amounts_keep_their_digits(self):
        config = self.load("litellm_settings: {max_budget: 0.123456789, max_end_user_budget: '1e-4'}")

        self.assertEqual(config.values["litellm_settings.max_budget"], Decimal("0.123456789"))
        self.assertEqual(config.values["litellm_settings.max_end_user_budget"], Decimal("0.0001"))


class PrecedenceTests(ConfigTestCase):
    def test_the_environment_wins_and_what_the_file_says_is_not_even_read(self):
        text = "general_settings: {budget_exceeded_status_code: nonsense, master_key: os.environ/NOWHERE}"
        given = {"BUDGET_EXCEEDED_STATUS": "429", "LITELLM_MASTER_KEY": "sk-given"}

        config = self.load(text, given=given)

        # Under its own name, so that it comes before what the first start wrote into the env file.
        self.assertEqual(config.variables, {"MASTER_KEY": "sk-given"})
        self.assertEqual(
            [(found.note, found.is_overridden) for found in config.found],
            [
                ("the environment's BUDGET_EXCEEDED_STATUS wins", True),
                ("the environment's LITELLM_MASTER_KEY wins", True),
            ],
        )

    def test_the_file_wins_over_the_env_file(self):
        given, now = environment.GIVEN, dict(environment.os.environ)
        self.addCleanup(environment.os.environ.update, now)
        self.addCleanup(environment.os.environ.pop, "FROM_FILE_ONLY", None)
        environment.os.environ["STORE_PROMPTS"] = "false"  # as the env file left it
        self.addCleanup(environment.os.environ.pop, "STORE_PROMPTS")
        self.assertNotIn("STORE_PROMPTS", given)
        self.assertIn("MASTER_KEY", given)

        environment.fill({"STORE_PROMPTS": "true", "MASTER_KEY": "sk-other", "FROM_FILE_ONLY": "1"})

        self.assertTrue(environment.boolean("STORE_PROMPTS"))
        self.assertEqual(environment.text("MASTER_KEY"), now["MASTER_KEY"])
        self.assertEqual(environment.text("FROM_FILE_ONLY"), "1")

    def test_references_are_resolved_also_to_variables_of_the_file(self):
        config = self.load(
            "general_settings:\n  master_key: os.environ/THEIR_KEY\n"
            "  user_header_name: os.environ/THEIR_HEADER\n"
            "environment_variables: {THEIR_KEY: sk-from-file, ANSWER: 42, FLAG: true}\n",
            environment={"THEIR_HEADER": "X-User", "THEIR_KEY": "sk-from-env-file"},
        )

        self.assertEqual(
            config.variables, {"MASTER_KEY": "sk-from-file", "USER_HEADER_MAPPINGS": "X-User:customer"}
        )
        self.assertEqual(config.environment, {"THEIR_KEY": "sk-from-file", "ANSWER": "42", "FLAG": "true"})

    def test_a_variable_that_the_process_was_given_stays(self):
        config = self.load(
            "general_settings: {master_key: os.environ/THEIR_KEY}\n"
            "environment_variables: {THEIR_KEY: sk-from-file}",
            given={"THEIR_KEY": "sk-given"},
        )

        self.assertEqual(config.variables, {"MASTER_KEY": "sk-given"})


class MistakeTests(ConfigTestCase):
    def test_each_mistake_has_its_line_column_and_what_to_do(self):
        hook, of_model = "webhook_url: 'https://h'", "[{type: model_usage, threshold: 1}]"
        cases = {
            "general_settings: {master_key: secret-word}": "master_key (line 1, column 32): a master key",
            "general_settings: {store_prompts_in_spend_logs: 7}": "write true or false",
            "general_settings: {rate_limits: 5}": "write {rpm_limit: 100, tpm_limit: 10000}",
            "general_settings: {rate_limits: [{rpm_limit: 1}, {rpm_limit: 2}]}": "rpm_limit is given twice",
            "general_settings: {rate_limits: [{rpm_limit: -1}]}": "write a whole number of at least 0",
            "general_settings: {rate_limits: [{rpd_limit: 1}]}": "write {rpm_limit: 100, tpm_limit: 10000}",
            "general_settings: {cache: {type: disk}}": "write one of simple, local, redis, off",
            "general_settings: {cache: {ttl: 0}}": "write a whole number of at least 1",
            "general_settings: {cache: [1]}": "write keys and values below it, indented",
            "general_settings: {database_url: 'mysql://h/n'}": "write postgresql://",
            "general_settings: {user_header_name: 'X User'}": "write the name of a header",
            "general_settings: {user_header_mappings: [{header_name: X}]}": "write entries {header_name:",
            "general_settings: {user_header_mappings: {header_name: X, litellm_user_role: boss}}": (
                "one of customer"
            ),
            "general_settings: 5": "write keys and values below it, indented",
            "general_settings: {master_key: os.environ/NOWHERE}": "NOWHERE is not set; set it in the",
            "litellm_settings: {timezone: Mars/North}": "write an IANA name",
            "litellm_settings: {budget_duration: fortnightly}": "is no duration",
            "litellm_settings: {max_budget: -1}": "write an amount of USD of at least 0",
            "litellm_settings: {max_budget: lots}": "write a number",
            "litellm_settings: {max_budget: 0.0000000001}": "at most 9 decimal places",
            "litellm_settings: {max_budget: '1e999999'}": "write a number",
            "litellm_settings: {budget_exceeded_status_code: 500}": "write one of 400, 402, 422, 429",
            "litellm_settings: {extra_spend_tag_headers: ['a,b']}": "write the name of a header",
            "litellm_settings: {budget_alerts: [{threshold: 80, email: a@b.c}]}": "threshold is a share",
            "litellm_settings: {budget_alerts: [{threshold: 0.8}]}": "say whom to tell",
            "litellm_settings: {budget_alerts: [{threshold: 0.8, email: nobody}]}": "email is an address",
            "litellm_settings: {budget_alerts: [{threshold: 0.8, webhook: nowhere}]}": "write an address",
            "litellm_settings: {slack_alerts: {alerts: []}}": "write webhook_url",
            f"litellm_settings: {{slack_alerts: {{{hook}, alerts: [{{type: x, threshold: 1}}]}}}}": "one of",
            f"litellm_settings: {{slack_alerts: {{{hook}, alerts: {of_model}}}}}": "that one needs it",
            "litellm_settings: {default_key_generate_params: {max_budget: x}}": "write a number",
            "router_settings: {redis_password: p}": "redis_host is missing",
            "environment_variables: {SPEND_CONFIG: x}": "cannot be set from the file",
            "environment_variables: {A: [1]}": "write a text, a number, true or false",
            "environment_variables: [1]": "write names and values below it",
            "model_list: {model_name: x}": "write a list",
            "model_list: [5]": "write keys and values below it",
            "model_list: [{model_name: x, litellm_params: 5}]": "write keys and values below it",
            "- a\n- b": "write sections such as model_list",
        }
        for text, message in cases.items():
            with self.subTest(text):
                [problem] = self.problems(text)

                self.assertIn(message, problem)
                self.assertRegex(problem, r"line \d+, column \d+")
                self.assertNotIn("secret-word", problem)

    def test_all_mistakes_are_told_at_once(self):
        problems = self.problems(
            "general_settings: {master_key: x, store_prompts_in_spend_logs: 7}\n"
            "litellm_settings: {timezone: X}\n"
        )

        self.assertEqual(len(problems), 3)

    def test_a_file_that_is_no_yaml_is_told_where_it_breaks(self):
        cases = {
            "a: [1,\nb: 2": r"line 2, column \d+: .*quote texts",
            "a:\n\tb: 1": "line 2, column 1: .*indent with spaces",
            "a: 1\nb: 2\na: 3": "line 3, column 1: 'a' stands on line 1 already",
            "general_settings:\n  x: 1\n  x: 2\n": "line 3, column 3: 'x' stands on line 2 already",
            "a: !!python/object:os.system x": "line 1, column 4: the tag .* is not read",
            "a: !x {b: 1}": "line 1, column 4: the tag",
            "5: a": "line 1, column 1: a key must be text",
            "a: .inf": "line 1, column 4: .* is not a number",
            "a: 1\n---\nb: 2": "line 2, column 1",
            "a: &x [*x]": "too deeply",
            "a: &x {<<: *x}": "too deeply",
            "[" * 20_000: "too deeply",
            "a: \x00": "line 1, column 4: this character",
            b"a: \xff\xfe": "line 1: this is not UTF-8",
            b"#" * (MAX_BYTES + 1): "at most 1,000,000 are read",
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
            ): ("more than 50,000 values"),
            "a: &a {x: 1}\n"
            + "".join(
                f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 10)}]}}\n"
                for i in range(9)
            ): "more than 50,000 values",
        }
        for text, message in cases.items():
            with self.subTest(text[:60]):
                [problem] = self.problems(text)

                self.assertRegex(problem, message)

    def test_a_file_that_is_not_there_is_told(self):
        for path in ("/nowhere/config.yaml", tempfile.gettempdir()):
            with self.subTest(path), self.assertRaisesMessage(BadConfig, "is SPEND_CONFIG right?"):
                config_file.load(path, given={}, environment={})

    def test_files_as_windows_writes_them_are_read(self):
        text = "general_settings: {master_key: sk-1234}\r\n"
        for data in (text.encode("utf-8-sig"), text.encode("utf-16")):
            self.assertEqual(self.load(data).variables, {"MASTER_KEY": "sk-1234"})

    def test_anchors_and_merges_are_read(self):
        config = self.load(
            "base: &base {store_prompts_in_spend_logs: true, token_rate_limit_type: input}\n"
            "general_settings: {<<: *base, token_rate_limit_type: output}\n"
        )

        self.assertEqual(config.variables, {"STORE_PROMPTS": "true", "TOKEN_RATE_LIMIT_TYPE": "output"})

    def test_times_and_dates_stay_text(self):
        config = self.load("environment_variables: {AT: 12:30, DAY: 2026-01-02}")

        self.assertEqual(config.environment, {"AT": "12:30", "DAY": "2026-01-02"})


class FateTests(ConfigTestCase):
    def test_every_key_of_a_file_ends_in_exactly_one_class(self):
        text = (
            "model_list:\n"
            "  - {model_name: a,\n"
            "     litellm_params: {model: openai/a, rpm: 5, seed: 1, input_cost_per_token: 1},\n"
            "     model_info: {mode: chat, note: x}, odd: 1}\n"
            "general_settings: {master_key: sk-1234, alerting: [slack], proxy_batch_write_at: 60, odd: 1}\n"
            "litellm_settings: {max_budget: 5, drop_params: true, cache_params: {namespace: x}, "
            "default_team_params: {odd: 1}}\n"
            "router_settings: {routing_strategy: simple-shuffle, fallbacks: [x], num_retries: 0}\n"
            "environment_variables: {A: b}\n"
            "odd: {x: 1}\n"
        )

        config = self.load(text)

        fates = {".".join(map(str, found.path)): found.fate for found in config.found}
        self.assertEqual(len(fates), len(config.found))
        self.assertEqual(
            fates,
            {
                "environment_variables.A": Fate.SETTING,
                "model_list.0.model_name": Fate.APPLIED,
                "model_list.0.litellm_params.model": Fate.APPLIED,
                "model_list.0.litellm_params.rpm": Fate.UNSUPPORTED,
                "model_list.0.litellm_params.seed": Fate.UNSUPPORTED,
                "model_list.0.litellm_params.input_cost_per_token": Fate.APPLIED,
                "model_list.0.model_info.mode": Fate.APPLIED,
                "model_list.0.model_info.note": Fate.APPLIED,
                "model_list.0.odd": Fate.UNSUPPORTED,
                "general_settings.master_key": Fate.SETTING,
                "general_settings.alerting": Fate.SETTING,
                "general_settings.proxy_batch_write_at": Fate.ALWAYS,
                "general_settings.odd": Fate.UNSUPPORTED,
                "litellm_settings.max_budget": Fate.APPLIED,
                "litellm_settings.drop_params": Fate.UNSUPPORTED,
                "litellm_settings.cache_params.namespace": Fate.UNSUPPORTED,
                "litellm_settings.default_team_params.odd": Fate.UNSUPPORTED,
                "router_settings.routing_strategy": Fate.ALWAYS,
                "router_settings.fallbacks": Fate.UNSUPPORTED,
                "router_settings.num_retries": Fate.ALWAYS,
                "odd": Fate.UNSUPPORTED,
            },
        )
        named = " ".join(config.warnings)
        for path, fate in fates.items():
            said = re.sub(r"\.(\d+)", "[]", path)
            self.assertEqual(f"{said}: " in named, fate == Fate.UNSUPPORTED, path)

    def test_what_is_always_so_cannot_be_switched_off_in_silence(self):
        for text in ("track_cost: false", "general_settings: {disable_spend_logs: true}"):
            with self.subTest(text):
                [warning] = self.load(text).warnings

                self.assertRegex(warning, "every call('s cost is tracked| has its log)")

    def test_what_is_not_supported_is_not_read(self):
        config = self.load("general_settings: {custom_auth: os.environ/NOWHERE, enforced_params: []}")

        [warning] = config.warnings
        self.assertIn("custom_auth: keys are checked by the gateway alone", warning)

    def test_a_key_that_many_models_have_is_one_warning(self):
        entry = "  - {model_name: a, litellm_params: {model: openai/a, rpm: 5}}\n"

        config = self.load("model_list:\n" + entry * 3)

        [warning] = config.warnings
        self.assertIn("model_list[].litellm_params.rpm", warning)
        self.assertIn("line 2, column 60 and 2 more", warning)

    def test_the_page_has_the_table_of_the_code(self):
        page = (DOCS / "config-yaml.md").read_text("utf-8")

        self.assertIn(config_file.markdown_table(), page)

    def test_every_variable_of_the_table_is_a_setting_that_is_read(self):
        settings = (DOCS.parent / "spendproject" / "settings.py").read_text("utf-8")
        for variable in {key.variable for key in KEYS.values() if key.variable}:
            with self.subTest(variable):
                self.assertIn(f'"{variable}"', settings)

    def test_the_example_of_the_page_is_read_without_a_warning(self):
        config = self.load(
            (DOCS / "config.example.yaml").read_bytes(),
            environment={
                "LITELLM_MASTER_KEY": "sk-1234",
                "OPENAI_API_KEY": "sk-o",
                "ANTHROPIC_API_KEY": "sk-a",
            },
        )

        self.assertEqual(config.warnings, ())
        self.assertTrue(config.models)

    def test_a_config_shows_nothing_of_itself(self):
        config = self.load("general_settings: {master_key: sk-not-to-be-seen}")

        self.assertNotIn("sk-not-to-be-seen", repr(config))
