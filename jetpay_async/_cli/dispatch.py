"""The commands as functions. Each imports its module when it is called, by a statement that bundlers can follow."""

# ruff: noqa: PLC0415 - `jetpay --help` must not import them all

from __future__ import annotations

from typing import Any

__all__ = [
    "bank_accounts_create",
    "cancel",
    "capture",
    "captures_backup",
    "captures_export",
    "captures_list",
    "captures_prune",
    "captures_resolve",
    "captures_retry_rejected",
    "captures_status",
    "captures_verify",
    "cards_form",
    "charge",
    "completion",
    "contacts_create",
    "credits_create",
    "credits_send",
    "debits_create",
    "demo",
    "preauthorize",
    "request",
    "sandbox",
    "status",
    "unresolved_adopt",
    "unresolved_discard",
    "unresolved_list",
    "unresolved_release",
    "unresolved_show",
    "webhooks_change",
    "webhooks_dead_letters_discard",
    "webhooks_dead_letters_list",
    "webhooks_dead_letters_replay",
    "webhooks_ensure",
    "webhooks_explain",
    "webhooks_init",
    "webhooks_list",
    "webhooks_listen",
    "webhooks_register",
    "webhooks_remove",
    "webhooks_replay",
    "webhooks_send",
    "webhooks_show",
]


def demo(**options: Any) -> int:
    """Run ``jetpay demo``."""
    from jetpay_async._cli.demo.run import demo as command

    return command(**options)


def sandbox(**options: Any) -> int:
    """Run ``jetpay sandbox``."""
    from jetpay_async._cli.commands.sandbox import sandbox as command

    return command(**options)


def preauthorize(**options: Any) -> int:
    """Run ``jetpay preauthorize``."""
    from jetpay_async._cli.commands.preauthorize import preauthorize as command

    return command(**options)


def capture(**options: Any) -> int:
    """Run ``jetpay capture``."""
    from jetpay_async._cli.commands.capture import capture as command

    return command(**options)


def status(**options: Any) -> int:
    """Run ``jetpay status``."""
    from jetpay_async._cli.commands.operations import status as command

    return command(**options)


def cancel(**options: Any) -> int:
    """Run ``jetpay cancel``."""
    from jetpay_async._cli.commands.operations import cancel as command

    return command(**options)


def captures_status(**options: Any) -> int:
    """Run ``jetpay captures status``."""
    from jetpay_async._cli.commands.captures import status as command

    return command(**options)


def captures_list(**options: Any) -> int:
    """Run ``jetpay captures list``."""
    from jetpay_async._cli.commands.captures import list_items as command

    return command(**options)


def captures_export(**options: Any) -> int:
    """Run ``jetpay captures export``."""
    from jetpay_async._cli.commands.captures import export as command

    return command(**options)


def captures_retry_rejected(**options: Any) -> int:
    """Run ``jetpay captures retry-rejected``."""
    from jetpay_async._cli.commands.captures import retry_rejected as command

    return command(**options)


def captures_resolve(**options: Any) -> int:
    """Run ``jetpay captures resolve``."""
    from jetpay_async._cli.commands.maintenance import resolve as command

    return command(**options)


def captures_verify(**options: Any) -> int:
    """Run ``jetpay captures verify``."""
    from jetpay_async._cli.commands.maintenance import verify as command

    return command(**options)


def captures_backup(**options: Any) -> int:
    """Run ``jetpay captures backup``."""
    from jetpay_async._cli.commands.maintenance import backup as command

    return command(**options)


def captures_prune(**options: Any) -> int:
    """Run ``jetpay captures prune``."""
    from jetpay_async._cli.commands.maintenance import prune as command

    return command(**options)


def unresolved_list(**options: Any) -> int:
    """Run ``jetpay unresolved list``."""
    from jetpay_async._cli.commands.unresolved import list_unresolved as command

    return command(**options)


def unresolved_show(**options: Any) -> int:
    """Run ``jetpay unresolved show``."""
    from jetpay_async._cli.commands.unresolved import show as command

    return command(**options)


def unresolved_adopt(**options: Any) -> int:
    """Run ``jetpay unresolved adopt``."""
    from jetpay_async._cli.commands.unresolved import adopt as command

    return command(**options)


def unresolved_release(**options: Any) -> int:
    """Run ``jetpay unresolved release``."""
    from jetpay_async._cli.commands.unresolved import release as command

    return command(**options)


