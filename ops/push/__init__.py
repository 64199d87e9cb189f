"""Result events pushed to where an app is: a URL (webhook), its own Celery (forward)."""
