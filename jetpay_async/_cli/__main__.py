"""``python -m jetpay_async._cli``."""

import sys

from jetpay_async._cli import main

sys.exit(main())
