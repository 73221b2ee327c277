"""Each verb: what it moves, what it refuses, and what it leaves alone."""

from dataclasses import replace

import pytest

from fluxserve.domain.credits import work
from fluxserve.domain.errors import NotEnoughCredits, NotFound, TooMany
from fluxserve.domain.generation import Edit
from fluxserve.domain.task import Completed, Ending, Errored, GivenBack, State, WorkerLost
from fluxserve.tasks import pictures, verbs
from tests.tasks.conftest import CREDIT, LEASE, LOSSES, PICTURE, PRICE, Bench, held, picture

DONE = Completed((picture("one"),))


def test_a_submitted_task_is_pending_and_its_price_is_held(bench: Bench) -> None:
    task = bench.submit()

    assert task.state is State.PENDING
    assert bench.get(task) == task
    assert bench.get(task).generation == PICTURE
    assert bench.points() == (CREDIT - PRICE, PRICE)


def test_a_task_that_the_account_cant_pay_is_refused_and_changes_nothing(bench: Bench) -> None:
    with pytest.raises(NotEnoughCredits) as refused:
        bench.submit(price=CREDIT + 1)

    assert refused.value.balance == CREDIT
    assert bench.points() == (CREDIT, 0)


def test_an_account_may_spend_its_last_point(bench: Bench) -> None:
    assert bench.submit(price=CREDIT).state is State.PENDING
    assert bench.points() == (0, CREDIT)


def test_tasks_over_the_accounts_limit_are_staged_and_come_up_in_their_order(bench: Bench) -> None:
    bench.limit(1)
    first, second, third = (bench.submit() for _ in range(3))

    assert [first.state, second.state, third.state] == [State.PENDING, State.STAGED, State.STAGED]

    (claimed,) = bench.claim(first)
    bench.finish(claimed, DONE)

    assert [bench.get(task).state for task in (second, third)] == [State.PENDING, State.STAGED]


def test_one_staged_task_too_many_is_refused_with_a_time_to_come_back(bench: Bench) -> None:
    bench.limit(1)
    bench.submit()
    bench.submit(most_staged=1)

    with pytest.raises(TooMany) as refused:
        bench.submit(most_staged=1)

    assert refused.value.retry_after > 0
    assert bench.points() == (CREDIT - 2 * PRICE, 2 * PRICE)


def test_each_accounts_oldest_tasks_are_those_that_wait(bench: Bench) -> None:
    other = bench.another_account()
    tasks = [bench.submit() for _ in range(3)] + [bench.submit(account_id=other)]

    with bench.engine.begin() as connection:
        found = verbs.waiting(connection, 2)

    assert {task.task_id for task in found} == {tasks[0].id, tasks[1].id, tasks[3].id}


def test_an_account_that_was_given_work_stands_behind_one_that_was_not(bench: Bench) -> None:
    other = bench.another_account()
    first, second, theirs = bench.submit(), bench.submit(), bench.submit(account_id=other)

    bench.claim(first)

    turns = bench.turns()
    assert turns[second.id] - turns[theirs.id] == work(PICTURE)


def test_what_goes_before_its_turn_raises_its_own_account_alone(bench: Bench) -> None:
    other = bench.another_account()
    first, second, theirs = bench.submit(), bench.submit(), bench.submit(account_id=other)

    bench.claim(first)
    bench.claim(second, early=True)
    third = bench.submit()

    turns = bench.turns()
    assert turns[third.id] - turns[theirs.id] == 2 * work(PICTURE)


def test_an_early_claim_after_a_loss_lowers_nobody(bench: Bench) -> None:
    bench.claim(bench.submit())
    (high,) = bench.claim(bench.submit())
    theirs = bench.submit(account_id=bench.another_account())
    before = bench.turns()[theirs.id]
    bench.finish(high, WorkerLost("it died"))

    bench.claim(high, early=True)

    assert bench.turns()[theirs.id] == before > 0


