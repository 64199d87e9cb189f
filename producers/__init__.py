"""What an app imports: enqueue messages, look them up, cancel them, read what became of them."""

if __name__ == "producers":  # the name before viber_courier; only a checkout has it
    from viber_courier import *  # noqa: F403

    __path__ = []  # its modules would be loaded a second time
