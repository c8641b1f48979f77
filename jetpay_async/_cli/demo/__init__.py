"""``jetpay demo``: payments against a sandbox that fails on purpose, and the audit afterwards."""
