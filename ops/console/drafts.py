"""Campaigns that people begin in the console: drafts, whose lists ``courier bulk`` reads and adds.

The command runs as a process of its own: a list that is a bomb takes no page's memory or time with
it, and console and command line can't differ.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from viber_courier import Producer, StoreUnavailable
from viber_courier.ops.console.actions import Actions
from viber_courier.ops.console.audit import entries
from viber_courier.ops.console.bulk import common_of, error_of, options_of, outcome, plain
from viber_courier.ops.console.forms import Values, WrongValue
from viber_courier.ops.lists.recipients import counted

AT_ONCE = 2
"""Lists that are taken in and looked through at once, and lists that are added at once."""
KEPT_SECONDS, MOST_DRAFTS = 3600.0, 10
"""How long a draft is kept after its latest use, and how many are: each has a list on disk."""
LOOK_SECONDS, END_SECONDS = 600.0, 3.0
"""How long a list may be looked through, and how long an add may take to end when it is told to."""
MEMORY = 768 * 2**20
"""Bytes of address space of each process."""
ADD, ADDED = "add list", "added list"
"""What the audit stream calls the beginning and the end of an add."""
WAITS = "waits for a last look"
UNSEEN = "Its list has not been looked through as the form is now: choose Change, and go on there."
BROKEN_OFF = "The console ended while a list was added. Add the same list again to go on"
UNBEGUN = "The latest add did not begin, and has stored nothing."
TWICE = "nothing is stored twice"
ENTRIES = 1000
"""Entries of the audit stream among which ends of adds are looked for."""
_CALL = "from viber_courier.ops.cli import main; main(prog_name='courier')"
_LOCK = "lock"
State = Literal["new", "looking", "ready", "adding", "added"]
logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Draft:
    """A campaign's list and fields. ``file``: the list's name as it was uploaded.

    ``found`` is what the dry run printed, ``fault`` why there is none, ``said`` the latest line of
    an add. ``begun``: when its latest add began, by which something of it may be stored. ``seen``
    is another for each look, so that nothing is started from the page of an earlier one.
    """

    id: str
    folder: Path
    file: str = ""
    values: dict[str, str] = field(default_factory=dict)
    state: State = "new"
    found: dict[str, Any] | None = None
    fault: str = UNSEEN
    said: str = ""
    begun: float = 0.0
    used: float = 0.0
    seen: str = ""

    @property
    def name(self) -> str:
        """The campaign's name."""
        return self.values["name"]

    @property
    def list(self) -> Path:
        """The list; it is not there before the upload and after the add."""
        return self.folder / "list"

    @property
    def refused(self) -> Path:
        """The rows that the latest look or add has refused, if there are any."""
        return self.folder / "refused.csv"

    @property
    def is_at_work(self) -> bool:
        """Whether a process reads the list now."""
        return self.state in ("looking", "adding")


