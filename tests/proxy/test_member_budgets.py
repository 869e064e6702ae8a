"""What a member of a team may spend: its own budget, else the one its team gives its members."""

from concurrent.futures import ThreadPoolExecutor

from django.test import TestCase
from django.utils import timezone

from customers.models import Budget, Team, TeamMembership, User
from customers.money import to_nano
from customers.services.teams import (
    NewMember,
    add_members,
    delete_teams,
    remove_member,
    update_member,
    update_team,
)
from proxy.callers import Callers
from proxy.refresher import Refresher


class MemberTierTests(TestCase):
    def setUp(self):
        executor = ThreadPoolExecutor(1)
        self.addCleanup(executor.shutdown)
        self.callers = Callers(executor, hard_life_s=3600)
        self.team = Team.objects.create(pk="red")
        for name in ("alice", "bob"):
            User.objects.create(pk=name, username=name)
        add_members(team=self.team, members=[NewMember("alice"), NewMember("bob")])

    def limits(self) -> dict[str, int | None]:
        """Return what each member's tier allows, in nano-dollars, after a reload."""
        self.callers.reload_tiers()
        return {user_id: tier.limit_nano for (_, user_id), tier in self.callers.tiers.members.items()}

    def test_members_have_the_team_s_unless_they_have_their_own(self):
        before = self.limits()
        update_team(team=self.team, given={"team_member_budget": 5})
        default = self.limits()
        update_member(membership=self.team.memberships.get(user="bob"), given={"max_budget": 2})

        self.assertEqual(before, {})
        self.assertEqual(default, {"alice": to_nano(5), "bob": to_nano(5)})
        self.assertEqual(self.limits(), {"alice": to_nano(5), "bob": to_nano(2)})

    def test_a_tier_of_its_own_that_limits_nothing_is_its_own_too(self):
        update_team(team=self.team, given={"team_member_budget": 5})
        TeamMembership.objects.filter(user="bob").update(budget=Budget.objects.create())

        self.assertEqual(self.limits(), {"alice": to_nano(5)})

    def test_who_leaves_and_a_team_that_is_deleted_limit_nobody(self):
        update_team(team=self.team, given={"team_member_budget": 5})
        remove_member(membership=self.team.memberships.get(user="bob"), at=timezone.now())
        left = self.limits()
        delete_teams(ids=["red"], at=timezone.now())

        self.assertEqual((left, self.limits()), ({"alice": to_nano(5)}, {}))

    def test_a_worker_hears_of_it_by_the_team_s_change(self):
        refresher = Refresher(self.callers, interval=60)
        refresher.load()
        budget = Budget.objects.create(max_budget=5)
        refresher._tick()

        Team.objects.filter(pk="red").update(member_budget=budget)
        refresher._tick()

        self.assertEqual(set(self.callers.tiers.members), {("red", "alice"), ("red", "bob")})
