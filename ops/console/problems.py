"""What ends a request before its page."""

from collections.abc import Mapping


class Problem(Exception):
    """Ends a request with a page that says why."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers
