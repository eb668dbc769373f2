"""The application's entry point, named as PieFed's: FLASK_APP=pyfedi.py."""

from app import create_app

app = create_app()
