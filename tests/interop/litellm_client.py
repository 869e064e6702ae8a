"""
What LiteLLM's own management client offers, done against a gateway: address, master key, provider.

Runs in the client's environment, not in ours: nothing of ours is imported.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from litellm.proxy.client import Client
from litellm.proxy.client.exceptions import NotFoundError, UnauthorizedError
from litellm.proxy.client.users import UsersManagementClient

URL, MASTER_KEY, PROVIDER_URL = sys.argv[1:4]
client = Client(base_url=URL, api_key=MASTER_KEY)
users = UsersManagementClient(base_url=URL, api_key=MASTER_KEY)


def keys() -> None:
    made = client.keys.generate(
        key_alias="interop", models=["gpt-4o-mini"], aliases={"fast": "gpt-4o-mini"}, duration="30d"
    )
    secret, token = made["key"], made["token"]
    assert secret.startswith("sk-"), made
    assert (made["key_alias"], made["models"], made["spend"]) == ("interop", ["gpt-4o-mini"], 0), made

    listed = client.keys.list(page=1, size=10, key_alias="interop", return_full_object=True)
    assert [key["token"] for key in listed["keys"]] == [token], listed
    assert client.keys.list(key_alias="interop")["keys"] == [token]

    updated = client.keys.update(key=secret, key_alias="renamed", models=["gpt-4o"])
    assert (updated["key_alias"], updated["models"]) == ("renamed", ["gpt-4o"]), updated
    info = client.keys.info(secret)
    assert (info["key"], info["info"]["key_alias"]) == (token, "renamed") or info["key"] == secret, info

    assert client.keys.delete(keys=[secret]) == {"deleted_keys": [secret]}
    assert client.keys.list(key_alias="renamed")["keys"] == []


def refused_keys() -> None:
    try:
        Client(base_url=URL, api_key="sk-nobody-knows-this-key").keys.list()
    except UnauthorizedError:
        return
    raise AssertionError("an unknown key was let in")


def models() -> None:
    made = client.models.new(
        model_name="interop-model",
        model_params={"model": "openai/gpt-4o-mini", "api_base": PROVIDER_URL, "api_key": "sk-upstream"},
        model_info={"id": "interop-id"},
    )
    assert made["model_name"] == "interop-model", made
    # Workers hear of an edit within two seconds.
    deadline = time.monotonic() + 2
    while "interop-model" not in [model["id"] for model in client.models.list()]:
        assert time.monotonic() < deadline, "the new model is not listed"
        time.sleep(0.1)
    found = client.models.get(model_id="interop-id")
    assert found["model_info"]["id"] == "interop-id" and "sk-upstream" not in str(found), found
    assert client.models.get(model_name="interop-model") == found
    client.models.update(
        model_id="interop-id", model_params={"model": "openai/gpt-4o", "api_base": PROVIDER_URL}
    )
    assert client.models.get(model_id="interop-id")["litellm_params"]["model"] == "openai/gpt-4o"
    groups = client.model_groups.info()
    assert "interop-model" in [group["model_group"] for group in groups], groups

    client.models.delete("interop-id")
    try:
        client.models.get(model_id="interop-id")
    except NotFoundError:
        return
    raise AssertionError("a deleted model is still there")


def chat() -> None:
    answer = client.chat.completions(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}], user="interop-customer"
    )
    assert answer["choices"][0]["message"]["content"], answer


def teams() -> None:
    made = client.http.request(
        "POST", "/team/new", json={"team_alias": "Interop", "team_id": "t-interop", "max_budget": 5}
    )
    assert (made["team_id"], made["max_budget"]) == ("t-interop", 5), made
    assert "t-interop" in [team["team_id"] for team in client.teams.list()]
    page = client.teams.list_v2(team_id="t-interop")
    assert [team["team_id"] for team in page["teams"]] == ["t-interop"], page
    assert client.teams.get_available() == []
    client.http.request("POST", "/team/delete", json={"team_ids": ["t-interop"]})
    assert "t-interop" not in [team["team_id"] for team in client.teams.list()]


def users_() -> None:
    made = users.create_user(
        {"user_id": "u-interop", "user_email": "kim@example.com", "user_role": "internal_user"}
    )
    assert (made["user_id"], made["user_role"]) == ("u-interop", "internal_user"), made
    assert made["key"].startswith("sk-"), made
    assert "u-interop" in [user["user_id"] for user in users.list_users()]
    assert users.get_user("u-interop")["user_info"]["user_email"] == "kim@example.com"
    assert users.get_user_v2("u-interop")["user_id"] == "u-interop"
    assert users.delete_user(["u-interop"]) == 1


def customers() -> None:
    made = client.http.request(
        "POST", "/customer/new", json={"user_id": "c-interop", "alias": "Interop Ltd", "max_budget": 0.5}
    )
    assert (made["user_id"], made["litellm_budget_table"]["max_budget"]) == ("c-interop", 0.5), made
    found = client.http.request("GET", "/customer/info", params={"end_user_id": "c-interop"})
    assert found["alias"] == "Interop Ltd", found
    client.http.request("POST", "/customer/update", json={"user_id": "c-interop", "alias": "Renamed"})
    listed = client.http.request("GET", "/customer/list")
    assert ("c-interop", "Renamed") in [(each["user_id"], each["alias"]) for each in listed], listed
    client.http.request("POST", "/customer/block", json={"user_ids": ["c-interop"]})
    client.http.request("POST", "/customer/unblock", json={"user_ids": ["c-interop"]})
    deleted = client.http.request("POST", "/customer/delete", json={"user_ids": ["c-interop"]})
    assert deleted["deleted_customers"] == 1, deleted


STEPS: tuple[Callable[[], Any], ...] = (keys, refused_keys, models, chat, teams, users_, customers)


def main() -> int:
    failed = 0
    for step in STEPS:
        name = step.__name__.strip("_").replace("_", " ")
        try:
            step()
        except Exception as error:
            failed += 1
            print(f"  {name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"  {name}: ok", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
