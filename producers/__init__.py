"""What an app uses: enqueue messages, look them up, cancel them, read their events."""

if __name__ == "producers":  # the import name before viber_courier; only a checkout has it
    from viber_courier import *  # noqa: F403

    __path__ = []  # otherwise its modules would be loaded twice