class Drafts:
    """The drafts of a console. Their files are readable by its user only, and gone at its end."""

    def __init__(self, producer: Producer) -> None:
        self._producer, self._lock = producer, threading.Lock()
        self._pool = ThreadPoolExecutor(2 * AT_ONCE, "list")
        self._known = dict[str, Draft]()
        self._ended: dict[str, str] | None = None
        self._children, self._place = set[subprocess.Popen[str]](), list[Path]()
        self._is_over, self._files = False, list[IO[str]]()
        self._taken = 0

    def take(self) -> bool:
        """Takes a turn of reading a list, if there is one; ``give`` gives it back."""
        with self._lock:
            is_free = self._taken < AT_ONCE
            self._taken += is_free
        return is_free

    def give(self) -> None:
        with self._lock:
            self._taken -= 1

    def get(self, id: str) -> Draft | None:
        """Returns a draft that is still there."""
        self.expire()
        if draft := self._known.get(id):
            draft.used = time.monotonic()
        return draft

    def new(self) -> Draft:
        """Returns a new draft, in place of the one that was used least lately if there are many."""
        self.expire()
        idle = sorted((d for d in self._known.values() if not d.is_at_work), key=lambda d: d.used)
        for draft in idle[: max(0, len(self._known) - MOST_DRAFTS + 1)]:
            self.drop(draft)
        id = secrets.token_urlsafe(12)
        draft = Draft(id, Path(tempfile.mkdtemp(dir=self._folder())), used=time.monotonic())
        self._known[id] = draft
        return draft

    def merge(self, draft: Draft, id: str) -> Draft:
        """Returns an earlier draft with what a form has changed; if it can't be had, the new one.

        What a look has found before holds no longer.
        """
        kept = self.get(id)
        with self._lock:
            if kept is None or kept.is_at_work:
                return draft
            kept.state, kept.found, kept.fault = "new", None, UNSEEN
        if draft.file:
            draft.list.replace(kept.list)
            kept.file = draft.file
        kept.values, kept.begun = draft.values, 0.0
        self.drop(draft)
        return kept

    def expire(self) -> None:
        """Deletes drafts that nobody has used for long."""
        now = time.monotonic()
        for draft in [*self._known.values()]:
            if now - draft.used > KEPT_SECONDS and not draft.is_at_work:
                self.drop(draft)

    def look(self, draft: Draft) -> None:
        """Begins a dry run. It gives the turn back that was taken."""
        (draft.folder / "common.json").write_text(json.dumps(common_of(draft.values)))
        draft.refused.unlink(missing_ok=True)  # they are another list's
        draft.state, draft.found, draft.fault = "looking", None, ""
        draft.seen = secrets.token_urlsafe(6)
        self._pool.submit(self._look, draft)

    def start(self, actions: Actions, given: Values) -> str:
        """Begins to add a draft's list. Raises WrongValue, CourierError."""
        draft = self.get(given["draft"])
        if draft is None or draft.name != given["name"]:
            raise WrongValue("the list is no longer here: upload it again")
        if draft.seen != given["seen"]:
            raise WrongValue("it was looked through anew since: go back, and see what that found")
        with self._lock:
            adding = [each.name for each in [*self._known.values()] if each.state == "adding"]
            if draft.state != "ready":
                raise WrongValue("it is started already, or can't be")
            if draft.name in adding or len(adding) >= AT_ONCE:
                who = "to this campaign" if draft.name in adding else "already"
                raise WrongValue(f"lists are being added {who}: wait until that has ended")
            draft.state = "adding"
        try:
            self._open(draft, actions)
        except BaseException:
            draft.state = "ready"
            self._end(draft, actions, UNBEGUN)
            raise
        self._pool.submit(self._add, draft, actions)
        return "Started: the list is being added."

    def about(self, name: str) -> dict[str, Any]:
        """Returns what a campaign's page says of its lists. Raises StoreUnavailable."""
        if self._ended is None:
            ended = dict[str, str]()
            for entry in entries(self._producer, ENTRIES):
                if entry.what in (ADD, ADDED) and entry.on not in ended:
                    broken = f"{BROKEN_OFF}: {TWICE}."
                    ended[entry.on] = entry.how if entry.what == ADDED else broken
            self._ended = ended
        drafts = [each for each in [*self._known.values()] if each.values.get("name") == name]
        adding = next((each for each in drafts if each.state == "adding"), None)
        begun = [each for each in drafts if each.begun]
        latest = max(begun, key=lambda each: each.begun, default=None)
        return {"adding": adding, "latest": latest, "ended": self._ended.get(name, "")}

    def close(self) -> None:
        """Ends all processes, notes where they were, and deletes all files."""
        self._is_over = True
        for child in [*self._children]:
            child.send_signal(signal.SIGINT)
        timer = threading.Timer(END_SECONDS, self._kill)
        timer.start()
        self._pool.shutdown(cancel_futures=True)
        timer.cancel()
        for place, file in zip(self._place, self._files, strict=True):
            shutil.rmtree(place, ignore_errors=True)
            file.close()

    def _kill(self) -> None:
        for child in [*self._children]:
            child.kill()

    def drop(self, draft: Draft) -> None:
        """Deletes a draft."""
        self._known.pop(draft.id, None)
        shutil.rmtree(draft.folder, ignore_errors=True)

    def _folder(self) -> Path:
        """Returns the folder of this process; deletes those of consoles that were killed."""
        if not (self._place and self._place[-1].exists()):  # who tidies up may have taken it
            prefix = f"courier-console-{os.getuid()}-"
            for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
                with suppress(OSError), (path / _LOCK).open("r") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            self._place.append(Path(tempfile.mkdtemp(prefix=prefix)))
            # Processes inherit the lock: nobody deletes a list that is still read.
            self._files.append((self._place[-1] / _LOCK).open("w"))
            fcntl.flock(self._files[-1], fcntl.LOCK_EX)
        return self._place[-1]

    def _look(self, draft: Draft) -> None:
        price = draft.values["price"]
        try:
            printed, said = self._bulk(
                draft, LOOK_SECONDS, "--dry-run", *([f"--sms-price={price}"] if price else [])
            )
            draft.found, draft.fault = printed, "" if printed else plain(error_of(said))
        except Exception as error:
            draft.fault = f"The list can't be read: {type(error).__name__}"
            logger.error("look at a list failed", extra={"error": type(error).__name__})
        finally:
            draft.state = "ready" if draft.found else "new"
            self.give()

    def _open(self, draft: Draft, actions: Actions) -> None:
        is_paused = draft.values.get("paused") and not draft.begun
        rate = draft.values["rate"]
        how = [counted((draft.found or {})["messages"], "message")]
        how += ["paused at first"] if is_paused else []
        how += [f"{rate} a second"] if rate else []
        actions.record(ADD, draft.name, ", ".join(how))
        self._note(draft.name, f"{BROKEN_OFF}: {TWICE}.")
        if is_paused:
            actions.producer.campaign(draft.name).pause(WAITS)
        if rate:
            actions.producer.campaign(draft.name, rate=float(rate)).add([])
        draft.begun, draft.said = time.monotonic(), ""

    def _add(self, draft: Draft, actions: Actions) -> None:
        text = "It failed: the log says why."
        try:
            printed, said = self._bulk(draft, None, "--wait=10m")
            text = outcome(printed) if printed else self._stopped(said)
            draft.state = "added" if printed else "ready"
            if printed:
                draft.list.unlink(missing_ok=True)
        except Exception as error:
            draft.state = "ready"
            logger.error("adding a list failed", extra={"error": type(error).__name__})
        draft.used = time.monotonic()
        self._end(draft, actions, text)

    def _end(self, draft: Draft, actions: Actions, text: str) -> None:
        """Notes how an add has ended."""
        self._note(draft.name, text)
        try:
            actions.record(ADDED, draft.name, text)
        except StoreUnavailable as error:
            logger.warning("not recorded", extra={"what": ADDED, "error": str(error)})

    def _note(self, name: str, text: str) -> None:
        if self._ended is not None:
            self._ended[name] = text

    def _bulk(
        self, draft: Draft, seconds: float | None, *more: str
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """Runs ``courier bulk``; returns what it printed, None if it failed, and what it said."""
        given = [*options_of(draft.values), *more]
        given += [f"--common={draft.folder / 'common.json'}", f"--refused={draft.refused}"]
        given += ["--", str(draft.list)]
        with (draft.folder / "printed").open("w+", encoding="utf-8") as printed:
            child = subprocess.Popen(  # noqa: S603 - our own program; each value is in its option
                [sys.executable, "-c", _CALL, "bulk", *given],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                pass_fds=[each.fileno() for each in self._files],
            )
            self._children.add(child)
            timer = threading.Timer(seconds or threading.TIMEOUT_MAX, child.kill)
            timer.daemon = True
            timer.start()
            lines = deque[str](maxlen=50)
            try:
                _hold(child.pid)
                if self._is_over:
                    child.kill()
                for line in child.stderr or ():
                    draft.said = line.strip()
                    lines.append(draft.said)
                child.wait()
            finally:
                timer.cancel()
                self._children.discard(child)
            printed.seek(0)
            with suppress(ValueError):
                return json.load(printed), [*lines]
        return None, [*lines]

    def _stopped(self, said: list[str]) -> str:
        where = next((line for line in said if line.startswith("Stopped: ")), "Stopped.")
        why = "the console was ended." if self._is_over else plain(error_of(said))
        where = where.partition(" Start the same")[0]
        return f"{where} {why[:90]} Add the same list again to go on: {TWICE}."


def _hold(pid: int) -> None:
    """Bounds a process's memory; lets pages go before it, and it before them where memory ends."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 5)
        if hasattr(resource, "prlimit"):  # Linux
            resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
