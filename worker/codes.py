"""The only table of the provider's codes (docs/provider-api.md, "Return codes")."""

OK, SYSTEM = "ok", "error-system"
AUTH = frozenset({"error-auth", "error-account-locked"})
REQUEST_REFUSALS = (
    "error-syntax",
    "error-instant-message-typeformat",
    "error-instant-message-content-type-format",
    "error-instant-message-content-image-id-format",
    "error-instant-message-client-id-not-unique",
    "error-subject-format",
    "error-subject-unknown",
    "error-subject-not-specified",
    "error-address-format",
    "error-address-unknown",
    "error-address-not-specified",
    "error-priority-format",
    "error-comment-format",
    "error-instant-message-type-format",
    "error-instant-message-type-not-specified",
    "error-content-type-format",
    "error-content-not-specified",
    "error-validity-period-seconds-format",
    "error-instant-message-provider-id-format",
    "error-instant-message-provider-id-duplicate",
    "error-instant-message-provider-id-unknown",
    "error-resend-sms-error",
    "error-resend-sms-validity-period-error",
)
"""Codes that at request level speak of one message, or of the request's form."""


def _squash(code: str) -> str:
    """A code without the differences of its spellings (trap T33)."""
    return code.removeprefix("error-").removeprefix("instant-message-").replace("-", "")


_KNOWN = {_squash(code): code for code in reversed((SYSTEM, *sorted(AUTH), *REQUEST_REFUSALS))}


def canonical(code: str) -> str:
    """The document's spelling of a code; an unknown one as it is."""
    if code.startswith("error-"):
        return code if code in REQUEST_REFUSALS else _KNOWN.get(_squash(code), code)
    return code


OUR_FAULTS = (
    "error-instant-message-provider-id-format",
    "error-instant-message-provider-id-duplicate",
)
"""Codes of a /status entry that say that we asked wrongly."""
_DELIVERY = ("user-blocked", "not-viber-user")
"""Reasons of ``undelivered`` (document, "error" of /status)."""


def is_known(code: str) -> bool:
    """Whether the document has this code; others are counted together and raise an alarm."""
    return code in REQUEST_REFUSALS or code in AUTH or code in _DELIVERY or code in (OK, SYSTEM)
