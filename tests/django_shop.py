"""A Django project made of docs/django.md, for its tests: SQLite, or PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "django.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"(?s)<!-- ([\w/.]+) -->\n```py\n(.+?)```", PAGE))
SETTINGS = """
import os
SECRET_KEY = "not a secret of anyone, but long enough for the checks of Django to let it pass"
DEBUG = True
USE_TZ = True
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["admin", "auth", "contenttypes", "messages", "sessions"]
INSTALLED_APPS = [f"django.contrib.{name}" for name in INSTALLED_APPS]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
if "PGHOST" in os.environ:
    DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres",
                             "HOST": os.environ["PGHOST"], "USER": "app"}}
else:
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3",
                             "OPTIONS": {"timeout": 30, "init_command": "PRAGMA journal_mode=WAL"}}}
"""
URLS = """
from django.contrib import admin
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls)]
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


class Shop:
    """The project in a folder; ``env`` says which Redis and which database."""

    def __init__(self, folder: Path, python: str | Path = sys.executable, **env: str) -> None:
        self.folder, self.python, self.env = folder, str(python), {**os.environ, **env}
        self.env["DJANGO_SETTINGS_MODULE"] = "settings"
        files = dict(FILES)
        settings = SETTINGS + files.pop("project/settings.py")
        if "COURIER_REDIS_URL" in env:
            settings += "\ndel COURIER['REDIS_URL']\n"
        files |= {"settings.py": settings, "urls.py": URLS, "manage.py": MANAGE}
        files["shop/test_rules.py"] = (ROOT / "tests" / "django_rules.py").read_text()
        for name, text in {**files, "shop/__init__.py": ""}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """A command of manage.py; warnings are errors."""
        command = [self.python, "-W", "error", "manage.py", *args]
        options = {"cwd": self.folder, "env": self.env, "text": True, **options}
        return subprocess.Popen(command, **options)

    def manage(self, *args: str, code: int = 0, stdin: str = "") -> str:
        """What a command of manage.py says, once it has ended with this code."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with self.start(*args, **pipes) as process:
            out, err = process.communicate(stdin, timeout=60)
        assert process.returncode == code, out + err
        return out + err

    def run(self, code: str, ends: int = 0) -> str:
        """What a piece of Python says that runs in the project, and ends with this code."""
        command = [self.python, "-W", "error", "-c", f"import django; django.setup()\n{code}"]
        pipes = {"capture_output": True, "text": True, "timeout": 60}
        run = subprocess.run(command, cwd=self.folder, env=self.env, check=False, **pipes)
        assert run.returncode == ends, run.stdout + run.stderr
        return str(run.stdout).strip()
