"""Plants faults, one at a time, each of which a test must find: ``make test-planted [ONLY=fence]``.

Each fault is one exact replacement in a copy of the checkout. First the tests concerned must pass
there; then, with the fault, at least one of those named must fail, and by its own assertion: a
script that no longer compiles finds itself. tests/test_planted.py holds that docs/chaos.md has the
table (``python -m tests.planted table`` prints it), and that each fault can still be planted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".git", ".venv", ".venvs", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
BROKEN = re.compile(r"^E .*(SyntaxError|ImportError|NameError|ResponseError|compiling)", re.M)
"""What a fault that is no working program leads to."""


@dataclass(frozen=True)
class Fault:
    """One fault: what is wrong, where ``old`` becomes ``new``, and the tests that must see it."""

    what: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """Returns a file's text with the fault. Raises ValueError unless it fits once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.what}: found {text.count(self.old)} times in {self.path}")
        return text.replace(self.old, self.new)


def _fault(what: str, path: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(what, path, old, new, tuple(f"tests/test_{test}" for test in tests))


LUA, LIB = "store/lua/", "store/lua/lib/"
FAULTS = (
    # How a message moves.
    _fault(
        "a move does not compare the status",
        LIB + "move.lua",
        "if found[1] ~= change.from or found[2] then return false end",
        "if found[2] then return false end",
        "store.py::test_a_late_ok_is_recorded_once",
    ),
    _fault(
        "the final event is emitted twice",
        LIB + "move.lua",
        "  if size > 0 then call('HSET'",
        "  if content ~= '' then call('XADD', results, '*', 'event', table.concat({draft[e], id,\n"
        "    ':9', draft[e + 1], id, draft[e + 2], id, draft[e + 3], 'null', draft[e + 4]})) end\n"
        "  if size > 0 then call('HSET'",
        "store.py::test_events_of_a_message_are_numbered_and_one_is_final",
    ),
    _fault(
        "events of a message all have the number 1",
        LIB + "move.lua",
        "text(found[3] + 1) or '1'",
        "'1' or '1'",
        "store.py::test_events_of_a_message_are_numbered_and_one_is_final",
    ),
    _fault(
        "an ended message's content never expires",
        LIB + "move.lua",
        "call('PEXPIRE', content, change.keep_content)",
        "call('PERSIST', content)",
        "store.py::test_an_ended_message_keeps_its_record_longer_than_its_content",
    ),
    _fault(
        "settle does not compare the token",
        LUA + "settle.lua",
        "return score - score % 4 == mine or",
        "return score > 0 or",
        "store.py::test_a_stalled_worker_cannot_settle_over_its_successor",
    ),
    _fault(
        "a late answer is written into another request",
        LUA + "settle.lua",
        "late ~= '' and score % 4 ~= 2",
        "late ~= ''",
        "store.py::test_a_late_ok_is_recorded_unless_the_message_has_ended_or_is_inside_another_request",
    ),
    _fault(
        "a counter beside its move: messages not written are counted",
        LUA + "settle.lua",
        "added[count] = (added[count] or 0) + written end",
        "added[count] = (added[count] or 0) + ARGV[g] end",
        "store.py::test_only_what_is_written_is_counted",
    ),
    _fault(
        "a repeated settle is written twice",
        LUA + "settle.lua",
        "if before then",
        "if false then",
        "store.py::test_repeats_of_begin_and_settle_give_the_first_answer",
    ),
    _fault(
        "a message that ended badly is on no list",
        LUA + "settle.lua",
        "if place == 'dead' then buried",
        "if false then buried",
        "dead.py::test_a_message_that_ended_badly_is_on_the_list_with_what_is_known",
    ),
    # Claims and requests.
    _fault(
        "a claim does not renew the score",
        LUA + "claim.lua",
        "if not before and #leases > 0 then",
        "if false then",
        "store.py::test_a_claimed_message_is_nobody_elses_until_its_lease_is_over",
    ),
    _fault(
        "a claim does not check the fence: two leases of one instant are alike",
        LUA + "claim.lua",
        "new = math.max(at + lease, tonumber(redis.call('GET', fence) or 0) + 4)",
        "new = at + lease",
        "store.py::test_leases_of_one_instant_differ",
    ),
    _fault(
        "begin does not check the fence",
        LUA + "begin.lua",
        "math.max(at + tonumber(lease), tonumber(redis.call('GET', fence) or 0) + 4)",
        "at + tonumber(lease)",
        "store.py::test_leases_of_one_instant_differ",
    ),
    _fault(
        "begin leaves no mark",
        LUA + "begin.lua",
        "stopped and at or new + tonumber(kind))",
        "stopped and at or new + 1)",
        "store.py::test_a_lapse_inside_a_request_is_remembered_through_further_lapses",
    ),
    _fault(
        "begin takes what another claim has",
        LUA + "begin.lua",
        "if score - score % 4 == mine then",
        "if score > 0 then",
        "store.py::test_begin_leaves_out_what_another_claim_has_taken",
    ),
    _fault(
        "a request leaves without begin",
        "worker/send.py",
        "held = self.store.begin(lease, batch)",
        "held = replace(lease, messages=[add_attempts(message, 1) for message in batch])",
        "send.py::test_what_is_in_a_request_is_marked_before_it_leaves",
    ),
    _fault(
        "a repeated claim takes another batch",
        LUA + "claim.lua",
        "if before then",
        "if false then",
        "store.py::test_a_claim_whose_answer_was_lost_gives_the_same_batch_again",
    ),
    _fault(
        "a lane is never claimed",
        LUA + "claim.lua",
        "for group = 1, #turns do\n    local turn",
        "for group = 1, #turns - 1 do\n    local turn",
        "store.py::test_the_most_urgent_lane_is_served_first_and_only_at_or_above_the_one_asked",
    ),
    _fault(
        "messages with the flag are never claimed",
        LUA + "claim.lua",
        "group * rank do\n    local score",
        "(group - 1) * rank + 1 do\n    local score",
        "store.py::test_the_two_values_of_the_flag_never_share_a_claim",
    ),
    _fault(
        "a pause is not looked at",
        LUA + "claim.lua",
        "paused[group + 1] and {} or turn and",
        "turn and",
        "operators.py::test_a_paused_lane_is_passed_over_and_goes_on_when_resumed",
    ),
    _fault(
        "what must end waits for the gate",
        LUA + "claim.lua",
        "tonumber(till or 0) <= at then",
        "false then",
        "gate.py::test_what_must_end_ends_while_it_is_closed",
    ),
    # The gate and the bucket.
    _fault(
        "the half-open gate lets two through",
        LUA + "claim.lua",
        "sends = 1\n      redis.call('HSET', gate, 'probe', text(at + tonumber(probe_us)))",
        "sends = 1",
        "gate.py::test_a_probe_that_dies_holds_nothing_shut",
    ),
    _fault(
        "an old failure raises the gate's step",
        LIB + "gate.lua",
        ">= r.limit and fresh then",
        ">= r.limit then",
        "gate.py::test_failures_of_requests_begun_before_it_closed_do_not_raise_its_step",
    ),
    _fault(
        "the bucket does not count",
        LIB + "bucket.lua",
        "if cost == 0 or count == 0 then return end",
        "if true then return end",
        "rate.py::test_a_burst_at_first_then_as_many_as_the_rate_gives",
    ),
    # Bells.
    _fault(
        "enqueue rings no bell",
        LUA + "enqueue.lua",
        "if due_now[lane] and ring(",
        "if false and ring(",
        "store.py::test_bells_ring_once_until_somebody_answers",
    ),
    _fault(
        "a claim rings no bell for what is left",
        LUA + "claim.lua",
        "if more == '1' and ring(",
        "if false and ring(",
        "store.py::test_a_claim_rings_again_for_what_is_left_but_only_if_no_bell_is_on_its_way",
    ),
    _fault(
        "a claim does not clear the bell that it answers",
        LUA + "claim.lua",
        "if answered == '1' then redis.call('DEL', bell) end",
        "",
        "store.py::test_bells_ring_once_until_somebody_answers",
    ),
    _fault(
        "the sweep never rings for a lane",
        LUA + "sweep.lua",
        "if is_due and",
        "if false and",
        "store.py::test_the_sweep_rings_for_what_is_due_and_has_no_bell",
    ),
    _fault(
        "the sweep never rings for what is to be polled",
        LUA + "sweep.lua",
        "if due(watch) and",
        "if false and",
        "store.py::test_the_sweep_rings_for_what_is_due_and_has_no_bell",
    ),
    _fault(
        "what a step back of the clock left ahead is never brought back",
        LUA + "sweep.lua",
        "unfinished = walk(clock, at, lease, places, tonumber(most))",
        "unfinished = false",
        "clock.py::test_what_was_due_is_due_after_a_step_back_in_its_order",
    ),
    # Campaigns.
    _fault(
        "a request begins with messages of a paused campaign",
        LUA + "begin.lua",
        "stopped = state and kind == '2' and (state[1] or state[2])",
        "stopped = false",
        "campaigns.py::test_paused_at_once_and_nothing_leaves_but_what_is_inside",
    ),
    _fault(
        "a campaign is served again before the others",
        LUA + "claim.lua",
        "text(math.max(earliest, after))",
        "text(earliest)",
        "campaigns.py::test_campaigns_of_a_lane_take_turns",
    ),
    _fault(
        "what has no campaign waits for all that have one",
        LUA + "claim.lua",
        "redis.call('HINCRBY', gate, turn, 1)",
        "redis.call('HSET', gate, turn, 1)",
        "campaigns.py::test_what_has_no_campaign_is_served_at_every_second_claim",
    ),
    _fault(
        "what is paused never expires",
        LUA + "claim.lua",
        "if not line or not serves then return line end",
        "do return end",
        "campaigns.py::test_what_is_paused_still_expires",
    ),
    _fault(
        "workers leave to the app what it has cancelled",
        LUA + "claim.lua",
        "line.members = cancelled(line.key)\n",
        "line.members = false\n",
        "campaigns.py::test_workers_end_what_the_app_has_not",
    ),
    _fault(
        "a campaign's own rate is not kept",
        LUA + "claim.lua",
        "spend(own, at, cost, used)",
        "",
        "campaigns.py::test_a_rate_of_its_own",
    ),
    _fault(
        "cancelling a campaign ends what is inside a request",
        LUA + "end_lines.lua",
        "% 4 < 2 and finish",
        "% 4 < 4 and finish",
        "campaigns.py::test_cancel_ends_what_waits_and_only_that",
    ),
    _fault(
        "workers end a line that an app is ending",
        LUA + "end_lines.lua",
        "text(at + 1000000)",
        "text(at)",
        "campaigns.py::test_workers_leave_a_line_to_the_app_that_ends_it",
    ),
    _fault(
        "what may have left is cancelled without a word of it",
        LUA + "end_lines.lua",
        "tonumber(found[8] or 0) > 0 and unsure or unsent",
        "unsent",
        "campaigns.py::test_what_it_cancels_is_told_like_any_other_cancelled_message",
    ),
    _fault(
        "a cancelled campaign takes more messages",
        LUA + "enqueue.lua",
        "if #cancelled > 0 then",
        "if false then",
        "campaigns.py::test_cancel_ends_what_waits_and_only_that",
    ),
    _fault(
        "what came back into a line has no turn",
        LUA + "settle.lua",
        "if #stay > 0 then line_up(",
        "if false then line_up(",
        "campaigns.py::test_a_request_not_sent_comes_back_into_its_line",
    ),
    _fault(
        "a paused line is looked at no sooner for what is due sooner",
        LIB + "lines.lua",
        "'LT', text(at + 1000000)",
        "'NX', text(at)",
        "campaigns.py::test_what_is_paused_expires_beside_what_is_due_later",
    ),
    _fault(
        "what is inside a request is never counted out again",
        LUA + "settle.lua",
        "inside = inside + 1",
        "inside = inside + 0",
        "campaigns.py::test_paused_at_once_and_nothing_leaves_but_what_is_inside",
    ),
    _fault(
        "a message that leaves a status is still counted there",
        LIB + "move.lua",
        "'left:' .. change.from, 1)",
        "'left:' .. change.from, 0)",
        "campaigns.py::test_its_messages_its_counters_and_its_name_everywhere",
    ),
    _fault(
        "a campaign that goes on expires all the same",
        LUA + "enqueue.lua",
        "call('PERSIST', campaign)",
        "",
        "campaigns.py::test_the_last_that_ends_lets_it_expire",
    ),
    # What apps do.
    _fault(
        "enqueue does not check for a conflict",
        LUA + "enqueue.lua",
        "elseif digest ~= ARGV[i + 1] then",
        "elseif false then",
        "producer.py::test_another_job_under_a_used_id_is_a_conflict_and_changes_nothing",
    ),
    _fault(
        "enqueue counts what was stored before",
        LUA + "enqueue.lua",
        "call('HINCRBY', counts, status, #fresh)",
        "call('HINCRBY', counts, status, (#ARGV - tail + 1) / width)",
        "store.py::test_only_what_is_written_is_counted",
    ),
    _fault(
        "rows of one chunk get one score",
        LUA + "enqueue.lua",
        "due = at - 4 * (#fresh - k)",
        "due = at",
        "store.py::test_a_lane_is_first_in_first_out_within_and_between_chunks",
    ),
    _fault(
        "a campaign's content expires nearer with each chunk",
        LUA + "enqueue.lua",
        "elseif left < keep then",
        "else",
        "store.py::test_common_content_is_stored_once_and_its_expiry_only_moves_away",
    ),
    _fault(
        "a campaign's content is kept no longer for a later chunk",
        LUA + "enqueue.lua",
        "elseif left < keep then",
        "elseif false then",
        "store.py::test_common_content_is_stored_once_and_its_expiry_only_moves_away",
    ),
    _fault(
        "the limit of the queue does not count what waits",
        LUA + "enqueue.lua",
        "waiting = waiting + redis.call('ZCARD', lane) end",
        "waiting = waiting + 0 * redis.call('ZCARD', lane) end",
        "producer.py::test_max_queued_is_a_clear_error_that_says_what_is_stored",
    ),
    _fault(
        "cancel does not look whether the message is inside a request",
        LUA + "cancel.lua",
        "if tonumber(score) % 4 == 2 then return 'busy' end",
        "",
        "store.py::test_a_cancel_that_lost_the_race_to_a_request_changes_nothing",
    ),
    _fault(
        "cancel does not look whether the record has changed",
        LUA + "cancel.lua",
        "if (found[3] or '0') ~= n or (found[4] or '0') ~= attempts then return 'again' end",
        "",
        "store.py::test_a_cancel_that_lost_the_race_to_an_answer_tells_of_the_attempt",
    ),
    _fault(
        "cancel says that it stopped what may have been sent",
        "producers/calls.py",
        "return record.unsure == 0",
        "return True",
        "store.py::test_a_cancel_that_lost_the_race_to_an_answer_tells_of_the_attempt",
    ),
    # Suppressed numbers.
    _fault(
        "what waits for a suppressed number is sent",
        LUA + "begin.lua",
        "flags[i] = stopped and '0' or stops and '2' or '1'",
        "flags[i] = stopped and '0' or '1'",
        "suppressions.py::test_a_worker_ends_what_an_app_left_and_counts_no_attempt",
    ),
    _fault(
        "a suppressed message is left inside a request",
        LUA + "begin.lua",
        "stops and put_off or next_score",
        "next_score",
        "suppressions.py::test_a_crash_after_begin_leaves_nothing_inside",
    ),
    _fault(
        "ignoreSuppression is not looked for",
        LUA + "begin.lua",
        "redis.call('HEXISTS', records .. id, 'ignoreSuppression') == 0",
        "true",
        "suppressions.py::test_a_dead_letter_sent_again_obeys_and_keeps_its_option",
        "suppressions.py::test_normal_and_low_obey_unless_the_job_ignores_it",
    ),
    _fault(
        "an enqueue does not say which numbers are suppressed",
        LUA + "enqueue.lua",
        "#found > 0 and found or nil",
        "nil",
        "suppressions.py::test_a_suppressed_job_is_stored_and_ends_at_once",
    ),
    _fault(
        "a list of another key is used",
        LIB + "suppressed.lua",
        "if held and held ~= given then",
        "if false then",
        "suppressions.py::test_a_list_of_another_key_is_refused_and_nothing_is_stored",
    ),
    _fault(
        "a suppression never ends",
        LIB + "suppressed.lua",
        "(till == 0 or till * 1000 > at)",
        "true",
        "suppressions.py::test_a_number_is_suppressed_until_an_instant",
    ),
    _fault(
        "who has blocked the sender is not suppressed",
        "store/leases.py",
        "if blocked and self._numbers and",
        "if blocked and not self._numbers and",
        "suppressions.py::test_who_has_blocked_us_is_suppressed_before_it_is_told",
    ),
    # Events.
    _fault(
        "an event is acknowledged before its app has it",
        "producers/results.py",
        "count=self._most, block=block)",
        "count=self._most, block=block, noack=True)",
        "results.py::test_what_was_not_acknowledged_comes_again_to_the_same_consumer_first",
    ),
    _fault(
        "events are trimmed too early",
        LUA + "sweep.lua",
        "at_ms - tonumber(keep_events))",
        "at_ms - tonumber(keep_events) / 2)",
        "store.py::test_the_sweep_forgets_events_past_their_retention",
    ),
    _fault(
        "events that a group has missed are not noted",
        LIB + "trim.lua",
        "if #redis.call('XRANGE', results, id, id) == 0 then",
        "if false then",
        "events_missed.py::test_a_group_behind_the_trimming_is_told_once_and_reads_on",
    ),
    # What is decided.
    _fault(
        "an unsure answer is treated as not sent",
        "worker/policy.py",
        "            return _unsure(message, now, jitter, settings)\n        case RequestRefused",
        "            return _stay(message, now, 0.0)\n        case RequestRefused",
        "store.py::test_an_unsure_answer_parks_or_resends",
    ),
    _fault(
        "a lapse inside a request is treated as not sent",
        "worker/policy.py",
        "    if message.lapsed_inside:\n",
        "    if False:\n",
        "policy.py::test_a_lapse_too_many_inside_a_request_ends_it_unconfirmed_as_crashed",
    ),
    _fault(
        "a wrong count of entries is believed",
        "worker/answers.py",
        "if reply.entries and len(reply.entries) == count:",
        "if reply.entries:",
        "provider.py::test_another_count_of_entries_is_unsure_for_all",
    ),
    _fault(
        "a delivered message may become undelivered",
        "schemas/status.py",
        "S.DELIVERED: frozenset({S.READ}),",
        "S.DELIVERED: frozenset({S.READ, S.UNDELIVERED}),",
        "status.py::test_success_is_never_taken_back",
    ),
)


def table() -> str:
    """Returns the table of docs/chaos.md."""
    rows = [f"| {f.what} | `{f.path}` | {_short(f.tests)} |" for f in FAULTS]
    return "\n".join(["| Fault | Where | Caught by |", "| --- | --- | --- |", *rows, ""])


def _short(tests: tuple[str, ...]) -> str:
    return ", ".join(f"`{test.removeprefix('tests/')}`" for test in tests)


def main(only: str = "") -> int:
    if only == "table":
        print(table(), end="")
        return 0
    faults = [each for each in FAULTS if only in each.what or only in each.path]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        code, said = run(tree, sorted({test for fault in faults for test in fault.tests}))
        if code:
            print(said, "Without any fault, these tests fail.", sep="\n")
            return 1
        missed = [fault.what for fault in faults if not is_caught(fault, tree)]
    print(f"{len(faults) - len(missed)} of {len(faults)} caught", *missed, sep="\nnot caught: ")
    return bool(missed)


def is_caught(fault: Fault, tree: Path) -> bool:
    """Returns whether the tests see the fault; prints its line."""
    file, begun = tree / fault.path, time.monotonic()
    before = file.read_text()
    file.write_text(fault.planted(before))
    code, said = run(tree, list(fault.tests))
    file.write_text(before)
    caught = code == 1 and not BROKEN.search(said)
    why = re.findall(r"^E +(.+)", said, re.M)
    seen = f"caught in {time.monotonic() - begun:.1f} s" if caught else "NOT CAUGHT"
    print(f"{fault.path}: {fault.what}: {seen}: {why[0] if why else said[-500:]}", flush=True)
    return caught


def run(tree: Path, tests: list[str]) -> tuple[int, str]:
    """Returns pytest's exit code and output; the copy comes before what is installed."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
