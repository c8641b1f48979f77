"""A rental shop: FastAPI, SQLAlchemy, PostgreSQL, and as many processes as you like. ``docs/rental.md`` explains it."""
