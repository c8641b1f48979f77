"""The package's logger. It never gets a token, a header or a body.

It has no handler of its own, not even a `logging.NullHandler`: in a program that configures no logging, Python's last
resort then writes warnings and errors to stderr, so that an unknown outcome or a failing handler does not go unnoticed.

Records carry what they are about in fields of their own, for those that apply: ``operation``, ``debit_id``, ``batch``,
``reason``, ``status``, ``request_id``.
"""

import logging

logger = logging.getLogger("jetpay_async")
