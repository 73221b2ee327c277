from threading import Thread

from fluxserve.domain.generation import Generation
from fluxserve.domain.job import Job
from fluxserve.engine.orders import Orders


def filled(generation: Generation, *job_ids: str) -> Orders:
    orders = Orders()
    for job_id in job_ids:
        orders.add(Job(job_id, generation))
    return orders


def test_jobs_come_in_the_order_they_were_given(circle: Generation) -> None:
    orders = filled(circle, "a", "b", "c")
    assert [orders.next().id for _ in range(3)] == ["a", "b", "c"]


def test_next_waits_for_a_job(circle: Generation) -> None:
    orders, taken = Orders(), list[str]()
    thread = Thread(target=lambda: taken.append(orders.next().id))
    thread.start()
    orders.add(Job("late", circle))
    thread.join(10)
    assert taken == ["late"]


def test_a_waiting_job_that_is_cancelled_is_dropped(circle: Generation) -> None:
    orders = filled(circle, "a", "b", "c")
    assert orders.cancel("b")
    assert [orders.next().id for _ in range(2)] == ["a", "c"]


def test_the_current_job_is_marked_and_the_next_is_not(circle: Generation) -> None:
    orders = filled(circle, "a", "b")
    orders.next()
    assert not orders.is_cancelled()
    assert not orders.cancel("a")
    assert orders.is_cancelled()
    orders.next()
    assert not orders.is_cancelled()


def test_cancelling_what_is_not_there_changes_nothing(circle: Generation) -> None:
    orders = filled(circle, "a", "b")
    orders.next()
    assert not orders.cancel("gone")
    assert not orders.is_cancelled()
    assert orders.next().id == "b"
