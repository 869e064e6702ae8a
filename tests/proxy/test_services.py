"""The first set-up: made once, and again where staff took it away."""

from django.test import TestCase

from billing.models import Price
from proxy.models import Deployment, Upstream
from proxy.services import set_up_upstreams


class SetUpTests(TestCase):
    def test_what_is_there_is_left_alone(self):
        self.assertEqual(set_up_upstreams({}), ["openai", "anthropic", "demo"])
        made = Deployment.objects.count()

        self.assertEqual(set_up_upstreams({}), [])
        self.assertEqual(Deployment.objects.count(), made)

    def test_addresses_come_from_the_variables_of_the_providers_own_sdks(self):
        set_up_upstreams({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})

        self.assertEqual(Upstream.objects.get(name="openai").openai_base_url, "http://127.0.0.1:9/v1")

    def test_a_demo_that_was_deleted_or_renamed_is_made_again_at_its_price(self):
        set_up_upstreams({})
        Deployment.objects.filter(model_name="demo").delete()
        Upstream.objects.filter(name="demo").update(name="ours")

        self.assertEqual(set_up_upstreams({}), ["demo"])
        self.assertEqual(Price.objects.filter(model="demo").count(), 1)
        Upstream.objects.get(name="ours").delete()
        self.assertEqual(set_up_upstreams({}), [])
