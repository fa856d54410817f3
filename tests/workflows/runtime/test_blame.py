from __future__ import annotations

import pytest

from workflows.runtime.blame import ItemAttempts, NodeTrust, hang_limit

NODES = {"a", "b", "c"}


def test_a_node_that_fails_whatever_it_is_given_is_avoided() -> None:
    trust = NodeTrust()
    trust.done("b")
    trust.failed("a", "item 1", "no such file")
    assert trust.avoided(NODES) == set(), "once may be the item's fault"
    trust.failed("a", "item 1", "no such file")
    assert trust.avoided(NODES) == set(), "so may the same again"
    trust.failed("a", "item 2", "no such file")
    assert trust.avoided(NODES) == {"a"}
    assert list(trust.evidence("a").values()) == ["no such file", "no such file"]


def test_what_is_done_between_two_failures_clears_a_node() -> None:
    trust = NodeTrust()
    trust.failed("a", "item 1", "")
    trust.done("a")
    trust.failed("a", "item 2", "")
    assert trust.avoided(NODES) == set()


def test_items_that_fail_on_a_node_that_works_are_no_evidence() -> None:
    """Two poison items at the end of a stage must not take node after node out of the cluster."""
    trust = NodeTrust()
    for node in NODES:
        trust.done(node)
    trust.failed("a", "poison 1", "")
    trust.failed("a", "poison 2", "")
    assert trust.avoided(NODES) == {"a"}
    trust.failed("b", "poison 1", "")
    assert trust.avoided(NODES) == set()


def test_the_last_node_is_not_avoided() -> None:
    trust = NodeTrust()
    for node in ("a", "b"):
        for item in (1, 2):
            trust.failed(node, f"{node}{item}", "")
    assert trust.avoided(NODES) == {"a", "b"}
    assert trust.avoided({"a", "b"}) == set()
    trust.condemn("c")
    assert trust.avoided(NODES) == set()


def test_what_failed_everywhere_was_no_nodes_fault() -> None:
    """Storage was away: of each node two items failed, and the first that works again clears them all."""
    trust = NodeTrust()
    for node in NODES:
        for item in (1, 2):
            trust.failed(node, f"{node}{item}", "away")
    assert trust.avoided(NODES) == set(), "nobody is left"
    trust.done(max(NODES))
    assert trust.avoided(NODES) == set()
    for item in (3, 4):
        trust.failed("a", item, "still")
    assert trust.avoided(NODES) == {"a"}


def test_failures_on_avoided_nodes_are_no_tries_of_an_item() -> None:
    attempts = ItemAttempts(most=3, most_losses=4)
    assert not attempts.failed("item", "a", "first", avoided=())
    assert not attempts.failed("item", "b", "second", avoided={"a"})
    assert attempts.tries("item", avoided={"a"}) == 1
    assert not attempts.failed("item", "b", "third", avoided={"a"})
    assert attempts.failed("item", "b", "fourth", avoided={"a"})
    assert attempts.given_up == {"item": "fourth"}
    assert attempts.forgive({"b"}) == ["item"], "now the other node is known to be at fault"
    assert not attempts.given_up


def test_an_item_that_fails_on_so_many_nodes_is_at_fault() -> None:
    attempts = ItemAttempts(most=3, most_losses=4)
    told = [attempts.failed("poison", node, node, avoided=NODES) for node in ("a", "b", "c")]
    assert told == [False, False, True]
    assert attempts.forgive(NODES) == []


def test_lost_nodes_are_no_tries_and_have_a_bound_of_their_own() -> None:
    attempts = ItemAttempts(most=3, most_losses=4)
    assert [attempts.lost_node("item", "its node was lost") for _ in range(4)] == [False, False, False, True]
    assert attempts.tries("item") == 0
    assert attempts.given_up["item"] == "its node was lost (4 nodes were lost while they had it)"


@pytest.mark.parametrize(
    ("seconds", "attempts", "expected"),
    [
        ([1.0, 2.0], 0, None),  # too few to tell
        ([1.0, 2.0, 3.0], 0, 300.0),  # 20 x 2 s is below the floor
        ([10.0, 20.0, 900.0], 0, 400.0),
        ([10.0, 20.0, 900.0], 2, 1600.0),  # what only takes long is given time
    ],
)
def test_an_item_is_overdue_after_twenty_medians(seconds: list[float], attempts: int, expected: float | None) -> None:
    assert hang_limit(seconds, 300.0, attempts) == expected
