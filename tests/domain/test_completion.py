"""What a completion costs, in whole points."""

from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain.completion import Rate, Usage

AT_MOST = st.integers(0, 10**12)


def test_tokens_are_paid_by_the_million() -> None:
    rate = Rate(prompt=1_125_000, completion=4_500_000)  # US$ 0.1125 and 0.45

    assert rate.price(Usage(1_000_000, 0)) == 1_125_000
    assert rate.price(Usage(0, 1_000_000)) == 4_500_000
    assert rate.price(Usage(19, 9)) == 62  # 21.375 + 40.5
    assert rate.price(Usage(0, 0)) == 0


def test_a_part_of_a_point_is_a_point_and_nothing_costs_less_than_the_minimum() -> None:
    assert Rate(1, 1).price(Usage(1, 0)) == 1
    assert Rate(1, 1, minimum=500).price(Usage(0, 0)) == 500
    assert Rate(10**7, 0, minimum=500).price(Usage(51, 0)) == 510


@given(AT_MOST, AT_MOST, AT_MOST, AT_MOST, AT_MOST)
def test_more_tokens_never_cost_less(
    prompt: int, completion: int, more: int, of_prompt: int, of_completion: int
) -> None:
    rate = Rate(of_prompt, of_completion)

    assert rate.price(Usage(prompt, completion)) <= rate.price(Usage(prompt + more, completion + more))