def test_a_waiting_task_tells_the_member_that_draws_it(bench: Bench) -> None:
    tasks = [
        bench.submit(generation=generation) for generation in (PICTURE, replace(PICTURE, kind=Edit("night", "a.png")))
    ]

    with bench.engine.begin() as connection:
        members = {task.task_id: task.member for task in verbs.waiting(connection, 2)}

    assert members == {tasks[0].id: "schnell", tasks[1].id: "edit"}


def test_what_its_own_workers_draw_costs_an_account_no_turn_of_the_public_pool(bench: Bench) -> None:
    other = bench.another_account()
    own, public, theirs = bench.submit(is_private=True), bench.submit(), bench.submit(account_id=other)

    bench.claim(own)

    turns = bench.turns()
    assert turns[public.id] == turns[theirs.id]


def test_a_claim_leases_the_task_to_a_new_attempt(bench: Bench) -> None:
    task = bench.claimed()

    assert (task.state, task.attempt, task.started_at, task.step) == (State.PROCESSING, 1, bench.now, None)


def test_a_task_is_claimed_once(bench: Bench) -> None:
    task = bench.submit()

    assert len(bench.claim(task)) == 1
    assert bench.claim(task) == []


def test_a_task_that_is_not_there_is_left_out_of_a_claim(bench: Bench) -> None:
    assert bench.claim(replace(bench.submit(), id="nothing")) == []


def test_where_a_limit_was_lowered_no_more_are_offered_and_claimed_than_may_run(bench: Bench) -> None:
    tasks = [bench.submit() for _ in range(4)]
    bench.claim(tasks[0])
    bench.limit(2)

    with bench.engine.begin() as connection:
        offered = {each.task_id for each in verbs.waiting(connection, 9)}
    claimed = bench.claim(*tasks[1:])

    assert offered == {task.id for task in claimed} == {tasks[1].id}
    bench.finish(claimed[0], Errored("drawing_failed", "it broke"))
    assert [task.id for task in bench.claim(*tasks[2:])] == [tasks[2].id]


def test_a_limit_may_be_lowered_below_what_runs_and_nothing_more_comes_up(bench: Bench) -> None:
    running = bench.claim(bench.submit(), bench.submit())
    bench.limit(1)
    staged = bench.submit()

    bench.finish(running[0], Errored("drawing_failed", "it broke"))
    assert bench.get(staged).state is State.STAGED

    bench.finish(running[1], Errored("drawing_failed", "it broke"))
    assert bench.get(staged).state is State.PENDING


def test_a_completed_task_has_its_outputs_in_order_and_is_settled(bench: Bench) -> None:
    task = bench.claimed()
    pictures = (picture("b"), picture("a"))

    after = bench.finish(task, Completed(pictures))

    assert after is not None
    assert (after.state, after.outputs, after.ended_at) == (State.COMPLETED, pictures, bench.now)
    assert bench.points() == (CREDIT - PRICE, 0)


def test_a_failed_task_says_why_and_costs_nothing(bench: Bench) -> None:
    after = bench.finish(bench.claimed(), Errored("drawing_failed", "it broke"))

    assert after is not None
    assert (after.state, after.error_code, after.error_message) == (State.FAILED, "drawing_failed", "it broke")
    assert bench.points() == (CREDIT, 0)


@pytest.mark.parametrize(
    "ending", [DONE, Errored("a", "b"), WorkerLost("c"), GivenBack()], ids=lambda e: type(e).__name__
)
def test_an_attempt_that_comes_late_changes_nothing(bench: Bench, ending: Ending) -> None:
    late = bench.claimed()
    bench.finish(late, WorkerLost("it died"))
    (current,) = bench.claim(late)

    assert bench.finish(late, ending) is None
    assert bench.get(late) == current


