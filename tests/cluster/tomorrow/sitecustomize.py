"""Sets Python's wall clock to this time tomorrow, if this folder is on PYTHONPATH; monotonic clocks are
unchanged.

On a host that is started so, Ray's daemons keep the correct time. libfaketime would change theirs too, but
Debian 12's breaks `time.sleep` of Python 3.11.
"""

import datetime
import time

_DAY = 86400.0
_time, _datetime = time.time, datetime.datetime


class _Kind(type(_datetime)):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)


class _Tomorrow(_datetime, metaclass=_Kind):
    """Makes plain datetimes, so that they can be compared with and sent to those who know of no other
    kind."""

    def __new__(cls, *arguments: object, **named: object) -> _datetime:  # type: ignore[misc]
        return _datetime(*arguments, **named)  # type: ignore[arg-type]

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _datetime:  # type: ignore[override]
        return _datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> _datetime:  # type: ignore[override]
        return _datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=_DAY)


time.time = lambda: _time() + _DAY
datetime.datetime = _Tomorrow  # type: ignore[misc]
