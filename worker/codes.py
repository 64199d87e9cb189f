"""The only table of the provider's codes (docs/provider-api.md, "Return codes")."""

OK, SYSTEM = "ok", "error-system"
AUTH = frozenset({"error-auth", "error-account-locked"})
REQUEST_REFUSALS = (
    *("error-syntax", "error-instant-message-typeformat"),
    *("error-instant-message-content-type-format",),
    *("error-instant-message-content-image-id-format",),
    *("error-instant-message-client-id-not-unique", "error-subject-format"),
    *("error-subject-unknown", "error-subject-not-specified", "error-address-format"),
    *("error-address-unknown", "error-address-not-specified", "error-priority-format"),
    *("error-comment-format", "error-instant-message-type-format"),
    *("error-instant-message-type-not-specified", "error-content-type-format"),
    *("error-content-not-specified", "error-validity-period-seconds-format"),
    *("error-instant-message-provider-id-format",),
    *("error-instant-message-provider-id-duplicate",),
    *("error-instant-message-provider-id-unknown", "error-resend-sms-error"),
    *("error-resend-sms-validity-period-error",),
)
"""Codes that, for a whole request, speak of one message or of the request's form."""


def _squash(code: str) -> str:
    """Returns a code without what its spellings differ in (docs/provider-api.md#t33)."""
    return code.removeprefix("error-").removeprefix("instant-message-").replace("-", "")


_KNOWN = {_squash(code): code for code in reversed((SYSTEM, *sorted(AUTH), *REQUEST_REFUSALS))}


def canonical(code: str) -> str:
    """Returns a code as this table spells it; an unknown code unchanged."""
    if code.startswith("error-"):
        return code if code in REQUEST_REFUSALS else _KNOWN.get(_squash(code), code)
    return code


OUR_FAULTS = (
    "error-instant-message-provider-id-format",
    "error-instant-message-provider-id-duplicate",
)
"""Codes of a /status entry that mean a fault in our request."""
_DELIVERY = ("user-blocked", "not-viber-user")
"""Reasons of ``undelivered`` (docs/provider-api.md, "Delivery states")."""


def is_known(code: str) -> bool:
    """Returns whether docs/provider-api.md has this code; others share an alerting counter."""
    return code in REQUEST_REFUSALS or code in AUTH or code in _DELIVERY or code in (OK, SYSTEM)