@pytest.mark.parametrize(
    "ending", [DONE, Errored("a", "b"), WorkerLost("c"), GivenBack()], ids=lambda e: type(e).__name__
)
def test_a_finished_task_stays_as_it_is(bench: Bench, ending: Ending) -> None:
    task = bench.claimed()
    after = bench.finish(task, Completed((picture("first"),)))

    assert bench.finish(task, ending) is None
    assert bench.get(task) == after
    assert bench.points() == (CREDIT - PRICE, 0)


def test_a_lost_task_is_tried_again_and_fails_at_the_third_loss(bench: Bench) -> None:
    task = bench.submit()
    for loss in range(1, LOSSES):
        (task,) = bench.claim(task)
        after = bench.finish(task, WorkerLost("killed"))
        assert after is not None
        assert (after.state, after.losses, after.started_at) == (State.PENDING, loss, None)

    (task,) = bench.claim(task)
    after = bench.finish(task, WorkerLost("killed"))

    assert after is not None
    assert (after.state, after.error_code) == (State.FAILED, "abandoned")
    assert "killed" in (after.error_message or "")
    assert bench.points() == (CREDIT, 0)


def test_a_task_given_back_counts_no_loss_but_a_new_attempt(bench: Bench) -> None:
    task = bench.submit()
    for _ in range(LOSSES + 1):
        (task,) = bench.claim(task)
        after = bench.finish(task, GivenBack())
        assert after is not None
        assert (after.state, after.losses) == (State.PENDING, 0)

    assert task.attempt == LOSSES + 1


def test_progress_notes_the_step_and_renews(bench: Bench) -> None:
    task = bench.claimed()

    with bench.engine.begin() as connection:
        assert verbs.progress(connection, bench.now + LEASE, LEASE, held(task), 3)
        assert verbs.rescue(connection, bench.now + LEASE + 1, LOSSES) == []
    assert bench.get(task).step == 3


def test_what_an_attempt_had_done_is_forgotten_when_another_is_to_begin(bench: Bench) -> None:
    task = bench.claimed()
    with bench.engine.begin() as connection:
        verbs.progress(connection, bench.now, LEASE, held(task), 3, 4)

    after = bench.finish(task, WorkerLost("killed"))

    assert after is not None
    assert (after.step, after.steps, after.started_at) == (None, None, None)


def test_progress_of_a_late_attempt_is_refused(bench: Bench) -> None:
    task = bench.claimed()
    bench.finish(task, GivenBack())

    with bench.engine.begin() as connection:
        assert not verbs.progress(connection, bench.now, LEASE, held(task), 3)


def test_renewing_tells_which_tasks_are_still_held(bench: Bench) -> None:
    kept, lost = bench.claimed(), bench.claimed()
    bench.finish(lost, GivenBack())

    with bench.engine.begin() as connection:
        assert verbs.renew(connection, bench.now, LEASE, [held(kept), held(lost)]) == {held(kept)}


def test_a_task_whose_lease_ran_out_before_it_began_is_given_back_uncounted(bench: Bench) -> None:
    task = bench.claimed()

    with bench.engine.begin() as connection:
        (rescued,) = verbs.rescue(connection, bench.now + LEASE + 1, LOSSES)

    assert (rescued.id, rescued.state, rescued.losses) == (task.id, State.PENDING, 0)


def test_a_task_whose_lease_ran_out_while_it_was_drawn_counts_a_loss(bench: Bench) -> None:
    task = bench.claimed()

    with bench.engine.begin() as connection:
        verbs.progress(connection, bench.now, LEASE, held(task), 0)
        (rescued,) = verbs.rescue(connection, bench.now + LEASE + 1, LOSSES)

    assert (rescued.state, rescued.losses) == (State.PENDING, 1)


def test_leases_that_run_are_left_alone_unless_everything_is_to_be_rescued(bench: Bench) -> None:
    task = bench.claimed()

    with bench.engine.begin() as connection:
        assert verbs.rescue(connection, bench.now, LOSSES) == []
        assert [each.id for each in verbs.rescue(connection, bench.now, LOSSES, everything=True)] == [task.id]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # where servers share a queue
def test_a_lease_that_another_server_renews_meanwhile_is_left_alone(bench: Bench) -> None:
    task, late = bench.claimed(), bench.now + LEASE + 1

    with bench.engine.begin() as connection:
        verbs.renew(connection, late, LEASE, [held(task)])
        with bench.engine.begin() as other_server:
            assert verbs.rescue(other_server, late, LOSSES) == []


def test_a_lease_from_before_the_clock_was_set_back_is_no_longer_than_others(bench: Bench) -> None:
    task = bench.claimed()
    bench.now -= 86_400

    with bench.engine.begin() as connection:
        verbs.shorten_leases(connection, bench.now, LEASE)
        assert verbs.rescue(connection, bench.now + LEASE - 1, LOSSES) == []
        assert [each.id for each in verbs.rescue(connection, bench.now + LEASE + 1, LOSSES)] == [task.id]


@pytest.mark.parametrize("staged", [False, True], ids=["pending", "staged"])
def test_a_waiting_task_is_cancelled_at_once_and_costs_nothing(bench: Bench, staged: bool) -> None:
    bench.limit(1)
    other, task = bench.submit(), None
    if staged:
        task = bench.submit()

    after = bench.cancel(task or other)

    assert (after.state, after.error_code) == (State.FAILED, "cancelled")
    assert bench.points() == ((CREDIT - PRICE, PRICE) if staged else (CREDIT, 0))


def test_cancelling_a_pending_task_lets_a_staged_one_up(bench: Bench) -> None:
    bench.limit(1)
    first, second = bench.submit(), bench.submit()

    bench.cancel(first)

    assert bench.get(second).state is State.PENDING


def test_a_running_task_is_marked_and_goes_on_until_its_worker_heeds(bench: Bench) -> None:
    task = bench.claimed()

    assert bench.cancel(task).state is State.PROCESSING
    with bench.engine.begin() as connection:
        assert verbs.wished_cancelled(connection) == [held(task)]


def test_a_task_to_be_cancelled_is_not_tried_again_when_its_worker_is_lost(bench: Bench) -> None:
    task = bench.claimed()
    bench.cancel(task)

    after = bench.finish(task, WorkerLost("killed"))

    assert after is not None
    assert (after.state, after.error_code) == (State.FAILED, "cancelled")
    assert bench.points() == (CREDIT, 0)


def test_cancelling_a_finished_task_changes_nothing(bench: Bench) -> None:
    task = bench.claimed()
    after = bench.finish(task, DONE)

    assert bench.cancel(task) == after


def test_a_task_is_found_by_its_own_account_alone(bench: Bench) -> None:
    task = bench.submit()

    with bench.engine.begin() as connection, pytest.raises(NotFound):
        verbs.get(connection, "another account", task.id)


def test_an_output_is_found_until_it_expires(bench: Bench) -> None:
    bench.finish(bench.claimed(), Completed((picture("one", expires_at=2000.0),)))

    with bench.engine.begin() as connection:
        assert pictures.stored(connection, 1999.0, "one").key == "one.png"
        with pytest.raises(NotFound):
            pictures.stored(connection, 2000.0, "one")


def test_expired_outputs_are_swept_once(bench: Bench) -> None:
    bench.finish(bench.claimed(), Completed((picture("old", expires_at=2000.0), picture("new", expires_at=3000.0))))

    with bench.engine.begin() as connection:
        assert [each.id for each in pictures.expired_outputs(connection, 2500.0, 10)] == ["old"]
        pictures.mark_swept(connection, 2500.0, ["old"])
        assert pictures.expired_outputs(connection, 2500.0, 10) == []


def test_an_output_that_was_swept_is_gone_though_the_clock_goes_back(bench: Bench) -> None:
    bench.finish(bench.claimed(), Completed((picture("old", expires_at=2000.0),)))

    with bench.engine.begin() as connection:
        pictures.mark_swept(connection, 2500.0, ["old"])
        with pytest.raises(NotFound):
            pictures.stored(connection, 1500.0, "old")
