"""Celery workers: they send due messages and follow accepted ones (worker/celery.py)."""

if __name__ == "worker":  # the import name before viber_courier; only a checkout has it
    raise SystemExit("the worker's app is viber_courier.worker: celery -A viber_courier.worker ...")
