"""The admin of upstreams and deployments."""

from unittest import mock

from proxy.models import Deployment, Upstream
from tests.admin_pages import AdminTestCase, make_price

SECRET = "sk-very-secret-provider-key"


def make_upstream(**fields) -> Upstream:
    given = {"name": "openai", "provider": "openai", "openai_base_url": "https://api.openai.com/v1"}
    return Upstream.objects.create(**{**given, **fields})


class PagesTests(AdminTestCase):
    def test_every_page_answers_while_there_is_nothing(self):
        self.assert_every_page_answers("proxy")

    def test_every_page_answers_with_rows(self):
        Deployment.objects.create(model_name="gpt-*", upstream=make_upstream(), price=make_price())

        self.assert_every_page_answers("proxy")

    def test_the_lists_make_a_fixed_number_of_queries(self):
        for number in range(3):
            upstream = make_upstream(name=f"upstream {number}")
            Deployment.objects.create(
                model_name=f"m{number}", upstream=upstream, price=make_price(model=f"m{number}")
            )
        for model in (Upstream, Deployment):
            self.client.get(self.url(model, "changelist"))
            with self.subTest(model=model.__name__), self.assertNumQueries(5):
                self.client.get(self.url(model, "changelist"))

    def test_charlie_sees_neither(self):
        self.log_in_charlie()

        for model in (Upstream, Deployment):
            self.assertEqual(self.client.get(self.url(model, "changelist")).status_code, 403)


class CredentialTests(AdminTestCase):
    def form(self, **fields) -> dict:
        given = {
            "name": "openai", "provider": "openai", "openai_base_url": "https://api.openai.com/v1",
            "headers": "{}", "connect_timeout_s": "5", "read_timeout_s": "600", "is_active": "on",
        }  # fmt: skip
        return {**given, **fields}

    def test_it_is_never_shown(self):
        upstream = make_upstream(credential=SECRET)
        change = self.url(Upstream, "change", upstream.pk)

        pages = [
            self.client.get(self.url(Upstream, "changelist")),
            self.client.get(change),
            self.client.get(self.url(Upstream, "history", upstream.pk)),
            self.client.post(change, self.form(name="", credential=SECRET)),  # an error in another field
        ]

        for page in pages:
            self.assertEqual(page.status_code, 200)
            self.assertNotContains(page, SECRET)

    def test_left_blank_it_stays(self):
        upstream = make_upstream(credential=SECRET)

        self.client.post(self.url(Upstream, "change", upstream.pk), self.form(name="renamed"))

        upstream.refresh_from_db()
        self.assertEqual((upstream.name, upstream.credential), ("renamed", SECRET))

    def test_one_that_cannot_be_read_is_not_overwritten_by_a_blank(self):
        upstream = make_upstream(credential=SECRET)

        with self.settings(SECRET_KEY="another"):
            change = self.url(Upstream, "change", upstream.pk)
            self.client.force_login(self.alice, backend="django.contrib.auth.backends.ModelBackend")
            self.client.post(change, self.form(name="renamed"))

        upstream.refresh_from_db()
        self.assertEqual((upstream.name, upstream.credential), ("renamed", SECRET))

    def test_a_new_one_replaces_it(self):
        upstream = make_upstream(credential="sk-old")

        self.client.post(self.url(Upstream, "change", upstream.pk), self.form(credential=SECRET))

        upstream.refresh_from_db()
        self.assertEqual(upstream.credential, SECRET)

    def test_it_can_be_forgotten(self):
        upstream = make_upstream(credential=SECRET)

        self.client.post(self.url(Upstream, "change", upstream.pk), self.form(forget_credential="on"))

        upstream.refresh_from_db()
        self.assertEqual(upstream.credential, "")

    def test_a_new_upstream_takes_one(self):
        self.client.post(self.url(Upstream, "add"), self.form(credential=SECRET))

        self.assertEqual(Upstream.objects.get().credential, SECRET)

    def test_the_list_says_where_it_is_kept(self):
        make_upstream(name="a", credential=SECRET)
        make_upstream(name="b", credential="")
        make_upstream(name="c", credential="os.environ/FILLED")
        make_upstream(name="d", credential="os.environ/EMPTY")

        with mock.patch.dict("os.environ", {"FILLED": SECRET}):
            response = self.client.get(self.url(Upstream, "changelist"))

        for text in ("not set", "from environment FILLED", "from environment EMPTY, which is empty"):
            self.assertContains(response, text)
        self.assertNotContains(response, SECRET)


class DeploymentTests(AdminTestCase):
    def test_a_name_with_a_star_in_the_middle_is_refused(self):
        form = {"model_name": "gpt-*-mini", "upstream": make_upstream().pk, "priority": "0", "weight": "1"}

        response = self.client.post(self.url(Deployment, "add"), form)

        self.assertContains(response, "may only stand at the end")

    def test_it_is_made_with_its_upstream(self):
        form = {
            "model_name": "gpt-*",
            "upstream": make_upstream().pk,
            "priority": "0",
            "weight": "1",
            "is_active": "on",
        }

        self.client.post(self.url(Deployment, "add"), form)

        self.assertEqual(Deployment.objects.get().model_name, "gpt-*")
