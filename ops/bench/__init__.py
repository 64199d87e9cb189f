"""Measures speed and scale beside what people would use instead.

``python -m viber_courier.ops.bench``.

Not part of the wheel: it compares this checkout with its peers and writes into ``docs``.
"""
