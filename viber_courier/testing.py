"""For an app's own tests (extra ``testing``): no Redis, no worker, no provider, no environment.

pytest has a fixture ``courier``; unittest and Django use CourierMixin, anything else ``with
Courier()``. docs/guide.md, "Testing your app", shows each.
"""

from viber_courier.ops.testing.calls import Asked
from viber_courier.ops.testing.courier import Courier, CourierMixin
from viber_courier.ops.testing.life import Impossible
from viber_courier.producers.testing import memory_producer

__all__ = ["Asked", "Courier", "CourierMixin", "Impossible", "memory_producer"]
