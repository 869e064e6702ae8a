"""Whether `metadata.user_id` names the customer (contract 12, decision 27)."""

from django.test import SimpleTestCase

from proxy.callers import MASTER
from proxy.identification import Identifier, Said


class MetadataUserTests(SimpleTestCase):
    def customer(self, said: Said, *, reads_metadata_user: bool) -> str | None:
        identifier = Identifier(
            header_mappings=[],
            extra_tag_headers=[],
            user_agent_tags=False,
            reads_metadata_user=reads_metadata_user,
        )
        return identifier.attribute({}, said, MASTER).customer_id

    def test_it_does_unless_the_operator_says_otherwise(self):
        agent = Said(metadata={"user_id": "user_dev_account_acc-1_session_s-1"})

        self.assertEqual(self.customer(agent, reads_metadata_user=True), "acc-1")
        self.assertIsNone(self.customer(agent, reads_metadata_user=False))

    def test_the_other_sources_are_read_as_ever(self):
        for said in (
            Said(user="acme", metadata={"user_id": "x"}),
            Said(litellm_metadata={"user": "acme"}, metadata={"user_id": "x"}),
            Said(safety_identifier="acme", metadata={"user_id": "x"}),
        ):
            with self.subTest(said):
                self.assertEqual(self.customer(said, reads_metadata_user=False), "acme")