def unresolved_discard(**options: Any) -> int:
    """Run ``jetpay unresolved discard``."""
    from jetpay_async._cli.commands.unresolved import discard as command

    return command(**options)


def completion(**options: Any) -> int:
    """Run ``jetpay completion``."""
    from jetpay_async._cli.commands.completion import completion as command

    return command(**options)


def webhooks_explain(**options: Any) -> int:
    """Run ``jetpay webhooks explain``."""
    from jetpay_async._cli.commands.webhooks import explain as command

    return command(**options)


def webhooks_init(**options: Any) -> int:
    """Run ``jetpay webhooks init``."""
    from jetpay_async._cli.commands.inbox import init as command

    return command(**options)


def webhooks_dead_letters_list(**options: Any) -> int:
    """Run ``jetpay webhooks dead-letters list``."""
    from jetpay_async._cli.commands.dead_letters import list_dead_letters as command

    return command(**options)


def webhooks_dead_letters_replay(**options: Any) -> int:
    """Run ``jetpay webhooks dead-letters replay``."""
    from jetpay_async._cli.commands.dead_letters import replay as command

    return command(**options)


def webhooks_dead_letters_discard(**options: Any) -> int:
    """Run ``jetpay webhooks dead-letters discard``."""
    from jetpay_async._cli.commands.dead_letters import discard as command

    return command(**options)


def contacts_create(**options: Any) -> int:
    """Run ``jetpay contacts create``."""
    from jetpay_async._cli.commands.guide import contacts_create as command

    return command(**options)


def cards_form(**options: Any) -> int:
    """Run ``jetpay cards form``."""
    from jetpay_async._cli.commands.guide import cards_form as command

    return command(**options)


def charge(**options: Any) -> int:
    """Run ``jetpay charge``."""
    from jetpay_async._cli.commands.guide import charge as command

    return command(**options)


def bank_accounts_create(**options: Any) -> int:
    """Run ``jetpay bank-accounts create``."""
    from jetpay_async._cli.commands.guide import bank_accounts_create as command

    return command(**options)


def debits_create(**options: Any) -> int:
    """Run ``jetpay debits create``."""
    from jetpay_async._cli.commands.guide import debits_create as command

    return command(**options)


def credits_create(**options: Any) -> int:
    """Run ``jetpay credits create``."""
    from jetpay_async._cli.commands.guide import credits_create as command

    return command(**options)


def credits_send(**options: Any) -> int:
    """Run ``jetpay credits send``."""
    from jetpay_async._cli.commands.guide import credits_send as command

    return command(**options)


def webhooks_register(**options: Any) -> int:
    """Run ``jetpay webhooks register``."""
    from jetpay_async._cli.commands.guide import webhooks_register as command

    return command(**options)


def webhooks_list(**options: Any) -> int:
    """Run ``jetpay webhooks list``."""
    from jetpay_async._cli.commands.guide import webhooks_list as command

    return command(**options)


def webhooks_show(**options: Any) -> int:
    """Run ``jetpay webhooks show``."""
    from jetpay_async._cli.commands.guide import webhooks_show as command

    return command(**options)


def webhooks_change(**options: Any) -> int:
    """Run ``jetpay webhooks change``."""
    from jetpay_async._cli.commands.guide import webhooks_change as command

    return command(**options)


def webhooks_replay(**options: Any) -> int:
    """Run ``jetpay webhooks replay``."""
    from jetpay_async._cli.commands.guide import webhooks_replay as command

    return command(**options)


def webhooks_remove(**options: Any) -> int:
    """Run ``jetpay webhooks remove``."""
    from jetpay_async._cli.commands.guide import webhooks_remove as command

    return command(**options)


def webhooks_ensure(**options: Any) -> int:
    """Run ``jetpay webhooks ensure``."""
    from jetpay_async._cli.commands.guide import webhooks_ensure as command

    return command(**options)


def request(**options: Any) -> int:
    """Run ``jetpay request``."""
    from jetpay_async._cli.commands.guide import request as command

    return command(**options)


def webhooks_send(**options: Any) -> int:
    """Run ``jetpay webhooks send``."""
    from jetpay_async._cli.commands.webhooks_send import send as command

    return command(**options)


def webhooks_listen(**options: Any) -> int:
    """Run ``jetpay webhooks listen``."""
    from jetpay_async._cli.commands.webhooks_listen import listen as command

    return command(**options)
