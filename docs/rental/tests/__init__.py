"""The shop's tests, with the fixtures that jetpay-async brings: `jetpay_sandbox`, `jetpay_keys`, `signed_delivery`."""
