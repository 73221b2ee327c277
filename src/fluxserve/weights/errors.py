"""What can go wrong with weights, one tree. The messages are for the person at the machine: they say what to do.

WeightsError
├── NotHereError    they are not on this machine
├── PullError       they could not be brought, linked or removed
└── LicenceError    somebody has to accept a licence first
"""


class WeightsError(Exception):
    pass


class NotHereError(WeightsError):
    pass


class PullError(WeightsError):
    pass


class LicenceError(PullError):
    pass
