"""What Celery does with messages from outside: nothing they carry shows, none ends the worker.

Any app with the broker's address can put anything on our queues. Celery itself logs and publishes
arguments (events, ``inspect``, Flower) and trusts the form of what it takes.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from celery import Task
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.request import Request

from viber_courier.schemas.lanes import LANES

logger = logging.getLogger(__name__)

HEADERS = ("id", "task", "eta", "expires")
"""Headers that a client may set. Any other would be shown, or change how the task is run."""
HIDDEN = "(hidden)"
_MAX_ID = 255


class HiddenRequest(Request):  # type: ignore[misc]
    """A request whose arguments, jobs, show in no event, no log and no answer to ``inspect``."""

    # The client's own limits would kill us, its callbacks run in the worker's main process.
    time_limits = property(lambda self: (None, None), lambda self, value: None)
    _payload: Any = ((), {}, {})

    def __init__(self, message: Any, *args: Any, headers: Any = None, **kwargs: Any) -> None:
        given = message.headers if headers is None else headers
        kept = {name: given[name] for name in HEADERS if name in given}
        kept.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN)
        try:
            super().__init__(message, *args, headers=kept, **kwargs)
            good = _is_call(*self._Request__payload)
            if self._eta is not None:
                self._eta.astimezone()  # what Celery does next: some instants are beyond it
        except Exception as error:
            raise InvalidTaskError(type(error).__name__) from None
        if not good or not isinstance(self.id, str) or not 0 < len(self.id) <= _MAX_ID:
            raise InvalidTaskError("malformed")
        self._check()
        # The task gets its arguments from the body. Here they would only be copied to the pool,
        # and jobs nested too deep to be pickled would end the worker's main process.
        self._request_dict.update(args=(), kwargs={})

    def _check(self) -> None:
        """Raise InvalidTaskError for arguments that the task never has."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What ``inspect`` and Flower get."""
        info: dict[str, Any] = super().info(safe=True)
        return info


class BellRequest(HiddenRequest):
    """A doorbell's request: all that it may carry is a lane, which is shown."""

    def _check(self) -> None:
        if self._kwargs or not self._known(self._args):
            raise InvalidTaskError("not a lane")
        self._argsrepr, self._kwargsrepr = repr(tuple(self._args)), "{}"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def _known(self, args: list[Any]) -> bool:
        return args in ([], *([lane] for lane in LANES))


class CheckRequest(BellRequest):
    """Asks for a proof that this worker works: it carries a nonce, which is shown."""

    def _known(self, args: list[Any]) -> bool:
        return len(args) == 1 and re.fullmatch("[0-9a-f]{32}", str(args[0])) is not None


class HiddenTask(Task):  # type: ignore[misc]
    """The base of a task with content."""

    Request = HiddenRequest


class BellTask(Task):  # type: ignore[misc]
    """The base of a doorbell."""

    Request = BellRequest


class CheckTask(Task):  # type: ignore[misc]
    """The base of a health check's task."""

    Request = CheckRequest


class CarefulConsumer(Consumer):  # type: ignore[misc]
    """Refuses what it can't use and says so. Celery's prints it, and some of it ends the worker."""

    def update_strategies(self) -> None:
        """Celery's own tasks (``celery.map`` and such) run others, and nobody here needs them."""
        super().update_strategies()
        for name in [name for name in self.strategies if not name.startswith("courier.")]:
            del self.strategies[name]

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """No task message at all."""
        self._refuse(message, "unknown format")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A name that isn't ours."""
        self._refuse(message, "unknown task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A form that isn't Celery's, arguments that a doorbell never has, or not JSON."""
        self._refuse(message, "invalid task")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """No JSON, whatever it says of itself."""
        self._refuse(message, "can't be decoded")

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's handler of a message; what it stumbles over is refused too."""
        handle = super().create_task_handler(*args, **kwargs)
        # kombu counts KeyError as a lost connection: a missing header would come back for ever.
        lost = tuple({*self.connection_errors, *self.channel_errors} - {KeyError})

        def handle_or_refuse(message: Any) -> Any:
            try:
                return handle(message)
            except lost:
                raise
            except Exception as error:
                return self._refuse(message, type(error).__name__)

        return handle_or_refuse

    def _refuse(self, message: Any, why: str) -> None:
        logger.error("message refused: %s", why)
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)


def _is_call(args: object, kwargs: object, embed: object) -> bool:
    """Whether a body is one of Celery's protocol 2: arguments, and what is to be called after."""
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        return False
    if embed is None or not isinstance(embed, Mapping):
        return embed is None
    calls = [*(embed.get("callbacks") or ()), *(embed.get("errbacks") or ())]
    return all(isinstance(call, Mapping) for call in calls)
