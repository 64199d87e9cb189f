"""Handles messages from outside: hides what they carry, and lets none end the worker.

Any program with the broker's address can put anything on our queues. Celery logs and publishes
arguments (events, ``inspect``, Flower), and trusts the form of messages.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from celery import Task
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.transport.virtual import Channel, Message

from viber_courier.schemas.lanes import DOOR, LANES

logger = logging.getLogger(__name__)

HEADERS = ("id", "task", "eta", "expires")
"""Headers that a client may set. Others would be shown or change how the task runs."""
HIDDEN = "(hidden)"
NOT_JSON = 'not JSON: set task_serializer="json"'
UNREADABLE = "can't be decoded"
_JSON_ONLY = frozenset({"application/json"})
_MAX_ID = 255
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A task's id that may be logged: any other could hold a phone number."""


class HiddenRequest(Request):  # type: ignore[misc]
    """A request whose arguments appear in no event, no log and no answer to ``inspect``."""

    # A client's time limits would kill a process of ours, and its callbacks would run in the
    # worker's main process.
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
                self._eta.astimezone()  # as Celery does next; some instants are out of its range
        except Exception as error:
            raise InvalidTaskError(type(error).__name__) from None
        if not good or not isinstance(self.id, str) or not 0 < len(self.id) <= _MAX_ID:
            raise InvalidTaskError("malformed")
        self._check()
        # The task reads its arguments from the body. These would only be copied to the pool, and
        # jobs nested too deep to be pickled would end the worker's main process.
        self._request_dict.update(args=(), kwargs={})

    def _check(self) -> None:
        """Raises InvalidTaskError for arguments that the task never has."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Returns what ``inspect`` and Flower show."""
        info: dict[str, Any] = super().info(safe=True)
        return info


class BellRequest(HiddenRequest):
    """A doorbell's request: it may carry a lane only, which is shown."""

    def _check(self) -> None:
        if self._kwargs or not self._known(self._args):
            raise InvalidTaskError("not a lane")
        self._argsrepr, self._kwargsrepr = repr(tuple(self._args)), "{}"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def _known(self, args: list[Any]) -> bool:
        return args in ([], *([lane] for lane in LANES))


class CheckRequest(BellRequest):
    """A health check's request: it carries a nonce, which is shown."""

    def _known(self, args: list[Any]) -> bool:
        return len(args) == 1 and re.fullmatch("[0-9a-f]{32}", str(args[0])) is not None


class BellTask(Task):  # type: ignore[misc]
    """The base of a doorbell."""

    Request = BellRequest


class CheckTask(Task):  # type: ignore[misc]
    """The base of a health check's task."""

    Request = CheckRequest


class Refused(Exception):
    """A message can't be used; the log says why already."""


class _Codecs:
    """What of a channel a message needs to read itself."""

    codecs = Channel.codecs
    decode_body = Channel.decode_body


def unpack(raw: bytes, name: str, task: Task) -> HiddenRequest:
    """Returns the task in a message of the Redis transport, checked as a consumer checks it.

    Raises Refused, and logs that, if it is no task of this ``name``. ``task`` stands for it: none
    is registered under that name.
    """
    headers: Any = None
    try:
        message: Any = Message(json.loads(raw), channel=_Codecs())  # type: ignore[no-untyped-call]
        headers = message.headers
        if message.errors:
            raise Refused(UNREADABLE)
        if "task" in headers and headers["task"] != name:
            raise Refused("unknown task")
        message.accept = _JSON_ONLY
        body, more = message.payload, dict[str, Any](utc=task.app.conf.enable_utc)
        if isinstance(body, Mapping):  # Celery's protocol 1, or a message of both protocols
            convert = hybrid_to_proto2 if "task" in headers else proto1_to_proto2
            named = ("body", "headers", "decoded", "utc")
            more = dict(zip(named, convert(message, body), strict=True))
            headers = more["headers"]
        if headers.get("task") != name:
            raise Refused("unknown task" if "task" in headers else "unknown format")
        return HiddenRequest(message, app=task.app, task=task, **more)
    except Exception as error:
        why = _why(error)
    log_refused(headers, why)
    raise Refused(why)


def _why(error: Exception) -> str:
    """Returns why a message is refused, in words without any of it."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, ContentDisallowed):
        return NOT_JSON
    if isinstance(error, InvalidTaskError):
        return "invalid task"
    return UNREADABLE if isinstance(error, ValueError | DecodeError) else type(error).__name__


def log_refused(headers: object, why: str) -> None:
    """Logs that a message is refused: without its body, with its id if that is a UUID."""
    id = str(headers.get("id")) if isinstance(headers, Mapping) else ""
    known = {"task_id": id} if _UUID.fullmatch(id) else {}
    logger.error("message refused: %s", why, extra=known)


class CarefulConsumer(Consumer):  # type: ignore[misc]
    """Refuses unusable messages with a log line. Celery's prints them, and some end the worker."""

    def update_strategies(self) -> None:
        """Removes Celery's own tasks, such as ``celery.map``: they run other tasks."""
        super().update_strategies()
        for name in [name for name in self.strategies if not name.startswith("courier.")]:
            del self.strategies[name]

    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Adds a queue (remote control), but not the task door's: Celery would lose its tasks."""
        if not queue.endswith(f".{DOOR}"):
            super().add_task_queue(queue, *args, **kwargs)
        else:
            logger.warning("queue not added: only a worker's start opens the task door")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Refuses what is no task message."""
        self._refuse(message, "unknown format")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Refuses a task that isn't ours."""
        self._refuse(message, "unknown task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Refuses a malformed task, arguments that the task never has, and what isn't JSON."""
        self._refuse(message, NOT_JSON if isinstance(exc, ContentDisallowed) else "invalid task")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuses a body that can't be decoded, or isn't JSON."""
        self._refuse(message, NOT_JSON if isinstance(exc, ContentDisallowed) else UNREADABLE)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Returns Celery's handler of messages, which also refuses those that make it fail."""
        handle = super().create_task_handler(*args, **kwargs)
        # kombu takes KeyError for a lost connection: without a header a message would come back
        # for ever.
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
        log_refused(message.headers, why)
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)


def _is_call(args: object, kwargs: object, embed: object) -> bool:
    """Returns whether a body has the form of Celery's protocol 2: arguments and callbacks."""
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        return False
    if embed is None or not isinstance(embed, Mapping):
        return embed is None
    calls = [*(embed.get("callbacks") or ()), *(embed.get("errbacks") or ())]
    return all(isinstance(call, Mapping) for call in calls)
