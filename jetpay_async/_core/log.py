"""The package's logger. It never gets a token, a header or a body."""

import logging

logger = logging.getLogger("jetpay_async")
logger.addHandler(logging.NullHandler())
