from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain.device import Device, dump, load


@given(st.lists(st.builds(Device), max_size=4))
def test_a_line_gives_equal_devices_back(devices: list[Device]) -> None:
    line = dump(devices)

    assert "\n" not in line
    assert load(line) == devices
