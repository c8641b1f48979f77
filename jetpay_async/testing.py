"""Fixtures for the tests of those who use jetpay_async; pytest finds them by itself."""
